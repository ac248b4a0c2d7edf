"""A handover in parts, each with the share that is the program's own. What it waits for is not: commands, the answers of
AWS on the way, EC2's work on the attachment."""

# What must have happened in this order: name, and what comes to an end there.
STEPS = [
    ("notice", None),
    ("stop_begins", "A sees the notice"),
    ("stop_ends", "A's command: the world is saved"),
    ("detach_answered", "A unmounts and lets the volume go"),
    ("free", "EC2 detaches"),
    ("attach_answered", "B sees that it is free and claims it"),
    ("disk", "EC2 attaches, the disk appears"),
    ("start_begins", "B checks and mounts it, points the name"),
    ("running", "B's command: the server goes on"),
]
OTHERS = {"stop_ends", "free", "disk", "running"}


def covered(begin, end, intervals):
    """How much of begin..end lies in the intervals."""
    total, at = 0.0, begin
    for a, b in sorted(intervals):
        a, b = max(a, at), min(b, end)
        if b > a:
            total, at = total + b - a, b
    return total


def parts(marks, waits):
    """(text, seconds, own seconds) of each part; `waits` are the intervals in which it waited for others on the way."""
    found = []
    for (before, _), (name, text) in zip(STEPS, STEPS[1:]):
        begin, end = marks[before], marks[name]
        # Clocks of several programs are compared here: a millisecond is nothing.
        if end < begin - 0.005:
            raise AssertionError(f"{name} came {begin - end:.3f} s before {before}")
        length = max(0.0, end - begin)
        own = 0.0 if name in OTHERS else length - covered(begin, end, waits)
        found.append((text, length, own))
    return found


class Calls:
    """The calls and moments of a stand-in, in the time of this machine."""

    def __init__(self, world, clock):
        # The answer that was there soonest says best when it was.
        tries = []
        for _ in range(10):
            before = clock()
            now = world.ask("/state")["now_ms"]
            tries.append((clock() - before, (before + clock()) / 2 - now / 1000))
        self.origin = min(tries)[1]
        self.api = world.ask("/calls")["api"]
        self.moments = world.ask("/state")["moments"]

    def when(self, what, instance):
        """When it last came about."""
        return max(self.origin + m["at_ms"] / 1000 for m in self.moments
                   if m["what"] == what and m["instance"] == instance)

    def of(self, action, instance):
        """When the calls of an action that went well began and were answered."""
        begun = [(self.origin + c["at_ms"] / 1000, c["ms"] / 1000) for c in self.api
                 if c["action"] == action and c["instance"] == instance and c["status"] == 200]
        return [(at, at + ms) for at, ms in begun]


def handover(calls, a, b, marks, work=()):
    """The parts of a handover from instance `a` to `b`. `marks` has what the commands of both noted, `work` when other
    programs ran on `b`."""
    marks = dict(marks)
    marks["detach_answered"] = calls.of("DetachVolume", a)[-1][1]
    marks["free"] = calls.when("detached", a)
    marks["attach_answered"] = calls.of("AttachVolume", b)[-1][1]
    marks["disk"] = max(marks["attach_answered"], calls.when("disk", b))
    # Only those on the way: what is done beside it hides nothing.
    waits = [i for action in ("CreateTags", "DetachVolume") for i in calls.of(action, a) if i[0] >= marks["stop_ends"]]
    waits += [i for i in calls.of("DescribeVolumes", b) if i[0] < marks["attach_answered"]]
    waits += calls.of("AttachVolume", b)
    waits += [i for action in ("ListResourceRecordSets", "ChangeResourceRecordSets") for i in calls.of(action, b)]
    return parts(marks, waits + list(work))
