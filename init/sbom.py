#!/usr/bin/env python3
"""What the static binary is made of, as CycloneDX 1.5 (JSON) on standard output. init/dist.sh calls it.

    sbom.py BINARY TRIPLE

Crates as `cargo tree` lists them for the triple, without those that only build, derive or test; from `cargo metadata`
their licences, from Cargo.lock their sums. The same source gives the same text: no random number, and the time is that
of SOURCE_DATE_EPOCH.
"""
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def output(*argv, **more):
    return subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def licences(expression):
    # An old way to write OR is a slash.
    return [{"expression": re.sub(r"\s*/\s*", " OR ", expression)}] if expression else []


def component(package, sums):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version}
    if package.get("description"):
        found["description"] = " ".join(package["description"].split())
    if (name, version) in sums:
        found["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    if licences(package.get("license")):
        found["licenses"] = licences(package["license"])
    found["purl"] = purl
    if package.get("repository"):
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def locked(path):
    """The sums that a Cargo.lock names: (name, version) → sum."""
    packages = tomllib.loads(path.read_text())["package"]
    return {(p["name"], p["version"]): p["checksum"] for p in packages if "checksum" in p}


def standard(triple, cargo):
    """Rust's own library, and the crates in it. Those can be told where it was built from its source (build-static.sh)."""
    rustc = os.environ.get("RUSTC", "rustc")
    version = output(rustc, "--version").split()[1]
    std = {"type": "library", "bom-ref": f"pkg:generic/rust-std@{version}", "name": "rust-std", "version": version,
           "licenses": licences("MIT OR Apache-2.0"), "purl": f"pkg:generic/rust-std@{version}"}
    source = pathlib.Path(output(rustc, "--print=sysroot").strip(), "lib/rustlib/src/rust/library")
    if not source.is_dir():
        return std, []
    tree = (cargo, "tree", "--locked", f"--manifest-path={source}/std/Cargo.toml", f"--target={triple}",
            "--edges=normal,no-proc-macro", "--no-default-features", "--features=optimize_for_size",
            "--prefix=none", "--no-dedupe", "--format={p}|{l}|{r}")
    env = {**os.environ, "RUSTC_BOOTSTRAP": "1"}
    try:
        tree = output(*tree, "--offline", env=env, stderr=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        # The library's lock file also names what only its other features need: the build has not fetched that.
        tree = output(*tree, env=env)
    sums = locked(source / "Cargo.lock")
    found = {}
    for line in tree.splitlines():
        package, licence, repository = line.split("|")
        name, version, *where = package.split()
        # What has a path is a part of the library itself.
        if not where:
            package = {"name": name, "version": version[1:], "license": licence, "repository": repository}
            found[package["name"], package["version"]] = component(package, sums)
    return std, list(found.values())


def main(binary, triple):
    cargo = os.environ.get("CARGO", "cargo")
    calm = ("--locked", "--offline")
    tree = output(cargo, "tree", *calm, "--edges=normal,no-proc-macro", f"--target={triple}", "--prefix=none", "--format={p}")
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    data = json.loads(output(cargo, "metadata", *calm, "--format-version=1", f"--filter-platform={triple}"))
    packages = {p["id"]: p for p in data["packages"] if (p["name"], "v" + p["version"]) in names}
    sums = locked(ROOT / "Cargo.lock")

    root = data["resolve"]["root"]
    refs = {i: f"pkg:cargo/{p['name']}@{p['version']}" for i, p in packages.items()}
    ours = {**component(packages[root], sums), "type": "application"}
    ours["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(pathlib.Path(binary).read_bytes()).hexdigest()}]
    std, parts = standard(triple, cargo)
    known = set(refs.values())
    parts = [p for p in parts if p["bom-ref"] not in known]
    below = [{"ref": std["bom-ref"], "dependsOn": sorted(p["bom-ref"] for p in parts)}]
    below += [{"ref": p["bom-ref"]} for p in parts]
    edges = {node["id"]: sorted(refs[d["pkg"]] for d in node["deps"]
                                if d["pkg"] in refs and any(k["kind"] is None for k in d["dep_kinds"]))
             for node in data["resolve"]["nodes"] if node["id"] in refs}
    when = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": ours,
            "properties": [{"name": "cargo:target", "value": triple}],
        },
        "components": sorted([component(p, sums) for i, p in packages.items() if i != root] + [std, *parts],
                             key=lambda c: (c["name"], c["version"])),
        "dependencies": sorted([{"ref": refs[i], "dependsOn": [*to, std["bom-ref"]]} for i, to in edges.items()]
                               + below, key=lambda d: d["ref"]),
    }
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
    print(json.dumps(bom, indent=1, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
