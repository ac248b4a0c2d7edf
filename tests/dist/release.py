"""The binary, the archive and the list of what is in the binary."""
import hashlib
import json
import re
import tarfile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from kit import ARCHES, DIST, ROOT, VERSION, beside, deb, named, ok, rpm


def test_sums_are_those_of_the_files():
    for arch in ARCHES:
        sums = named(arch).with_name(named(arch).name + ".sha256")
        ok("sha256sum", "--check", "--strict", sums, cwd=DIST)
        listed = {line.split()[1] for line in sums.read_text().splitlines()}
        name = named(arch).name
        assert listed == {name, f"{name}.tar.gz", f"{name}.cdx.json", deb(arch).name, rpm(arch).name}, listed


def test_binaries_are_for_their_processors():
    for arch, machine in {"x86_64": 62, "aarch64": 183}.items():
        head = named(arch).read_bytes()[:20]
        assert head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == machine, arch


def test_binaries_name_no_path_of_the_builder():
    for arch in ARCHES:
        found = [p for p in (b"/root/", b"/home/", str(ROOT).encode()) if p in named(arch).read_bytes()]
        assert not found, f"{arch}: {found}"


def test_archive_has_all_and_is_the_same_each_time():
    for arch in ARCHES:
        top = f"ec2fleetd-{VERSION}"
        with tarfile.open(f"{named(arch)}.tar.gz") as tar:
            members = tar.getmembers()
            files = {m.name: m for m in members if m.isfile()}
            assert [m.name for m in members] == sorted((m.name for m in members), key=lambda name: name.split("/"))
            assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "root", "root")}
            assert len({m.mtime for m in members}) == 1
            expected = beside() | {"ec2fleetd": 0o755, "README.md": 0o644, "LICENSE": 0o644}
            expected |= {f"cloud-init/{file.name}": 0o644 for file in ROOT.glob("cloud-init/*")}
            assert {name: m.mode for name, m in files.items()} == {f"{top}/{path}": mode for path, mode in expected.items()}
            for name, member in files.items():
                source = named(arch) if name == f"{top}/ec2fleetd" else ROOT / name.removeprefix(top + "/")
                assert tar.extractfile(member).read() == source.read_bytes(), name


def sbom(arch):
    text = named(arch).with_name(named(arch).name + ".cdx.json").read_text()
    return text, json.loads(text)


def test_sbom_is_good_cyclonedx():
    for arch in ARCHES:
        error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sbom(arch)[0])
        assert error is None, error
        bom = sbom(arch)[1]
        # What the schema cannot say: each reference has its component, once.
        refs = [c["bom-ref"] for c in [bom["metadata"]["component"], *bom["components"]]]
        assert len(refs) == len(set(refs))
        edges = {d["ref"]: d.get("dependsOn", []) for d in bom["dependencies"]}
        assert set(edges) == set(refs) >= {r for to in edges.values() for r in to}
        # All hang together: nothing is listed that nothing needs.
        seen, to_see = set(), [bom["metadata"]["component"]["bom-ref"]]
        while to_see:
            ref = to_see.pop()
            if ref not in seen:
                seen.add(ref)
                to_see += edges[ref]
        assert seen == set(refs), set(refs) - seen


def test_sbom_is_of_this_binary():
    for arch in ARCHES:
        bom, binary = sbom(arch)[1], named(arch).read_bytes()
        ours = bom["metadata"]["component"]
        assert (ours["name"], ours["version"]) == ("ec2fleetd", VERSION)
        assert ours["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(binary).hexdigest()}]
        listed = {f"{c['name']}-{c['version']}" for c in bom["components"]}
        # Whatever can panic left its crate's name in the binary.
        left = {m.decode() for m in re.findall(rb"crates/[^/\0]+/([a-zA-Z0-9_-]+-\d+\.\d+\.\d+)/src", binary)}
        assert left and left <= listed, f"{len(left)} found, not listed: {left - listed}"
        # The tests' and the builders' are not in it.
        names = {c["name"] for c in bom["components"]}
        assert {"ring", "rustls", "rust-std"} <= names and not {"cc", "syn", "serde_derive", "proptest", "rcgen"} & names
        for c in bom["components"]:
            assert c.get("licenses") and (c["name"] == "rust-std" or c.get("hashes")), c["name"]
