"""Elastic addresses, by boto3."""
from boto3_kit import I1, I2, admin, check, code, ec2, wait

A = ["eipalloc-0%016x" % n for n in (1, 2, 3)]


def addresses():
    every = lambda **k: {a["AllocationId"]: a for a in ec2.describe_addresses(**k)["Addresses"]}
    find = lambda n, *v: sorted(every(Filters=[{"Name": n, "Values": list(v)}]))
    check("all", sorted(every()) == A, every())
    a = every()[A[0]]
    check("free", a["PublicIp"] == "198.51.100.1" and a["Domain"] == "vpc" and "AssociationId" not in a, a)
    check("filter tag", find("tag:n", "1", "3") == [A[0], A[2]] and find("tag-key", "pool") == A)
    check("filter ip", find("public-ip", "198.51.100.2") == [A[1]] and find("domain", "vpc") == A)
    check("by id", sorted(every(AllocationIds=A[1:])) == A[1:])
    code("unknown filter", "InvalidParameterValue", ec2.describe_addresses, Filters=[{"Name": "foo", "Values": ["x"]}])
    code("unknown id", "InvalidAllocationID.NotFound", ec2.describe_addresses, AllocationIds=["eipalloc-0dead"])
    code("unknown ip", "InvalidAddress.NotFound", ec2.describe_addresses, PublicIps=["192.0.2.1"])

    nic = lambda i: admin("GET", "/state")["interfaces"][i][0]
    one, two = nic(I1), nic(I2)
    put = lambda a, n, **k: ec2.associate_address(AllocationId=a, NetworkInterfaceId=n["id"], **k)["AssociationId"]
    code("nothing", "MissingParameter", ec2.associate_address, NetworkInterfaceId=one["id"])
    code("nowhere", "MissingParameter", ec2.associate_address, AllocationId=A[0])
    code("both places", "InvalidParameterCombination", ec2.associate_address, AllocationId=A[0], InstanceId=I1,
         NetworkInterfaceId=one["id"])
    code("no such interface", "InvalidNetworkInterfaceID.NotFound", put, a=A[0], n={"id": "eni-0dead"})
    code("no such address", "InvalidAllocationID.NotFound", put, a="eipalloc-0dead", n=one)
    code("another's private address", "InvalidParameterValue", put, a=A[0], n=one, PrivateIpAddress="10.9.9.9")
    first = put(A[0], one, AllowReassociation=False)
    check("again is the same", put(A[0], one, AllowReassociation=False) == first and put(A[0], one) == first)
    a = every()[A[0]]
    check("associated", (a["AssociationId"], a["InstanceId"], a["NetworkInterfaceId"], a["PrivateIpAddress"]) == (
        first, I1, one["id"], one["private"]), a)
    check("filter association", find("network-interface-id", one["id"]) == [A[0]] and find("instance-id", I1) == [A[0]]
          and find("association-id", first) == [A[0]] and find("private-ip-address", one["private"]) == [A[0]])
    code("another's", "Resource.AlreadyAssociated", put, a=A[0], n=two, AllowReassociation=False,
         text="resource %s is already associated with associate-id %s" % (A[0], first))
    code("a second one here", "Resource.AlreadyAssociated", put, a=A[1], n=one, AllowReassociation=False,
         text="is already associated with public address 198.51.100.1")
    wait("metadata", lambda: nic(I1)["public"] == ["198.51.100.1"])
    # Without a word about it, it is taken over.
    moved = put(A[0], two)
    check("moved", moved != first and every()[A[0]]["InstanceId"] == I2)
    wait("metadata of both", lambda: (nic(I1)["public"], nic(I2)["public"]) == ([], ["198.51.100.1"]))
    gone = lambda i: ec2.disassociate_address(AssociationId=i)
    code("not that one any more", "InvalidAssociationID.NotFound", gone, i=first)
    gone(moved)
    code("twice", "InvalidAssociationID.NotFound", gone, i=moved, text="The association ID '%s' does not exist" % moved)
    check("free again", "AssociationId" not in every()[A[0]])
    by_instance = ec2.associate_address(AllocationId=A[2], InstanceId=I1)["AssociationId"]
    check("by instance", every()[A[2]]["NetworkInterfaceId"] == one["id"])
    put(A[1], one)
    check("displaced", "AssociationId" not in every()[A[2]] and every()[A[1]]["InstanceId"] == I1)
    code("displaced", "InvalidAssociationID.NotFound", gone, i=by_instance)
    ec2.disassociate_address(PublicIp="198.51.100.2")
    code("dry run", "DryRunOperation", ec2.disassociate_address, status=412, AssociationId=moved, DryRun=True)
