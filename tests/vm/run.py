#!/usr/bin/env python3
"""Boots real guests whose disks are really plugged, and checks what becomes of them. `make vm-test` runs it.

    run.py [-v] [WORD...]     -v: shows the consoles; WORD: only checks whose names contain one of them

QEMU boots Debian's cloud kernel. The metadata service is at 169.254.169.254, the API at an address of the subnet; both are
the stand-in, which verifies signatures. When AttachVolume succeeds, a disk is plugged into the running guest; when the
guest has let go of it after DetachVolume, it is taken out.

The consoles are kept under target/vm/run. Each check prints what it proves.
"""
import os
import pathlib
import shutil
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import case_cloudinit  # noqa: E402
import case_disks  # noqa: E402
import case_early  # noqa: E402
import case_handover  # noqa: E402
import case_initramfs  # noqa: E402
import case_rc  # noqa: E402
import case_root  # noqa: E402
import case_systemd  # noqa: E402
import machine  # noqa: E402
from cloud import datagrams  # noqa: E402
from checks import Skip  # noqa: E402
from images import Images  # noqa: E402
from standin import program  # noqa: E402

CASES = [case_initramfs, case_disks, case_handover, case_rc, case_systemd, case_root, case_cloudinit, case_early]


def main():
    machine.enter()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
    scratch = target / "vm/run"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    machine.network()
    datagrams()
    images = Images(target / "vm", scratch, program("EC2FLEETD", "ec2fleetd"))
    images.choose_accel()
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    count = {"passed": 0, "failed": 0, "skipped": 0}
    began = time.monotonic()
    for case in CASES:
        for name, check in list(vars(case).items()):
            if not name.startswith("test_") or words and not any(w in name for w in words):
                continue
            print(f"\n{name[5:].replace('_', ' ')}\n  {check.__doc__}", flush=True)
            at = time.monotonic()
            try:
                for line in check(images, scratch / name[5:]) or ():
                    print(f"  - {line}", flush=True)
                result = "passed"
            except Skip as skip:
                result = f"skipped ({skip})"
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"  {type(error).__name__} in {where.name}, line {where.lineno} ({where.line}): {error}", flush=True)
                result = "failed"
            count[result.split()[0]] += 1
            print(f"  {result}, {time.monotonic() - at:.1f} s", flush=True)
    print(f"\n{images.accel}, {time.monotonic() - began:.0f} s; consoles are in {scratch}")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
