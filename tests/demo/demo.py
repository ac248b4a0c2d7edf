#!/usr/bin/env python3
"""Two applications come up on an instance and go down with it, in a few seconds, without AWS. `make demo` runs it.

The daemon (EC2FLEETD) is the real one. What it talks to (FAKEAWS) is a stand-in for EC2, Route 53, SNS, SQS and the
instance metadata service on this machine; it checks signatures and keeps rules as AWS does.
"""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from standin import StandIn, program  # noqa: E402

TOPIC = "arn:aws:sns:eu-west-1:123456789012:fleet"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/fleet"
ME, OTHER = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"

CONFIG = """\
{
  hostname: "game-{instance_index}",
  domains: {
    // A game server. Its world lives on a volume of a pool, players find it by name.
    "mc": {
      "attach-volume": [{
        source: "p", "pool-name": "worlds", device: "/dev/xvdf",
        exec: [{ lines: [{ argv: ["/bin/echo", "here one would mount {attached_device} on /srv/mc"] }] }],
      }],
      "update-route53": [{ hostedzone: "Z1", name: "mc.example.com", ttl: 60 }],
      exec: [
        { on: ["started"], lines: [{ argv: ["/bin/echo", "here one would start the server"] }] },
        { on: ["interrupted"], lines: [
          { argv: ["/bin/echo", "warning the players: {interrupt_action} at {interrupt_time}"] },
          { argv: ["/bin/sleep", "0.3"] },
          { argv: ["/bin/echo", "the world is saved"] } ] },
      ],
      notify: [{ backend: "aws-sns", options: { topic: "%s" },
                 envelope: { subject: "{domain}: {daemon_state}", body: "{instance_id} has {static_dns_rr}" } }],
    },
    // A node of a chain. Where the pool has nothing to give, a volume is made.
    "node": {
      "attach-volume": [{
        source: "pc", "pool-name": "chain", device: "/dev/xvdg",
        create: { Size: 80, VolumeType: "gp3" },
      }],
      exec: [{ on: ["interrupted"], lines: [{ argv: ["/bin/echo", "the node has stopped"] }] }],
      notify: [{ backend: "aws-sqs", options: { "queue-url": "%s" },
                 envelope: { body: "{domain} on {instance_id}: {daemon_state}" } }],
    },
  },
}
""" % (TOPIC, QUEUE)

SEED = {
    "knobs": {"attaching_ms": 300, "device_ms": 200, "creating_ms": 200, "latency_ms": 60},
    "instances": [
        {"id": ME, "root": "root", "public_ipv4": "203.0.113.10"},
        {"id": OTHER, "root": "other", "public_ipv4": "203.0.113.99"},
    ],
    "volumes": [
        {"id": "vol-0000000000000aaa1", "pool": ["mc", "worlds"], "size": 20, "attached": [OTHER, "/dev/xvdf"]},
        {"id": "vol-0000000000000aaa2", "pool": ["mc", "worlds"], "size": 20},
    ],
    "zones": [{"id": "Z1", "name": "example.com"}],
    "records": [
        {"zone": "Z1", "name": "mc.example.com", "type": "A", "ttl": 60, "values": ["203.0.113.77"]},
        {"zone": "Z1", "name": "www.example.com", "type": "A", "ttl": 300, "values": ["203.0.113.1"]},
    ],
    "topics": [TOPIC],
    "queues": [QUEUE],
}

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("",) * 3


def title(text):
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def table(heads, rows):
    """Rows in aligned columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    if not rows:
        print(f"  {heads[0]}: none")
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    for n, row in enumerate([heads, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        print(f"  {DIM}{line}{PLAIN}" if n == 0 else f"  {line}")


def messages(state, first=0):
    """The messages sent, from the given one on."""
    table(("MESSAGE TO", "SUBJECT", "BODY"), [
        ("SNS topic" if m["target"] == TOPIC else "SQS queue", m["subject"] or "-", m["body"])
        for m in state["messages"][first:]])


def show(world):
    """What there is at AWS."""
    state = world.ask("/state")
    names = {ME: "this instance", OTHER: "another instance"}
    rows = []
    for v in state["volumes"]:
        tags = {k.removeprefix("user:ec2fd."): t for k, t in v["tags"].items()}
        if "domain" not in tags:
            continue
        at = v["attachments"][0] if v["attachments"] else {}
        place = f"{names.get(at.get('instance'), '')} {at.get('device', '')}".strip() or "-"
        rows.append((v["id"], f"{tags['domain']}/{tags.get('pool-name', '-')}", f"{v['size']} GiB", v["state"], place))
    table(("VOLUME", "POOL", "SIZE", "STATE", "ATTACHED TO"), rows)
    records = [r for r in state["records"] if r["type"] in ("A", "AAAA")]
    table(("RECORD", "TYPE", "TTL", "VALUE"), [(r["name"], r["type"], r["ttl"], ", ".join(r["values"])) for r in records])
    messages(state)


class Daemon:
    """The daemon, whose log is shown as it comes."""

    def __init__(self, world, config, instance=ME, name="", cwd=None):
        command = [program("EC2FLEETD", "ec2fleetd"), f"--userdata={config}"]
        self.name = f"{name} " if name else ""
        print(f"  {self.name}$ ec2fleetd --userdata={config.name}", flush=True)
        self.process = subprocess.Popen(
            command, env=world.environment(instance), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd=cwd)
        self.root = world.where["instances"][instance]["root"]
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            # Without the date, and with paths as they are on an instance.
            print(f"  {self.name}| " + line.rstrip().replace(self.root, "")[11:], flush=True)
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def says(self, text, seconds=20):
        end = time.monotonic() + seconds
        with self.changed:
            while not any(text in line for line in self.lines):
                if not self.changed.wait(max(0.0, end - time.monotonic())):
                    self.process.kill()
                    sys.exit(f"the daemon never said '{text}'")

    def end(self, seconds=20):
        code = self.process.wait(timeout=seconds)
        self.reader.join(timeout=seconds)
        return code


def settled(world, messages):
    """Waits until messages and tags, which come after `started`, are there."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        state = world.ask("/state")
        if len(state["messages"]) >= messages and all(c["status"] for c in world.ask("/calls")["api"]):
            return
        time.sleep(0.02)


def main():
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ec2fleetd-demo-") as scratch:
        config = pathlib.Path(scratch) / "demo.json5"
        config.write_text(CONFIG)
        with StandIn(pathlib.Path(scratch) / "aws", SEED) as world:
            title("The config: two applications on one instance")
            print("".join(f"  {line}\n" for line in CONFIG.splitlines()), end="")

            title("Before")
            print("  One of mc's volumes is taken, the pool of node is empty, mc's name points at an instance long gone.")
            show(world)

            title("The instance boots")
            daemon = Daemon(world, config)
            daemon.says("ready: ")
            settled(world, 2)

            title("After: one volume claimed, one created, the name points here")
            show(world)

            title("EC2 takes the capacity back: a notice, two minutes ahead")
            world.ask("/notice", {"instance": ME, "action": "terminate", "seconds": 120})
            code = daemon.end()
            print(f"  exit code {code}. The volumes stay attached until EC2 terminates the instance; then they are "
                  "free for the next one.")
            messages(world.ask("/state"), 2)

            name = pathlib.Path(world.where["instances"][ME]["root"]) / "proc/sys/kernel/hostname"
            host = name.read_text().strip() if name.exists() else ""
            calls = world.ask("/calls")
            good = code == 0 and host == "game-0" and len(world.ask("/state")["messages"]) == 4
            title("That was")
            requests = len(calls["imds"][ME]["calls"])
            print(f"  {time.monotonic() - began:.1f} s, {len(calls['api'])} signed calls of AWS over TLS, "
                  f"{requests} requests to the metadata service; the host name was set to {host}")
    print("\nNext: README.md (install, every key, permissions), cloud-init/ (how to put it on an instance),\n"
          "      make test (all the tests), make bench (the numbers).")
    return 0 if good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
