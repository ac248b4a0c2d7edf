"""Checks that the demo shows what the README says of it: the world before, after, and after an interruption."""
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from checks import named, run_tests  # noqa: E402

SHOWN = []


def shown():
    """What the demo prints; it runs once."""
    if not SHOWN:
        SHOWN.append(subprocess.run([sys.executable, HERE / "demo.py"], capture_output=True, text=True, timeout=120))
    assert SHOWN[0].returncode == 0, SHOWN[0].stdout + SHOWN[0].stderr
    return SHOWN[0].stdout


def part(title):
    """The text below a title."""
    found = re.search(rf"^== {title}.*?\n(.*?)(?=^== |\Z)", shown(), re.S | re.M)
    assert found, f"no part '{title}' in:\n{shown()}"
    return found[1]


def has(text, *patterns):
    for p in patterns:
        assert re.search(p, text), f"no '{p}' in:\n{text}"


def test_before_the_pool_is_free_and_the_name_points_elsewhere():
    has(part("Before"), r"aaa2 .*available", r"mc\.example\.com\. +A +60 +203\.0\.113\.77", r"MESSAGE TO: none")


def test_after_a_volume_is_claimed_one_is_created_and_the_name_points_here():
    has(part("After"), r"aaa2 .*in-use +this instance /dev/xvdf", r"node/chain .*this instance /dev/xvdg",
        r"mc\.example\.com\. +A +60 +203\.0\.113\.10", r"SNS topic +mc: started", r"SQS queue .*node .*: started")


def test_an_interruption_runs_the_commands_and_tells():
    has(part("EC2 takes the capacity back"), r"terminate this instance", r"the world is saved", r"the node has stopped",
        r"exit code 0", r"SNS topic +mc: interrupted", r"SQS queue .*node .*: interrupted")


if __name__ == "__main__":
    sys.exit(run_tests(named(globals())))
