"""The root file system itself is on a volume of a pool: attached in the initramfs, before there is a root.

The daemon of the root file system goes on where the one of the initramfs ended, and does nothing a second time.
"""
import shutil
import subprocess

from cloud import Cloud

FIRST, SECOND = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"
ROOT_VOLUME = "vol-0a1b2c3d4e5faaaa1"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:fleet"

CONFIG = """{
  domains: {
    root: {
      'attach-volume': [ { source: 'p', 'pool-name': 'root', device: '/dev/xvdf',
        exec: [ { lines: [ { argv: ['sh', '-c', 'echo "$1 has $2" >>/var/lib/volumes', 'sh', '{instance_id}', '{volume_id}'] } ] } ] } ],
      'update-route53': [ { hostedzone: 'Z1', name: 'root.example.com', ttl: 60 } ],
      exec: [ { on: ['started', 'interrupted'],
                lines: [ { argv: ['sh', '-c', 'echo "$1 $2" >>/var/lib/events', 'sh', '{instance_id}', '{daemon_state}'] } ] } ],
      notify: [ { backend: 'aws-sns', options: { topic: '%s' }, envelope: { body: '{instance_id} {daemon_state}' } } ],
    },
  },
}""" % TOPIC


def pool_root(images, scratch, name, make, append=""):
    file_system, image = images.pool_root(name, make)
    image["append"] += append
    instances = [{"id": i, "user_data": CONFIG, "launch_index": n, "root_volume": False}
                 for n, i in enumerate((FIRST, SECOND))]
    seed = {"instances": instances, "zones": [{"id": "Z1", "name": "example.com"}], "topics": [TOPIC],
            "volumes": [{"id": ROOT_VOLUME, "pool": ["root", "root"], "size": 2}]}
    (scratch / "disks").mkdir(parents=True)
    disk = scratch / "disks" / f"{ROOT_VOLUME}.img"
    subprocess.run(["cp", "--sparse=always", file_system, disk], check=True)
    with Cloud(scratch, seed) as cloud:
        # A size in KB of what we add would say little of an image made for the bench; the whole is what boots.
        yield f"initramfs of {image['initrd'].stat().st_size / 1e6:.1f} MB"
        guest = cloud.launch(FIRST, images, **image)
        guest.says(r"ec2fleetd\[\d+\]: ready: ")
        first, then = guest.says(r"ready: ")
        serial = guest.run("cat /sys/block/$(basename $(findmnt -no SOURCE /))/device/serial").strip()
        assert serial == ROOT_VOLUME.replace("-", ""), serial
        assert len(guest.said("ready: ")) == 2, guest.said("ready: ")
        yield f"the volume was there {then:.1f} s after power-on, and is the root file system"

        def once(instance):
            assert len(cloud.calls("AttachVolume", status=200, instance=instance)) == 1
            assert not cloud.calls("DetachVolume") and not cloud.calls("CreateVolume")
            assert len(cloud.calls("ChangeResourceRecordSets", instance=instance)) == 1
            cloud.until(lambda: any(m["body"] == f"{instance} started" for m in cloud.ask("/state")["messages"]), "a message")
            assert [m["body"] for m in cloud.ask("/state")["messages"] if m["instance"] == instance] == [f"{instance} started"]
        once(FIRST)
        assert guest.run("cat /var/lib/volumes /var/lib/events") == f"{FIRST} has {ROOT_VOLUME}\n{FIRST} started\n"
        yield "the daemon of the root goes on: nothing attached or written a second time, commands and messages once"

        cloud.interrupt(FIRST)
        guest.says("interrupted: done")
        guest.run("systemctl poweroff --no-block")
        guest.ended()
        cloud.terminate(FIRST)

        guest = cloud.launch(SECOND, images, **image)
        guest.says(r"ec2fleetd\[\d+\]: ready: ")
        once(SECOND)
        events = guest.run("cat /var/lib/events").splitlines()
        assert events == [f"{FIRST} started", f"{FIRST} interrupted", f"{SECOND} started"], events
        yield "after an interruption, the second instance boots from what the first one left"
        assert not cloud.problems, cloud.problems
    for left in (file_system, disk):
        left.unlink()
    shutil.rmtree(images.scratch / f"{name}.tree")


def test_initramfs_tools_root_on_pool_volume(images, scratch):
    """initramfs-tools with our hook: root= is on a pool volume, attached before switch_root."""
    yield from pool_root(images, scratch, "initramfs-tools", images.initramfs_tools)


def test_dracut_root_on_pool_volume(images, scratch):
    """dracut with our module: the same."""
    yield from pool_root(images, scratch, "dracut", images.dracut, " rd.neednet=1 ip=dhcp")
