# SPDX-License-Identifier: GPL-2.0
"""`make selftests`: the kernel's own VFIO tests, with the in-tree vfio-pci and with this driver.

In one boot scripts/vm/guest/selftests.sh runs every program of tools/testing/selftests/vfio on
every device, bound first to one driver, then to the other. Both must have the same results.
"""

import dataclasses
import glob
import os
import re

import judge
import machine
from boot import by_line, say, where

IN_TREE = "vfio-pci"
PROGRAMS = "/src/build/selftests"
SCRIPT = f"{machine.GUEST}/selftests.sh"
DEVICES = {
    "igb": "igb",
    "edu": "edu",
    "pci-testdev": "pci-testdev,membar=4G",
    "nvme": "nvme,serial=1",
}
# The tests need up to 1 GiB of memory and 1 GiB of huge pages.
MEMORY = "4G"
APPEND = "hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=8"
KSFT_SKIP = 4
# vfio_pci_driver_test lets a device access unmapped addresses, and vfio_pci_sriov_uapi_test opens
# functions with wrong tokens. The kernel logs both.
EXPECTED = re.compile(r"(dmar_fault|vfio_pci_core_match_token_uuid): \d+ callbacks suppressed")


@dataclasses.dataclass
class Comparison:
    """The results of both drivers in one case of one program on one device."""

    device: str
    name: str
    cases: dict = dataclasses.field(default_factory=dict)  # driver -> judge.Case

    def status(self, driver):
        """ "passed", "failed", "skipped" or "missing"."""
        case = self.cases.get(driver)
        return case.status if case else "missing"

    def reason(self):
        """Why it was skipped."""
        reasons = {case.reason: None for case in self.cases.values() if case.reason}
        return " / ".join(reasons)


def read_section(program, lines, status):
    """The cases of one run of a program."""
    if status is None:
        return [judge.Case(program, "failed", lines + ["it did not end"])]
    text = [line for line in lines if line]
    if status == KSFT_SKIP and not any(judge.RESULT.match(line) for line in text):
        reason = text[-1].partition("# SKIP ")[2] or text[-1] if text else ""
        return [judge.Case(program, "skipped", reason=reason)]
    cases = judge.read_ktap(lines)
    if status not in (0, KSFT_SKIP) and not judge.any_failed(cases):
        cases.append(judge.Case(f"{program}: exit status {status}", "failed", text))
    return cases


def compare(output):
    """The Comparisons in the guest's output."""
    rows = {}
    for name, lines, status in judge.sections(output):
        driver, device, program = name.split(":")
        for case in read_section(program, lines, status):
            row = rows.setdefault((device, case.name), Comparison(device, case.name))
            row.cases[driver] = case
    return list(rows.values())


def table(rows, ours):
    """Prints each case with both results."""
    width = max((len(row.name) for row in rows), default=0)
    print(f"{'device':11} {'case':{width}} {IN_TREE:8} {ours}")
    for row in rows:
        why = f"  ({row.reason()})" if row.reason() else ""
        print(
            f"{row.device:11} {row.name:{width}} {row.status(IN_TREE):8} {row.status(ours)}{why}"
        )


def verdict(rows, ours):
    """The last line, and whether it is good."""
    both = [row.status(IN_TREE) for row in rows if row.status(IN_TREE) == row.status(ours)]
    passed, skipped, failed = (both.count(what) for what in ("passed", "skipped", "failed"))
    differ = len(rows) - len(both)
    line = f"selftests: {passed} cases passed on both, {skipped} skipped on both"
    line += f", {failed} failed on both" if failed else ""
    return f"{line}, {differ} differ", passed > 0 and failed == differ == 0


def report(rows, ours, log, problem):
    """Prints all results; 0 if they are good."""
    table(rows, ours)
    for row in rows:
        for driver, case in row.cases.items():
            if case.status == "failed":
                judge.print_failure(f"{driver}: {row.device}: {row.name}", case.output)
    bad = judge.splats([line for line in log if not EXPECTED.search(line)])
    for name, lines in bad.items():
        judge.print_failure(f"kernel log, {name}", lines[:60])
    different = [row for row in rows if row.status(IN_TREE) != row.status(ours)]
    print(f"\ndifference between {IN_TREE} and {ours}:{'' if different else ' none'}")
    for row in different:
        print(f"    {row.device} {row.name}: {row.status(IN_TREE)}, {row.status(ours)}")
    line, good = verdict(rows, ours)
    for what in [problem] * bool(problem) + ["the kernel log has a splat"] * bool(bad):
        line, good = f"{line}; {what}", False
    print(line, flush=True)
    return 0 if good else 1


def selftests(run):
    """Boots once and compares both drivers."""
    job = run.job("selftests", "sh", "/bin/selftests.sh", *DEVICES)
    job.files["bin/selftests.sh"] = SCRIPT
    for path in glob.glob(f"{PROGRAMS}/vfio_*_test"):
        job.files[f"selftests/{os.path.basename(path)}"] = path
    job.modules.append(IN_TREE)
    job.devices, job.memory, job.append = list(DEVICES.values()), MEMORY, APPEND
    job.env["CASE"] = os.environ.get("CASE", "")

    def on_line(line):
        if line.startswith("section: begin "):
            say(line)

    result = machine.run(job, by_line(on_line))
    problem = result.problem or (f"exit status {result.status}" if result.status else "")
    status = report(compare(result.lines()), job.driver, result.kernel_log(), problem)
    say(where(result))
    return status
