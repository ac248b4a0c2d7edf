"""What EC2's answers may leave out, repeat or tell too late."""
import itertools
import time

import botocore.exceptions

from boto3_kit import I1, V, admin, check, code, ec2, wait

BASE = dict(AvailabilityZone="eu-west-1a", Size=1, VolumeType="gp3")
SPEC = [{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "late"}]}]


def knobs(**k):
    admin("POST", "/knobs", k)


def fault(action, kind, **more):
    admin("POST", "/fault", dict(more, action=action, kind=kind))


def find(name, *values):
    return [v["VolumeId"] for v in ec2.describe_volumes(Filters=[{"Name": name, "Values": list(values)}])["Volumes"]]


def lies():
    pool = lambda: sorted(find("tag:pool", "p"))
    fault("DescribeVolumes", "Empty", nth=1)
    check("an empty answer", pool() == [] and pool() == V)
    fault("DescribeVolumes", "Without", nth=1, id=V[3])
    check("an answer without one", pool() == V[:3] + V[4:] and pool() == V)
    admin("POST", "/clear-faults", {})
    lost = ec2.create_volume(**BASE)["VolumeId"]
    wait("made", lambda: find("status", "available").count(lost) == 1)
    fault("DescribeVolumes", "ThenDeleted", nth=1, id=lost)
    check("there and gone", find("volume-id", lost) == [lost] and find("volume-id", lost) == [])
    code("attach what is gone", "InvalidVolume.NotFound", ec2.attach_volume, VolumeId=lost, InstanceId=I1, Device="/dev/xvdz")
    admin("POST", "/clear-faults", {})
    replays()
    tags()
    pages()
    late()


def replays():
    make = lambda: ec2.create_volume(ClientToken="replayed", TagSpecifications=SPEC, **BASE)
    first = make()["VolumeId"]
    wait("available", lambda: make()["State"] == "available")
    ec2.delete_volume(VolumeId=first)
    wait("gone", lambda: find("volume-id", first) == [])
    again = make()
    check("its last state", (again["VolumeId"], again["State"]) == (first, "available"), again)
    knobs(replay_first_answer=True)
    again = make()
    check("its first state", (again["VolumeId"], again["State"]) == (first, "creating"), again)
    knobs(replay_first_answer=False)
    code("and it is gone", "InvalidVolume.NotFound", ec2.attach_volume, VolumeId=first, InstanceId=I1, Device="/dev/xvdz")


def tags():
    knobs(tags_late_ms=400, created_untagged=True)
    made = ec2.create_volume(TagSpecifications=SPEC, **BASE)
    id = made["VolumeId"]
    check("an answer without tags", not made.get("Tags"), made)
    of = lambda: ec2.describe_volumes(VolumeIds=[id])["Volumes"][0].get("Tags", [])
    check("no tags yet", of() == [] and id not in find("tag:k", "late"))
    wait("tags come", lambda: of() == SPEC[0]["Tags"] and id in find("tag:k", "late"))
    ec2.create_tags(Resources=[id], Tags=[{"Key": "k", "Value": "new"}])
    check("old tags", of() == SPEC[0]["Tags"])
    wait("new tags", lambda: of() == [{"Key": "k", "Value": "new"}])
    knobs(tags_late_ms=0, created_untagged=False)


def pages():
    p = ec2.get_paginator("describe_volumes")
    of = lambda: [[v["VolumeId"] for v in page["Volumes"]] for page in itertools.islice(
        p.paginate(Filters=[{"Name": "tag:pool", "Values": ["p"]}], PaginationConfig={"PageSize": 10}), 8)]
    knobs(endless_pages="same")
    try:
        check("a token that leads to itself", False, of())
    except botocore.exceptions.PaginationError:
        check("a token that leads to itself", True)
    knobs(endless_pages="empty")
    check("empty for ever", [len(page) for page in of()] == [10, 2, 0, 0, 0, 0, 0, 0])
    knobs(endless_pages="again")
    check("from the start for ever", [len(page) for page in of()] == [10, 2] * 4)
    knobs(endless_pages=None)


def late():
    state = lambda: [a["State"] for a in ec2.describe_volumes(VolumeIds=[V[7]])["Volumes"][0]["Attachments"]]
    fault("AttachVolume", "Late", nth=1, ms=300)
    try:
        ec2.attach_volume(VolumeId=V[7], InstanceId=I1, Device="/dev/xvdy")
        check("no answer", False)
    except botocore.exceptions.HTTPClientError:
        check("no answer", state() == [])
    wait("but it is done", lambda: state() == ["attached"])
    admin("POST", "/clear-faults", {})
    ec2.detach_volume(VolumeId=V[7], InstanceId=I1)
    wait("free", lambda: state() == [])
    time.sleep(0.6)
