"""Checks what the demo of a handover shows: whose the data is, what came after what, and that the parts of the time add up.

Not how long it took: that depends on what else this machine does.
"""
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from checks import Skip, named, run_tests  # noqa: E402
from timeline import STEPS, parts  # noqa: E402

SHOWN = []


def shown():
    """What the demo prints; it runs once."""
    if not SHOWN:
        SHOWN.append(subprocess.run([sys.executable, HERE / "handover.py", "--any-time"], capture_output=True, text=True,
                                    timeout=300))
    assert SHOWN[0].returncode == 0, SHOWN[0].stdout + SHOWN[0].stderr
    return SHOWN[0].stdout


def in_order(*patterns):
    text = shown()
    at = 0
    for p in patterns:
        found = re.compile(p, re.M).search(text, at)
        assert found, f"no '{p}' after that in:\n{text[at:]}"
        at = found.end()


def test_the_successor_waits_and_gets_the_volume_when_the_first_has_let_it_go():
    in_order(r"^  A \| .*aaa1 attached as", r"^  A \| .*ready: ", r"^  B \| .*held by i-0a1b2c3d4e5f6000a.*; waiting up to 120 s",
             r"^  A \| .*EC2 is going to terminate", r"^  A \| .*the world is saved at tick", r"^  A \| .*aaa1 detached",
             r"^  B \| .*aaa1 attached as", r"^  B \| .*mc\.example\.com\. is now A 203\.0\.113\.20", r"^  B \| .*ready: ")


def test_the_server_goes_on_with_the_next_tick():
    saved = re.search(r"the world is saved at tick (\d+)", shown())
    went_on = re.search(r"Its server went on with tick (\d+)\.", shown())
    assert int(went_on[1]) == int(saved[1]) + 1, (saved[0], went_on[0])
    assert int(saved[1]) > 1


def test_the_volume_is_formatted_once_and_unmounted_before_it_goes():
    if "nothing is mounted" in shown():
        raise Skip("no loop device, or not root")
    in_order(r"aaa1 +available +- +if-blank", r"^  A \| .*is blank: making a file system", r"^  A \| .*mounted at /srv/mc",
             r"aaa1 +in-use +instance A +no", r"^  A \| .*unmounted /srv/mc", r"^  A \| .*aaa1 detached",
             r"^  B \| .*mounted at /srv/mc", r"a file system was made 1 time", r"^  B \| .*unmounted /srv/mc",
             r"aaa1 +available +- +no")


def test_the_parts_add_up():
    rows = re.findall(r"^ +(\d+) +(\d+)  (\w.*)$", shown(), re.M)
    *rows, total = [(int(ms), int(own), text) for ms, own, text in rows]
    assert [r[2] for r in rows] == [text for _, text in STEPS if text], rows
    for column in (0, 1):
        assert abs(sum(r[column] for r in rows) - total[column]) <= len(rows), (rows, total)
    assert all(own <= ms for ms, own, _ in rows)
    told = re.search(r"own share: (\d+) ms", shown())
    assert abs(int(told[1]) - total[1]) <= 1, (told[0], total)
    # Commands and EC2's work are not the program's; that it had none would be a mistake too.
    assert 0 < total[1] < total[0] / 2, total


def test_what_is_waited_for_on_the_way_is_not_its_own():
    marks = {name: n for n, (name, _) in enumerate(STEPS)}
    found = {text: own for text, _, own in parts(marks, [(0.5, 0.75), (0.6, 0.8), (2.5, 9)])}
    assert abs(found["A sees the notice"] - 0.7) < 1e-9, found
    assert abs(found["A unmounts and lets the volume go"] - 0.5) < 1e-9, found
    assert found["B sees that it is free and claims it"] == found["EC2 detaches"] == 0, found
    try:
        parts({**marks, "free": 2}, [])
    except AssertionError:
        return
    raise AssertionError("an order that cannot be is no error")


if __name__ == "__main__":
    sys.exit(run_tests(named(globals())))
