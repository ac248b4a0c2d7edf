"""The stand-in for AWS with real guests: when it attaches a volume, a disk is plugged into the running guest.

The stand-in gives orders and waits with the state `attached` until they are carried out (tests/fakeaws/guests.rs).
"""
import http.client
import json
import pathlib
import queue
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from machine import CLOCK, RESOLVER, ROUTER, Guest, limit  # noqa: E402
from standin import StandIn  # noqa: E402


class Cloud(StandIn):
    """A region with nothing in it but what `seed` says. All of its instances are guests, once they are launched."""

    def __init__(self, directory, seed):
        for instance in seed["instances"]:
            instance["guest"] = True
        super().__init__(directory, seed, arguments=["--net", ROUTER])
        self.dhcp = dhcp(self.dir, self.where["instances"].values())
        self.guests, self.launched = {}, threading.Condition()
        self.orders = {i: queue.Queue() for i in self.instances}
        self.problems, self.closing = [], False
        for instance in self.instances:
            threading.Thread(target=self.obey, args=(instance,), daemon=True).start()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self):
        last = 0
        while not self.closing:
            try:
                orders = self.ask(f"/orders?after={last}")["orders"]
            except (OSError, http.client.HTTPException):
                # It has been closed meanwhile, or `until` will tell.
                orders = []
                time.sleep(0.1)
            for order in orders:
                last = max(last, order["number"])
                self.orders[order["instance"]].put(order)

    def obey(self, instance):
        """Carries out the orders of one instance, one after the other."""
        while order := self.orders[instance].get():
            with self.launched:
                # Of an instance that has not booted yet, disks are plugged as soon as it has.
                self.launched.wait_for(lambda: instance in self.guests or self.closing)
            guest = self.guests.get(instance)
            try:
                if guest and not guest.gone():
                    if order["plug"]:
                        guest.plug(order["volume"], order["file"])
                    else:
                        guest.unplug(order["volume"])
            except (RuntimeError, OSError) as error:
                # Switched off meanwhile: then there is nothing to take out.
                if not guest.gone():
                    self.problems.append(f"{order}: {error}")
                    continue
            self.ask("/obeyed", {"order": order["number"]})

    def launch(self, instance, images, **how):
        """Switches an instance on."""
        at = self.where["instances"][instance]
        append = f"{how.pop('append', '')} bench.ip={at['ip']} bench.router={ROUTER}".strip()
        guest = Guest(self.dir, instance, at["ip"], at["mac"], images.kernel, append, images.accel, **how)
        with self.launched:
            self.guests[instance] = guest
            self.launched.notify_all()
        return guest

    def interrupt(self, instance, action="terminate"):
        self.ask("/notice", {"instance": instance, "action": action, "seconds": 120})

    def terminate(self, instance):
        """EC2 takes the capacity back: the guest is off, its volumes come free."""
        self.guests[instance].kill()
        self.ask("/terminate", {"instance": instance})
        self.until(lambda: not self.attached(instance), f"volumes of {instance} free")

    def volume(self, volume):
        return next(v for v in self.ask("/state")["volumes"] if v["id"] == volume)

    def attached(self, instance):
        """The volumes of an instance but its root, whatever their state."""
        found = {}
        for v in self.ask("/state")["volumes"]:
            for a in v["attachments"]:
                if a["instance"] == instance and a["device"] != "/dev/xvda":
                    found[v["id"]] = a["state"]
        return found

    def calls(self, action, **match):
        """The calls of an action, answered and refused."""
        calls = [c for c in self.ask("/calls")["api"] if c["action"] == action]
        return [c for c in calls if all(c[k] == v for k, v in match.items())]

    def until(self, true, what):
        end = time.monotonic() + limit()
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"never: {what}; {self.problems}\n{json.dumps(self.ask('/state')['volumes'], indent=1)}")
            time.sleep(0.02)

    def close(self):
        self.closing = True
        with self.launched:
            self.launched.notify_all()
        for instance, guest in self.guests.items():
            guest.kill()
        for orders in self.orders.values():
            orders.put(None)
        self.dhcp.kill()
        self.dhcp.wait()
        super().close()
        self.listener.join(timeout=15)


def dhcp(scratch, instances):
    """The DHCP service of the subnet: each instance has its address."""
    config = pathlib.Path(scratch) / "udhcpd.conf"
    leases = "".join(f"static_lease {i['mac']} {i['ip']}\n" for i in instances)
    (config.parent / "leases").touch()
    config.write_text(f"start 10.0.0.200\nend 10.0.0.250\ninterface br0\nlease_file {config.parent}/leases\n"
                      f"pidfile {config.parent}/udhcpd.pid\nopt router {ROUTER}\nopt subnet 255.255.255.0\n"
                      f"opt dns {RESOLVER}\nopt lease 3600\n{leases}")
    return subprocess.Popen(["busybox", "udhcpd", "-f", str(config)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# What the services by datagram were asked: names, and addresses of who wanted to know the time.
NAMES, TIMES = [], []


def datagrams():
    """Starts the resolver and the time service."""
    serve(RESOLVER, 53, resolve)
    serve(CLOCK, 123, tell_time)


def resolve(question, _sender):
    """The resolver of a VPC: AWS's names lead to the stand-in, others do not exist."""
    end = 12
    labels = []
    while question[end]:
        labels.append(question[end + 1:end + 1 + question[end]].decode())
        end += 1 + question[end]
    name, kind = ".".join(labels).lower(), struct.unpack("!H", question[end + 1:end + 3])[0]
    NAMES.append(name)
    known = name.endswith(".amazonaws.com")
    data = b""
    if known and kind == 1:
        data = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(ROUTER)
    flags = 0x8180 if known else 0x8183
    return question[:2] + struct.pack("!HHHHH", flags, 1, 1 if data else 0, 0, 0) + question[12:end + 5] + data


def tell_time(question, sender):
    """The time service of a VPC (SNTP)."""
    TIMES.append(sender[0])
    now = time.time() + 2208988800
    stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
    # No leap, the version that was asked, a server; stratum 3; the originate stamp is the client's own.
    head = bytes([question[0] & 0x38 | 4, 3, 4, 0xEC]) + struct.pack("!II", 0x100, 0x100) + b"\xa9\xfe\xa9\x7b"
    return head + stamp + question[40:48] + stamp + stamp


def serve(address, port, answer):
    """Answers datagrams until the program ends."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, port))

    def loop():
        while True:
            question, sender = listener.recvfrom(2048)
            try:
                listener.sendto(answer(question, sender), sender)
            except (IndexError, struct.error, UnicodeDecodeError):
                continue
    threading.Thread(target=loop, daemon=True).start()
