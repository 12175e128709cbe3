# SPDX-License-Identifier: GPL-2.0
"""`make soak`: random operations in the guest, each compared with a model of the contract.
`make fuzz`: hostile calls in the guest, each of which may answer only so much.

The programs of these names tell how it goes line by line, and end with a line of totals. A splat in
the kernel log fails the run like an outcome that was not expected.
"""

import os
import random

import judge
import machine

# To boot, to shorten a sequence that failed (soak takes 600 s at most), to look for leaks.
BESIDES_SECONDS = 1200


def command(name, minutes, seed):
    """What to run in the guest."""
    seed = seed or str(random.SystemRandom().randrange(1, 1 << 40))
    first = os.environ.get("FROM") if name == "fuzz" else None
    return [name, "--minutes", str(minutes), "--seed", seed] + (["--from", first] if first else [])


def soak(job, minutes, by_line):
    """Boots and passes on what the program says; 0 if all went well."""
    last = [""]

    def on_line(line):
        last[0] = line.decode(errors="replace").strip()
        print(last[0], flush=True)

    job.seconds = job.seconds or minutes * 60 + BESIDES_SECONDS
    result = machine.run(job, by_line(on_line))
    splats = judge.splats(result.kernel_log())
    why = ""
    if result.problem:
        why = result.problem
    elif result.status != 0:
        why = f"exit status {result.status}"
    elif " 0 mismatches" not in last[0]:
        why = "the program did not say how it ended"
    elif splats:
        why = "the kernel complained"
    for lines in splats.values():
        print("\n".join(lines[:60]))
    if why:
        print(f"{job.name}: FAILED: {why}; kernel log: {machine.outside(result.log)}", flush=True)
        return 1
    return 0
