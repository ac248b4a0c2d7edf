"""What the checks of the release files share. `make dist-test` has made the files."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))
from checks import Skip  # noqa: E402

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
DIST = TARGET / "dist"
ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
VERSION = next(line.split('"')[1] for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version"))
UNITS = ["ec2fleetd.service", "ec2fleetd@.service"]
CONFIG = '{ "domains": { "my-app.example.com": { "exec": [ { "lines": [ { "argv": [ "/bin/true" ] } ] } ] } } }\n'


def run(*argv, **more):
    return subprocess.run(argv, **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 600, **more})


def ok(*argv, **more):
    done = run(*argv, **more)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def tool(name, package):
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        raise Skip(f"no {name} here: apt-get install {package}")
    return found


def named(arch):
    """The binary; the other files of its processor but the packages are called like it, with something behind."""
    return DIST / f"ec2fleetd-{VERSION}-{arch}-linux-musl"


def deb(arch):
    return DIST / f"ec2fleetd_{VERSION}-1_{ARCHES[arch]}.deb"


def rpm(arch):
    return DIST / f"ec2fleetd-{VERSION}-1.{arch}.rpm"


def beside():
    """What of init/ is given away: path → mode."""
    files = [ROOT / "init/install-image.sh", *sorted(ROOT.glob("init/*/*"))]
    found = {f.relative_to(ROOT).as_posix(): 0o755 if os.access(f, os.X_OK) else 0o644 for f in files}
    return {path: mode for path, mode in found.items() if not path.startswith("init/package/")}


def installed():
    """What a package installs: path → mode."""
    doc = "/usr/share/doc/ec2fleetd/"
    files = {"/usr/bin/ec2fleetd": 0o755, "/etc/ec2fleetd/ec2fleetd.env": 0o600, doc + "README.md": 0o644}
    files |= {f"/usr/lib/systemd/system/{name}": 0o644 for name in UNITS}
    files |= {f"{doc}cloud-init/{file.name}": 0o644 for file in ROOT.glob("cloud-init/*")}
    return files | {f"/usr/share/ec2fleetd/{path}": mode for path, mode in beside().items()}


def base():
    """A minimal Debian with systemd, made once. Nothing is ever mounted in it, and nothing runs in it but by chroot."""
    if os.geteuid():
        raise Skip("not root")
    at = TARGET / "dist-test/base"
    if not (at / "done").exists():
        debootstrap = tool("debootstrap", "debootstrap")
        suite = next(line.split("=")[1].strip() for line in open("/etc/os-release") if line.startswith("VERSION_CODENAME="))
        # The mirror that apt uses.
        uris = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages").stdout.splitlines()
        mirror = next((line.split()[0] for line in uris if line.split()[1:] == [suite]), "")
        shutil.rmtree(at, ignore_errors=True)
        ok(debootstrap, "--variant=minbase", "--include=systemd", suite, at, *filter(None, [mirror]))
        (at / "done").touch()
    return at


class Image:
    """A copy of the base, for one check."""

    def __enter__(self):
        source = base()
        self.scratch = pathlib.Path(tempfile.mkdtemp(dir=TARGET / "dist-test"))
        self.at = self.scratch / "root"
        ok("cp", "-a", "--reflink=auto", source, self.at)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.scratch)

    def path(self, name):
        return self.at / name.lstrip("/")

    def mode(self, name):
        return self.path(name).lstat().st_mode & 0o7777

    def inside(self, *argv, **more):
        chroot = tool("chroot", "coreutils")
        return ok(chroot, self.at, *argv, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **more})

    def files(self):
        """All that is not a directory: path → (mode, what is in it)."""
        found = {}
        for path in self.at.rglob("*"):
            if path.is_symlink():
                found[path.relative_to(self.at).as_posix()] = ("link", os.readlink(path))
            elif path.is_file():
                found[path.relative_to(self.at).as_posix()] = (path.stat().st_mode & 0o7777, path.read_bytes())
        return found

    def folders(self):
        return {path: path.stat().st_mode for path in self.at.rglob("*") if path.is_dir() and not path.is_symlink()}

    def units_are_good(self, *names):
        """Of systemd itself, with the image as its root: the binary is found where the unit says."""
        done = run(tool("systemd-analyze", "systemd"), "verify", "--man=no", f"--root={self.at}", *names)
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "ec2fleetd" in line]
        assert not ours, "\n".join(ours)
