#!/usr/bin/env python3
"""Measures the way from power-on to `started` in guests that really boot. `make bench-boot` runs it.

    bench.py [-v] [ROUNDS]     -v: shows the consoles; ROUNDS: 3 by default

Two images: an initramfs with nothing but busybox and the binary, and a Debian root with systemd and the real cloud-init.
Both get a pool volume, mounted, and a record. The stand-in lets nobody wait: what is measured is the guest's work.

All times are the guest's own. Its kernel notes in its trace when it announces a disk, when a program opens it, and when a
mount is done, by the clock of its log. So neither the serial line nor this program has a part in them. Only how long the
bench itself takes to plug the disk is told by the stand-in's clock.

A loaded machine makes the guest slow: the lowest of the rounds says most, and no time but one is checked.
"""
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import machine  # noqa: E402
from cloud import Cloud, datagrams  # noqa: E402
from images import ROOT, Images  # noqa: E402
from standin import program  # noqa: E402

INSTANCE, DATA = "i-0a1b2c3d4e5f60001", "vol-0a1b2c3d4e5faaaa1"
NO_WAITS = {"attaching_ms": 0, "device_ms": 0, "detaching_ms": 0, "cooldown_ms": 0}
# The slow look at the disks, which goes on beside the kernel's announcements. Emulation adds to it, so a disk that is seen
# later than this was seen by no announcement.
LOOK_MS = 100
LIMIT = 2_800_000

CONFIG = """{
  timeout: 300,
  domains: {
    data: {
      'attach-volume': [ { source: 'p', 'pool-name': 'data', device: '/dev/xvdf',
        mount: { path: '/mnt/data', fsck: 'skip', grow: false } } ],
      'update-route53': [ { hostedzone: 'Z1', name: 'data.example.com', ttl: 60 } ],
    },
  },
}"""

# Before the program starts: what the kernel is to note. An action of 0 is "add"; a disk has its name after three numbers.
TRACE = """\
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
cd /sys/kernel/tracing
# The clock of the kernel's log; the one by default may be far from it.
echo global >trace_clock
echo 'p:announced disk_uevent action=%si:s32 name=+12(%di):string' >kprobe_events
echo 'p:opened do_sys_openat2 file=+0(%si):ustring' >>kprobe_events
echo 'action == 0 && name ~ "nvme*"' >events/kprobes/announced/filter
# Not what udev does. Disks are opened and mounted by a thread of this name, which may hang without harm.
ours='comm == "beside" || comm == "ec2fleetd"'
echo 'file ~ "/dev/nvme*" &&' "($ours)" >events/kprobes/opened/filter
echo "$ours" >events/syscalls/sys_exit_mount/filter
for event in kprobes/announced kprobes/opened syscalls/sys_exit_mount sched/sched_process_exec; do
	echo 1 >events/$event/enable
done
cd /
"""

RUN = TRACE + """\
ip link set lo up
ip addr add $bench_ip/24 dev eth0
ip link set eth0 up
ip route add default via $bench_router
export AWS_ENDPOINT_URL=http://$bench_router
ec2fleetd --log=kmsg &
until dmesg | grep -q 'ready: data started'; do sleep 1; done
echo "bench: started"
wait
"""


class Timed(Cloud):
    """A region that notes when a disk was wanted and when it was plugged, by its own clock."""

    plugged = None

    def launch(self, instance, images, **how):
        guest = super().launch(instance, images, **how)
        plug = guest.plug

        def timed(volume, file):
            plug(volume, file)
            self.plugged = self.ask("/state")["now_ms"]
        guest.plug = timed
        return guest

    def order_ms(self):
        """From the call that wants a disk to a disk that is plugged: the bench's own time."""
        [call] = self.calls("AttachVolume", status=200)
        return max(0, self.plugged - call["at_ms"])


def world(scratch, user_data):
    """A region with the instance, and a volume that has a file system."""
    disk = scratch / "disks" / f"{DATA}.img"
    disk.parent.mkdir(parents=True)
    subprocess.run(["truncate", "-s", "64M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    return {"knobs": NO_WAITS, "instances": [{"id": INSTANCE, "user_data": user_data}],
            "zones": [{"id": "Z1", "name": "example.com"}], "volumes": [{"id": DATA, "pool": ["data", "data"], "size": 1}]}


def noted(text, pattern):
    """When the first line of a log or a trace that matches was written, in milliseconds of the guest's clock."""
    for line in text.splitlines():
        stamp = re.search(r"^\[ *(\d+\.\d+)\]| (\d+\.\d+): ", line)
        if stamp and re.search(pattern, line[stamp.end():]):
            return float(stamp[1] or stamp[2]) * 1000
    raise AssertionError(f"nothing notes '{pattern}':\n{text}")


def disk(guest, cloud):
    """What a guest notes of the disk: the bench's time, the kernel's, and ours."""
    log, trace = guest.run("dmesg"), guest.run("cat /sys/kernel/tracing/trace")
    # The root disk was announced before there was a trace.
    came = re.search(r"announced: .*name=\"(nvme\w+)\"", trace)
    assert came, trace
    announced, seen = noted(trace, "announced: "), noted(trace, rf"opened: .*\"/dev/{came[1]}\"")
    # The last card that the kernel has found in a slot.
    card = noted("\n".join(reversed(log.splitlines())), r"pci [\w:.]+: \[1b36:0010\]")
    later = [line for line in trace.splitlines() if "sys_mount -> 0x0" in line and noted(line, "") > seen]
    return {"order": cloud.order_ms(), "kernel": min(seen, announced) - card, "seen": seen - announced,
            "mounted": noted(later[0], "") - announced}, log, trace


def processor(guest):
    """Processor time of the daemon so far, all threads."""
    fields = guest.run("cat /proc/$(pidof ec2fleetd | tr ' ' '\\n' | sort -n | head -n 1)/stat").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 10


def small(images, scratch):
    """One boot of the initramfs."""
    image = images.minimal("bench", RUN)
    image["append"] += " printk.devkmsg=on"
    with Timed(scratch, world(scratch, CONFIG)) as cloud:
        guest = cloud.launch(INSTANCE, images, year=1970, **image)
        guest.says("bench: started")
        cpu = processor(guest)
        found, log, trace = disk(guest, cloud)
        begun, ready = noted(trace, r"sched_process_exec: filename=\S*/ec2fleetd "), noted(log, "ready: data started")
        assert not cloud.problems, cloud.problems
        return {"init": noted(log, "Run /init as init process"), "begun": begun, "started": ready, "whole": ready - begun,
                "cpu": cpu, **found}


def large(images, scratch):
    """One boot of Debian: the example for a user data with two parts, with a config like that of the other image."""
    example = (ROOT / "cloud-init/multipart.mime").read_text()
    text, count = re.subn(r"(Content-Type: text/x-ec2fleetd.*?\n\n).*?(\n--==ec2fleetd==--)",
                          lambda m: m[1] + CONFIG + m[2], example, flags=re.S)
    assert count == 1, example
    image = images.cloud_init()
    with Timed(scratch, world(scratch, text)) as cloud:
        guest = cloud.launch(INSTANCE, images, **image)
        # By then there is a shell, and cloud-init has yet to come to what starts us.
        guest.says(r"Reached target basic\.target")
        guest.run(TRACE)
        guest.says("ready: data started")
        cpu = processor(guest)
        shown = dict(line.split("=", 1) for line in guest.run(
            "systemctl show -p ExecMainStartTimestampMonotonic -p ActiveEnterTimestampMonotonic ec2fleetd; "
            "systemctl show -p UserspaceTimestampMonotonic").split())
        init, begun, ready = (int(shown[k + "TimestampMonotonic"]) / 1000
                              for k in ("Userspace", "ExecMainStart", "ActiveEnter"))
        found, _, _ = disk(guest, cloud)
        assert not cloud.problems, cloud.problems
        return {"init": init, "begun": begun, "started": ready, "whole": ready - begun, "cpu": cpu, **found}


def packed(path):
    """Bytes of a file as an initramfs has it: by gzip, by zstd as mkinitramfs calls it."""
    data = pathlib.Path(path).read_bytes()
    return [len(subprocess.run(command, input=data, capture_output=True, check=True).stdout)
            for command in (["gzip", "-n", "-6", "-c"], ["zstd", "-q", "-9", "-c"]) if shutil.which(command[0])]


def sizes(images):
    """Rows about what the program adds to the small image: with it, without it, and it alone."""
    with_it = images.minimal("size-with", RUN)["initrd"]
    binary, images.binary = images.binary, pathlib.Path(os.devnull)
    without = images.minimal("size-without", RUN)["initrd"]
    images.binary = binary
    rows = []
    for what, path in (("initramfs with the program", with_it), ("the same without it", without),
                       ("the program alone", binary)):
        rows.append((what, [path.stat().st_size, *packed(path)]))
    return rows


def main():
    machine.enter()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    scratch = target / "vm/bench"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    machine.network()
    datagrams()
    images = Images(target / "vm", scratch, program("EC2FLEETD", "ec2fleetd"))
    images.choose_accel()
    rounds = next((int(a) for a in sys.argv[1:] if a.isdigit()), 3)
    kinds = [("initramfs", small)]
    if os.getuid() == 0 and (images.cache / "debian.done").exists():
        kinds.append(("Debian, cloud-init", large))
    else:
        print("the Debian tree needs root: only the initramfs is measured")
    began, results = time.monotonic(), {}
    for name, boot in kinds:
        results[name] = []
        for n in range(rounds):
            found = boot(images, scratch / f"{boot.__name__}{n}")
            # The kernel's and the bench's time for the disk is nobody's program's.
            found["ours"] = found["whole"] - found["order"] - found["kernel"]
            results[name].append(found)
            print(f"{name}, round {n + 1}: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)

    rows = [("the kernel's first line to its first program", "init"), ("the same to our exec", "begun"),
            ("the same to `started`", "started"), ("our exec to `started`", "whole"),
            ("… of it the machine's: AttachVolume to a plugged disk", "order"),
            ("… of it the kernel's: a card in a slot to a disk that can be read", "kernel"), ("… **ours**, the rest", "ours"),
            ("processor time to `started`", "cpu"), ("disk announced to opened by us", "seen"),
            ("disk announced to mounted", "mounted")]
    print(f"\n| {images.accel}, {rounds} rounds: median (lowest) | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for what, key in rows:
        cells = []
        for found in results.values():
            values = [r[key] for r in found]
            unit, form = ("s", lambda v: f"{v / 1000:.1f}") if key in ("init", "begun", "started") else ("ms", "{:.0f}".format)
            cells.append(f"{form(statistics.median(values))} ({form(min(values))}) {unit}")
        print(f"| {what} | " + " | ".join(cells) + " |")
    print("\n| bytes | as it is | gzip | zstd |\n|---|---|---|---|")
    table = sizes(images)
    for what, values in table:
        print(f"| {what} | " + " | ".join(f"{v:,}" for v in values) + " |")
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {time.monotonic() - began:.0f} s")

    missed = []
    for name, found in results.items():
        seen = statistics.median(r["seen"] for r in found)
        if seen > LOOK_MS:
            missed.append(f"{name}: a disk is seen {seen:.0f} ms after its announcement")
        if any(not (r["seen"] < r["mounted"] < r["whole"] and r["ours"] > 0) for r in found):
            missed.append(f"{name}: out of order: {found}")
    (_, with_it), (_, without), (_, alone) = table
    if alone[0] > LIMIT or any(w - o > a * 1.02 for w, o, a in zip(with_it, without, alone)):
        missed.append(f"the initramfs grows by more than the program: {table}")
    print("\n".join(missed) or "all within bounds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
