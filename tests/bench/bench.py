#!/usr/bin/env python3
"""Measures what the README promises, prints it with its bounds, and fails where one is missed. `make bench` runs it.

The daemon (EC2FLEETD) runs against the stand-in for AWS (FAKEAWS) over TLS, where each API call takes 200 ms. What a
loaded machine cannot change is counted: dependent round trips from the stand-in's log, requests, connections, bytes.
Of times the best or the median of several runs counts, as each row says. `--quick` makes fewer runs.
"""
import argparse
import os
import pathlib
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from standin import StandIn, program  # noqa: E402

LATENCY = 200
TOPIC = "arn:aws:sns:eu-west-1:123456789012:fleet"
NO_WAITS = {"attaching_ms": 0, "device_ms": 0, "detaching_ms": 0, "cooldown_ms": 0, "disk_bytes": 1 << 20}
MB = 1000 * 1000


def seed(domains, pool, interfaces=1):
    """One instance; a pool of `pool` volumes for the first domain and of two for each of the others."""
    volumes = []
    for d in range(domains):
        for _ in range(pool if d == 0 else 2):
            volumes.append({"pool": [f"app{d}", "data"], "tags": {"Name": f"data of app{d}", "team": "games"}})
    return {
        "knobs": NO_WAITS,
        "instances": [{"root": "root", "interfaces": interfaces, "user_data": config(domains)}],
        "volumes": volumes,
        "zones": [{"id": "Z1", "name": "example.com"}],
        "topics": [TOPIC],
    }


def config(domains, interval=1, interrupted=""):
    """A pool volume and a DNS record for each domain, all in one zone; a message at the end of each event."""
    one = """"app%d": {
        "attach-volume": [{ "source": "p", "pool-name": "data", "device": "/dev/xvd%s" }],
        "update-route53": [{ "hostedzone": "Z1", "name": "app%d.example.com", "ttl": 60 }],
        "exec": [{ "on": ["interrupted"], "lines": [%s] }],
        "notify": [{ "backend": "aws-sns", "options": { "topic": "%s" } }] }"""
    each = ",\n".join(one % (d, "fghijklm"[d], d, interrupted, TOPIC) for d in range(domains))
    return '{ "interrupt-detection": { "detect": "poll", "options": { "interval": %s } }, "domains": {\n%s } }' % (
        interval, each)


def status_kib(pid, field):
    """A field of /proc/PID/status, 0 when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            return next((int(line.split()[1]) for line in f if line.startswith(field + ":")), 0)
    except OSError:
        return 0


def cpu_seconds(pid):
    """Processor time of all threads, in the scheduler's nanoseconds (the clock ticks of `stat` are too coarse)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
            total += int(f.read().split()[0])
    return total / 1e9


class Daemon:
    """A run of the daemon in a world of its own, up to READY=1."""

    def __init__(self, world, args=()):
        self.world = world
        self.peak_kib = 0
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = str(world.dir / f"notify{time.monotonic_ns()}")
        self.notify.bind(path)
        environment = world.environment(world.instances[0], NOTIFY_SOCKET=path, BENCH=world.dir)
        self.log = open(world.dir / "log", "w+", encoding="utf-8")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [BINARY, *args], env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        # The peak as the kernel notes it for this program alone; wait4 would count what was there before exec.
        self.watching = True
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        self.ready = self.wait_ready()

    def watch(self):
        while self.watching:
            self.peak_kib = max(self.peak_kib, status_kib(self.process.pid, "VmHWM"))
            time.sleep(0.004)

    def wait_ready(self):
        self.notify.settimeout(30)
        try:
            while b"READY=1" not in self.notify.recv(4096):
                pass
        except TimeoutError:
            self.process.kill()
            self.end()
            sys.exit("the daemon was not ready within 30 s; it said:\n" + self.text())
        return time.monotonic()

    def text(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def settle(self, messages):
        """Waits until what goes on after `started` is done: messages and tags."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            calls = self.world.ask("/calls")["api"]
            actions = [c["action"] for c in calls if c["status"]]
            if len(actions) == len(calls) and actions.count("Publish") == messages and "DeleteTags" in actions:
                return
            time.sleep(0.02)

    def stop(self):
        """Ends it as systemd would. Gives its processor time."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.end()

    def end(self):
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.watching = False
        self.watcher.join()
        self.notify.close()
        if self.process.returncode:
            sys.exit(f"the daemon ended with {self.process.returncode}; it said:\n{self.text()}")
        return usage.ru_utime + usage.ru_stime


def clock_offset(world):
    """Milliseconds that the stand-in's clock shows at our time 0; the quickest of a few answers is the surest."""
    tries = []
    for _ in range(8):
        before = time.monotonic()
        now = world.ask("/state")["now_ms"]
        after = time.monotonic()
        tries.append((after - before, now - (before + after) / 2 * 1000))
    return min(tries)[1]


def chain(calls):
    """The longest sequence of calls of which each began after the one before had ended."""
    spans = sorted((c["at_ms"], c["at_ms"] + c["ms"]) for c in calls)
    longest = []
    for i, (begin, _) in enumerate(spans):
        # The stand-in's whole milliseconds are rounded down.
        before = [longest[j] for j in range(i) if spans[j][1] - 2 <= begin]
        longest.append(1 + max(before, default=0))
    return max(longest, default=0)


def run(directory, domains, pool=2, interfaces=1, latency=LATENCY):
    """A run from start to SIGTERM; what is measured in it."""
    with StandIn(directory, seed(domains, pool, interfaces), latency) as world:
        offset = clock_offset(world)
        daemon = Daemon(world)
        ready_ms = daemon.ready * 1000 + offset
        daemon.settle(domains)
        cpu = daemon.stop()
        log = world.ask("/calls")
        imds = log["imds"][world.instances[0]]
        before = [c for c in log["api"] if c["at_ms"] + c["ms"] <= ready_ms + 1 and c["status"]]
        firsts = [c["at_ms"] for c in imds["calls"]] + [c["at_ms"] for c in log["api"]]
        asked = [c for c in imds["calls"] if c["at_ms"] <= ready_ms]
        result = {
            "trips": chain(before),
            "ratio": (daemon.ready - daemon.began) * 1000 / LATENCY,
            "imds": len(asked),
            "imds_paths": [f"{c['method']} {c['path']}" for c in asked],
            "imds_connections": imds["connections"],
            "connections": len({c["connection"] for c in log["api"]}),
            "peak": daemon.peak_kib * 1024 / MB,
            "cpu": cpu * 1000,
            "first": max(0.0, min(firsts) - (daemon.began * 1000 + offset)),
            "calls": [f"{c['at_ms'] - min(firsts):5} +{c['ms']:4} ms {c['action']}" for c in log["api"]],
        }
    shutil.rmtree(directory, ignore_errors=True)
    return result


def polling(directory, seconds):
    """Memory and share of a core while there is nothing to do but to poll once a second."""
    with StandIn(directory, seed(1, 1000), 0) as world:
        daemon = Daemon(world)
        daemon.settle(1)
        time.sleep(1)
        before, began = cpu_seconds(daemon.process.pid), time.monotonic()
        time.sleep(seconds)
        share = (cpu_seconds(daemon.process.pid) - before) / (time.monotonic() - began)
        resident = status_kib(daemon.process.pid, "VmRSS") * 1024 / MB
        daemon.stop()
    shutil.rmtree(directory, ignore_errors=True)
    return resident, share * 100


def interruption(directory, tries, interval):
    """From the notice to the first command: (spacing of polls, answer of the poll that saw it to the command), in ms."""
    spacings, reactions, wholes = [], [], []
    for n in range(tries):
        with StandIn(directory / str(n), seed(1, 2), 0) as world:
            offset = clock_offset(world)
            fifo = world.dir / "fifo"
            os.mkfifo(fifo)
            pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
            line = '{ "argv": ["/bin/sh", "-c", "echo >$BENCH/fifo"] }'
            (world.dir / "config").write_text(config(1, interval, line))
            daemon = Daemon(world, [f"--userdata={world.dir / 'config'}"])
            daemon.settle(1)
            # Not in step with the polls.
            time.sleep(2 * interval + interval * n / tries)
            noticed = time.monotonic()
            world.ask("/notice", {"instance": world.instances[0], "action": "terminate", "seconds": 120})
            ready, _, _ = select.select([pipe], [], [], 10)
            commanded = time.monotonic()
            if not ready:
                sys.exit("no command ran after a notice")
            daemon.end()
            os.close(pipe)
            polls = [c for c in world.ask("/calls")["imds"][world.instances[0]]["calls"]
                     if c["path"].endswith("spot/instance-action")]
            times = [c["at_ms"] for c in polls]
            spacings += [b - a for a, b in zip(times, times[1:])]
            reactions.append(commanded * 1000 + offset - polls[-1]["at_ms"])
            wholes.append((commanded - noticed) * 1000)
    shutil.rmtree(directory, ignore_errors=True)
    return statistics.median(spacings), statistics.median(reactions), statistics.median(wholes)


class Table:
    """Rows with a bound that they keep or miss."""

    def __init__(self):
        self.missed = 0
        print(f"\n{'what':<72} {'measured':>10} {'at most':>10}")

    def row(self, what, value, bound=None, unit="", digits=0):
        text = f"{value:.{digits}f} {unit}".strip()
        limit = f"{bound:.{digits}f} {unit}".strip() if bound is not None else "-"
        good = bound is None or round(value, digits + 1) <= bound
        self.missed += not good
        verdict = "" if bound is None else ("PASS" if good else "FAIL")
        print(f"{what:<72} {text:>10} {limit:>10}  {verdict}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--show", action="store_true", help="print the requests of a run of each kind")
    options = parser.parse_args()
    runs = 2 if options.quick else 5
    what = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    kind = "static, musl" if "musl" in BINARY else "dynamic, glibc"
    print(f"{what} ({kind}): {BINARY}")
    print(f"Over TLS, {LATENCY} ms per API call, {runs} runs; each domain has a pool volume, a DNS record, a message.")
    table = Table()
    with tempfile.TemporaryDirectory(prefix="ec2fleetd-bench-") as scratch:
        scratch = pathlib.Path(scratch)
        of = {}
        for domains, trips, ratio in ((1, 3, 3.2), (2, 4, 4.2), (8, 4, 4.2)):
            of[domains] = some = [run(scratch / "trips", domains) for _ in range(runs)]
            if options.show:
                print("\n".join(some[0]["imds_paths"] + some[0]["calls"]))
            s = "s" if domains > 1 else ""
            table.row(f"{domains} domain{s}: dependent round trips to READY (worst run)",
                      max(r["trips"] for r in some), trips)
            table.row(f"{domains} domain{s}: time to READY / {LATENCY} ms (best run)",
                      min(r["ratio"] for r in some), ratio, digits=2)
        table.row("IMDS requests to READY, 1 interface, config from user data (worst run)",
                  max(r["imds"] for r in of[1] + of[8]), 12)
        two = run(scratch / "two", 1, interfaces=2)
        if options.show:
            print("\n".join(two["imds_paths"]))
        table.row("IMDS requests to READY, 2 interfaces", two["imds"], 15)
        again = max(len(r["imds_paths"]) - len(set(r["imds_paths"])) for r in of[1] + of[8] + [two])
        table.row("IMDS requests to READY that repeat another (worst run)", again, 0)
        table.row("connections to the IMDS, 8 domains", max(r["imds_connections"] for r in of[8]))
        table.row("connections to AWS, 1 domain, the message included", max(r["connections"] for r in of[1]))
        table.row("connections to AWS, 8 domains, the messages included", max(r["connections"] for r in of[8]))
        table.row("start to first request (median)",
                  statistics.median(r["first"] for r in of[1]), unit="ms", digits=1)
        table.row("processor time of a whole run, 1 domain (median)",
                  statistics.median(r["cpu"] for r in of[1]), 30, "ms", 1)
        table.row("processor time of a whole run, 8 domains (median)",
                  statistics.median(r["cpu"] for r in of[8]), unit="ms", digits=1)
        for domains, bound in ((1, 8), (8, 12)):
            some = [run(scratch / "memory", domains, pool=1000) for _ in range(2 if options.quick else 3)]
            s = "s" if domains > 1 else ""
            table.row(f"peak memory, {domains} domain{s}, a pool of 1000 volumes (worst run)",
                      max(r["peak"] for r in some), bound, "MB", 2)
            table.row(f"processor time of that run, {domains} domain{s} (median)",
                      statistics.median(r["cpu"] for r in some), unit="ms", digits=1)
        resident, share = polling(scratch / "polling", 3 if options.quick else 10)
        table.row("memory while polling, after a pool of 1000 volumes", resident, 6, "MB", 2)
        table.row("share of a core while polling every second", share, 0.1, "%", 3)
        interval = 0.2
        spacing, reaction, whole = interruption(scratch / "notice", 4 if options.quick else 9, interval)
        table.row("time between polls beyond their interval of 200 ms (median)",
                  spacing - interval * 1000, unit="ms", digits=1)
        table.row("notice to first command, beyond the poll interval (median)",
                  spacing - interval * 1000 + reaction, 10, "ms", 1)
        table.row("notice to first command, all of it (median)", whole, interval * 1000 + 10, "ms", 1)
    table.row("size of the binary", os.path.getsize(BINARY) / MB, 2.8, "MB", 3)
    print(f"\n{table.missed} bounds missed" if table.missed else "\nall bounds hold")
    return 1 if table.missed else 0


if __name__ == "__main__":
    BINARY = program("EC2FLEETD", "ec2fleetd")
    sys.exit(main())
