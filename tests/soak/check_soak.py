"""A day of polling, compressed: what `make soak` does for real time. See soak.py."""
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import soak  # noqa: E402
from checks import named, run_tests  # noqa: E402

RATE = 3000
HOURS = 24


def test_a_day_of_polling_leaves_no_trace_and_a_notice_is_acted_on():
    with tempfile.TemporaryDirectory(prefix="ec2fleetd-soak-") as directory, soak.Soak(directory, RATE, 0.05) as s:
        while s.hours() < HOURS or len(s.rounds) < soak.WARM_UP + 2:
            s.round()
        print(f"{s.hours():.1f} h in {len(s.rounds)} rounds of {len(soak.TROUBLES)} troubles, {sum(s.polls)} polls")
        print(f"after round {soak.WARM_UP}: {soak.figures(s.rounds[soak.WARM_UP - 1])}")
        print(f"at the end:    {soak.figures(s.rounds[-1])}")
        wrong = soak.leaks(s.rounds) + s.finish()
        assert not wrong, "\n".join(wrong)


def rounds(count, **grows):
    """Rounds of a daemon that is flat, but for what `grows` by so much in each."""
    base = {"RssAnon": 1200, "VmRSS": 3000, "VmHWM": 3100, "Threads": 3, "descriptors": 10}
    return [{k: v + i * grows.get(k, 0) for k, v in base.items()} for i in range(count)]


def test_what_grows_is_seen():
    assert soak.leaks(rounds(20)) == []
    assert soak.leaks(rounds(5)) == []
    assert soak.leaks(rounds(20, RssAnon=1)) == []
    for name in soak.ALLOWED:
        for count in (12, 1000):
            found = soak.leaks(rounds(count, **{name: 40}))
            assert len(found) == 1 and found[0].startswith(f"{name} grew by"), (name, count, found)
    for name in ("Threads", "descriptors"):
        assert soak.leaks(rounds(8, **{name: 1})), name


def test_too_few_rounds_prove_nothing():
    assert soak.leaks(rounds(soak.WARM_UP + 1)) != []
    assert soak.leaks(rounds(soak.WARM_UP + 2)) == []


if __name__ == "__main__":
    sys.exit(run_tests(named(globals())))
