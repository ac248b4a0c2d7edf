"""A virtual machine for one instance, and the private network that instances share.

`enter()` runs the program again in namespaces of its own: nothing that it does to the network or to mounts is seen
outside, and when it ends, however it ends, its guests end with it. There, `network()` makes a bridge with the addresses at
which instances find the metadata service, the resolver, the clock and the API.

A `Guest` is QEMU with two serial lines. The first is the console, whose lines a check waits for. Behind the second is a
shell of the guest, for a check to look around and to do what an administrator would.
"""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

ROUTER = "10.0.0.1"
METADATA, RESOLVER, CLOCK = "169.254.169.254", "169.254.169.253", "169.254.169.123"


def limit():
    """What a step may take, in seconds. A guest without KVM is slow, and slower where others use the processors too."""
    crowd = os.getloadavg()[0] / (2 * (os.cpu_count() or 1))
    return float(os.environ.get("VM_LIMIT", "120")) * min(5.0, max(1.0, crowd))


def enter():
    """Goes on in namespaces of our own: network, mounts, processes."""
    if os.environ.get("VM_INSIDE") == "1":
        return
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        sys.exit("guests need a network card: /dev/net/tun is not there, or not ours to open")
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    os.environ["VM_INSIDE"] = "1"
    os.execvp("unshare", command + [sys.executable, *sys.argv])


def network():
    """The router of the subnet, which is all services at once. Nothing leads out of it."""
    for line in ["link set lo up", "link add br0 type bridge", f"addr add {ROUTER}/24 dev br0",
                 *(f"addr add {a}/32 dev br0" for a in (METADATA, RESOLVER, CLOCK)), "link set br0 up"]:
        subprocess.run(["ip", *line.split()], check=True)


class Monitor:
    """QEMU's control socket (QMP)."""

    def __init__(self, path):
        end = time.monotonic() + limit()
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.stream = self.socket.makefile("rw")
        self.changed = threading.Condition()
        self.answers, self.events, self.ended = [], [], False
        self.one_at_a_time = threading.Lock()
        self.stream.readline()
        threading.Thread(target=self.read, daemon=True).start()
        self("qmp_capabilities")

    def read(self):
        try:
            for line in self.stream:
                message = json.loads(line)
                with self.changed:
                    (self.events if "event" in message else self.answers).append(message)
                    self.changed.notify_all()
        except (OSError, ValueError):
            pass
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def __call__(self, command, **arguments):
        with self.one_at_a_time:
            self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self.stream.flush()
            with self.changed:
                if not self.changed.wait_for(lambda: self.answers or self.ended, limit()) or not self.answers:
                    raise RuntimeError(f"QEMU does not answer to {command}")
                answer = self.answers.pop(0)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def event(self, name, device):
        """Waits for an event about a device."""
        def found():
            return [e for e in self.events if e["event"] == name and e.get("data", {}).get("device") == device]
        with self.changed:
            if not self.changed.wait_for(lambda: found() or self.ended, limit()) or not found():
                raise RuntimeError(f"no {name} of {device}")
            self.events.remove(found()[0])


class Guest:
    """A running guest. Disks are plugged into the slots that it has from the start."""

    SLOTS = 8

    def __init__(self, scratch, name, address, mac, kernel, append, accel, initrd=None, root=None, memory=256, cpus=1,
                 year=None):
        self.name, self.address, self.began = name, address, time.monotonic()
        self.lines, self.changed, self.over = [], threading.Condition(), False
        self.slots = {}
        # Sectors (of 512 bytes) of a disk that cannot be read once it is plugged.
        self.unreadable = {}
        self.shell = self.left = None
        self.tap = "tap" + address.split(".")[-1]
        self.verbose = "-v" in sys.argv
        scratch = pathlib.Path(scratch)
        self.log = scratch / f"{name}.console"
        # Paths of Unix sockets are short.
        monitor, serial = scratch / f"{self.tap}.qmp", scratch / f"{self.tap}.sh"
        for line in (f"tuntap add {self.tap} mode tap", f"link set {self.tap} master br0 up"):
            subprocess.run(["ip", *line.split()], check=True)
        # What cloud-init, among others, knows EC2 by.
        uuid = "ec2e1916-9099-7caf-fd21-" + re.sub("[^0-9a-f]", "", name)[-12:].rjust(12, "0")
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", accel,
                   "-cpu", "host" if accel == "kvm" else "max", "-smp", str(cpus), "-m", str(memory),
                   "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
                   "-serial", f"unix:{serial},server=on,wait=off", "-qmp", f"unix:{monitor},server=on,wait=off",
                   "-kernel", str(kernel), "-append", append,
                   "-smbios", f"type=1,manufacturer=Amazon EC2,product=c5.large,uuid={uuid},serial={uuid}",
                   "-smbios", "type=0,vendor=Amazon EC2",
                   "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
                   "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=", "-device", "virtio-rng-pci"]
        if initrd:
            command += ["-initrd", str(initrd)]
        if root:
            # Changes go to a file that nobody keeps.
            command += ["-drive", f"if=none,id=root,format=raw,snapshot=on,file={root}",
                        "-device", "nvme,drive=root,serial=vol0root"]
        if year:
            command += ["-rtc", f"base={year}-01-02T00:00:00"]
        for n in range(self.SLOTS):
            command += ["-device", f"pcie-root-port,id=slot{n},bus=pcie.0,chassis={n + 1}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(scratch)})
        threading.Thread(target=self.read, daemon=True).start()
        self.monitor = Monitor(monitor)
        self.serial = serial

    def read(self):
        with open(self.log, "w", encoding="utf-8") as log:
            for raw in self.process.stdout:
                line = raw.decode(errors="replace").rstrip()
                at = time.monotonic() - self.began
                print(f"{at:8.3f} {line}", file=log, flush=True)
                if self.verbose:
                    print(f"  [{self.name[-4:]}] {at:8.3f} {line}", flush=True)
                with self.changed:
                    self.lines.append((at, line))
                    self.changed.notify_all()
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def says(self, pattern):
        """Waits for a line of the console; gives the match and when it came, in seconds from power-on."""
        def found():
            return next(((m, at) for at, line in self.lines if (m := re.search(pattern, line))), None)
        with self.changed:
            self.changed.wait_for(lambda: found() or self.over, limit())
            if hit := found():
                return hit
        raise AssertionError(f"the console of {self.name} never said '{pattern}'; its last lines:\n" + self.tail())

    def said(self, pattern):
        """The lines of the console so far that match."""
        with self.changed:
            return [line for _, line in self.lines if re.search(pattern, line)]

    def tail(self, count=40):
        with self.changed:
            return "\n".join(f"    {at:8.3f} {line}" for at, line in self.lines[-count:])

    def run(self, command, code=0):
        """Runs a line in the shell behind the second serial line; gives its output. `code` None: whatever it is."""
        if self.shell is None:
            self.shell = socket.socket(socket.AF_UNIX)
            self.shell.connect(str(self.serial))
            self.left = b""
        self.shell.settimeout(limit())
        # The shell does not echo, so the marks appear once, around the output.
        self.shell.sendall(f"echo '<'begin'>'; {{ {command}\n}} 2>&1 </dev/null; echo '<'end $?'>'\n".encode())
        try:
            while not (done := re.search(rb"<begin>\r?\n(.*?)<end (\d+)>\r?\n", self.left, re.S)):
                piece = self.shell.recv(65536)
                if not piece:
                    raise AssertionError(f"{self.name} ended during: {command}")
                self.left += piece
        except TimeoutError:
            seen = self.left.decode(errors="replace")
            raise AssertionError(f"no end of '{command}' on {self.name}: {seen}\n{self.tail()}") from None
        self.left = b""
        text = done[1].decode(errors="replace").replace("\r\n", "\n")
        if code is not None and int(done[2]) != code:
            raise AssertionError(f"'{command}' on {self.name} ended with {int(done[2])}, not {code}:\n{text}")
        return text

    def plug(self, volume, file):
        """Plugs a disk into the running guest, as EC2 does on Nitro: the serial is the id without its dash."""
        serial = volume.replace("-", "")
        slot = next(n for n in range(self.SLOTS) if n not in self.slots.values())
        below = {"driver": "file", "filename": file}
        if sectors := self.unreadable.get(volume):
            errors = [{"event": "none", "iotype": "read", "sector": n, "errno": 5, "once": False} for n in sectors]
            below = {"driver": "blkdebug", "image": below, "inject-error": errors}
        self.monitor("blockdev-add", **{"driver": "raw", "node-name": serial, "file": below})
        self.monitor("device_add", driver="nvme", id=f"d{serial}", drive=serial, serial=serial, bus=f"slot{slot}")
        self.slots[volume] = slot

    def unplug(self, volume):
        """Asks the guest to let go of a disk, and takes it out once it has."""
        serial = volume.replace("-", "")
        self.monitor("device_del", id=f"d{serial}")
        self.monitor.event("DEVICE_DELETED", f"d{serial}")
        self.monitor("blockdev-del", **{"node-name": serial})
        del self.slots[volume]

    def gone(self):
        return self.process.poll() is not None

    def ended(self):
        """Waits until the guest has switched itself off."""
        try:
            self.process.wait(timeout=limit())
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not switch itself off; its last lines:\n{self.tail()}") from None

    def kill(self):
        """A power cut, or the end of the check."""
        if not self.gone():
            self.process.kill()
        self.process.wait()
        subprocess.run(["ip", "link", "del", self.tap], stderr=subprocess.DEVNULL, check=False)
