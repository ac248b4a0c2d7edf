#!/usr/bin/env python3
"""The daemon against moto, an implementation of AWS that is not ours: do both sides mean the same by the wire format?

moto stands for EC2, Route 53, SNS and SQS; the metadata service is our stand-in's (FAKEAWS), since moto's knows neither
tokens nor most paths. moto has no disks: a thread here plays the guest's kernel. What moto does not keep to is not
tested on it: it lets a volume be attached twice, ignores client tokens and paging, applies half of a refused batch, and
takes a DetachVolume for whichever attachment has that device name. Who wins what is tested on the stand-in.
"""
import json
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import boto3

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from standin import StandIn, program  # noqa: E402

REGION, ZONE = "eu-west-1", "eu-west-1a"
TAG = "user:ec2fd."
passed = failed = 0


def check(name, good, more=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAILED", name, more, flush=True)


def equal(name, is_, want):
    check(name, is_ == want, f"is {is_!r}, not {want!r}")


class Moto:
    """moto's server on a port of this machine, and clients of it."""

    def __init__(self, log):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.url + "/moto-api/data.json", timeout=2).close()
                break
            except OSError as e:
                if self.process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"moto did not start: {e}")
                time.sleep(0.1)
        self.ec2, self.r53, self.sns, self.sqs = (
            boto3.client(s, endpoint_url=self.url, region_name=REGION, aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
                         aws_secret_access_key="secret") for s in ("ec2", "route53", "sns", "sqs"))

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=10)


class Kernel(threading.Thread):
    """Shows a volume that moto has attached to the instance as an NVMe disk under `root`, and takes it away again."""

    def __init__(self, moto, instance, root):
        super().__init__(daemon=True)
        self.moto, self.instance, self.root = moto, instance, pathlib.Path(root)
        self.nodes = {}
        self.done = threading.Event()
        for part in ("dev", "sys/block", "proc/sys/kernel", "run"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        # The boot disk: where one disk has a serial, all have.
        self.plug("vol-0000000000000boot", 0)

    def plug(self, volume, number):
        node = f"nvme{number}n1"
        device = self.root / "sys/block" / node / "device"
        device.mkdir(parents=True)
        (device.parent / "dev").write_text(f"259:{number}\n")
        (device.parent / "size").write_text("8\n")
        (self.root / "dev" / node).write_bytes(bytes(4096))
        (device / "model").write_text("Amazon Elastic Block Store".ljust(40) + "\n")
        (device / "serial").write_text(volume.replace("-", "").ljust(20) + "\n")
        self.nodes[volume] = node

    def run(self):
        number = 1
        while not self.done.wait(0.05):
            volumes = self.moto.ec2.describe_volumes()["Volumes"]
            here = {v["VolumeId"] for v in volumes for a in v["Attachments"]
                    if a["InstanceId"] == self.instance and a["Device"] != "/dev/sda1"}
            for volume in here - self.nodes.keys():
                self.plug(volume, number)
                number += 1
            for volume in self.nodes.keys() - here - {"vol-0000000000000boot"}:
                node = self.nodes.pop(volume)
                (self.root / "dev" / node).unlink()
                shutil.rmtree(self.root / "sys/block" / node)


class Bench:
    """One instance at moto, its metadata, and what the checks look at."""

    def __init__(self, scratch, moto):
        self.scratch, self.moto = scratch, moto
        image = moto.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        placement = {"AvailabilityZone": ZONE}
        run = moto.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="c5.large", Placement=placement)
        self.me = run["Instances"][0]["InstanceId"]
        seed = {"instances": [{"id": self.me, "zone": ZONE, "root": "imds", "public_ipv4": "203.0.113.10"}]}
        self.imds = StandIn(scratch / "imds", seed)
        self.root = scratch / "root"
        self.kernel = Kernel(moto, self.me, self.root)
        self.kernel.start()
        self.zone = moto.r53.create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"]
        self.zone = self.zone.removeprefix("/hostedzone/")

    def close(self):
        self.kernel.done.set()
        self.kernel.join()
        self.imds.close()

    def run(self, domains, code=0, says=()):
        """Runs the daemon on a config of these domains up to `started`, or to its failure."""
        config = self.scratch / "config.json"
        config.write_text(json.dumps({"domains": domains, "timeout": 30}))
        environment = self.imds.environment(
            self.me, tls=False, AWS_ENDPOINT_URL=self.moto.url, EC2FLEETD_ROOT=self.root, OUT=self.scratch / "out")
        del environment["AWS_CA_BUNDLE"]
        ended = subprocess.run(
            [program("EC2FLEETD", "ec2fleetd"), "-v", f"--userdata={config}", "--enable-poll=false"], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90)
        for text in says:
            check(f"says '{text}'", text in ended.stdout, ended.stdout)
        check(f"exit code {code}", ended.returncode == code, f"is {ended.returncode}\n{ended.stdout}")
        return ended.stdout

    def volume(self, **tags):
        made = self.moto.ec2.create_volume(AvailabilityZone=ZONE, Size=8, VolumeType="gp3", TagSpecifications=[
            {"ResourceType": "volume", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}] if tags else [])
        return made["VolumeId"]

    def pool_volume(self, domain, pool):
        return self.volume(**{TAG + "domain": domain, TAG + "pool-name": pool})

    def describe(self, volume):
        """(instance, device) or None, and our tags without their prefix."""
        v = self.moto.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]
        at = [(a["InstanceId"], a["Device"]) for a in v["Attachments"]]
        tags = {t["Key"].removeprefix(TAG): t["Value"] for t in v.get("Tags", [])}
        return (at[0] if at else None), tags, v

    def records(self, name):
        sets = self.moto.r53.list_resource_record_sets(HostedZoneId=self.zone)["ResourceRecordSets"]
        return {s["Type"]: (s.get("TTL"), [r["Value"] for r in s["ResourceRecords"]]) for s in sets
                if s["Name"] == name + "."}

    def put(self, name, kind, ttl, *values):
        record = {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": v} for v in values]}
        change = {"Action": "UPSERT", "ResourceRecordSet": record}
        self.moto.r53.change_resource_record_sets(HostedZoneId=self.zone, ChangeBatch={"Changes": [change]})

    def record(self, name, **more):
        return {"hostedzone": self.zone, "name": name, "ttl": 60, **more}


def volumes(b):
    """A volume from the pool, a created one, one by its id; then the same again."""
    claimed, named = b.pool_volume("d", "p1"), b.volume(Name="by hand")
    b.pool_volume("another", "p1")
    # What EC2 must get unharmed in a tag and a filter.
    odd = "ä &<>\"'+ %2F=*?"
    created_by = {"Size": 9, "VolumeType": "io2", "Iops": 400, "TagSpecifications": [
        {"ResourceType": "volume", "Tags": [{"Key": "odd", "Value": odd}]}]}
    write = ["/bin/sh", "-c", "echo $1 $2 $3 >>$OUT", "sh", "{volume_id}", "{attach_source}", "{attach_op}"]
    commands = [{"lines": [{"argv": write}]}]
    config = {"d": {"attach-volume": [
        {"source": "p", "pool-name": "p1", "device": "/dev/xvdf", "exec": commands},
        {"source": "pc", "pool-name": "p2", "device": "/dev/xvdg", "create": created_by, "exec": commands},
        {"source": "x", "volume-id": named, "device": "/dev/xvdh", "exec": commands},
    ]}}
    b.run(config, says=["ready: d started"])

    at, tags, v = b.describe(claimed)
    equal("the pool volume is attached", at, (b.me, "/dev/xvdf"))
    equal("its tags", sorted(tags), ["domain", "owner", "pool-name", "ts-used"])
    equal("its owner", tags.get("owner"), b.me)
    found = b.moto.ec2.describe_volumes(Filters=[{"Name": f"tag:{TAG}pool-name", "Values": ["p2"]}])["Volumes"]
    equal("one volume was created", len(found), 1)
    created = found[0]["VolumeId"] if found else claimed
    at, tags, v = b.describe(created)
    equal("the created volume is attached", at, (b.me, "/dev/xvdg"))
    equal("what it was made of", (v["Size"], v["VolumeType"], v.get("Iops"), v["AvailabilityZone"]),
          (9, "io2", 400, ZONE))
    equal("its tags", sorted(tags), ["domain", "odd", "owner", "pool-name", "ts-created", "ts-used"])
    equal("a tag with odd characters", tags.get("odd"), odd)
    check("not deleted with the instance", not any(a.get("DeleteOnTermination") for a in v["Attachments"]))
    at, tags, v = b.describe(named)
    equal("the named volume is attached", at, (b.me, "/dev/xvdh"))
    equal("a foreign tag of it stays", tags.get("Name"), "by hand")
    lines = (b.scratch / "out").read_text().splitlines()
    equal("its commands saw", lines, [f"{claimed} p true", f"{created} c true", f"{named} x true"])

    before = [b.describe(v)[:2] for v in (claimed, created, named)]
    b.run(config, says=["is attached already"])
    equal("a second run changes nothing", [b.describe(v)[:2] for v in (claimed, created, named)], before)
    lines = (b.scratch / "out").read_text().splitlines()[3:]
    equal("and finds them", [line.split()[2] for line in lines], ["false"] * 3)
    gone = {"g": {"attach-volume": [{"source": "x", "volume-id": "vol-0123456789abcdef0", "device": "/dev/xvdi"}]}}
    b.run(gone, 1, ["vol-0123456789abcdef0 does not exist"])


def records(b):
    """Written, left alone where they are as they should be, and restored when their domain fails."""
    b.put("b.example.com", "A", 120, "198.51.100.7", "198.51.100.8")
    b.put("b.example.com", "TXT", 300, '"stays"')
    b.put("zz.example.com", "A", 300, "198.51.100.1")
    b.run({"d": {"update-route53": [b.record("A.Example.com."), b.record("b.example.com")]}})
    ours = {"A": (60, ["203.0.113.10"]), "AAAA": (60, ["2001:db8::a"])}
    equal("a new name", b.records("a.example.com"), ours)
    equal("a name that was somebody else's", b.records("b.example.com"), {**ours, "TXT": (300, ['"stays"'])})
    equal("a neighbour", b.records("zz.example.com"), {"A": (300, ["198.51.100.1"])})
    b.run({"d": {"update-route53": [b.record("a.example.com")]}}, says=["is as it should be"])
    equal("a wildcard", (b.run({"d": {"update-route53": [b.record("*.w.example.com")]}}) and
                         (b.records("\\052.w.example.com") or b.records("*.w.example.com"))), ours)

    b.put("c.example.com", "A", 120, "198.51.100.9")
    volume = b.pool_volume("r", "p")
    b.run({"r": {
        "attach-volume": [{"source": "p", "pool-name": "p", "device": "/dev/xvdm"}],
        "update-route53": [b.record("c.example.com"), {**b.record("c.example.org"), "hostedzone": "Z0123NOSUCHZONE"}],
    }}, 1, ["NoSuchHostedZone", "rolling back r"])
    equal("a record that was there is restored", b.records("c.example.com"), {"A": (120, ["198.51.100.9"])})
    at, tags, _ = b.describe(volume)
    equal("the volume is given back", (at, sorted(tags)), (None, ["domain", "pool-name"]))
    b.run({"n": {"update-route53": [
        b.record("n.example.com"), {**b.record("n.example.org", critical=False), "hostedzone": "Z0123NOSUCHZONE"}]}},
        says=["is passed over"])
    equal("what is not critical fails alone", b.records("n.example.com"), ours)


def messages(b):
    """By SNS with a queue subscribed to the topic, by SQS directly, and to FIFO ones of both."""
    sns, sqs = b.moto.sns, b.moto.sqs
    made = {}
    for name in ("told", "direct", "told.fifo", "direct.fifo"):
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        url = sqs.create_queue(QueueName=name, Attributes=fifo)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        made[name] = url, arn
    topics = {}
    for name, queue in (("fleet", "told"), ("fleet.fifo", "told.fifo")):
        fifo = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
        topics[name] = sns.create_topic(Name=name, Attributes=fifo)["TopicArn"]
        sns.subscribe(TopicArn=topics[name], Protocol="sqs", Endpoint=made[queue][1])
    text = "{domain} ä €&<>\"'+%2F= {daemon_state}"
    entries = [
        {"backend": "aws-sns", "options": {"topic": topics["fleet"]}, "envelope": {"subject": "s & {domain}", "body": text}},
        {"backend": "aws-sns", "options": {"topic": topics["fleet.fifo"]}},
    ] + [
        {"backend": kind, "options": {"queue-url": made[queue][0], "region": REGION}, "envelope": {"body": text}}
        for kind, queue in (("aws-sqs", "direct"), ("ans-sqs", "direct.fifo"))
    ]
    b.run({"m": {"notify": entries}})
    want = "m ä €&<>\"'+%2F= started"

    def received(name):
        got = sqs.receive_message(QueueUrl=made[name][0], MaxNumberOfMessages=10, AttributeNames=["All"])
        return got.get("Messages", [])
    for name in ("direct", "direct.fifo"):
        got = received(name)
        equal(f"SQS {name}", [m["Body"] for m in got], [want])
        if name.endswith(".fifo") and got:
            check("it has a group", bool(got[0]["Attributes"].get("MessageGroupId")), got[0])
    got = [json.loads(m["Body"]) for m in received("told")]
    equal("SNS", [(m["Subject"], m["Message"]) for m in got], [("s & m", want)])
    got = [json.loads(m["Body"]) for m in received("told.fifo")]
    equal("SNS to a FIFO topic", len(got), 1)
    if got:
        body = json.loads(got[0]["Message"])
        equal("{all_json} as it arrives", (body["domain"], body["instance_id"], body["daemon_state"]),
              ("m", b.me, "started"))
        equal("the subject that is the default", got[0]["Subject"],
              f"Fleetd m on {b.me} state changed to [started]")
    out = b.run({"m": {"notify": [{"backend": "aws-sns", "options": {"topic": topics["fleet"] + "x"}}]}})
    check("a topic that is not there is an error in the log, no failure", "NotFound" in out, out)


def main():
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    logging.getLogger("botocore").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="ec2fleetd-moto-") as scratch:
        scratch = pathlib.Path(scratch)
        with open(scratch / "moto.log", "w", encoding="utf-8") as log:
            moto = Moto(log)
            b = Bench(scratch, moto)
            try:
                for part in (volumes, records, messages):
                    try:
                        part(b)
                    except Exception as e:  # what moto or the part itself trips over is one failure, not the end
                        check(part.__name__, False, f"{type(e).__name__}: {e}")
            finally:
                b.close()
                moto.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
