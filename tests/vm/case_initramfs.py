"""An initramfs with nothing but busybox and our binary, which /init starts before there is any root disk."""
from cloud import Cloud

FIRST, SECOND = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"
DATA, SPARE = "vol-0a1b2c3d4e5faaaa1", "vol-0a1b2c3d4e5faaaa2"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:fleet"

CONFIG = """{
  timeout: 300,
  domains: {
    data: {
      'attach-volume': [ { source: 'p', 'pool-name': 'data', device: '/dev/xvdf',
        exec: [ { lines: [ { argv: ['sh', '/use.sh', '{attached_device}', '/mnt/data', '{instance_id}'] } ] } ] } ],
      'update-route53': [ { hostedzone: 'Z1', name: 'data.example.com', ttl: 60 } ],
      exec: [
        { on: ['started'], lines: [ { argv: ['cat', '/mnt/data/who'] } ] },
        { on: ['interrupted'], lines: [ { argv: ['umount', '/mnt/data'] } ] },
      ],
      notify: [ { backend: 'aws-sns', options: { topic: '%s' }, envelope: { body: '{instance_id} {daemon_state}' } } ],
    },
    // It fails with its disk mounted, and must give it back.
    spare: {
      critical: false,
      'attach-volume': [ { source: 'p', 'pool-name': 'spare', device: '/dev/xvdg',
        exec: [ { lines: [ { argv: ['sh', '/use.sh', '{attached_device}', '/mnt/spare', '{instance_id}'] },
                           { argv: ['false'] } ] } ] } ],
    },
  },
}""" % TOPIC

# Makes a file system where there is none, and signs it.
USE = """\
mkdir -p $2
mount -t ext4 $1 $2 2>/dev/null && exit
mke2fs $1 >/dev/null && mount -t ext4 $1 $2 && echo "first used by $3" >$2/who
"""

# Nobody has set the clock, nobody resolves names. The address is what DHCP would give.
RUN = """\
ip link set lo up
ip addr add $bench_ip/24 dev eth0
ip link set eth0 up
ip route add default via $bench_router
export AWS_ENDPOINT_URL=http://$bench_router
ec2fleetd
echo "bench: ec2fleetd ended with $?, $(ls -d /sys/block/nvme*n1 | wc -l) disk, $(grep -c /mnt /proc/mounts) mounted"
"""


def seed(*volumes, **more):
    instances = [{"id": i, "user_data": CONFIG, "launch_index": n} for n, i in enumerate((FIRST, SECOND))]
    return {"instances": instances, "zones": [{"id": "Z1", "name": "example.com"}], "topics": [TOPIC],
            "volumes": [{"id": DATA, "pool": ["data", "data"], "size": 1},
                        {"id": SPARE, "pool": ["spare", "spare"], "size": 1}], **more}


def test_initramfs_hand_over(images, scratch):
    """Power-on to `started` without udev, CA files, resolv.conf or clock; roll-back, interruption, hand-over."""
    image = images.minimal("initramfs", RUN, {"use.sh": USE})
    with Cloud(scratch, seed()) as cloud:
        # NVMe multipath, the kernel's default, shows each disk a second time, hidden.
        guest = cloud.launch(FIRST, images, year=1970, **image)
        up, at = guest.says(r"bench: up, (\d+)")
        assert up[1] == "1970", up[0]
        ready, then = guest.says(r"ready: .*")
        yield f"started {then:.1f} s after power-on ({then - at:.1f} s after /init) with the clock in {up[1]}"

        [record] = [r["values"] for r in cloud.ask("/state")["records"] if r["name"] == "data.example.com."
                    and r["type"] == "A"]
        assert record == ["203.0.113.10"], record
        assert cloud.attached(FIRST) == {DATA: "attached"}, cloud.attached(FIRST)
        serials = guest.run("cat /sys/block/nvme*n1/device/serial").split()
        assert set(serials) == {DATA.replace("-", "")}, serials
        assert [c["params"]["VolumeId"] for c in cloud.calls("DetachVolume", status=200)] == [SPARE]
        assert len(cloud.calls("AttachVolume", status=200)) == 2
        assert "/mnt/spare" not in guest.run("cat /proc/mounts")
        yield "the domain that failed with its disk mounted has given it back: unmounted, detached, gone from the guest"

        cloud.interrupt(FIRST)
        ended, _ = guest.says(r"bench: ec2fleetd ended with (.*)")
        assert ended[1] == "0, 1 disk, 0 mounted", ended[0]
        guest.ended()
        assert [m["body"] for m in cloud.ask("/state")["messages"]] == [f"{FIRST} started", f"{FIRST} interrupted"]
        yield "an interruption: commands run, message sent, exit code 0"

        cloud.terminate(FIRST)
        guest = cloud.launch(SECOND, images, **{**image, "append": image["append"] + " nvme_core.multipath=N"})
        guest.says(r"ready: .*")
        assert guest.said(f"first used by {FIRST}$"), guest.tail()
        yield "the second instance finds what the first one wrote"
        assert not cloud.problems, cloud.problems
