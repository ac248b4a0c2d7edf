"""The binary for the other processor, run by qemu-user: what it says of itself, configs, and the whole demo."""
import os
import pathlib
import platform
import sys
import tempfile

from kit import CONFIG, HERE, VERSION, named, run, tool

sys.path.insert(0, str(HERE.parent / "demo"))


def emulated(directory):
    """A program that runs the binary for aarch64, here."""
    qemu = "" if platform.machine() == "aarch64" else tool("qemu-aarch64-static", "qemu-user-static")
    wrapper = pathlib.Path(directory) / "ec2fleetd"
    wrapper.write_text(f'#!/bin/sh\nexec {qemu} {named("aarch64")} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_it_says_its_version():
    with tempfile.TemporaryDirectory() as scratch:
        done = run(emulated(scratch), "--version")
        assert done.returncode == 0 and VERSION in done.stdout, done


def test_it_checks_configs():
    with tempfile.TemporaryDirectory() as scratch:
        program = emulated(scratch)
        good = run(program, "--check", "--userdata=-", stdin=None, input=CONFIG)
        assert good.returncode == 0, good.stderr
        bad = run(program, "--check", "--userdata=-", stdin=None, input=CONFIG.replace("domains", "domainz"))
        assert bad.returncode == 2 and "domains" in bad.stderr, bad


def test_it_does_the_whole_demo():
    """Two domains come up over TLS, with volumes, a record and messages, and go down at an interruption."""
    import check_demo
    from checks import named as tests_of

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EC2FLEETD"] = emulated(scratch)
        tests = tests_of(vars(check_demo))
        assert tests
        for _, test in tests:
            test()
