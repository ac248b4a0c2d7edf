"""The stand-in for AWS as a child process, for the demo, the benchmarks and the checks. FAKEAWS names its program."""
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def program(variable, default):
    """The program that an environment variable names, or one of `cargo build --release`."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = os.environ.get(variable) or str(target / "release" / default)
    if not os.access(path, os.X_OK):
        sys.exit(f"{path} is not there: build it first, or name another one in {variable}")
    return os.path.abspath(path)


class StandIn:
    """A running stand-in; its world is made of `seed` (see tests/fakeaws/seed.rs)."""

    def __init__(self, directory, seed, latency_ms=0):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "seed.json").write_text(json.dumps(seed))
        command = [program("FAKEAWS", "examples/fakeaws"), "--dir", str(self.dir), "--latency-ms", str(latency_ms)]
        command += ["--seed", str(self.dir / "seed.json")]
        # Ctrl-C is for whoever started it; it ends with its standard input.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the stand-in for AWS did not start")
        self.where = json.loads(line)
        self.instances = list(self.where["instances"])

    def ask(self, path, body=None):
        """One request to its control (see tests/fakeaws/admin.rs): a GET, or a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.where["admin"] + path, data, timeout=10) as answer:
            return json.load(answer)

    def environment(self, instance, tls=True, **more):
        """What the daemon needs in its environment to be on `instance` of this world, and nothing else."""
        at = self.where["instances"][instance]
        for part in ("dev", "sys/block", "proc/sys/kernel", "run"):
            os.makedirs(os.path.join(at["root"], part), exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "EC2FLEETD_ROOT": at["root"],
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": at["imds"],
            "AWS_ENDPOINT_URL": self.where["https" if tls else "http"],
            "AWS_CA_BUNDLE": self.where["ca"],
            **{k: str(v) for k, v in more.items()},
        }

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
