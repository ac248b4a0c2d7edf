"""A handover between two guests at once: the disk is really taken out of the one and plugged into the other."""
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "demo"))
import handover as demo  # noqa: E402
import timeline  # noqa: E402
from cloud import Cloud  # noqa: E402

A, B = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"
VOLUME = "vol-0a1b2c3d4e5faaaa1"

# What the demo runs on this machine, with marks that the console shows, whose time is that of the bench.
GAME = demo.GAME.replace('mark() { date +%s.%N >"$1"; }', 'mark() { echo "bench: mark $1" >/dev/console; touch "$1"; }')
FSCK = """\
#!/bin/sh
echo "bench: mark fsck_begins" >/dev/console
/usr/sbin/fsck.ext4 "$@"
code=$?
echo "bench: mark fsck_ends" >/dev/console
exit $code
"""
RUN = """\
ip link set lo up
ip addr add $bench_ip/24 dev eth0
ip link set eth0 up
ip route add default via $bench_router
export AWS_ENDPOINT_URL=http://$bench_router
mkdir /g
cd /g
ec2fleetd
echo "bench: ec2fleetd ended with $?"
"""


def marks_of(guest):
    """When a guest came to its marks, last."""
    with guest.changed:
        lines = list(guest.lines)
    return {m[1]: guest.began + at for at, line in lines if (m := re.search(r"bench: mark (\w+)", line))}


def test_handover_between_guests(images, scratch):
    """A formats a blank volume once and writes; it is interrupted while B waits; B mounts it and goes on where A stopped."""
    config = (demo.CONFIG % demo.MOUNTED).replace("../game.sh", "/game.sh")
    files = {**images.programs("mkfs.ext4", "fsck.ext4"), "game.sh": GAME.replace("../game.sh", "/game.sh"),
             "bin/fsck.ext4": FSCK}
    image = images.minimal("handover", RUN, files)
    # Long enough for B to see it come.
    seed = {"knobs": {"detaching_ms": 3000},
            "instances": [{"id": i, "user_data": config, "launch_index": n} for n, i in enumerate((A, B))],
            "zones": [{"id": "Z1", "name": "example.com"}],
            "volumes": [{"id": VOLUME, "pool": ["mc", "worlds"], "size": 1, "tags": {"user:ec2fd.format": "if-blank"}}]}
    with Cloud(scratch, seed) as cloud:
        first = cloud.launch(A, images, **image)
        first.says("ready: mc started")
        assert first.said("is blank: making a file system"), first.tail()
        second = cloud.launch(B, images, **image)
        second.says(f"held by {A}, which is running\\); waiting up to 120 s")
        assert "running" in marks_of(first) and cloud.attached(A) == {VOLUME: "attached"}
        yield "A has formatted the volume and writes; B is up, and waits for it"

        notice = time.monotonic()
        cloud.interrupt(A)
        first.says("bench: ec2fleetd ended with 0")
        second.says("ready: mc started")
        [saved] = re.findall(r"saved at tick (\d+)", "\n".join(first.said("saved at tick")))
        went_on = second.run("cat /g/first").strip()
        assert went_on == saved and int(saved) > 1, (saved, went_on)
        assert not second.said("making a file system") and cloud.attached(B) == {VOLUME: "attached"}
        assert len(cloud.calls("DetachVolume", status=200)) == 1 and "/srv/mc" in second.run("cat /proc/mounts")
        yield f"A saved tick {saved}, B goes on after it; the disk was taken out of A before B had it"

        calls = timeline.Calls(cloud, time.monotonic)
        of_a, of_b = marks_of(first), marks_of(second)
        marks = {"notice": notice, "stop_begins": of_a["stop_begins"], "stop_ends": of_a["stop_ends"],
                 "start_begins": of_b["start_begins"], "running": of_b["running"]}
        work = [(of_b[f"{n}_begins"], of_b[f"{n}_ends"]) for n in ("use", "fsck")]
        found = timeline.handover(calls, A, B, marks, work)
        for text, length, own in found:
            yield f"{length * 1000:6.0f} ms, own {own * 1000:4.0f}: {text}"
        total, own = sum(p[1] for p in found), sum(p[2] for p in found)
        yield f"{total:.1f} s from the notice on A to the server running on B; the program's own share {own * 1000:.0f} ms"
        assert 0 < own < total
        assert not cloud.problems, cloud.problems
