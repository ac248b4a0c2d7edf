#!/usr/bin/env python3
"""A day of polling under trouble: does the daemon stay as small as it was, and does it still act on a real notice?

`make soak` runs it in real time, with HOURS=.. or until Ctrl-C; check_soak.py runs a compressed day in `make test`. The
daemon (EC2FLEETD) polls the stand-in (FAKEAWS). Round after round the metadata service suffers from all of [`TROUBLES`];
in the calm after each of them the daemon's memory, descriptors and threads are read. The last rounds must not show more
than the early ones. Then EC2 takes the capacity back, with expired credentials and a clock that just stepped.

What cannot be made here: steps of the machine's own clock. The `Date` of the answers steps instead, and the daemon is
stopped for a while (a suspended machine looks like that to it).
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from standin import StandIn, program  # noqa: E402

TOPIC = "arn:aws:sns:eu-west-1:123456789012:fleet"
# In place of a notice. The clock is compared only with answers that have a content.
NONE = ("/imds", {"path": "meta-data/spot/instance-action", "content": '{"action":"none"}'})
NOTHING = ("/imds", {"path": "meta-data/spot/instance-action", "content": None})
HOUR = 3600
# Rounds that are not compared: first uses fill pools and buffers.
WARM_UP = 3
# Rounds that are compared with each other, at each end.
WINDOW = 6
# How much more the last rounds may show, in KiB; pages come and go a little.
ALLOWED = {"RssAnon": 64, "VmHWM": 128, "Threads": 0, "descriptors": 0}

CONFIG = """{
  "timeout": 86400,
  "domains": { "app": {
    "attach-volume": [{ "source": "p", "pool-name": "data", "device": "/dev/xvdf" }],
    "update-route53": [{ "hostedzone": "Z1", "name": "app.example.com", "ttl": 60 }],
    "exec": [{ "on": ["interrupted"], "lines": [
      { "argv": ["/bin/sh", "-c", "echo $1 > \\"$SOAK/acted\\"", "sh", "{interrupt_action}"] }] }],
    "notify": [{ "backend": "aws-sns", "options": { "topic": "%s" }, "envelope": { "body": "{daemon_state}" } }] } }
}""" % TOPIC

# Name, what begins it, what ends it: each a list of (path of the stand-in's control, body).
TROUBLES = [
    ("tokens are lost", [("/imds", {"lose_tokens": True})], []),
    ("a storm of 401", [("/imds", {"lose_tokens": True, "refuse_gets": 1 << 30})], [("/imds", {"refuse_gets": 0})]),
    ("503 to everything", [("/imds", {"unavailable": 1 << 30})], [("/imds", {"unavailable": 0})]),
    ("connections are reset", [("/imds", {"reset_connections": 1 << 30, "close": True})],
     [("/imds", {"reset_connections": 0, "close": False})]),
    ("the service restarts", [("/imds", {"down_ms": 1 << 40, "lose_tokens": True})], [("/imds", {"down_ms": 0})]),
    ("no answers", [("/imds", {"hang": [1 << 30, 60_000]})], [("/imds", {"hang": [0, 0]})]),
    ("slow answers", [("/imds", {"latency_ms": 40})], [("/imds", {"latency_ms": 0})]),
    ("other credentials", [("/imds", {"rotate": True})], []),
    ("an old notice, withdrawn", [("/notice", {"action": "terminate", "seconds": -HOUR})],
     [("/notice", {"action": None})]),
    ("a notice that is none", [NONE], [NOTHING]),
    ("the clock steps ahead", [("/knobs", {"clock_offset_s": 2 * HOUR}), NONE], [NOTHING]),
    ("the clock steps back", [("/knobs", {"clock_offset_s": -2 * HOUR}), NONE], [NOTHING]),
    ("the clock is right again", [("/knobs", {"clock_offset_s": 0}), NONE], [NOTHING]),
    ("the daemon sleeps", "stop", "continue"),
]


def read_status(pid):
    """What a process has: KiB of memory, threads, descriptors."""
    fields = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("RssAnon", "VmRSS", "VmHWM", "Threads"):
                fields[name] = int(value.split()[0])
    fields["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    return fields


def growth(rounds):
    """By how much each figure of the last rounds is above the early ones: the largest of each end are compared.

    `rounds` is a list of what [`read_status`] gives, one for each round. None: there are too few to tell.
    """
    rounds = rounds[WARM_UP:]
    size = min(WINDOW, len(rounds) // 2)
    if size < 1:
        return None
    top = lambda part, name: max(r[name] for r in part)  # noqa: E731
    return {name: top(rounds[-size:], name) - top(rounds[:size], name) for name in ALLOWED}


def leaks(rounds):
    """What is wrong with these rounds, in words; empty if they are flat."""
    grown = growth(rounds)
    if grown is None:
        return [f"{len(rounds)} rounds are too few to tell: {WARM_UP + 2} at least"]
    return [f"{name} grew by {by} (allowed: {ALLOWED[name]})" for name, by in grown.items() if by > ALLOWED[name]]


class Soak:
    """A daemon that polls, `rate` times faster than time goes by; `pause` is how long trouble and calm last."""

    def __init__(self, directory, rate, pause):
        self.dir, self.rate, self.pause = pathlib.Path(directory), rate, pause
        self.rounds, self.polls = [], []
        self.world = StandIn(self.dir / "fake", {
            "knobs": {"clock_rate": rate, "signature_window_s": 300 * max(1, rate // 100)},
            "instances": [{"root": "root", "user_data": CONFIG}],
            "volumes": [{"pool": ["app", "data"]}],
            "zones": [{"id": "Z1", "name": "example.com"}],
            "topics": [TOPIC],
        })
        environment = self.world.environment(
            self.world.instances[0], SOAK=self.dir, EC2FLEETD_CLOCK=f"rate={rate},offset={-2 * HOUR}")
        self.log = open(self.dir / "log", "w+", encoding="utf-8")
        # In a session of its own: Ctrl-C ends the soak, and the daemon is to end by a notice.
        self.daemon = subprocess.Popen(
            [program("EC2FLEETD", "ec2fleetd")], env=environment, cwd=self.dir, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.until("started", lambda: "watching for interruptions" in self.said())
        self.until("the first message", lambda: self.messages() == ["started"])
        self.began = time.monotonic()

    def said(self):
        return (self.dir / "log").read_text(encoding="utf-8")

    def messages(self):
        return [m["body"].strip() for m in self.world.ask("/state")["messages"]]

    def until(self, what, done):
        # A hung daemon is to fail the check, not to hang it.
        end = time.monotonic() + 120
        while not done():
            if self.daemon.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"waited in vain for: {what}; the daemon said:\n{self.said()}")
            time.sleep(0.01)

    def hours(self):
        """How long it has polled, by its own clock."""
        return (time.monotonic() - self.began) * self.rate / HOUR

    def apply(self, what):
        if isinstance(what, str):
            os.kill(self.daemon.pid, signal.SIGSTOP if what == "stop" else signal.SIGCONT)
            return
        for path, body in what:
            self.world.ask(path, body)

    def polled(self):
        """Polls that had an answer in this round."""
        calls = self.world.ask("/calls")["imds"][self.world.instances[0]]["calls"]
        return sum(c["path"].endswith("spot/instance-action") and c["status"] in (200, 404) for c in calls)

    def round(self):
        """All troubles once, then a look at the daemon."""
        self.world.ask("/reset-calls", {})
        for name, begin, end in TROUBLES:
            self.apply(begin)
            try:
                time.sleep(self.pause)
            finally:
                self.apply(end)
            before = self.polled()
            time.sleep(self.pause)
            self.until(f"polls after: {name}", lambda: self.polled() >= before + 2)
        self.polls.append(self.polled())
        self.rounds.append(read_status(self.daemon.pid))
        return self.rounds[-1]

    def finish(self):
        """Takes the capacity back. Says what was wrong with that; ends the daemon."""
        self.world.ask("/knobs", {"clock_offset_s": 5 * HOUR})
        self.world.ask("/imds", {"expire": True, "rotate": True})
        self.world.ask("/reset-calls", {})
        # What is two minutes in real time would be over before a process starts.
        self.world.ask("/notice", {"action": "terminate", "seconds": 120 * self.rate})
        wrong = []
        try:
            code = self.daemon.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            return [f"the daemon did not end on a notice; it said:\n{self.said()}"]
        if code:
            wrong.append(f"exit code {code}; it said:\n{self.said()}")
        acted = self.dir / "acted"
        if not (acted.exists() and acted.read_text() == "terminate\n"):
            wrong.append("the commands for the interruption did not run")
        if self.messages() != ["started", "interrupted"]:
            wrong.append(f"messages: {self.messages()}")
        # It learns that its credentials are over before the call, or by one refusal.
        refused = [(c["action"], c["code"]) for c in self.world.ask("/calls")["api"] if c["status"] != 200]
        if refused not in ([], [("Publish", "ExpiredToken")]):
            wrong.append(f"refused: {refused}")
        # An outage is said once and its end once, whatever the number of polls in it.
        lines = self.said().splitlines()
        most = 100 + 4 * len(TROUBLES) * (len(self.rounds) + 1)
        if len(lines) > most or any("panicked" in line for line in lines):
            wrong.append(f"{len(lines)} lines of log, {most} at most; the last:\n" + "\n".join(lines[-40:]))
        return wrong

    def close(self):
        if self.daemon.poll() is None:
            os.kill(self.daemon.pid, signal.SIGCONT)
            self.daemon.kill()
            self.daemon.wait()
        self.log.close()
        self.world.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def figures(r):
    return (f"RssAnon {r['RssAnon']} KiB, VmRSS {r['VmRSS']}, VmHWM {r['VmHWM']}, "
            f"{r['descriptors']} descriptors, {r['Threads']} threads")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, help="how long (default: until Ctrl-C)")
    hours = parser.parse_args().hours
    print("polling " + (f"for {hours} h" if hours else "until Ctrl-C") + "; a line for each round of trouble")
    with tempfile.TemporaryDirectory(prefix="ec2fleetd-soak-") as directory, Soak(directory, 1, 2) as soak:
        try:
            while hours is None or soak.hours() < hours:
                found = soak.round()
                print(f"{soak.hours():9.3f} h, {soak.polls[-1]:4} polls: {figures(found)}", flush=True)
        except KeyboardInterrupt:
            print()
        wrong = leaks(soak.rounds) + soak.finish()
        for line in wrong:
            print(f"FAILED: {line}")
        if not wrong:
            print(f"good: flat over {len(soak.rounds)} rounds in {soak.hours():.2f} h; a notice was acted on at the end")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
