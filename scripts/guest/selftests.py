# SPDX-License-Identifier: GPL-2.0
"""`make selftests`: the kernel's own VFIO tests, with the in-tree vfio-pci and with this driver.

One boot runs every program of tools/testing/selftests/vfio on every device, first bound to one
driver, then to the other (scripts/guest/selftests.sh). What counts is that both pass the same.
"""

import dataclasses
import glob
import os
import re

import judge
import machine

IN_TREE = "vfio-pci"
PROGRAMS = "/src/build/selftests"
SCRIPT = f"{os.path.dirname(os.path.abspath(__file__))}/selftests.sh"
DEVICES = {
    "igb": "igb",
    "edu": "edu",
    "pci-testdev": "pci-testdev,membar=4G",
    "nvme": "nvme,serial=1",
}
# The tests want up to 1 GiB of plain memory and 1 GiB of huge pages.
MEMORY = "4G"
APPEND = "hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=8"
KSFT_SKIP = 4
# vfio_pci_driver_test lets a device reach for addresses that are not mapped, and
# vfio_pci_sriov_uapi_test opens functions with wrong tokens; the kernel says so.
WANTED = re.compile(r"(dmar_fault|vfio_pci_core_match_token_uuid): \d+ callbacks suppressed")
SECTION = re.compile(r"selftests: (begin|end) (\S+):(\S+):(\S+?)(?: (\d+))?$")


@dataclasses.dataclass
class Comparison:
    """What both drivers made of one case of one program on one device."""

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


def sections(text):
    """(driver, device, program, lines, exit status or None) for each program that was run."""
    found, current = [], None
    for line in text.replace("\r", "").split("\n"):
        mark = SECTION.match(line)
        if mark and mark[1] == "begin":
            current = [*mark.groups()[1:4], [], None]
            found.append(current)
        elif mark and current and list(mark.groups()[1:4]) == current[:3]:
            current[4] = int(mark[5])
            current = None
        elif current:
            current[3].append(line)
    return found


def said(lines, name):
    """What a program printed about a case."""
    begin = next((i for i, line in enumerate(lines) if f" RUN           {name} " in line), 0)
    end = next((i for i, line in enumerate(lines) if re.match(rf"(not )?ok \d+ {name}\b", line)), 0)
    return lines[begin : end + 1] if begin < end else []


def read_section(program, lines, status):
    """Cases of one run of a program of the kernel's."""
    if status is None:
        return [judge.Case(program, "failed", lines + ["it did not end"])]
    text = [line for line in lines if line]
    if status == KSFT_SKIP and not any(judge.RESULT.match(line) for line in text):
        reason = text[-1].partition("# SKIP ")[2] or text[-1] if text else ""
        return [judge.Case(program, "skipped", reason=reason)]
    cases = judge.read_tap("\n".join(lines))
    for case in cases:
        case.output = said(lines, case.name) or case.output
    if status not in (0, KSFT_SKIP) and all(case.status != "failed" for case in cases):
        cases.append(judge.Case(f"{program}: exit status {status}", "failed", text))
    return cases


def compare(text):
    """The Comparisons in what the guest printed."""
    rows = {}
    for driver, device, program, lines, status in sections(text):
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
    """Prints all there is to say of a run; 0 if it was good."""
    table(rows, ours)
    for row in rows:
        for driver, case in row.cases.items():
            if case.status == "failed":
                print(f"\nFAILED: {driver}: {row.device}: {row.name}")
                print("".join(f"    {line}\n" for line in case.output), end="")
    bad = judge.splats([line for line in log if not WANTED.search(line)])
    for name, lines in bad.items():
        print(f"\nFAILED: kernel log, {name}")
        print("".join(f"    {line}\n" for line in lines[:60]), end="")
    different = [row for row in rows if row.status(IN_TREE) != row.status(ours)]
    print(f"\ndifference between {IN_TREE} and {ours}:{'' if different else ' none'}")
    for row in different:
        print(f"    {row.device} {row.name}: {row.status(IN_TREE)}, {row.status(ours)}")
    line, good = verdict(rows, ours)
    for what in [problem] * bool(problem) + ["the kernel complained"] * bool(bad):
        line, good = f"{line}; {what}", False
    print(line, flush=True)
    return 0 if good else 1


def selftests(job, say):
    """Boots once for both drivers and compares; 0 if they do the same."""
    job.command = ["sh", "/bin/selftests.sh", *DEVICES]
    job.files["bin/selftests.sh"] = SCRIPT
    for path in glob.glob(f"{PROGRAMS}/vfio_*_test"):
        job.files[f"selftests/{os.path.basename(path)}"] = path
    job.modules.append(IN_TREE)
    job.devices, job.memory, job.append = list(DEVICES.values()), MEMORY, APPEND
    job.env["CASE"] = os.environ.get("CASE", "")
    rest = [""]

    def on_output(data):
        *lines, rest[0] = (rest[0] + data.decode(errors="replace")).split("\n")
        for line in lines:
            if SECTION.match(line.strip()) and " begin " in line:
                say(line.strip())

    result = machine.run(job, on_output)
    text = result.output.decode(errors="replace")
    with open(os.path.join(os.path.dirname(result.log), "output"), "w") as file:
        file.write(text)
    problem = result.problem or (f"exit status {result.status}" if result.status else "")
    status = report(compare(text), job.driver, result.kernel_log(), problem)
    say(f"kernel log: {machine.outside(result.log)}")
    return status
