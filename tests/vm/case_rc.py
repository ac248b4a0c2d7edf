"""Inits other than systemd, with the scripts of ours for them: readiness, stop, and a second instance."""
from case_initramfs import DATA, FIRST, SECOND, USE
from cloud import Cloud

CONFIG = """{
  timeout: 300,
  domains: {
    data: {
      'attach-volume': [ { source: 'p', 'pool-name': 'data', device: '/dev/xvdf',
        exec: [ { lines: [ { argv: ['sh', '/use.sh', '{attached_device}', '/mnt/data', '{instance_id}'] } ] } ] } ],
      exec: [ { on: ['stopping', 'interrupted'],
                lines: [ { argv: ['umount', '/mnt/data'] }, { argv: ['echo', 'commands of', '{daemon_state}'] } ] } ],
    },
  },
}"""


def rc(images, scratch, image, script, off, ended, log):
    """`off` switches the guest off; `ended` tells whether the service is down; `log` shows its log."""
    instances = [{"id": i, "user_data": CONFIG, "launch_index": n} for n, i in enumerate((FIRST, SECOND))]
    seed = {"instances": instances, "volumes": [{"id": DATA, "pool": ["data", "data"], "size": 1}]}
    with Cloud(scratch, seed) as cloud:
        guest = cloud.launch(FIRST, images, **image)
        after, at = guest.says(r"bench: after ec2fleetd, start, (.*)")
        assert after[1] == f"first used by {FIRST}", after[0]
        yield f"the script after ours ran {at:.1f} s after power-on, and found the volume mounted"
        cloud.interrupt(FIRST)
        guest.run(f"until {ended}; do sleep 0.1; done")
        assert "commands of interrupted" in guest.run(log)
        assert "/mnt/data" not in guest.run("cat /proc/mounts")
        yield "an interruption: commands run, unmounted, the service is down"
        cloud.terminate(FIRST)

        guest = cloud.launch(SECOND, images, **image)
        after, _ = guest.says(r"bench: after ec2fleetd, start, (.*)")
        assert after[1] == f"first used by {FIRST}", after[0]
        yield "the second instance finds what the first one wrote"
        guest.run(f"{script} stop")
        assert "commands of stopping" in guest.run(log)
        assert "/mnt/data" not in guest.run("cat /proc/mounts")
        yield "`stop` waited for the commands of `stopping`"
        assert cloud.attached(SECOND) == {DATA: "attached"}, cloud.attached(SECOND)
        # A failure of the daemon is one of the script.
        cloud.ask("/deny", {"action": "EC2:DescribeVolumes"})
        guest.run(f"if {script} start; then exit 9; fi")
        assert "allow ec2:DescribeVolumes" in guest.run(log)
        cloud.ask("/permit", {"action": "EC2:DescribeVolumes"})
        guest.run(f"{script} start")
        yield "`start` says when the daemon has failed, and a later one works"
        guest.run(off)
        guest.ended()
        yield "switched off in order"
        assert not cloud.problems, cloud.problems


def test_busybox_init(images, scratch):
    """busybox as init, our rc script: `start` returns when all is up, `stop` when all is down."""
    image = images.busybox_init(USE)
    script = "LOG=/log /etc/init.d/S50ec2fleetd"
    yield from rc(images, scratch, image, script, "poweroff", "! /etc/init.d/S50ec2fleetd status", "cat /log")


def test_openrc(images, scratch):
    """OpenRC as init, our service: `need ec2fleetd` waits until all is up."""
    image = images.openrc(USE)
    yield from rc(images, scratch, image, "rc-service ec2fleetd", "openrc-shutdown -p now",
                  "! pidof ec2fleetd >/dev/null", "cat /var/log/ec2fleetd.log")
