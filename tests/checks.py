"""What the checks in tests/*/check_*.py share: how they run, count and close."""


class Skip(Exception):
    """A test that cannot run here."""


def run_tests(tests):
    """Runs (name, function) pairs, prints a line for each and the count that tests/run.sh reads. The exit code."""
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for name, test in tests:
        try:
            test()
            result, why = "passed", ""
        except Skip as skip:
            result, why = "skipped", f" ({skip})"
        except Exception as error:
            result, why = "failed", f"\n{type(error).__name__}: {error}"
        count[result] += 1
        print(f"{name} ... {result}{why}")
    print(f"\n{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


def named(module):
    """The functions of a module (its globals()) that are called test_…, in order."""
    return [item for item in module.items() if item[0].startswith("test_")]
