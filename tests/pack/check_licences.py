"""Checks what the binary is made of: each crate's licence, no crate in two versions, all from crates.io, no advisories.

`make test` runs it. It reads `cargo metadata` without the network, as the crates are there once the build is. Crates that
only tests need are no part of the product, and are passed over. Known vulnerabilities are asked of cargo-audit, where it is
installed and its data can be had in time; where not, that is said and skipped.
"""

import collections
import json
import os
import pathlib
import platform
import re
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import Skip, run_tests  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGETS = ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl")
CARGO = os.environ.get("CARGO", "cargo")
# The data is a git repository on the internet: seconds where there is one.
AUDIT_SECONDS = 120
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"

# All may be linked into a program that is given away as it is, with no more than their text beside it.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
}

# Crates that may be there in several versions, and why.
TWICE = {
    "syn": "in the derive macros of serde (3) and aws-smithy-runtime-api (2): at build time only",
}


def metadata(target):
    argv = [CARGO, "metadata", "--format-version=1", "--locked", "--offline"]
    done = subprocess.run([*argv, "--filter-platform", target], cwd=ROOT, capture_output=True, text=True, timeout=120)
    # Built for one target, the crates of the other need not be there; those of this machine are.
    if "--offline was specified" in done.stderr and not target.startswith(platform.machine()):
        raise Skip(f"crates of {target} are not downloaded")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def product(target):
    """The packages that the binary is built from, without our own."""
    data = metadata(target)
    packages = {p["id"]: p for p in data["packages"]}
    nodes = {n["id"]: n for n in data["resolve"]["nodes"]}
    root = data["resolve"]["root"]
    found, to_see = {root}, [root]
    while to_see:
        for dep in nodes[to_see.pop()]["deps"]:
            # No kind: a normal dependency. Others are for tests and build scripts.
            if dep["pkg"] not in found and any(k["kind"] is None for k in dep["dep_kinds"]):
                found.add(dep["pkg"])
                to_see.append(dep["pkg"])
    return [packages[i] for i in found - {root}]


def is_allowed(expression):
    """Whether an SPDX expression can be met by licences of the list."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression or "")

    def either():
        # Both sides are read, whatever the first one says. An old way to write OR is a slash.
        good = both()
        while words and words[0] in ("OR", "/"):
            words.pop(0)
            good = both() or good
        return good

    def both():
        good = one()
        while words and words[0] == "AND":
            words.pop(0)
            good = one() and good
        return good

    def one():
        word = words.pop(0)
        if word == "(":
            good = either()
            assert words and words.pop(0) == ")", expression
            return good
        if words and words[0] == "WITH":
            word = f"{word} {words.pop(0)} {words.pop(0)}"
        return word in ALLOWED

    good = bool(words) and either()
    assert not words, f"cannot read {expression}"
    return good


def test_expressions_are_read():
    for good in ("MIT", "MIT/GPL-3.0", "GPL-3.0 OR (MIT AND ISC)", "Apache-2.0 WITH LLVM-exception", "(MIT OR X) AND Zlib"):
        assert is_allowed(good), good
    for bad in ("", None, "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH X", "(MIT OR ISC) AND X", "X OR Y"):
        assert not is_allowed(bad), bad


def check_licences(target):
    bad = [f"{p['name']} {p['version']}: {p['license']}" for p in product(target) if not is_allowed(p["license"])]
    assert not bad, "licences that are not on the list: " + ", ".join(sorted(bad))


def check_versions(target):
    versions = collections.defaultdict(set)
    for p in product(target):
        versions[p["name"]].add(p["version"])
    twice = {name: found for name, found in versions.items() if len(found) > 1}
    extra = {n: sorted(v) for n, v in twice.items() if n not in TWICE}
    assert not extra, f"in several versions, without a reason in TWICE: {extra}"
    gone = set(TWICE) - set(twice)
    assert not gone, f"in TWICE, but there once: {gone}"


def check_sources(target):
    bad = sorted(p["name"] for p in product(target) if p["source"] != REGISTRY)
    assert not bad, f"not from crates.io: {bad}"


def check_advisories(argv, seconds=AUDIT_SECONDS):
    """Fails with the advisories that cargo-audit names. Its report is JSON; without its data it makes none."""
    try:
        done = subprocess.run([*argv, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=seconds,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Skip(f"cargo-audit had no data after {seconds} s") from None
    except FileNotFoundError:
        raise Skip("cargo-audit is not installed") from None
    try:
        report = json.loads(done.stdout)["vulnerabilities"]
    except (ValueError, KeyError):
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Skip("cargo-audit says: " + (words[-1] if words else f"nothing (exit {done.returncode})")) from None
    found = [f"{v['advisory']['id']} {v['package']['name']} {v['package']['version']}" for v in report["list"]]
    assert not found, "advisories: " + ", ".join(found)


def test_advisories_are_read():
    """With programs that behave like cargo-audit: clean, with a finding, without data, without an end."""
    finding = {"advisory": {"id": "RUSTSEC-2099-0001"}, "package": {"name": "x", "version": "1.0.0"}}
    cases = [
        ("echo '%s'" % json.dumps({"vulnerabilities": {"list": []}}), None),
        ("echo '%s'; exit 1" % json.dumps({"vulnerabilities": {"list": [finding]}}), AssertionError),
        ("echo fetching; echo 'error: no network' >&2; exit 1", Skip),
        ("exec sleep 60", Skip),
    ]
    with tempfile.TemporaryDirectory() as directory:
        program = pathlib.Path(directory) / "audit"
        for script, wanted in cases:
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            try:
                check_advisories([program], seconds=1 if script.startswith("exec") else 60)
                ended = None
            except (AssertionError, Skip) as error:
                ended = type(error)
            assert ended is wanted, f"{script}: {ended}"
        try:
            check_advisories([pathlib.Path(directory) / "none"])
        except Skip:
            return
        raise AssertionError("a program that is not there is no skip")


def tests():
    yield "advisories are read", test_advisories_are_read
    # As `cargo audit`, but so that it can be seen whether it is there.
    yield "advisories", lambda: check_advisories(["cargo-audit", "audit"])
    yield "expressions are read", test_expressions_are_read
    for target in TARGETS:
        for what, check in (("licences", check_licences), ("versions", check_versions), ("sources", check_sources)):
            yield f"{what} of {target}", lambda check=check, target=target: check(target)


if __name__ == "__main__":
    sys.exit(run_tests(tests()))
