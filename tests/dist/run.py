#!/usr/bin/env python3
"""Checks the release files of both processors. `make dist-test` makes them and runs this.

    run.py [WORD...]     only checks whose names contain one of the words

Nothing is installed into the machine that runs it: packages and images go into copies of a small Debian, made by
debootstrap under target/dist-test.
"""
import sys

import kit  # noqa: F401
import images
import packages
import release
import run_aarch64
import twice
from checks import named, run_tests

if __name__ == "__main__":
    tests = [test for module in (release, packages, images, run_aarch64, twice) for test in named(vars(module))]
    words = sys.argv[1:]
    sys.exit(run_tests([(name, test) for name, test in tests if not words or any(w in name for w in words)]))
