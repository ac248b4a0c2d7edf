#!/usr/bin/env python3
"""Holds the stand-in honest from outside: boto3, which knows nothing of it, runs every operation against it.

usage: check_boto3.py PATH-OF-fakeaws
EC2's volumes are here, addresses in boto3_addresses.py, snapshots in boto3_snapshots.py, what answers may lack in boto3_lies.py, the other services in boto3_services.py, signatures, faults and metadata in boto3_edges.py.
The last line says "N passed, N failed"; the exit status is 1 if any failed.
"""
import os
import sys
import time

from boto3_kit import DIR, I1, I2, I3, V, admin, check, clients, code, count, ec2, wait, where
import boto3_addresses
import boto3_edges
import boto3_lies
import boto3_scaling
import boto3_services
import boto3_snapshots


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
    instance_states()


def instance_states():
    """DescribeInstances by filter: states, pages, and what it refuses."""
    of = lambda *ids: dict(Filters=[{"Name": "instance-id", "Values": list(ids)}])
    states = lambda **k: {i["InstanceId"]: i["State"]["Name"] for p in ec2.get_paginator("describe_instances").paginate(**k)
                          for r in p["Reservations"] for i in r["Instances"]}
    for state in ("pending", "shutting-down", "terminated", "stopping", "stopped", "running"):
        admin("POST", "/instance", {"instance": I3, "state": state})
        check(state, states(**of(I1, I3, "i-0123456789abcdef0")) == {I1: "running", I3: state})
        if state == "shutting-down":
            code("detach from one that ends", "IncorrectInstanceState", ec2.detach_volume,
                 VolumeId="vol-0ccccccccccccccc1", InstanceId=I3)
    admin("POST", "/knobs", {"page_cap": 1})
    check("instances in pages", len(states(MaxResults=5)) == 3 and len(states(**of(I1, I2))) == 2)
    code("token of another list", "InvalidParameterValue", ec2.describe_instances,
         NextToken=ec2.describe_instances(MaxResults=5)["NextToken"], **of(I1, I2))
    admin("POST", "/knobs", {"page_cap": None})
    code("ids and pages", "InvalidParameterCombination", ec2.describe_instances, InstanceIds=[I1], MaxResults=5)
    code("small page", "InvalidParameterValue", ec2.describe_instances, MaxResults=4)
    code("unknown instance", "InvalidInstanceID.NotFound", ec2.describe_instances,
         InstanceIds=["i-0123456789abcdef0"])


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


check("plain HTTP", len(clients(where["http"])[0].describe_volumes(VolumeIds=[V[1]])["Volumes"]) == 1)
for part in (volumes, creation, boto3_lies.lies, tags, boto3_snapshots.snapshots, boto3_services.records, boto3_services.messages,
             boto3_edges.signatures, boto3_edges.by_hand, boto3_edges.faults, boto3_edges.crowd, boto3_edges.metadata,
             boto3_scaling.health, boto3_scaling.hooks, boto3_scaling.termination, boto3_addresses.addresses):
    try:
        part()
    except Exception as e:  # the other parts still count
        check(part.__name__, False, "%s: %s" % (type(e).__name__, e))
print("%d passed, %d failed" % (count["passed"], count["failed"]))
sys.exit(count["failed"] != 0)
