"""install-image.sh and the Packer recipe, on copies of a small Debian and on roots of which only the shape is real."""
import base64
import contextlib
import io
import pathlib
import re
import shutil
import tarfile
import tempfile

import hcl2

from kit import CONFIG, ROOT, UNITS, VERSION, Image, Skip, named, ok, run

WANTS = "etc/systemd/system/multi-user.target.wants"


@contextlib.contextmanager
def unpacked():
    """The release archive as somebody would unpack it, with a config beside it."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(f"{named('x86_64')}.tar.gz") as tar:
        tar.extractall(scratch, filter="data")
        top = pathlib.Path(scratch) / f"ec2fleetd-{VERSION}"
        (top / "my-app.jsonc").write_text(CONFIG)
        yield top


def test_image_with_systemd_has_binary_units_and_configs():
    with unpacked() as top, Image() as image:
        before, folders = set(image.files()), image.folders()
        command = [top / "init/install-image.sh", f"--config={top}/my-app.jsonc", "--userdata", image.at]
        ok(*command)
        after = image.files()
        changed = [path for path, mode in folders.items() if path.stat().st_mode != mode]
        assert not changed, f"folders that were there have other modes now: {changed}"
        expected = {"usr/local/bin/ec2fleetd", "etc/ec2fleetd/my-app.jsonc", f"{WANTS}/ec2fleetd.service",
                    f"{WANTS}/ec2fleetd@my-app.service", *[f"usr/local/lib/systemd/system/{unit}" for unit in UNITS]}
        assert set(after) - before == expected, (set(after) - before) ^ expected
        modes = {name: image.mode(name) for name in ("etc/ec2fleetd", "etc/ec2fleetd/my-app.jsonc", "usr/local/bin/ec2fleetd")}
        assert list(modes.values()) == [0o700, 0o600, 0o755], modes
        said = image.inside("ec2fleetd", "--version", PATH="/usr/local/bin")
        assert VERSION in said, said
        # systemd itself says so, and that the units are good.
        for name in (UNITS[0], "ec2fleetd@my-app.service"):
            assert image.inside("systemctl", "is-enabled", name).strip() == "enabled", name
        image.units_are_good(UNITS[0], "ec2fleetd@my-app.service")
        ok(*command)
        assert image.files() == after, "a second run changed something"


def test_image_keeps_what_is_in_etc():
    with unpacked() as top, Image() as image:
        (image.at / "etc/ec2fleetd").mkdir(mode=0o750)
        (image.at / "etc/ec2fleetd/other.jsonc").write_text("mine")
        ok(top / "init/install-image.sh", image.at)
        assert image.mode("etc/ec2fleetd") == 0o750 and image.path("etc/ec2fleetd/other.jsonc").read_text() == "mine"
        assert not image.path(WANTS).exists() or not list(image.path(WANTS).glob("ec2*")), "enabled without being told to"


def test_a_bad_config_leaves_the_image_alone():
    with unpacked() as top, tempfile.TemporaryDirectory() as root:
        (top / "my-app.jsonc").write_text('{ "domainz": {} }')
        for wrong in (top / "my-app.jsonc", top / "absent.jsonc", top / "README.md"):
            done = run(top / "init/install-image.sh", f"--config={wrong}", root)
            assert done.returncode == 1 and str(wrong) in done.stderr, done.stderr
            assert not list(pathlib.Path(root).iterdir()), wrong


def test_image_of_the_other_processor():
    """Its binary cannot be run here, and is not."""
    with unpacked() as top, tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        (root / "usr/lib/systemd/system").mkdir(parents=True)
        ok(top / "init/install-image.sh", f"--bin={named('aarch64')}", f"--config={top}/my-app.jsonc", root)
        assert (root / "usr/local/bin/ec2fleetd").read_bytes() == named("aarch64").read_bytes()
        assert (root / WANTS / "ec2fleetd@my-app.service").is_symlink()


def with_shape(*files):
    """A root that has these files and nothing else; install-image.sh with a config, then what is there."""
    with unpacked() as top, tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("")
            (root / file).chmod(0o755)
        ok(top / "init/install-image.sh", f"--config={top}/my-app.jsonc", "--userdata", "--initramfs", root)
        paths = [p for p in root.rglob("*") if not p.is_dir()]
        return {p.relative_to(root).as_posix(): str(p.readlink()) if p.is_symlink() else p.read_bytes() for p in paths}


def ours(path):
    if not (ROOT / "init" / path).exists():
        raise Skip(f"no init/{path}")
    return (ROOT / "init" / path).read_bytes()


def test_image_with_openrc_and_initramfs_tools():
    script, hook, top = ours("openrc/ec2fleetd"), ours("initramfs-tools/hook"), ours("initramfs-tools/local-top")
    found = with_shape("sbin/openrc-run", "usr/share/initramfs-tools/hook-functions")
    assert found["etc/init.d/ec2fleetd"] == script
    assert found["etc/init.d/ec2fleetd.my-app"] == "ec2fleetd"
    for name in ("ec2fleetd", "ec2fleetd.my-app"):
        assert found[f"etc/runlevels/default/{name}"] == f"/etc/init.d/{name}"
    assert found["etc/initramfs-tools/hooks/ec2fleetd"] == hook
    assert found["etc/initramfs-tools/scripts/local-top/ec2fleetd"] == top


def test_image_with_busybox_and_dracut():
    script, module = ours("busybox/ec2fleetd"), ours("dracut/module-setup.sh")
    found = with_shape("bin/busybox", "usr/lib/dracut/modules.d/00bash/module-setup.sh")
    assert found["etc/init.d/ec2fleetd"] == script
    assert found["etc/init.d/S50ec2fleetd"] == found["etc/init.d/S50ec2fleetd.my-app"] == "ec2fleetd"
    assert found["usr/lib/dracut/modules.d/95ec2fleetd/module-setup.sh"] == module


# --- Packer ---


def plain(value):
    """What hcl2 gives, without the quotes that it keeps around strings and keys."""
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items() if not str(k).startswith("__")}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].encode().decode("unicode_escape")
    return value


def recipe():
    return plain(hcl2.load(io.StringIO((ROOT / "init/packer/ec2fleetd.pkr.hcl").read_text())))


def provisioner(kind):
    (build,) = recipe()["build"]
    (found,) = [p[kind] for p in build["provisioner"] if kind in p]
    return found


def test_recipe_is_hcl_and_hangs_together():
    """Parsed by python-hcl2; Packer itself is not asked, as it would want its plugin from the network."""
    whole = recipe()
    text = (ROOT / "init/packer/ec2fleetd.pkr.hcl").read_text()
    declared = {name for block in whole["variable"] for name in block}
    used = set(re.findall(r"\bvar\.(\w+)", text))
    assert declared == used, declared ^ used
    (build,) = whole["build"]
    assert build["sources"] == ["source.amazon-ebs.debian"] and "debian" in whole["source"][0]["amazon-ebs"]
    (source,) = [s["amazon-ebs"]["debian"] for s in whole["source"]]
    assert source["imds_support"] == "v2.0"
    assert "/tmp/ec2fleetd.tar.gz" == provisioner("file")["destination"]


def test_recipe_does_on_a_root_what_it_says():
    """Its own lines, run in a Debian as Packer would run them, with and without a config."""
    lines = provisioner("shell")["inline"]
    assert lines and not [line for line in lines if "${" in line], "Packer would replace something here"
    for config, unit in ((CONFIG, "ec2fleetd@my-app.service"), ("", "ec2fleetd.service")):
        with Image() as image:
            shutil.copy(f"{named('x86_64')}.tar.gz", image.at / "tmp/ec2fleetd.tar.gz")
            # The image of a cloud has sudo; this one has not.
            image.path("usr/bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
            image.path("usr/bin/sudo").chmod(0o755)
            image.inside("sh", "-c", "\n".join(lines), NAME="my-app.jsonc" if config else "",
                         CONFIG=base64.b64encode(config.encode()).decode())
            assert image.inside("systemctl", "is-enabled", unit).strip() == "enabled"
            enabled = [path.name for path in image.path(WANTS).glob("ec2fleetd*")]
            assert enabled == [unit], enabled
            assert not list(image.path("tmp").iterdir()), "something is left in /tmp"
