"""The real cloud-init, with its EC2 data source, and our examples as user data."""
import functools
import hashlib
import http.server
import subprocess
import threading

from cloud import Cloud
from images import ROOT
from machine import ROUTER

FIRST, SECOND = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"
# As the examples have them.
VOLUME, ZONE, TOPIC = "vol-0123456789abcdef0", "Z0123456789ABCDEFGHIJ", "arn:aws:sns:eu-central-1:123456789012:fleet"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def downloads(directory):
    """Serves the binary, as the place does that the example fetches it from."""
    serve = functools.partial(Quiet, directory=directory)
    server = http.server.ThreadingHTTPServer((ROUTER, 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def changed(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1, f"the example has '{old}' {text.count(old)} times"
        text = text.replace(old, new)
    return text


def test_cloudinit_examples(images, scratch):
    """The real cloud-init: multipart.mime as it is, then runcmd.yaml, which fetches the binary, on the same volume."""
    image = images.cloud_init()
    examples = ROOT / "cloud-init"
    server = downloads(images.binary.parent)
    fetch = changed(
        (examples / "runcmd.yaml").read_text(),
        ("https://downloads.example.com/ec2fleetd/0.1.0/ec2fleetd-$(uname -m)",
         f"http://{ROUTER}:{server.server_port}/{images.binary.name}"),
        # There is no certificate for the bench; the sum is checked all the same.
        (" --proto =https", ""),
        ("x86_64) sum=" + "0" * 64, "x86_64) sum=" + hashlib.sha256(images.binary.read_bytes()).hexdigest()))
    multipart = (examples / "multipart.mime").read_text()
    seed = {"instances": [{"id": FIRST, "user_data": multipart}, {"id": SECOND, "user_data": fetch, "launch_index": 1}],
            "zones": [{"id": ZONE, "name": "example.com"}], "topics": [TOPIC],
            "volumes": [{"id": VOLUME, "pool": ["node.example.com", "chain"], "size": 1}]}
    disk = scratch / "disks" / f"{VOLUME}.img"
    disk.parent.mkdir(parents=True)
    subprocess.run(["truncate", "-s", "64M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with Cloud(scratch, seed) as cloud:
        guest = cloud.launch(FIRST, images, **image)
        ready, at = guest.says(r"ready: node\.example\.com started")
        assert guest.said(r"bench: first used by node-0\.example\.com"), guest.tail()
        assert guest.run("cloud-init status --wait").strip(".\n") == "status: done"
        assert guest.run("systemctl is-active ec2fleetd").strip() == "active"
        assert guest.run("systemctl is-enabled ec2fleetd").strip() == "enabled"
        yield f"multipart.mime: started {at:.1f} s after power-on, cloud-init is done and did not wait for us"

        cloud.interrupt(FIRST)
        guest.says("interrupted: done")
        assert "/srv" not in guest.run("cat /proc/mounts")
        guest.run("systemctl poweroff --no-block")
        guest.ended()
        cloud.terminate(FIRST)
        yield "an interruption: the application stopped, the volume unmounted"

        guest = cloud.launch(SECOND, images, **image)
        ready, at = guest.says(r"ready: my-world\.example\.com started")
        assert guest.said(r"bench: first used by node-0\.example\.com"), guest.tail()
        pid = guest.run("systemctl show -p MainPID --value ec2fleetd@my-app").strip()
        assert guest.run(f"readlink /proc/{pid}/exe").strip() == "/usr/local/bin/ec2fleetd"
        assert guest.run("stat -c %a /etc/ec2fleetd/my-app.jsonc").strip() == "600"
        yield f"runcmd.yaml: binary fetched and checked, started {at:.1f} s after power-on, with the data of the first"
        [name] = [r["values"] for r in cloud.ask("/state")["records"]
                  if r["name"] == "my-world.example.com." and r["type"] == "A"]
        assert name == ["203.0.113.11"], name
        assert not cloud.problems, cloud.problems
    server.shutdown()
