"""Disks of every kind, and disks that fail, on real NVMe: what is recognised, and that nothing is formatted but what is blank.

tests/disks/make.sh makes them with the real tools. What must be made by a kernel (md) is made in the guest. Sectors that
cannot be read are QEMU's doing, or that of device mapper's `error` target.
"""
import pathlib
import subprocess

from checks import Skip
from cloud import Cloud

ME = "i-0a1b2c3d4e5f60001"
MAKE = pathlib.Path(__file__).resolve().parent.parent / "disks/make.sh"
MIB = 1 << 20
MODULES = ("dm_mod", "raid1", "xfs", "btrfs", "vfat", "nls_cp437", "nls_ascii")
PROGRAMS = ("mdadm", "dmsetup", "mkfs.ext4", "mkfs.xfs", "fsck.ext2", "fsck.ext3", "fsck.ext4", "fsck.vfat", "resize2fs",
            "xfs_growfs", "mkfs.btrfs", "mkfs.vfat")
FORMATTERS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat")

RUN = """\
ip link set lo up
ip addr add $bench_ip/24 dev eth0
ip link set eth0 up
ip route add default via $bench_router
echo "AWS_ENDPOINT_URL=http://$bench_router" >/env
mkdir -p /fake/dev /fake/run
ln -s /proc /fake/proc
echo "bench: ready"
until [ -e /over ]; do sleep 0.2; done
"""
# It is found before the real one, and leaves a trace.
FORMATTER = '#!/bin/sh\nfor last; do :; done\necho "$last" >>/called\nexec /usr/sbin/${0##*/} "$@"\n'
UNKNOWN = "what is on it cannot be told: I/O error (os error 5)"
# A disk whose beginning cannot be read counts as not there yet; the last look ends with the error, or with the time.
NOT_THERE = " cannot be read: "


def volume(n):
    return f"vol-0a1b2c3d4e5f{n:05x}"


def config(volumes, timeout=300):
    """A domain for each volume: they come up beside each other, and each fails for itself."""
    domain = """'v%d': { critical: false, 'attach-volume': [ { source: 'x', 'volume-id': '%s', device: '/dev/xvd%s',
        mount: { path: '/data%d', format: 'if-blank' } } ] }"""
    parts = [domain % (n, volume(n), "fghijklmnop"[i], n) for i, n in enumerate(volumes)]
    return "{ timeout: %d, domains: { %s } }" % (timeout, ", ".join(parts))


class Bench:
    """A guest with the tools, and volumes that may be formatted where they are blank."""

    def __init__(self, images, scratch, name, files):
        if not list(images.modules.rglob("dm-mod.ko*")):
            raise Skip("this kernel has no device mapper")
        more = {"make.sh": MAKE.read_bytes(), **images.programs(*PROGRAMS)}
        more |= {f"bin/mkfs.{fs}": FORMATTER for fs in FORMATTERS}
        image = images.minimal(name, RUN, more, MODULES)
        volumes = [{"id": volume(n), "backing": str(path), "size": 1, "tags": {"user:ec2fd.format": "if-blank"}}
                   for n, path in files.items()]
        self.cloud = Cloud(scratch, {"instances": [{"id": ME}], "volumes": volumes})
        self.guest = self.cloud.launch(ME, images, memory=512, **image)
        self.guest.says("bench: ready")

    def run(self, text, environment=""):
        """One run of the daemon, to `started` or its failure: what it says."""
        self.guest.run(f"cat >/config <<'END'\n{text}\nEND")
        log = self.guest.run(f"env $(cat /env) {environment} ec2fleetd --userdata=/config --enable-poll=false", None)
        assert "panicked" not in log, log
        return log

    def called(self):
        """The disks on which a mkfs was begun."""
        return self.guest.run("cat /called 2>/dev/null; rm -f /called", None).split()

    def consent(self, n):
        return self.cloud.volume(volume(n))["tags"].get("user:ec2fd.format")

    def free(self, *volumes):
        for n in volumes:
            self.cloud.until(lambda n=n: self.cloud.volume(volume(n))["state"] == "available", f"{volume(n)} free")

    def plugged(self, n, path):
        """A disk that is plugged by hand, to be made in the guest: its node."""
        self.guest.plug(volume(n), str(path))
        serial = volume(n).replace("-", "")
        found = f"grep -l {serial} /sys/block/nvme*/device/serial"
        name = self.guest.run(f"until {found} >/dev/null 2>&1; do sleep 0.1; done; {found}").split("/")[3]
        return f"/dev/{name}"

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        self.cloud.close()


def line(log, n, text):
    """What is said of a volume."""
    said = [s for s in log.splitlines() if volume(n) in s]
    assert any(text in s for s in said), f"nothing of {volume(n)} says '{text}':\n" + log


def blank(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_disks_of_every_kind(images, scratch):
    """Disks as the real tools make them: none is formatted, though the config and the tag of each allow it."""
    scratch.mkdir(parents=True)
    listed = subprocess.run([MAKE, "list"], capture_output=True, text=True, check=True).stdout
    kinds, skipped = {}, []
    for n, entry in enumerate(listed.splitlines()):
        kind, wanted = entry.split(" ", 1)
        path = blank(scratch / kind, 160 * MIB) if kind.startswith("md-") else scratch / kind
        if kind.startswith("md-"):
            kinds[n] = kind, wanted, path
            continue
        made = subprocess.run([MAKE, kind, path], capture_output=True, text=True, check=False)
        if made.returncode == 0:
            kinds[n] = kind, wanted, path
        else:
            assert made.returncode == 77, (kind, made.stderr)
            skipped.append(f"{kind}: {made.stdout.strip()}")
    with Bench(images, scratch / "aws", "disks", {n: path for n, (_, _, path) in kinds.items()}) as bench:
        for n, (kind, _, path) in list(kinds.items()):
            if not kind.startswith("md-"):
                continue
            node = bench.plugged(n, path)
            made = bench.guest.run(f"sh /make.sh {kind} {node} >/made 2>&1; echo $?; cat /made")
            bench.guest.unplug(volume(n))
            if made.split()[0] != "0":
                assert made.split()[0] == "77", made
                skipped.append(f"{kind}: {made}")
                del kinds[n]
        before = {n: path.stat().st_mtime_ns for n, (_, _, path) in kinds.items()}
        todo = list(kinds)
        while todo:
            some, todo = todo[:7], todo[7:]
            # Another file system than there is: what can be mounted is refused too.
            wants = {n: "xfs" if kinds[n][1].startswith("ext") else "ext4" for n in some}
            text = config(some)
            for n in some:
                text = text.replace(f"'/data{n}', format: 'if-blank'", f"'/data{n}', format: 'if-blank', fstype: '{wants[n]}'")
            log = bench.run(text)
            for n in some:
                line(log, n, f"it holds {kinds[n][1]}")
            bench.free(*some)
        assert not bench.called() and all(bench.consent(n) == "if-blank" for n in kinds)
        changed = [kind for n, (kind, _, path) in kinds.items() if path.stat().st_mtime_ns != before[n]]
        assert not changed, changed
        for why in skipped:
            yield f"skipped: {why}"
        yield f"{len(kinds)} kinds recognised, none of them written to: " + " ".join(k for k, _, _ in kinds.values())
        assert not bench.cloud.problems, bench.cloud.problems


def test_disks_that_fail(images, scratch):
    """Blank disks with sectors that cannot be read, or too short: unknown, and never formatted."""
    scratch.mkdir(parents=True)
    size = 64 * MIB
    end = size // 512
    # The first sector, where ext has its magic, the last of the first 4 MiB, copies of superblocks, the last 1 MiB.
    bad = [0, 2, 4 * MIB // 512 - 1, 8 * MIB // 512, end // 4, end - 2048, end - 1]
    files = {n: blank(scratch / f"bad{n}", size) for n in range(len(bad))}
    short, fine, mapped = 20, 21, 22
    files[short] = blank(scratch / "short", 512 << 10)
    files[fine] = blank(scratch / "fine", size)
    files[mapped] = blank(scratch / "mapped", size)
    with Bench(images, scratch / "aws", "failing", files) as bench:
        for n, sector in enumerate(bad):
            bench.guest.unreadable[volume(n)] = [sector]
        # Where nobody looks and mkfs.ext4 does not read, an error changes nothing: the disk is formatted, and used.
        bench.guest.unreadable[volume(fine)] = [end // 2 + 4096 + 100]
        # Where the beginning cannot be read, the disk counts as not there yet, until the time is over.
        log = bench.run(config(range(len(bad)), 40))
        for n, sector in enumerate(bad):
            line(log, n, NOT_THERE if sector < 8 else UNKNOWN)
        bench.free(*range(len(bad)))
        yield f"{len(bad)} disks with one sector that cannot be read, each another: none was formatted"

        log = bench.run(config([short, fine]))
        line(log, short, "what is on it cannot be told: it has 524288 bytes only")
        line(log, fine, f"is mounted at /data{fine} (ext4)")
        [called] = bench.called()
        assert bench.consent(fine) is None
        yield f"one that is too short was not either; one that is blank was, once ({called})"

        # The same by device mapper. The daemon is shown a mapping in place of the disk.
        under = bench.plugged(90, blank(scratch / "under", size))
        serial = volume(mapped).replace("-", "")
        places = [0, 4 * MIB // 512 - 8, end // 4, end - 8]
        for sector in places:
            parts = [(0, sector, f"linear {under} 0"), (sector, 8, "error"),
                     (sector + 8, end - sector - 8, f"linear {under} {sector + 8}")]
            table = "".join(f"{at} {length} {target}\\n" for at, length, target in parts if length)
            bench.guest.run(f"printf '{table}' | /usr/sbin/dmsetup create bad --noudevrules --noudevsync")
            bench.guest.run(f"""d=/fake/sys/block/nvme9n1; mkdir -p $d/device
                echo {serial} >$d/device/serial; echo Amazon Elastic Block Store >$d/device/model
                cat /sys/block/dm-0/dev >$d/dev; cat /sys/block/dm-0/size >$d/size; echo 0 >$d/hidden
                ln -sf /dev/dm-0 /fake/dev/nvme9n1""")
            log = bench.run(config([mapped], 20), "EC2FLEETD_ROOT=/fake")
            line(log, mapped, UNKNOWN if sector else NOT_THERE)
            bench.free(mapped)
            bench.guest.run("/usr/sbin/dmsetup remove bad --noudevrules --noudevsync")
        assert not bench.called() and bench.consent(mapped) == "if-blank"
        yield f"device mapper's error target at sectors {places}: not formatted"
        assert not bench.cloud.problems, bench.cloud.problems


def test_disks_mount_and_grow(images, scratch):
    """Every file system that the kernel has is checked, mounted, and grown with its disk where it can be."""
    scratch.mkdir(parents=True)
    files, kinds = {}, {}
    for n, kind in enumerate(("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat")):
        made = subprocess.run([MAKE, kind, scratch / kind], capture_output=True, text=True, check=False)
        if made.returncode == 77:
            yield f"skipped: {kind}: {made.stdout.strip()}"
            continue
        files[n], kinds[n] = scratch / kind, kind
        with open(files[n], "r+b") as file:
            file.truncate(2 * file.seek(0, 2))
    with Bench(images, scratch / "aws", "growing", files) as bench:
        log = bench.run(config(files))
        grown = []
        for n, kind in kinds.items():
            line(log, n, f"is mounted at /data{n} ({kind})")
            total = int(bench.guest.run(f"echo kept >/data{n}/file; df -k /data{n} | tail -n 1").split()[1])
            part = total * 1024 / files[n].stat().st_size
            if kind in ("ext2", "ext3", "ext4", "xfs"):
                assert part > 0.8, f"{kind} has {part:.2f} of its disk\n{log}"
                grown.append(kind)
        assert not bench.called()
        yield f"mounted: {' '.join(kinds.values())}; grown online: {' '.join(grown)}"
        for n in kinds:
            bench.guest.run(f"umount /data{n}")
        log = bench.run(config(files))
        assert "growing it" not in log, log
        for n in kinds:
            assert bench.guest.run(f"cat /data{n}/file") == "kept\n"
        yield "mounted again: what was written is there, and nothing is grown twice"
        assert not bench.cloud.problems, bench.cloud.problems
