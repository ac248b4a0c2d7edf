"""A Debian root with systemd and our units, as `make install` puts them there."""
from cloud import Cloud

FIRST, SECOND = "i-0a1b2c3d4e5f60001", "i-0a1b2c3d4e5f60002"
DATA = "vol-0a1b2c3d4e5faaaa1"

CONFIG = """{
  hostname: 'data-{instance_index}',
  domains: {
    data: {
      'attach-volume': [ { source: 'p', 'pool-name': 'data', device: '/dev/xvdf',
        exec: [ { lines: [
          { argv: ['mkdir', '-p', '/mnt/data'] },
          { argv: ['sh', '-c', 'blkid $1 || mkfs.ext4 -q $1', 'sh', '{attached_device}'] },
          { argv: ['sh', '-c', 'mountpoint -q /mnt/data || exec mount $1 /mnt/data', 'sh', '{attached_device}'] },
          { argv: ['sh', '-c', 'test -e /mnt/data/who || echo "first used by $1" >/mnt/data/who', 'sh', '{instance_id}'] },
        ] } ] } ],
      'update-route53': [ { hostedzone: 'Z1', name: 'data.example.com', ttl: 60 } ],
      exec: [
        { on: ['started', 'stopping', 'interrupted'], lines: [ { argv: ['echo', 'commands of', '{daemon_state}'] } ] },
        { on: ['stopping', 'interrupted'], lines: [ { argv: ['umount', '/mnt/data'] } ] },
      ],
    },
  },
}"""


def seed():
    instances = [{"id": i, "user_data": CONFIG, "launch_index": n} for n, i in enumerate((FIRST, SECOND))]
    return {"instances": instances, "zones": [{"id": "Z1", "name": "example.com"}],
            "volumes": [{"id": DATA, "pool": ["data", "data"], "size": 1}]}


def unit(guest, name="ec2fleetd"):
    """State, result and exit code of a unit."""
    text = guest.run(f"systemctl show -p ActiveState -p Result -p ExecMainStatus {name}")
    return tuple(dict(line.split("=", 1) for line in text.split())[k] for k in ("ActiveState", "Result", "ExecMainStatus"))


def test_systemd_hand_over(images, scratch):
    """The unit is ready when all stands; an interruption and a stop end it well; the next instance has the data."""
    image = images.systemd()
    with Cloud(scratch, seed()) as cloud:
        guest = cloud.launch(FIRST, images, **image)
        after, at = guest.says(r"bench: after ec2fleetd, which is (\S+), (.*)")
        assert after[1] == "active" and after[2] == f"first used by {FIRST}", after[0]
        yield f"a unit ordered after ours started {at:.1f} s after power-on, and found the volume mounted"
        assert guest.run("hostname").strip() == "data-0"
        assert guest.run("stat -c '%a %U' /run/ec2fleetd").strip() == "700 root"

        guest.run("systemctl start ec2fleetd@same", code=1)
        assert unit(guest, "ec2fleetd@same")[0] == "failed" and unit(guest)[0] == "active"
        assert guest.said("domain 'data' is being run by process"), guest.tail()
        yield "a second unit for the same domain is refused, and leaves the first alone"

        cloud.interrupt(FIRST)
        guest.says("commands of interrupted")
        guest.run("while systemctl is-active -q ec2fleetd; do sleep 0.1; done")
        assert unit(guest) == ("inactive", "success", "0"), unit(guest)
        assert "/mnt/data" not in guest.run("cat /proc/mounts")
        guest.run("systemctl poweroff --no-block")
        guest.ended()
        yield "an interruption: commands run, unmounted, the unit has ended with success"

        cloud.terminate(FIRST)
        guest = cloud.launch(SECOND, images, **image)
        after, _ = guest.says(r"bench: after ec2fleetd, which is (\S+), (.*)")
        assert after[2] == f"first used by {FIRST}", after[0]
        guest.run("systemctl stop ec2fleetd")
        assert guest.said("commands of stopping"), guest.tail()
        assert unit(guest) == ("inactive", "success", "0"), unit(guest)
        assert "/mnt/data" not in guest.run("cat /proc/mounts")
        assert cloud.attached(SECOND) == {DATA: "attached"}, cloud.attached(SECOND)
        yield "the second instance finds what the first one wrote; a stop runs its commands and keeps the volume"
        assert not cloud.problems, cloud.problems


def test_systemd_kill_during_init(images, scratch):
    """SIGKILL while AttachVolume hangs: what the daemon keeps under /run is still there, and the next start converges."""
    image = images.systemd()
    with Cloud(scratch, seed()) as cloud:
        # It is done, and nobody is told.
        cloud.ask("/fault", {"action": "EC2:AttachVolume", "first": 1, "kind": "HangAfter", "ms": 600_000})
        guest = cloud.launch(FIRST, images, **image)
        cloud.until(lambda: cloud.attached(FIRST), "AttachVolume carried out")
        guest.run("systemctl kill --signal=KILL ec2fleetd")
        guest.run("while systemctl is-active ec2fleetd | grep -q activating; do sleep 0.1; done")
        assert unit(guest) == ("failed", "signal", "9"), unit(guest)
        assert guest.run("stat -c '%a %U' /run/ec2fleetd").strip() == "700 root"
        kept = guest.run("ls /run/ec2fleetd").split()
        assert {"domain.data.lock", "domain.data.journal"} <= set(kept), kept
        yield f"killed with the volume attached: the unit has failed and stays so; kept: {', '.join(kept)}"

        # Now a start that is killed again, this time where the administrator wants restarts.
        guest.run("mkdir -p /run/systemd/system/ec2fleetd.service.d && printf '[Service]\\nRestart=on-failure\\nRestartSec=1\\n' "
                  ">/run/systemd/system/ec2fleetd.service.d/restart.conf && systemctl daemon-reload")
        before = len(cloud.calls("ChangeResourceRecordSets"))
        cloud.ask("/fault", {"action": "Route53:ChangeResourceRecordSets", "first": 1, "kind": "HangAfter", "ms": 600_000})
        guest.run("systemctl start --no-block ec2fleetd")
        cloud.until(lambda: len(cloud.calls("ChangeResourceRecordSets")) > before, "a record written")
        guest.run("systemctl kill --signal=KILL ec2fleetd")
        guest.run("while ! systemctl is-active -q ec2fleetd; do sleep 0.1; done")
        assert guest.run("systemctl show -p NRestarts --value ec2fleetd").strip() == "1"
        yield "killed again, after a record was written: Restart=on-failure brings it up"

        assert len(cloud.calls("AttachVolume", status=200)) == 1, cloud.calls("AttachVolume")
        assert not cloud.calls("DetachVolume"), cloud.calls("DetachVolume")
        assert guest.run("cat /mnt/data/who").strip() == f"first used by {FIRST}"
        [record] = [r for r in cloud.ask("/state")["records"] if r["type"] == "A"]
        assert (record["name"], record["values"], record["ttl"]) == ("data.example.com.", ["203.0.113.10"], 60), record
        settled = ("user:ec2fd.transc-id", "user:ec2fd.in-transit")
        cloud.until(lambda: not any(t in cloud.volume(DATA)["tags"] for t in settled), "marks of transactions gone")
        assert cloud.attached(FIRST) == {DATA: "attached"}
        assert "domain.data.journal" not in guest.run("ls /run/ec2fleetd").split()
        yield "one AttachVolume in all, no DetachVolume, one record, no tag and no journal left of a transaction"

        guest.run("systemctl stop ec2fleetd")
        assert unit(guest) == ("inactive", "success", "0"), unit(guest)
        assert not cloud.problems, cloud.problems
