"""Route 53, SNS and SQS, by boto3."""
import time

from boto3_kit import QUEUE, TOPIC, admin, check, code, r53, sns, sqs, wait


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
    several = lambda n, ip="192.0.2.1", **more: dict({"Name": "m.example.com", "Type": "A", "SetIdentifier": "i-%08x" % n,
        "MultiValueAnswer": True, "TTL": 5, "ResourceRecords": [{"Value": ip}]}, **more)
    change(("UPSERT", several(2, "192.0.2.2")), ("UPSERT", several(1)))
    m = at("m.example.com.")
    check("multivalue", [(s["SetIdentifier"], s["MultiValueAnswer"]) for s in m] == [
        ("i-00000001", True), ("i-00000002", True)], m)
    page = r53.list_resource_record_sets(HostedZoneId="Z1", StartRecordName="m.example.com", StartRecordType="A",
                                         StartRecordIdentifier="i-00000001", MaxItems="1")
    check("page of identifiers", page["ResourceRecordSets"] == m[:1] and page["NextRecordIdentifier"] == "i-00000002", page)
    bad("a simple one beside it", "other RRSets exist", ("UPSERT", rr("m.example.com")))
    bad("another policy beside it", "another routing policy", ("UPSERT", {"Name": "m.example.com", "Type": "A",
        "SetIdentifier": "w", "Weight": 1, "TTL": 5, "ResourceRecords": [{"Value": "192.0.2.3"}]}))
    bad("two values", "only one record", ("UPSERT", several(3, ResourceRecords=[{"Value": "192.0.2.3"}, {"Value": "192.0.2.4"}])))
    bad("multivalue alias", "not possible", ("UPSERT", {"Name": "m2.example.com", "Type": "A", "SetIdentifier": "x",
        "MultiValueAnswer": True, "AliasTarget": {"HostedZoneId": "Z2", "DNSName": "x.e.", "EvaluateTargetHealth": False}}))
    bad("another's values", "do not match", ("DELETE", several(1, "192.0.2.2")))
    bad("a set that is not there", "set identifier='i-00000009'] but it was not found", ("DELETE", several(9)))
    change(("DELETE", {k: v for k, v in several(1).items() if k != "MultiValueAnswer"}))
    check("only its own is gone", at("m.example.com.") == m[1:])
    change(*[("UPSERT", several(n)) for n in range(10, 109)])
    bad("101 of them", "More than 100", ("UPSERT", several(109)))
    change(("UPSERT", several(108, "192.0.2.7")))
    change(*[("DELETE", s) for s in at("m.example.com.")])
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
