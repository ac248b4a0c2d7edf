"""Snapshots: what they hold, their time, their limits, and volumes made from them."""
import os

from boto3_kit import DIR, V, admin, check, code, ec2, wait

SEED = "snap-0123456789abcdef0"


def snapshots():
    admin("POST", "/knobs", {"snapshot_gap_ms": 0, "snapshot_ms": 400})
    disk = os.path.join(DIR, "disks", V[7] + ".img")
    # A disk has a file once something looks at it; the first snapshot does.
    first = ec2.create_snapshot(VolumeId=V[7])["SnapshotId"]
    with open(disk, "r+b") as f:
        f.write(b"early")
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "pool", "Value": "p"}, {"Key": "n", "Value": "1"}]}]
    a = ec2.create_snapshot(VolumeId=V[7], Description="d <&>", TagSpecifications=tags)
    check("snapshot", a["State"] == "pending" and a["VolumeId"] == V[7] and a["VolumeSize"] == 10 and
          a["Description"] == "d <&>" and len(a["Tags"]) == 2 and a["OwnerId"] == "111122223333", a)
    sid = a["SnapshotId"]
    with open(disk, "r+b") as f:
        f.write(b"later")
    get = lambda s: ec2.describe_snapshots(SnapshotIds=[s])["Snapshots"][0]
    make = lambda s=sid, **k: ec2.create_volume(AvailabilityZone="eu-west-1b", SnapshotId=s, VolumeType="gp3", **k)
    code("of a pending one", "IncorrectState", make)
    wait("progress", lambda: get(sid)["Progress"] not in ("0%", "100%"))
    wait("completed", lambda: get(sid)["State"] == "completed" and get(sid)["Progress"] == "100%")
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[sid], WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    v = make(VolumeInitializationRate=200)
    check("size of the snapshot", v["Size"] == 10 and v["SnapshotId"] == sid and v["AvailabilityZone"] == "eu-west-1b", v)
    copy = open(os.path.join(DIR, "disks", v["VolumeId"] + ".img"), "rb").read(5)
    check("data of its time", copy == b"early", copy)
    code("smaller", "InvalidParameterValue", make, Size=9)
    code("rate without snapshot", "InvalidParameterCombination", ec2.create_volume, AvailabilityZone="eu-west-1a",
         Size=1, VolumeInitializationRate=200)
    code("rate range", "InvalidParameterValue", make, VolumeInitializationRate=99)

    # Others' snapshots show only where no owner is asked for, and without tags.
    other = admin("POST", "/snapshot", {"owner": "444455556666", "public": True, "tags": {"pool": "p"}})["id"]
    hidden = admin("POST", "/snapshot", {"owner": "444455556666"})["id"]
    ids = lambda **k: sorted(s["SnapshotId"] for s in ec2.describe_snapshots(**k)["Snapshots"])
    flt = lambda n, *v, **k: ids(Filters=[{"Name": n, "Values": list(v)}], **k)
    check("all public ones", other in ids() and hidden not in ids())
    check("own ones", ids(OwnerIds=["self"]) == sorted([SEED, first, sid]), ids(OwnerIds=["self"]))
    check("tags of others", flt("tag:pool", "p") == [sid] and "Tags" not in get(other))
    check("public volume", make(other)["State"] == "creating")
    code("hidden", "InvalidSnapshot.NotFound", make, s=hidden)
    code("of others", "UnauthorizedOperation", ec2.delete_snapshot, status=403, SnapshotId=other)
    check("by volume", flt("volume-id", V[7]) == sorted([first, sid]))
    check("by status", flt("status", "completed", OwnerIds=["self"]) == sorted([SEED, first, sid]))
    day = get(sid)["StartTime"].strftime("%Y-%m-%d*")
    check("by time", sid in flt("start-time", day) and flt("start-time", "1999*") == [])
    code("unknown filter", "InvalidParameterValue", ec2.describe_snapshots, Filters=[{"Name": "size", "Values": ["1"]}])
    code("owner", "InvalidUserID.Malformed", ec2.describe_snapshots, OwnerIds=["me"])
    code("unknown snapshot", "InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=["snap-0dddddddddddddddd"])
    code("malformed", "InvalidSnapshotID.Malformed", ec2.describe_snapshots, SnapshotIds=["snap-1"])
    code("MaxResults with ids", "InvalidParameterCombination", ec2.describe_snapshots, SnapshotIds=[sid], MaxResults=5)
    many = [admin("POST", "/snapshot", {"tags": {"many": "1"}, "age": n})["id"] for n in range(7)]
    pages = list(ec2.get_paginator("describe_snapshots").paginate(
        Filters=[{"Name": "tag:many", "Values": ["1"]}], PaginationConfig={"PageSize": 5}))
    got = [s["SnapshotId"] for p in pages for s in p["Snapshots"]]
    check("pages", [len(p["Snapshots"]) for p in pages] == [5, 2] and sorted(got) == sorted(many), got)

    ec2.create_tags(Resources=[sid], Tags=[{"Key": "x", "Value": "y"}])
    check("tagged", {"Key": "x", "Value": "y"} in get(sid)["Tags"])
    ec2.delete_tags(Resources=[sid], Tags=[{"Key": "x"}])
    check("untagged", len(get(sid)["Tags"]) == 2)
    code("tag of none", "InvalidSnapshot.NotFound", ec2.create_tags, Resources=["snap-0dddddddddddddddd"],
         Tags=[{"Key": "x", "Value": "y"}])

    used = admin("POST", "/snapshot", {"images": ["ami-1"]})["id"]
    code("in use", "InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=used, text="ami-1")
    ec2.delete_snapshot(SnapshotId=sid)
    code("deleted", "InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=sid)
    check("the volume stays", ec2.describe_volumes(VolumeIds=[v["VolumeId"]])["Volumes"][0]["SnapshotId"] == sid)

    code("no volume", "InvalidVolume.NotFound", ec2.create_snapshot, VolumeId="vol-0dddddddddddddddd")
    code("kind of tags", "InvalidParameterValue", ec2.create_snapshot, VolumeId=V[8],
         TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v"}]}])
    admin("POST", "/knobs", {"snapshot_ms": 5000, "pending_snapshots": 2})
    for _ in range(2):
        ec2.create_snapshot(VolumeId=V[8])
    code("too many", "ConcurrentSnapshotLimitExceeded", ec2.create_snapshot, VolumeId=V[8])
    admin("POST", "/knobs", {"snapshot_gap_ms": 15000})
    ec2.create_snapshot(VolumeId=V[9])
    code("too fast", "SnapshotCreationPerVolumeRateExceeded", ec2.create_snapshot, VolumeId=V[9])
    admin("POST", "/knobs", {"snapshot_invisible_ms": 600000})
    new = ec2.create_snapshot(VolumeId=V[5])["SnapshotId"]
    code("not yet", "InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[new])
    admin("POST", "/knobs", {"snapshot_ms": 50, "snapshot_fails": True, "snapshot_invisible_ms": 0})
    bad = ec2.create_snapshot(VolumeId=V[10])["SnapshotId"]
    wait("error", lambda: flt("status", "error") == [bad])
    code("of a bad one", "IncorrectState", make, s=bad)
    admin("POST", "/deny", {"action": "EC2:CreateTags"})
    code("tags denied", "UnauthorizedOperation", ec2.create_snapshot, status=403, VolumeId=V[6],
         TagSpecifications=tags, text="ec2:CreateTags")
    admin("POST", "/permit", {"action": "EC2:CreateTags"})
    admin("POST", "/knobs", {"snapshot_ms": 100, "snapshot_fails": False, "pending_snapshots": 5})
