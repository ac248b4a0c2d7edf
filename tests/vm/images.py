"""What a guest boots: kernel, initramfs, root file system. Made anew for each run, from what prepare.sh has fetched."""
import os
import pathlib
import re
import shutil
import stat
import subprocess
import time

from checks import Skip
from machine import ROUTER
from texts import (BUSYBOX_START, BUSYBOX_STOP, CLOUD_INIT, DEBIAN, DEBIAN_APPEND, INIT, OPENRC, SYSTEMD, UDHCPC,
                   UNWANTED)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Archive:
    """An initramfs being made (cpio, "newc"). Nothing in it needs the rights or the owner of a real file."""

    def __init__(self):
        self.names, self.parts = {"."}, []

    def entry(self, name, mode, data=b"", device=(0, 0)):
        name = name.strip("/")
        parent = os.path.dirname(name)
        if parent and parent not in self.names:
            self.entry(parent, stat.S_IFDIR | 0o755)
        if name in self.names:
            return self
        self.names.add(name)
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        self.parts += [head + bytes(-len(head) % 4), data + bytes(-len(data) % 4)]
        return self

    def file(self, name, data, mode=0o755):
        return self.entry(name, stat.S_IFREG | mode, data if isinstance(data, bytes) else data.encode())

    def link(self, name, to):
        return self.entry(name, stat.S_IFLNK | 0o777, to.encode())

    def write(self, path):
        self.entry("TRAILER!!!", 0)
        pathlib.Path(path).write_bytes(b"".join(self.parts))


def put(path, text):
    """Writes a file of a tree anew; None takes it away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)


class Images:
    """All that is common to the guests of a run."""

    def __init__(self, cache, scratch, binary):
        self.cache, self.scratch, self.binary = pathlib.Path(cache), pathlib.Path(scratch), pathlib.Path(binary)
        self.kernel = next((self.cache / "kernel/boot").glob("vmlinuz-*"))
        self.version = self.kernel.name.removeprefix("vmlinuz-")
        self.modules = self.cache / "kernel/lib/modules" / self.version
        self.accel = "tcg"

    def needed(self, *names):
        """Modules, and those that they need before them: paths under the folder of modules."""
        table = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, before = line.partition(":")
            table[path] = before.split()
        paths = {re.sub(r"\.ko.*", "", os.path.basename(p)).replace("-", "_"): p for p in table}
        order = []
        for name in names:
            if name not in paths:
                continue  # built in
            for path in [*reversed(table[paths[name]]), paths[name]]:
                if path not in order:
                    order.append(path)
        return order

    def busybox(self, archive, modules=()):
        """busybox under all of its names, and the modules of the network card and further ones."""
        program = shutil.which("busybox")
        archive.file("bin/busybox", pathlib.Path(program).read_bytes())
        names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in names:
            archive.link(f"bin/{name}", "busybox")
        order = self.needed("virtio_pci", "virtio_net", "virtio_rng", *modules)
        for path in order:
            archive.file(f"lib/modules/{os.path.basename(path)}", (self.modules / path).read_bytes(), 0o644)
        archive.file("modules", "".join(f"/lib/modules/{os.path.basename(p)}\n" for p in order), 0o644)
        for name in ("proc", "sys", "dev", "run", "tmp", "mnt"):
            archive.entry(name, stat.S_IFDIR | 0o755)

    def programs(self, *names):
        """Programs of this machine with the libraries that they need, as files for `minimal`. Those that are not here are
        left out."""
        files = {}
        for name in names:
            path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
            if not path:
                continue
            files[f"usr/sbin/{name}"] = pathlib.Path(path).read_bytes()
            needs = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(?:=> |^\s*)(/\S+)", needs, re.M):
                files[library.lstrip("/")] = pathlib.Path(library).read_bytes()
        return files

    def minimal(self, name, script, files=None, modules=()):
        """An initramfs with nothing but busybox and our binary; `script` is what /init does."""
        archive = Archive()
        # The console, for messages from before devtmpfs is mounted.
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.file("init", INIT).file("run.sh", script).file("bin/ec2fleetd", self.binary.read_bytes())
        for path, data in (files or {}).items():
            archive.file(path, data)
        self.busybox(archive, modules)
        target = self.scratch / f"{name}.cpio"
        archive.write(target)
        return {"initrd": target, "append": "console=ttyS0 quiet panic=-1 bench.run=/run.sh"}

    def tree(self, name):
        """A copy of the Debian tree, with our units installed as `make install` does. Its files are links: a file that is
        there already must be taken away before it is written anew."""
        if os.getuid() != 0 or not (self.cache / "debian.done").exists():
            raise Skip("the Debian tree needs root")
        tree = self.scratch / name
        subprocess.run(["cp", "-al", self.cache / "debian", tree], check=True)
        install = ["make", "-s", "-C", ROOT, "install", f"DESTDIR={tree}", "PREFIX=/usr", f"BIN={self.binary}"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        for path in self.needed("virtio_pci", "virtio_net", "virtio_rng"):
            target = tree / "usr/lib/modules" / self.version / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.modules / path, target)
        for path in self.modules.glob("modules.[bo]*"):
            shutil.copy(path, tree / "usr/lib/modules" / self.version)
        subprocess.run(["depmod", "-b", tree, self.version], check=True)
        shutil.copy(self.kernel.with_name(f"config-{self.version}"), tree / "boot")
        return tree

    def debian(self, name, files, enabled):
        """A root file system with systemd. Made once in a run."""
        image = self.scratch / f"{name}.ext4"
        if not image.exists():
            tree = self.tree(f"{name}.tree")
            for path, text in {**DEBIAN, **files}.items():
                put(tree / path, text)
            for unit in ("bench-shell", "systemd-networkd", *enabled):
                self.enable(tree, unit)
            self.mask(tree)
            self.pack(tree, image)
        return {"root": image, "memory": 512, "cpus": 2, "append": f"root=/dev/nvme0n1 {DEBIAN_APPEND}"}

    def initramfs_tools(self, tree):
        """An initramfs made by initramfs-tools with our hook, as update-initramfs makes it."""
        for name, place in (("hook", "hooks"), ("local-top", "scripts/local-top")):
            target = tree / "etc/initramfs-tools" / place / "ec2fleetd"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "init/initramfs-tools" / name, target)
        return self.within(tree, "mkinitramfs", "-o", "/boot/initrd", self.version)

    def dracut(self, tree):
        """One made by dracut with our module."""
        module = tree / "usr/lib/dracut/modules.d/95ec2fleetd"
        module.mkdir()
        for path in (ROOT / "init/dracut").iterdir():
            shutil.copy(path, module)
        return self.within(tree, "dracut", "--quiet", "--force", "--no-hostonly", "--add", "ec2fleetd", "--gzip",
                           "/boot/initrd", self.version)

    def within(self, tree, *command):
        """Runs what makes /boot/initrd in a tree; takes the result out of it."""
        for kind, place in (("proc", "proc"), ("sysfs", "sys")):
            subprocess.run(["mount", "-t", kind, kind, tree / place], check=True)
        try:
            done = subprocess.run(["chroot", tree, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=600, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": "/var/tmp"})
        finally:
            subprocess.run(["umount", tree / "proc", tree / "sys"], check=True)
        if done.returncode != 0:
            raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        shutil.move(tree / "boot/initrd", tree.with_suffix(".initrd"))
        return tree.with_suffix(".initrd")

    def pool_root(self, name, make):
        """An initramfs that `make` makes of a tree, and a root file system with the same, to be put on a pool volume."""
        tree = self.tree(f"{name}.tree")
        for path, text in {**DEBIAN, "etc/fstab": "LABEL=pool-root / ext4 defaults 0 0\n"}.items():
            put(tree / path, text)
        for unit in ("bench-shell", "systemd-networkd", "ec2fleetd"):
            self.enable(tree, unit)
        self.mask(tree)
        initrd = make(tree)
        image = self.scratch / f"{name}.ext4"
        self.pack(tree, image)
        return image, {"initrd": initrd, "memory": 512, "cpus": 2,
                       "append": f"root=LABEL=pool-root cloud-init=disabled {DEBIAN_APPEND}"}

    def systemd(self):
        """One where ours is enabled; the config is in the user data."""
        image = self.debian("systemd", SYSTEMD, ["ec2fleetd", "bench-after"])
        return {**image, "append": image["append"] + " cloud-init=disabled"}

    def cloud_init(self):
        """One where cloud-init does what the user data says. The applications of the examples stand for real ones."""
        return self.debian("cloud-init", CLOUD_INIT, [])

    def mask(self, tree):
        for unit in UNWANTED:
            put(tree / "etc/systemd/system" / unit, None)
            (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")

    def enable(self, tree, name):
        subprocess.run(["systemctl", f"--root={tree}", "enable", "--quiet", f"{name}.service"], check=True,
                       stderr=subprocess.DEVNULL)

    def pack(self, tree, image):
        """A file system of the files of a tree; no partitions, nothing to boot from."""
        subprocess.run(["truncate", "-s", "2G", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-L", "pool-root", "-d", tree, image], check=True)

    def busybox_init(self, script):
        """An initramfs where busybox is init, and our script is one of those that rcS runs."""
        archive = Archive()
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.link("init", "bin/busybox").file("use.sh", script).file("bin/ec2fleetd", self.binary.read_bytes())
        archive.file("etc/inittab", "::sysinit:/etc/init.d/rcS\n::shutdown:/etc/init.d/rcK\n")
        archive.file("etc/init.d/rcS", BUSYBOX_START).file("etc/init.d/rcK", BUSYBOX_STOP)
        archive.file("etc/init.d/S50ec2fleetd", (ROOT / "init/busybox/ec2fleetd").read_bytes())
        archive.file("etc/init.d/S60after", "#!/bin/sh\necho \"bench: after ec2fleetd, $1, $(cat /mnt/data/who)\"\n")
        archive.file("etc/ec2fleetd/ec2fleetd.env", f"AWS_ENDPOINT_URL=http://{ROUTER}\n", 0o600)
        archive.file("etc/udhcpc", UDHCPC)
        archive.entry("var/log", stat.S_IFDIR | 0o755)
        self.busybox(archive)
        archive.write(self.scratch / "busybox.cpio")
        return {"initrd": self.scratch / "busybox.cpio", "append": "console=ttyS0 quiet panic=-1"}

    def openrc(self, script):
        """A Debian root with OpenRC as init, in place of systemd."""
        image = self.scratch / "openrc.ext4"
        if not image.exists():
            tree = self.tree("openrc.tree")
            for path, text in {**DEBIAN, **OPENRC, "use.sh": script}.items():
                put(tree / path, text)
                if text.startswith("#!"):
                    (tree / path).chmod(0o755)
            shutil.copy(ROOT / "init/openrc/ec2fleetd", tree / "etc/init.d/ec2fleetd")
            for level in (tree / "etc/runlevels").iterdir():
                for service in level.iterdir():
                    service.unlink()
            for service in ("bench-net", "ec2fleetd", "bench-after"):
                (tree / "etc/runlevels/default" / service).symlink_to(f"/etc/init.d/{service}")
            self.pack(tree, image)
        return {"root": image, "memory": 256,
                "append": "root=/dev/nvme0n1 rw console=ttyS0 quiet net.ifnames=0 init=/sbin/openrc-init"}

    def choose_accel(self):
        """KVM where a guest really boots in it, which is tried; emulation elsewhere."""
        wanted = os.environ.get("VM_ACCEL")
        if wanted:
            self.accel = wanted
            return
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return
        # What was found is good until the next boot of this machine.
        note = self.cache / "accel"
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        if note.exists() and note.read_text().split()[:1] == [boot]:
            self.accel = note.read_text().split()[1]
            return
        archive = Archive()
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.file("init", "#!/bin/busybox sh\necho bench: booted\nexec busybox poweroff -f\n")
        archive.file("bin/busybox", pathlib.Path(shutil.which("busybox")).read_bytes())
        archive.write(self.scratch / "probe.cpio")
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults",
                   "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(self.kernel), "-append",
                   "console=ttyS0 quiet panic=-1", "-initrd", str(self.scratch / "probe.cpio")]
        began = time.monotonic()
        try:
            said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        self.accel = "kvm" if b"bench: booted" in said else "tcg"
        print(f"KVM tried for {time.monotonic() - began:.1f} s: {self.accel} it is", flush=True)
        note.write_text(f"{boot} {self.accel}\n")
