"""The property tests with many inputs: `make properties`, with CASES (a million) for each of them.

A test takes between half a minute and some minutes: inputs are small, and the build has optimizations and all checks.
Prints how many inputs each kind of reader was given. A failure shows the smallest input that still fails.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CASES = int(os.environ.get("CASES") or 1_000_000)

# Where a test lives, and what it gives inputs to.
KINDS = [
    ("user data", r"^config::.*::user_data_"),
    ("config", r"^config::"),
    ("macros", r"^macros::"),
    ("XML answers", r"^aws::(xml|ec2|route53)::"),
    ("metadata documents", r"^(imds|aws::credentials)::"),
    ("everything else", r""),
]


def property_tests():
    """The names of the property tests; other tests of these files make their inputs themselves."""
    found = set()
    for path in sorted((ROOT / "src").rglob("properties.rs")):
        module = "::".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for block in re.findall(r"^proptest! \{\n(.*?)^\}", path.read_text(), re.M | re.S):
            found |= {f"{module}::{name}" for name in re.findall(r"^    fn (\w+)\(", block, re.M)}
    return found


def main():
    only = sys.argv[1:]
    argv = [os.environ.get("CARGO", "cargo"), "test", "--locked", "--profile=properties", "--bin=ec2fleetd", "--"]
    env = {**os.environ, "PROPTEST_CASES": str(CASES), "RUST_BACKTRACE": "0"}
    process = subprocess.Popen([*argv, *(only or ["properties::"])], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE)
    passed = []
    for line in process.stdout:
        print(line, end="", flush=True)
        ended = re.match(r"test (\S+) \.\.\. ok", line)
        if ended:
            passed.append(ended.group(1))
    failed = process.wait() != 0

    known = property_tests()
    missing = [] if only or failed else sorted(known - set(passed))
    counts = {kind: 0 for kind, _ in KINDS}
    for name in known.intersection(passed):
        counts[next(kind for kind, pattern in KINDS if re.search(pattern, name))] += 1
    print()
    for kind, tests in counts.items():
        if tests:
            print(f"  {kind:<24}{tests:>4} tests {tests * CASES:>14,} inputs")
    if missing:
        print(f"did not run: {', '.join(missing)}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
