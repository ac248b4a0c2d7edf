"""Signatures, requests that boto3 would not send, faults, crowds and metadata."""
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import boto3
import botocore.exceptions

from boto3_kit import I1, I3, QUEUE, TOPIC, V, admin, check, clients, code, ec2, r53, raw, sns, sqs, wait, where


def signatures():
    e, r, n, q, a = clients(where["http"], aws_secret_access_key="wrong")
    code("ec2 secret", "AuthFailure", e.describe_volumes, status=401)
    code("r53 secret", "SignatureDoesNotMatch", r.get_change, status=403, Id="C1")
    code("sns secret", "SignatureDoesNotMatch", n.publish, status=403, TopicArn=TOPIC, Message="m")
    code("sqs secret", "SignatureDoesNotMatch", q.send_message, status=403, QueueUrl=QUEUE, MessageBody="m")
    code("autoscaling secret", "SignatureDoesNotMatch", a.set_instance_health, status=403, InstanceId=I1,
         HealthStatus="Healthy")
    e, r, n, q, a = clients(where["http"], aws_access_key_id="AKIANOBODY")
    code("ec2 key", "AuthFailure", e.describe_volumes, status=401)
    code("r53 key", "InvalidClientTokenId", r.get_change, status=403, Id="C1")
    e, r, n, q, a = clients(where["http"], aws_session_token="token-of-none")
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

    def extra(request, **_):
        request.data["Foo"] = "1"

    fresh.meta.events.register("request-created.ec2.DescribeVolumes", extra)
    code("unknown parameter", "UnknownParameter", fresh.describe_volumes)
    old = clients(where["http"])[0]

    def version(request, **_):
        request.data["Version"] = "2015-10-01"

    old.meta.events.register("request-created.ec2.DescribeVolumes", version)
    code("version", "NoSuchVersion", old.describe_volumes)


def by_hand():
    """What boto3 would not send."""
    form = "application/x-www-form-urlencoded; charset=utf-8"
    ec2_raw = lambda body: raw("ec2", "eu-west-1", "/", "Version=2016-11-15&" + body, Content_Type=form)
    check("raw", ec2_raw("Action=DescribeVolumes")[0] == 200)
    check("members from 1", "InvalidParameterValue" in ec2_raw("Action=DescribeVolumes&VolumeId.2=" + V[0])[1])
    check("members of 0", "UnknownParameter" in ec2_raw("Action=DescribeVolumes&VolumeId.0=" + V[0])[1])
    check("plural", "UnknownParameter" in ec2_raw("Action=DescribeVolumes&Filters.1.Name=a&Filters.1.Values.1=b")[1])
    check("twice", ec2_raw("Action=DescribeVolumes&MaxResults=5&MaxResults=6")[0] == 400)
    check("no action", "InvalidAction" in ec2_raw("Action=Foo")[1])
    check("no device", "MissingParameter" in ec2_raw("Action=AttachVolume&VolumeId=%s&InstanceId=%s" % (V[0], I1))[1])
    body = "Action=SendMessage&Version=2012-11-05&MessageBody=q&QueueUrl=" + urllib.parse.quote(QUEUE, "")
    status, text = raw("sqs", "eu-west-1", "/", body, Content_Type=form)
    check("sqs query", status == 200 and "<MD5OfMessageBody>" in text, text)
    status, text = raw("sqs", "eu-west-1", "/", body.replace("fleet", "none"), Content_Type=form)
    check("sqs query error", "AWS.SimpleQueueService.NonExistentQueue" in text, text)
    check("scope", "AuthFailure" in raw("sqs", "eu-west-1", "/", "Version=2016-11-15&Action=DescribeVolumes",
                                        Content_Type=form)[1])
    path = "/2013-04-01/hostedzone/Z1/rrset/"
    ns = "https://route53.amazonaws.com/doc/2013-04-01/"
    change = ("<ChangeResourceRecordSetsRequest xmlns='%s'><ChangeBatch><Changes><Change><Action>UPSERT</Action>"
              "<ResourceRecordSet><Name>raw.example.com</Name><Type>A</Type><TTL>60</TTL><ResourceRecords>%s"
              "</ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>")
    value = "<ResourceRecord><Value>192.0.2.1</Value></ResourceRecord>"
    put = lambda body: raw("route53", "us-east-1", path, body, Content_Type="text/xml")
    check("raw change", put(change % (ns, value))[0] == 200, put(change % (ns, value)))
    check("namespace", put(change % ("http://x", value))[0] == 400)
    check("empty records", "cvc-complex-type.2.4.b" in put(change % (ns, ""))[1])
    check("not XML", "MalformedInput" in put("<a>")[1])
    check("query", raw("route53", "us-east-1", path[:-1] + "?name=%2A.web.example.com&maxitems=1", None, "GET")[0] == 200)
    check("unknown query", raw("route53", "us-east-1", path[:-1] + "?nam=a", None, "GET")[0] == 400)
    admin("POST", "/knobs", {"bare_batch_errors": True})
    bad = put(change % (ns, value.replace("192.0.2.1", "no")))[1]
    check("bare batch error", "<InvalidChangeBatch" in bad and "<Messages><Message>Invalid Resource" in bad, bad)
    admin("POST", "/knobs", {"bare_batch_errors": False})


def crowd():
    """Many at once: one winner per volume; one change of a zone at a time; latency is spent side by side."""
    admin("POST", "/knobs", {"latency_ms": 200})
    own = [clients(where["http"]) for _ in range(8)]

    def all_at_once(call):
        results = [None] * len(own)

        def one(n):
            try:
                call(n, own[n])
                results[n] = "ok"
            except botocore.exceptions.ClientError as e:
                results[n] = e.response["Error"]["Code"]

        threads = [threading.Thread(target=one, args=(n,)) for n in range(len(own))]
        begin = time.time()
        [t.start() for t in threads]
        [t.join() for t in threads]
        return sorted(results), time.time() - begin

    got, took = all_at_once(lambda n, c: c[0].attach_volume(VolumeId=V[11], InstanceId=I3, Device="/dev/xvdb" + "abcdefgh"[n]))
    check("one winner", got == ["VolumeInUse"] * 7 + ["ok"], got)
    check("side by side", 0.2 <= took < 0.8, took)
    rr = lambda n: {"Action": "UPSERT", "ResourceRecordSet": {
        "Name": "c%d.example.com" % n, "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "192.0.2.1"}]}}
    got, _ = all_at_once(lambda n, c: c[1].change_resource_record_sets(HostedZoneId="Z1", ChangeBatch={"Changes": [rr(n)]}))
    check("one change at a time", "ok" in got and "PriorRequestNotComplete" in got, got)
    admin("POST", "/knobs", {"latency_ms": 0})


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
