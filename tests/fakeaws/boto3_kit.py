"""What the checks with boto3 share: the seed, the running stand-in, clients, and the counting of results.

Importing it starts the program whose path is the first argument; it ends with this process.
"""
import atexit
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
import botocore.auth
import botocore.awsrequest
import botocore.credentials
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
    "groups": [{"name": "web", "members": [I1, I2], "hooks": {
        "down": {"transition": "terminating", "heartbeat_ms": 60000},
        "short": {"transition": "launching", "heartbeat_ms": 300}}}],
    "addresses": [{"id": "eipalloc-0%016x" % n, "ip": "198.51.100.%d" % n, "tags": {"pool": "a", "n": str(n)}}
                  for n in (1, 2, 3)],
    "topics": [TOPIC, TOPIC + ".fifo"],
    "queues": [QUEUE, QUEUE + ".fifo"],
}
V = ["vol-0bbbbbbbbbbbbbb%02x" % n for n in range(12)]
count = {"passed": 0, "failed": 0}


def check(name, good, more=""):
    count["passed" if good else "failed"] += 1
    if not good:
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
    return make("ec2"), make("route53", "us-east-1"), make("sns"), make("sqs"), make("autoscaling")


def raw(service, region, path, body, method="POST", **headers):
    """A request of one's own, signed by botocore: status and body."""
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    body = body.encode() if body is not None else None
    request = botocore.awsrequest.AWSRequest(method, where["http"] + path, headers, body)
    key = botocore.credentials.Credentials(where["access_key"], where["secret_key"])
    botocore.auth.SigV4Auth(key, service, region).add_auth(request)
    send = urllib.request.Request(where["http"] + path, body, dict(request.headers.items()), method=method)
    try:
        with urllib.request.urlopen(send) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


DIR = tempfile.mkdtemp(prefix="fakeaws-")
seed_file = os.path.join(DIR, "seed.json")
with open(seed_file, "w") as f:
    json.dump(SEED, f)
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
os.environ["no_proxy"] = "*"
server = subprocess.Popen([sys.argv[1] if len(sys.argv) > 1 else os.environ["FAKEAWS"], "--dir", DIR, "--seed", seed_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@atexit.register
def stop():
    server.stdin.close()
    server.wait(10)
    shutil.rmtree(DIR, ignore_errors=True)


where = json.loads(server.stdout.readline())
ec2, r53, sns, sqs, scaling = clients(where["https"])
