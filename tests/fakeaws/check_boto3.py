#!/usr/bin/env python3
"""Holds the stand-in honest from outside: boto3, which knows nothing of it, runs every operation against it.

usage: check_boto3.py PATH-OF-fakeaws
The last line says "N passed, N failed"; the exit status is 1 if any failed.
"""
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import boto3
import botocore.exceptions
from botocore.config import Config

I1, I2, I3 = "i-0aaaaaaaaaaaaaaa1", "i-0aaaaaaaaaaaaaaa2", "i-0aaaaaaaaaaaaaaa3"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:fleet"
QUEUE = "https://sqs.eu-west-1.amazonaws.com/111122223333/fleet"
SEED = {
    "instances": [
        {"id": I1, "zone": "eu-west-1a", "root": "r1", "user_data": "{}", "multipath": True},
        {"id": I2, "zone": "eu-west-1b", "root": "r2", "hypervisor": "xen"},
        {"id": I3, "zone": "eu-west-1a"},
    ],
    "volumes": [{"id": "vol-0bbbbbbbbbbbbbb%02x" % n, "tags": {"pool": "p", "n": str(n), "star": "a*b"}}
                for n in range(12)]
    + [{"id": "vol-0ccccccccccccccc1", "type": "io2", "multi_attach": True}],
    "zones": [{"id": "Z1", "name": "example.com"}],
    "records": [{"zone": "Z1", "name": "www.example.com", "type": "A", "ttl": 60, "values": ["203.0.113.1"]}],
    "snapshots": {"snap-0123456789abcdef0": 8},
    "topics": [TOPIC, TOPIC + ".fifo"],
    "queues": [QUEUE, QUEUE + ".fifo"],
}
V = ["vol-0bbbbbbbbbbbbbb%02x" % n for n in range(12)]
passed = failed = 0


def check(name, good, more=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAILED", name, more, flush=True)


def code(name, want, call, status=None, text=None, **kw):
    """The call must be refused with this code, status and text."""
    try:
        answer = call(**kw)
        check(name, False, "was accepted: %s" % answer)
    except botocore.exceptions.ClientError as e:
        err, http = e.response["Error"], e.response["ResponseMetadata"]["HTTPStatusCode"]
        good = err.get("Code") == want and status in (None, http) and (text is None or text in err.get("Message", ""))
        check(name, good, "%s %s %s" % (http, err.get("Code"), err.get("Message")))


def wait(name, test, seconds=5):
    end = time.time() + seconds
    while time.time() < end:
        if test():
            return check(name, True)
        time.sleep(0.01)
    check(name, False, "did not come")


def admin(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(where["admin"] + path, data, method=method)) as r:
        return json.load(r)


def clients(url, **kw):
    key = dict(aws_access_key_id=where["access_key"], aws_secret_access_key=where["secret_key"])
    key.update(kw)
    config = Config(retries={"total_max_attempts": 1}, read_timeout=5, parameter_validation=False)
    make = lambda s, region="eu-west-1": boto3.client(
        s, region_name=region, endpoint_url=url, config=config, verify=where["ca"], **key)
    return make("ec2"), make("route53", "us-east-1"), make("sns"), make("sqs")


def volumes():
    state = lambda v: ec2.describe_volumes(VolumeIds=[v])["Volumes"][0]["State"]
    pages = ec2.get_paginator("describe_volumes").paginate(
        Filters=[{"Name": "tag:pool", "Values": ["p"]}], PaginationConfig={"PageSize": 5})
    sizes, ids = [], []
    for p in pages:
        sizes.append(len(p["Volumes"]))
        ids += [v["VolumeId"] for v in p["Volumes"]]
    check("pages of 5", sizes == [5, 5, 2] and sorted(ids) == V, sizes)
    check("random order", ids != V)
    admin("POST", "/knobs", {"page_cap": 1, "empty_pages": True})
    pages = list(ec2.get_paginator("describe_volumes").paginate(Filters=[{"Name": "tag:pool", "Values": ["p"]}]))
    got = sorted(v["VolumeId"] for p in pages for v in p["Volumes"])
    check("tiny and empty pages", got == V and any(not p["Volumes"] for p in pages) and len(pages) > 20, len(pages))
    admin("POST", "/knobs", {"page_cap": None, "empty_pages": False})
    find = lambda n, *v: sorted(x["VolumeId"] for x in ec2.describe_volumes(
        Filters=[{"Name": n, "Values": list(v)}])["Volumes"])
    check("filter wildcard", find("volume-id", "vol-0bb*0?") == V, find("volume-id", "vol-0bb*0?"))
    check("filter escape", find("tag:star", r"a\*b") == V and find("tag:star", r"a\?b") == [])
    check("filter case", find("tag:pool", "P") == [])
    check("filter or", find("tag:n", "1", "2") == V[1:3])
    check("filter tag-key", find("tag-key", "star") == V)
    check("filter attachment", len(find("attachment.instance-id", I1)) == 1)
    check("filter multi-attach", find("multi-attach-enabled", "true") == ["vol-0ccccccccccccccc1"])
    code("unknown filter", "InvalidParameterValue", ec2.describe_volumes, Filters=[{"Name": "foo", "Values": ["x"]}])
    code("201 values", "FilterLimitExceeded", ec2.describe_volumes,
         Filters=[{"Name": "volume-id", "Values": ["v%d" % n for n in range(201)]}])
    code("unknown id", "InvalidVolume.NotFound", ec2.describe_volumes, VolumeIds=["vol-0dddddddddddddddd"])
    code("malformed id", "InvalidVolumeID.Malformed", ec2.describe_volumes, VolumeIds=["vol-xyz"])
    code("MaxResults with ids", "InvalidParameterCombination", ec2.describe_volumes, VolumeIds=[V[0]], MaxResults=5)
    code("MaxResults 3", "InvalidParameterValue", ec2.describe_volumes, MaxResults=3)
    code("wrong token", "InvalidParameterValue", ec2.describe_volumes, NextToken="zzz")

    attach = lambda v, i=I1, d="/dev/xvdf", **k: ec2.attach_volume(VolumeId=v, InstanceId=i, Device=d, **k)
    code("zone mismatch", "InvalidVolume.ZoneMismatch", attach, v=V[0], i=I2)
    for bad in "foo", "/dev/xvd", "/dev/sdf99", "/dev/xvdza":
        code("device " + bad, "InvalidParameterValue", attach, v=V[0], d=bad)
    code("root device", "InvalidParameterValue", attach, v=V[0], d="/dev/xvda", text="already in use")
    code("instance malformed", "InvalidInstanceID.Malformed", attach, v=V[0], i="i-1")
    code("instance unknown", "InvalidInstanceID.NotFound", attach, v=V[0], i="i-0ddddddddddddddd1")
    code("dry run", "DryRunOperation", attach, v=V[0], status=412, DryRun=True)
    a = attach(V[0])
    check("attach answer", a["State"] == "attaching" and a["Device"] == "/dev/xvdf" and a["InstanceId"] == I1, a)
    code("claimed", "VolumeInUse", attach, v=V[0], i=I3, text="already attached to an instance")
    code("claimed by us", "VolumeInUse", attach, v=V[0])
    code("device in use", "InvalidParameterValue", attach, v=V[1], text="Attachment point /dev/xvdf is already in use")
    att = lambda v: [x["State"] for x in ec2.describe_volumes(VolumeIds=[v])["Volumes"][0]["Attachments"]]
    wait("attached", lambda: att(V[0]) == ["attached"])
    dev = os.path.join(DIR, "r1/dev/nvme1n1")
    wait("disk shows", lambda: os.path.exists(dev))
    serial = open(os.path.join(DIR, "r1/sys/block/nvme1n1/device/serial")).read()
    check("serial", serial == "%-20s\n" % V[0].replace("-", ""), serial)
    check("multipath", open(os.path.join(DIR, "r1/sys/block/nvme1c1n1/hidden")).read().strip() == "1")
    with open(dev, "r+b") as f:
        f.write(b"data of the volume")
    code("delete attached", "VolumeInUse", ec2.delete_volume, VolumeId=V[0])
    code("detach of another", "InvalidAttachment.NotFound", ec2.detach_volume, VolumeId=V[0], InstanceId=I3)
    code("detach available", "IncorrectState", ec2.detach_volume, VolumeId=V[1], InstanceId=I1)
    admin("POST", "/hold", {"volume": V[0]})
    check("detach", ec2.detach_volume(VolumeId=V[0], InstanceId=I1)["State"] == "detaching")
    wait("busy", lambda: att(V[0]) == ["busy"])
    admin("POST", "/release", {"volume": V[0]})
    admin("POST", "/knobs", {"cooldown_ms": 500})
    wait("available", lambda: state(V[0]) == "available")
    code("cool-down", "InvalidParameterValue", attach, v=V[1], text="already in use")
    check("disk is gone", not os.path.lexists(dev))
    attach(V[0], I3, "/dev/sdf")
    wait("attached elsewhere", lambda: att(V[0]) == ["attached"])
    ec2.detach_volume(VolumeId=V[0])
    wait("free again", lambda: state(V[0]) == "available")
    time.sleep(0.6)
    attach(V[0])
    wait("disk shows again", lambda: os.path.exists(dev))
    with open(dev, "rb") as f:
        check("data came along", f.read(18) == b"data of the volume")
    root = [v["VolumeId"] for v in ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [I1]},
                 {"Name": "attachment.device", "Values": ["/dev/xvda"]}])["Volumes"]]
    code("detach root", "OperationNotPermitted", ec2.detach_volume, VolumeId=root[0], InstanceId=I1)
    m = "vol-0ccccccccccccccc1"
    attach(m, I1, "/dev/xvdm"), attach(m, I3, "/dev/xvdm")
    check("multi-attach", len(ec2.describe_volumes(VolumeIds=[m])["Volumes"][0]["Attachments"]) == 2)
    x = ec2.describe_instances(InstanceIds=[I1])["Reservations"][0]["Instances"][0]
    check("instance", x["State"]["Name"] == "running" and
          "/dev/xvdm" in [b["DeviceName"] for b in x["BlockDeviceMappings"]], x)


def creation():
    base = dict(AvailabilityZone="eu-west-1a", Size=10, VolumeType="gp3", ClientToken="token-1")
    spec = [{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v <&> \u00e9"}]}]
    a = ec2.create_volume(TagSpecifications=spec, **base)
    check("created", a["State"] == "creating" and a["Iops"] == 3000 and a["Throughput"] == 125 and
          a["Tags"] == [{"Key": "k", "Value": "v <&> \u00e9"}] and a["Size"] == 10, a)
    vid = a["VolumeId"]
    check("same token", ec2.create_volume(TagSpecifications=spec, **base)["VolumeId"] == vid)
    code("token mismatch", "IdempotentParameterMismatch", ec2.create_volume, **dict(base, Size=11))
    ec2.get_waiter("volume_available").wait(VolumeIds=[vid], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    make = lambda **k: ec2.create_volume(**dict({"AvailabilityZone": "eu-west-1a", "Size": 10}, **k))
    check("default type", make()["VolumeType"] == "gp2")
    code("no zone", "MissingParameter", ec2.create_volume, Size=1)
    code("wrong zone", "InvalidZone.NotFound", make, AvailabilityZone="eu-west-1z")
    code("no size", "MissingParameter", ec2.create_volume, AvailabilityZone="eu-west-1a")
    code("size", "InvalidParameterValue", make, Size=20000)
    code("type", "UnknownVolumeType", make, VolumeType="gp9")
    code("st1", "InvalidParameterValue", make, VolumeType="st1")
    code("io1 without iops", "MissingParameter", make, VolumeType="io1")
    code("gp2 with iops", "InvalidParameterCombination", make, VolumeType="gp2", Iops=3000)
    code("gp3 iops", "InvalidParameterValue", make, VolumeType="gp3", Iops=100)
    code("snapshot size", "InvalidParameterValue", make, Size=4, SnapshotId="snap-0123456789abcdef0")
    code("no snapshot", "InvalidSnapshot.NotFound", make, SnapshotId="snap-0123456789abcdef1")
    code("kms without encrypted", "InvalidParameterDependency", make, KmsKeyId="k")
    check("zone id", ec2.create_volume(AvailabilityZoneId="euw1-az2", Size=1)["AvailabilityZone"] == "eu-west-1b")
    state = lambda v: [x["State"] for x in ec2.describe_volumes(
        Filters=[{"Name": "volume-id", "Values": [v]}])["Volumes"]]
    e = make(Encrypted=True, KmsKeyId="alias/bad")["VolumeId"]
    wait("kms error", lambda: state(e) == ["error"])
    g = make(Encrypted=True, KmsKeyId="alias/vanish", ClientToken="t2")["VolumeId"]
    wait("kms vanish", lambda: state(g) == [])
    check("burned token", make(Encrypted=True, KmsKeyId="alias/vanish", ClientToken="t2")["VolumeId"] == g)
    ec2.delete_volume(VolumeId=vid)
    wait("deleted", lambda: state(vid) == [])
    code("delete again", "InvalidVolume.NotFound", ec2.delete_volume, VolumeId=vid)


def tags():
    v = V[5]
    get = lambda: {t["Key"]: t["Value"] for t in ec2.describe_volumes(VolumeIds=[v])["Volumes"][0].get("Tags", [])}
    put = lambda **k: ec2.create_tags(Resources=[v], Tags=[{"Key": a, "Value": b} for a, b in k.items()])
    put(a="1", b="2", c="")
    ec2.delete_tags(Resources=[v], Tags=[{"Key": "a", "Value": "other"}])
    check("other value stays", get().get("a") == "1")
    ec2.delete_tags(Resources=[v], Tags=[{"Key": "a", "Value": ""}])
    check("empty value stays", get().get("a") == "1")
    ec2.delete_tags(Resources=[v], Tags=[{"Key": "a"}, {"Key": "c", "Value": ""}])
    check("deleted", "a" not in get() and "c" not in get() and get()["b"] == "2", get())
    code("aws: tag", "InvalidParameterValue", put, **{"AWS:x": "1"})
    code("long value", "InvalidParameterValue", put, x="y" * 257)
    code("51 tags", "TagLimitExceeded", put, **{"k%d" % n: "v" for n in range(50)})
    code("unknown volume", "InvalidVolume.NotFound", ec2.create_tags, Resources=["vol-0dddddddddddddddd"],
         Tags=[{"Key": "a", "Value": "b"}])
    code("unknown volume", "InvalidID", ec2.delete_tags, Resources=["vol-0dddddddddddddddd"], Tags=[{"Key": "a"}])
    ec2.delete_tags(Resources=[v])
    check("no list deletes all", get() == {})


def change(*changes):
    return r53.change_resource_record_sets(HostedZoneId="Z1", ChangeBatch={"Changes": [
        {"Action": a, "ResourceRecordSet": s} for a, s in changes]})


def rr(name, kind="A", values=("203.0.113.9",), ttl=60, **more):
    s = {"Name": name, "Type": kind}
    s.update(more)
    if values:
        s["TTL"] = ttl
        s["ResourceRecords"] = [{"Value": v} for v in values]
    return s


def records():
    every = lambda: [s for p in r53.get_paginator("list_resource_record_sets").paginate(
        HostedZoneId="Z1", PaginationConfig={"PageSize": "2"}) for s in p["ResourceRecordSets"]]
    at = lambda n, k="A": [s for s in every() if s["Name"] == n and s["Type"] == k]
    c = change(("UPSERT", rr("Game.Example.COM", values=("203.0.113.5", "203.0.113.6"))))["ChangeInfo"]
    check("change", c["Id"].startswith("/change/C") and c["Status"] == "PENDING", c)
    wait("in sync", lambda: r53.get_change(Id=c["Id"])["ChangeInfo"]["Status"] == "INSYNC")
    check("lower case and dot", len(at("game.example.com.")) == 1, every())
    change(("CREATE", rr("*.web.example.com")))
    check("octal star", len(at("\\052.web.example.com.")) == 1)
    names = [s["Name"] for s in every()]
    rev = lambda n: ".".join(reversed(n.rstrip(".").split("."))) + "."
    check("order", names == sorted(names, key=rev), names)
    one = r53.list_resource_record_sets(HostedZoneId="Z1", StartRecordName="GAME.example.com", StartRecordType="A",
                                        MaxItems="1")
    check("start", one["ResourceRecordSets"][0]["Name"] == "game.example.com." and one["IsTruncated"] and
          one["NextRecordType"], one)
    code("type without name", "InvalidInput", r53.list_resource_record_sets, HostedZoneId="Z1", StartRecordType="A")
    code("no zone", "NoSuchHostedZone", r53.list_resource_record_sets, status=404, HostedZoneId="Z9")
    code("no change", "NoSuchChange", r53.get_change, status=404, Id="C000")
    bad = lambda name, text, *ch, want="InvalidChangeBatch": code(name, want, lambda: change(*ch), status=400, text=text)
    g = rr("game.example.com")
    bad("delete other values", "but the values provided do not match the current values", ("DELETE", g))
    bad("delete other ttl", "do not match", ("DELETE", rr("game.example.com", values=("203.0.113.5", "203.0.113.6"), ttl=61)))
    bad("delete nothing", "[Tried to delete resource record set [name='no.example.com.', type='A'] but it was not found]",
        ("DELETE", rr("no.example.com")))
    bad("create again", "but it already exists", ("CREATE", g))
    bad("not in zone", "is not permitted in zone example.com.", ("UPSERT", rr("fooexample.com")))
    bad("cname beside a", "conflicts with other records", ("UPSERT", rr("game.example.com", "CNAME", ("x.example.org",))))
    bad("cname at apex", "apex", ("UPSERT", rr("example.com", "CNAME", ("x.example.org",))))
    bad("ipv4", "not a valid IPv4 address", ("UPSERT", rr("b.example.com", values=("1.2.3",))))
    bad("ipv6", "not a valid IPv6 address", ("UPSERT", rr("b.example.com", "AAAA", ("1.2.3.4",))))
    bad("duplicate", "Duplicate Resource Record", ("UPSERT", rr("b.example.com", values=("1.2.3.4", "1.2.3.4"))))
    bad("txt", "quotation", ("UPSERT", rr("b.example.com", "TXT", ("x",))))
    bad("ttl", "tTL", ("UPSERT", rr("b.example.com", ttl=-1)), want="InvalidInput")
    bad("type", "enum", ("UPSERT", rr("b.example.com", "FOO")), want="InvalidInput")
    bad("twice", "invalid set of changes", ("UPSERT", rr("b.example.com")), ("UPSERT", rr("b.example.com")))
    bad("nothing", "found none", ("UPSERT", rr("b.example.com", values=())), want="InvalidInput")
    bad("mixed", "cannot be created", ("CREATE", {"Name": "game.example.com", "Type": "A", "SetIdentifier": "s",
        "MultiValueAnswer": True, "TTL": 1, "ResourceRecords": [{"Value": "1.2.3.4"}]}))
    bad("set id alone", "Missing field", ("CREATE", {"Name": "m.example.com", "Type": "A", "SetIdentifier": "s",
        "TTL": 1, "ResourceRecords": [{"Value": "1.2.3.4"}]}), want="InvalidInput")
    bad("order of elements", "cvc-complex-type.2.4.a", ("UPSERT", {"Type": "A", "Name": "b.example.com", "TTL": 1,
        "ResourceRecords": [{"Value": "1.2.3.4"}]}), want="InvalidInput")
    code("empty batch", "InvalidInput", change, text="Changes")
    bad("1001 records", "1000", *[("UPSERT", rr("n%d.example.com" % n, values=("1.2.3.4", "1.2.3.5"))) for n in range(251)])
    before = every()
    bad("atomic", "not found", ("UPSERT", rr("new.example.com")), ("DELETE", rr("no.example.com")))
    check("nothing was applied", every() == before)
    change(("DELETE", rr("game.example.com", values=("203.0.113.6", "203.0.113.5"))),
           ("CREATE", rr("game.example.com", "CNAME", ("x.example.org",))))
    check("delete in any order, then cname", len(at("game.example.com.", "CNAME")) == 1)
    bad("a beside cname", "conflicts", ("UPSERT", rr("game.example.com")))
    bad("in the wrong order", "conflicts", ("CREATE", rr("game.example.com")),
        ("DELETE", rr("game.example.com", "CNAME", ("x.example.org",))))
    for n in 1, 2, 3:
        change(("UPSERT", {"Name": "w.example.com", "Type": "A", "SetIdentifier": "s%d" % n, "Weight": n, "TTL": 5,
                           "ResourceRecords": [{"Value": "192.0.2.%d" % n}]}))
    w = at("w.example.com.")
    check("weighted", [(s["SetIdentifier"], s["Weight"]) for s in w] == [("s1", 1), ("s2", 2), ("s3", 3)], w)
    bad("weight differs", "do not match", ("DELETE", dict(w[0], Weight=9)))
    change(("DELETE", w[0]))
    geo = {"Name": "geo.example.com", "Type": "A", "SetIdentifier": "de", "GeoLocation": {"CountryCode": "DE"}, "TTL": 5,
           "ResourceRecords": [{"Value": "192.0.2.1"}]}
    change(("CREATE", geo))
    check("geo", at("geo.example.com.")[0]["GeoLocation"] == {"CountryCode": "DE"})
    alias = {"Name": "al.example.com", "Type": "A", "AliasTarget": {
        "HostedZoneId": "Z1", "DNSName": "www.example.com", "EvaluateTargetHealth": False}}
    change(("CREATE", alias))
    check("alias", at("al.example.com.")[0]["AliasTarget"]["DNSName"] == "www.example.com.")
    bad("alias to nothing", "target was not found", ("CREATE", dict(alias, Name="al2.example.com", AliasTarget=dict(
        alias["AliasTarget"], DNSName="zzz.example.com"))))
    change(("DELETE", at("al.example.com.")[0]), ("DELETE", at("geo.example.com.")[0]))
    admin("POST", "/knobs", {"change_busy_ms": 400})
    change(("UPSERT", rr("busy.example.com")))
    bad("prior request", "prior", ("UPSERT", rr("busy2.example.com")), want="PriorRequestNotComplete")
    admin("POST", "/knobs", {"change_busy_ms": 0})
    time.sleep(0.4)


def messages():
    pub = lambda **k: sns.publish(**dict({"TopicArn": TOPIC, "Message": "m"}, **k))
    check("publish", "MessageId" in pub(Subject="s", Message="hello \u00e9"))
    for name, s in ("100 long", "x" * 100), ("newline", "a\nb"), ("space", " a"), ("empty", ""):
        code("subject " + name, "InvalidParameter", pub, text="Subject", Subject=s)
    check("subject of 99", "MessageId" in pub(Subject="x" * 99))
    code("empty message", "InvalidParameter", pub, Message="")
    code("long message", "InvalidParameter", pub, Message="x" * (256 * 1024 + 1), text="too long")
    code("no topic", "NotFound", pub, status=404, TopicArn=TOPIC + "x")
    code("fifo without group", "InvalidParameter", pub, TopicArn=TOPIC + ".fifo")
    for _ in 1, 2:
        pub(TopicArn=TOPIC + ".fifo", MessageGroupId="g", MessageDeduplicationId="d", Message="once")
    send = lambda **k: sqs.send_message(**dict({"QueueUrl": QUEUE, "MessageBody": "m"}, **k))
    check("md5", send(MessageBody="hello")["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592")
    code("no queue", "AWS.SimpleQueueService.NonExistentQueue", send, QueueUrl=QUEUE + "x")
    code("empty body", "MissingParameter", send, MessageBody="")
    code("long body", "InvalidParameterValue", send, MessageBody="x" * 1048577)
    code("characters", "InvalidMessageContents", send, MessageBody="a\u0001")
    code("fifo without group", "MissingParameter", send, QueueUrl=QUEUE + ".fifo")
    code("fifo without dedup", "InvalidParameterValue", send, QueueUrl=QUEUE + ".fifo", MessageGroupId="g")
    send(QueueUrl=QUEUE + ".fifo", MessageGroupId="g", MessageDeduplicationId="d")
    code("dedup on standard", "InvalidParameterValue", send, MessageDeduplicationId="d")
    got = [(m["target"].split("/")[-1].split(":")[-1], m["body"]) for m in admin("GET", "/state")["messages"]]
    check("stored", got == [("fleet", "hello \u00e9"), ("fleet", "m"), ("fleet.fifo", "once"), ("fleet", "hello"),
                            ("fleet.fifo", "m")], got)


def signatures():
    e, r, n, q = clients(where["http"], aws_secret_access_key="wrong")
    code("ec2 secret", "AuthFailure", e.describe_volumes, status=401)
    code("r53 secret", "SignatureDoesNotMatch", r.get_change, status=403, Id="C1")
    code("sns secret", "SignatureDoesNotMatch", n.publish, status=403, TopicArn=TOPIC, Message="m")
    code("sqs secret", "InvalidSignatureException", lambda **k: q.send_message(**k), QueueUrl=QUEUE, MessageBody="m") \
        if False else sqs_code("sqs secret", ("SignatureDoesNotMatch", "InvalidSignatureException"), q)
    e, r, n, q = clients(where["http"], aws_access_key_id="AKIANOBODY")
    code("ec2 key", "AuthFailure", e.describe_volumes, status=401)
    code("r53 key", "InvalidClientTokenId", r.get_change, status=403, Id="C1")
    e, r, n, q = clients(where["http"], aws_session_token="token-of-none")
    code("ec2 token", "AuthFailure", e.describe_volumes)
    wrong = boto3.client("route53", region_name="eu-west-1", endpoint_url=where["http"],
                         aws_access_key_id=where["access_key"], aws_secret_access_key=where["secret_key"])
    code("r53 region", "SignatureDoesNotMatch", wrong.get_change, Id="C1")
    far = boto3.client("sns", region_name="us-east-1", endpoint_url=where["http"],
                       aws_access_key_id=where["access_key"], aws_secret_access_key=where["secret_key"])
    code("sns region", "SignatureDoesNotMatch", far.publish, TopicArn=TOPIC, Message="m")
    admin("POST", "/knobs", {"clock_offset_s": 400})
    code("ec2 skew", "AuthFailure", ec2.describe_volumes, status=401)
    code("r53 skew", "SignatureDoesNotMatch", r53.get_change, text="Signature expired", Id="C1")
    admin("POST", "/knobs", {"clock_offset_s": -400})
    code("r53 skew", "SignatureDoesNotMatch", r53.get_change, text="Signature not yet current", Id="C1")
    admin("POST", "/knobs", {"clock_offset_s": 0})
    try:
        urllib.request.urlopen(urllib.request.Request(where["http"] + "/", b"Action=DescribeVolumes&Version=2016-11-15"))
        check("no signature", False)
    except urllib.error.HTTPError as err:
        check("no signature", err.code == 403 and b"MissingAuthenticationToken" in err.read())
    fresh = clients(where["http"])[0]
    fresh.meta.events.register("before-parameter-build.ec2.DescribeVolumes", lambda **_: None)
    def extra(request, **_):
        request.data["Foo"] = "1"
    fresh.meta.events.register("request-created.ec2.DescribeVolumes", extra)
    code("unknown parameter", "UnknownParameter", fresh.describe_volumes)
    old = clients(where["http"])[0]
    def version(request, **_):
        request.data["Version"] = "2015-10-01"
    old.meta.events.register("request-created.ec2.DescribeVolumes", version)
    code("version", "NoSuchVersion", old.describe_volumes)


def sqs_code(name, wants, client):
    try:
        client.send_message(QueueUrl=QUEUE, MessageBody="m")
        check(name, False, "was accepted")
    except botocore.exceptions.ClientError as e:
        check(name, e.response["Error"]["Code"] in wants, e)


def faults():
    admin("POST", "/deny", {"action": "EC2:AttachVolume"})
    code("ec2 denied", "UnauthorizedOperation", ec2.attach_volume, status=403, VolumeId=V[7], InstanceId=I1,
         Device="/dev/xvdh", text="Encoded authorization failure message")
    admin("POST", "/permit", {"action": "EC2:AttachVolume"})
    for action, call, want in (
            ("route53:ListResourceRecordSets", lambda: r53.list_resource_record_sets(HostedZoneId="Z1"), "AccessDenied"),
            ("sns:Publish", lambda: sns.publish(TopicArn=TOPIC, Message="m"), "AuthorizationError"),
            ("SQS:SendMessage", lambda: sqs.send_message(QueueUrl=QUEUE, MessageBody="m"), "AccessDenied")):
        admin("POST", "/deny", {"action": action})
        code(action, want, call, status=403)
        admin("POST", "/permit", {"action": action})
    look = lambda: ec2.describe_volumes(VolumeIds=[V[9]])
    zone = lambda: r53.list_resource_record_sets(HostedZoneId="Z1")
    for kind, want, status in ("Throttle", "RequestLimitExceeded", 503), ("Status500", "InternalError", 500):
        admin("POST", "/fault", {"action": "EC2:DescribeVolumes", "first": 1, "kind": kind})
        code(kind, want, look, status=status)
    admin("POST", "/fault", {"action": "ListResourceRecordSets", "first": 1, "kind": "Throttle"})
    code("r53 throttle", "Throttling", zone, status=400)
    look(), zone()
    for kind in "ResetBefore", "ResetAfter", "HangAfter":
        admin("POST", "/clear-faults")
        admin("POST", "/fault", {"action": "CreateTags", "nth": 1, "kind": kind, "ms": 100})
        try:
            ec2.create_tags(Resources=[V[9]], Tags=[{"Key": kind, "Value": "1"}])
            check(kind, False, "was answered")
        except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError):
            there = kind in [t["Key"] for t in look()["Volumes"][0]["Tags"]]
            check(kind, there == (kind != "ResetBefore"))
    admin("POST", "/clear-faults")
    admin("POST", "/fault", {"action": "CreateTags", "nth": 1, "kind": "ErrorAfter500"})
    code("ErrorAfter500", "InternalError", ec2.create_tags, Resources=[V[9]], Tags=[{"Key": "late", "Value": "1"}])
    check("done all the same", "late" in [t["Key"] for t in look()["Volumes"][0]["Tags"]])
    admin("POST", "/clear-faults")
    admin("POST", "/knobs", {"stale_writes": 1, "stale_ms": 300})
    ec2.create_tags(Resources=[V[9]], Tags=[{"Key": "fresh", "Value": "1"}])
    check("stale read", "fresh" not in [t["Key"] for t in look()["Volumes"][0]["Tags"]])
    wait("fresh at last", lambda: "fresh" in [t["Key"] for t in look()["Volumes"][0]["Tags"]])
    admin("POST", "/knobs", {"stale_writes": 0, "stale_ms": 0})


def metadata():
    base = where["instances"][I1]["imds"]

    def ask(path, method="GET", **headers):
        r = urllib.request.Request(base + path, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(r) as a:
                return a.status, a.read().decode(), a.headers
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode(), e.headers

    check("no token", ask("/latest/meta-data/instance-id")[0] == 401)
    check("no ttl", ask("/latest/api/token", "PUT")[0] == 400)
    check("forwarded", ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60", X_Forwarded_For="x")[0] == 403)
    status, token, _ = ask("/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
    get = lambda p: ask("/latest/" + p, X_aws_ec2_metadata_token=token)
    check("id", get("meta-data/instance-id")[:2] == (200, I1))
    check("404 page", get("meta-data/nothing")[0] == 404 and "<html" in get("meta-data/nothing")[1])
    check("no notice", get("meta-data/spot/instance-action")[0] == 404)
    admin("POST", "/notice", {"instance": I1, "action": "terminate", "seconds": 120})
    check("notice", json.loads(get("meta-data/spot/instance-action")[1])["action"] == "terminate")
    check("user data", get("user-data")[1] == "{}")
    check("document", json.loads(get("dynamic/instance-identity/document")[1])["region"] == "eu-west-1")
    mac = get("meta-data/network/interfaces/macs/")[1].rstrip("/")
    check("macs", get("meta-data/network/interfaces/macs/%s/public-ipv4s" % mac)[1] == get("meta-data/public-ipv4")[1])
    # boto3's own client of the IMDS, and calls with a role's credentials and token.
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = base
    for k in "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE":
        os.environ.pop(k, None)
    c = boto3.Session().client("ec2", region_name="eu-west-1", endpoint_url=where["https"], verify=where["ca"])
    check("role", len(c.describe_volumes(VolumeIds=[V[1]])["Volumes"]) == 1)
    last = [x for x in admin("GET", "/calls")["api"] if x["action"] == "DescribeVolumes"][-1]
    check("call log", last["instance"] == I1 and last["tls"] and last["params"]["VolumeId.1"] == V[1], last)
    wrong = boto3.Session().client("ec2", region_name="us-east-1", endpoint_url=where["http"])
    code("region of the instance", "AuthFailure", wrong.describe_volumes)


DIR = tempfile.mkdtemp(prefix="fakeaws-")
seed_file = os.path.join(DIR, "seed.json")
with open(seed_file, "w") as f:
    json.dump(SEED, f)
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
os.environ["no_proxy"] = "*"
server = subprocess.Popen([sys.argv[1], "--dir", DIR, "--seed", seed_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
try:
    where = json.loads(server.stdout.readline())
    for transport in "https", "http":
        ec2, r53, sns, sqs = clients(where[transport])
        if transport == "http":
            check("plain HTTP", len(ec2.describe_volumes(VolumeIds=[V[1]])["Volumes"]) == 1)
    ec2, r53, sns, sqs = clients(where["https"])
    for part in volumes, creation, tags, records, messages, signatures, faults, metadata:
        try:
            part()
        except Exception as e:  # the other parts still count
            check(part.__name__, False, "%s: %s" % (type(e).__name__, e))
finally:
    server.stdin.close()
    server.wait(10)
    shutil.rmtree(DIR, ignore_errors=True)
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
