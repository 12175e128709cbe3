# SPDX-License-Identifier: GPL-2.0
"""`make demo`, `make soak`, `make fuzz`: one program, whose last line is the verdict.

The demo loads and binds the driver itself. The soak compares each of its random operations with a
model of the contract; the fuzzer makes hostile calls, of which each has few permitted answers.
"""

import os
import random
import re

import coverage
import judge
import machine
from boot import by_line, checking_leaks, where
from suite import TEST_DEVICES, TEST_QEMU_ARGS

VERDICT = re.compile(r"demo: (OK|FAILED)|, \d+ mismatches")
GOOD = ("demo: OK", ", 0 mismatches")
# For the boot, for shortening a sequence that failed (600 s at most), and for the leak scan.
EXTRA_SECONDS = 1200


def watch(job):
    """Boots and prints what the program prints; the verdict only after a look at the kernel log."""
    verdict = "the program gave no verdict"

    def on_line(line):
        nonlocal verdict
        if VERDICT.search(line):
            verdict = line
        else:
            print(line, flush=True)

    result = machine.run(job, by_line(on_line))
    splats = [line for lines in judge.splats(result.kernel_log()).values() for line in lines]
    if result.problem:
        why = result.problem
    elif not any(good in verdict for good in GOOD):
        why = verdict.removeprefix("demo: FAILED: ")
    elif result.status != 0:
        why = f"exit status {result.status}"
    elif splats:
        why = "the kernel log has a splat"
    else:
        print(verdict, flush=True)
        return 0
    print("\n".join(splats[:60]))
    print(where(result))
    print(f"{job.name}: FAILED: {why}", flush=True)
    return 1


def demo(run):
    """Shows the main job."""
    job = run.job("demo", "demo", load=False)
    job.devices = ["edu"]
    return watch(job)


def soak(run):
    """Runs the soak or the fuzzer for MINUTES, the soak also for OPERATIONS."""
    minutes, operations = os.environ.get("MINUTES") or "10", os.environ.get("OPERATIONS")
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(1, 1 << 40))
    amount = ["--operations", operations] if operations else ["--minutes", minutes]
    command = [run.target, *amount, "--seed", seed]
    if run.target == "fuzz" and os.environ.get("FROM"):
        command += ["--from", os.environ["FROM"]]
    job = run.job(run.target, *checking_leaks(*command), load=False)
    job.devices, job.qemu_args = TEST_DEVICES, TEST_QEMU_ARGS
    if run.target == "fuzz":
        job.insmod.insert(0, f"/{coverage.COLLECTOR}")
    if not operations:
        job.seconds = job.seconds or int(minutes) * 60 + EXTRA_SECONDS
    return watch(job)
