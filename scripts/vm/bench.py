# SPDX-License-Identifier: GPL-2.0
"""`make bench`: the cost of the driver, compared with the in-tree vfio-pci in the same boot.

The guest's one CPU executes one instruction per virtual nanosecond, so its program `bench` counts
instructions, and figures repeat exactly. They do not show caches, contention or TLB shootdown.
"""

import dataclasses
import json
import sys

import machine
from arch import BUILD
from boot import MODULE, where

DEVICES = ["bochs-display,vgamem=256M", "pci-testdev,membar=1G"]


@dataclasses.dataclass
class Limit:
    """The limits of a row: a number, and a ratio to an in-tree figure."""

    most: float = float("inf")
    ratio: float = float("inf")
    of: str = ""  # the row with that figure, if not this one


# How much disabled tracepoints may add to one of these: a nop each, and what the compiler moves
# because of it.
UNTRACED = ["fault_block", "fault_page", "bar_mmap", "buf_mmap", "export_1", "revoke_1", "memoff_0"]
TRACEPOINTS_OFF = 25

LIMITS = {
    "fault_block": Limit(ratio=1.05),
    "fault_page": Limit(ratio=1.1),
    "touch_pages": Limit(ratio=0.06),
    "touch_pages_faults": Limit(most=64),
    "touch_wc": Limit(ratio=0.06, of="touch_pages"),
    "touch_wc_faults": Limit(most=64),
    "touch_blocks_faults": Limit(most=1),
    "touch_blocks_odd_faults": Limit(most=600),
    "bar_mmap": Limit(ratio=1.3),
    "buf_mmap": Limit(most=9500),
    "export_1": Limit(ratio=1.3),
    "export_4096_ranges": Limit(ratio=1.1),
    "last_of_16384": Limit(most=6000),
    "touch_16384": Limit(most=10_000_000),
    "touch_16384_faults": Limit(most=64),
    "revoke_1": Limit(most=2300),
    "revoke_1_among_1000": Limit(most=2300),
    "revoke_innocent": Limit(most=0),
    # The owner's call brings its arguments in, waits for its turn, and closes and opens the gate.
    "memoff_0": Limit(ratio=1.25),
    "memoff_1000_bar_maps": Limit(ratio=1.05),
    "memoff_1000_mapped": Limit(ratio=1.05),
    "memoff_1000_exported": Limit(most=5000),
    "memon_1000": Limit(most=2500),
    "slab_per_bar_map": Limit(most=1500),
}


def parse(lines):
    """The rows that the guest's program printed."""
    rows = []
    for line in lines:
        words = line.split()
        if len(words) == 5 and words[2].isdigit():
            bare, peer = [int(word) if word.isdigit() else None for word in words[3:]]
            row = {"id": words[0], "unit": words[1], "ours": int(words[2])}
            rows.append(row | {"untraced": bare, "in_tree": peer})
    return rows


def bound(row, rows):
    """The largest figure that the row may have, or None."""
    limit = LIMITS.get(row["id"])
    if not limit:
        return None
    peers = {other["id"]: other["in_tree"] for other in rows}
    peer = peers.get(limit.of or row["id"])
    bounds = [limit.most] + ([] if peer is None else [limit.ratio * peer])
    if row["id"] in UNTRACED:
        bounds.append(row["untraced"] + TRACEPOINTS_OFF)
    return min(bounds)


def table(rows):
    """Prints the rows as Markdown; returns those that miss their limit."""
    print("| row | unit | ours | without tracepoints | in-tree | ours/in-tree | limit | |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    missed = []
    for row in rows:
        most = bound(row, rows)
        good = most is None or row["ours"] <= most
        if not good:
            missed.append(row["id"])
        peer = row["in_tree"]
        ratio = f"{row['ours'] / peer:.3f}" if peer else "–"
        print(
            f"| {row['id']} | {row['unit']} | {row['ours']:,} | {row['untraced']:,} | "
            f"{'–' if peer is None else f'{peer:,}'} | {ratio} | "
            f"{'–' if most is None else f'{int(most):,}'} | "
            f"{'' if most is None else 'ok' if good else 'MISSED'} |"
        )
    return missed


def guest(run, *command):
    """A guest with both drivers."""
    job = run.job("bench", *command, load=False)
    job.devices, job.append = DEVICES, "norandmaps quiet loglevel=4"
    job.modules.append("vfio-pci")
    job.files[f"lib/untraced/{MODULE}.ko"] = f"{BUILD}/untraced-module/{MODULE}.ko"
    return job


def fail(why, result):
    """Prints why there is no table."""
    why = result.problem or (f"status {result.status}" if result.status else why)
    print("\n".join(result.lines()))
    print(f"error: bench: {why}; {where(result)}", file=sys.stderr)
    return 1


def contention(run):
    """Prints how both drivers compare when threads on several CPUs compete."""
    job = guest(run, "bench", "threads")
    job.parallel = True
    result = machine.run(job)
    rows = [line.split() for line in result.lines()]
    rows = [row for row in rows if len(row) == 3]
    if result.problem or result.status != 0 or not rows:
        return fail("no rows", result)
    print("\nWall clock, several threads on 4 emulated CPUs; best of 15 rounds, ours/in-tree:\n")
    print("| row | threads | ours/in-tree |")
    print("|---|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 0


def bench(run):
    """Prints the tables, writes bench.json; 0 if no row exceeds its limit."""
    job = guest(run, "bench")
    job.icount = True
    result = machine.run(job)
    rows = parse(result.lines())
    lost = set(LIMITS) - {row["id"] for row in rows}
    if result.problem or result.status != 0 or lost:
        return fail(f"rows missing: {sorted(lost)}", result)
    with open(f"{BUILD}/bench.json", "w") as file:
        json.dump({"rows": rows}, file, indent=1)
        file.write("\n")
    missed = table(rows)
    if missed:
        print(f"bench: over the limit: {', '.join(missed)}")
        return 1
    print("bench: every limit is met")
    return contention(run)
