"""Checks what the binary is made of: each crate's licence, no crate in two versions, all from crates.io.

`make test` runs it. It reads `cargo metadata` without the network, as the crates are there once the build is. Crates that
only tests need are no part of the product, and are passed over.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import Skip, run_tests  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGETS = ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl")
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
    argv = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version=1", "--locked", "--offline"]
    done = subprocess.run([*argv, "--filter-platform", target], cwd=ROOT, capture_output=True, text=True, timeout=120)
    # Built for one target, the crates of the other need not be there.
    if "--offline was specified" in done.stderr:
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


def tests():
    yield "expressions are read", test_expressions_are_read
    for target in TARGETS:
        for what, check in (("licences", check_licences), ("versions", check_versions), ("sources", check_sources)):
            yield f"{what} of {target}", lambda check=check, target=target: check(target)


if __name__ == "__main__":
    sys.exit(run_tests(tests()))
