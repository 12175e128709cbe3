# SPDX-License-Identifier: GPL-2.0
"""Decides from logs alone what passed: the kernel's log, TAP, and how the guest ended.

Every line that looks like a splat is a failure, whoever wrote it. The one exception: a data race
counts only if a function of our modules made one of the two accesses, or called what made it.
"""

import dataclasses
import io
import re

# A line in the kernel log that matches is a failure. The lookarounds exclude what a debug kernel
# prints during boot.
SPLAT = re.compile(
    r"""WARNING: | \bBUG\b | \bOops\b | Kernel\ panic | cut\ here | Call\ [Tt]race: | RIP:
      | Internal\ error: | SError | Bad\ mode\ in
      | general\ protection | invalid\ opcode | divide\ error | double\ fault | stack\ segment
      | [Uu]nable\ to\ handle | NULL\ pointer\ dereference
      | (?<!double-/)use-after-free
      | possible\ (circular|recursive|irq|deadlock) | INFO:\ possible | INFO:\ rcu | INFO:\ task
      | inconsistent\ lock\ state | suspicious\ RCU | DEBUG_LOCKS_WARN_ON | bad\ unlock\ balance
      | held\ lock\ freed | lock\ held\ when | locks?\ held\ by | Invalid\ wait\ context
      | BUG:?\ MAX_LOCK | turning\ off\ the\ locking
      | KASAN: | KCSAN: | KMSAN: | KFENCE: | UBSAN: | kmemleak:\ .*new\ suspected | ODEBUG:
      | DMA-API:(?!\ (preallocated|debugging\ enabled))
      | rcu.*(stall|detected) | [Ss]oft\ lockup | [Hh]ard\ LOCKUP | hung\ task
      | blocked\ for\ more\ than | sleeping\ function\ called | scheduling\ while\ atomic
      | list_(add|del)\ corruption | refcount_t: | corrupt | [Bb]ad\ page | Bad\ rss
      | panicked\ at | [Mm]emory\ leak(?!\ detector\ initialized) | leaked | still\ in\ use
      | allocate\ a\ kmemleak | [Dd]isabling\ lock\ debugging
      | printk\ messages\ dropped | callbacks\ suppressed""",
    re.VERBOSE,
)
# The test module has a data race on purpose, which KCSAN must find.
ON_PURPOSE = re.compile(r"KCSAN: data-race in (\S*race_on_purpose \[\w+\])( / \1)?$")
# A data race in the kernel itself, whoever calls it: zap_pmd_range(), inlined, reads an entry
# without the lock, and zap_huge_pmd() reads it again under the lock.
ZAPS = re.compile(r"KCSAN: data-race in __zap_vma_range / zap_huge_pmd$")
MARK = re.compile(r"suite: (begin|end)\b ?(\S*)")
RESULT = re.compile(r"(not )?ok \d")
SECTION = re.compile(r"section: (begin|end) (\S+?)(?: (\d+))?$")
OUTSIDE = "outside any case"


@dataclasses.dataclass
class Case:
    """One test case: status is "passed", "failed" or "skipped"."""

    name: str
    status: str
    output: list = dataclasses.field(default_factory=list)  # lines for the reader
    reason: str = ""  # why it was skipped


def foreign_races(log):
    """The numbers of the lines that begin a KCSAN report without a function of ours.

    Frames below an interrupt or below the scheduler do not count: the interrupted or sleeping code
    has no part in the access.
    """
    foreign = set()
    for i, line in enumerate(log):
        if "BUG: KCSAN: " not in line:
            continue
        ours = elsewhere = False
        for report in log[i:]:
            if "] =====" in report:
                break
            if " by task " in report or " by interrupt " in report:
                elsewhere = False
            elsewhere = elsewhere or " asm_sysvec_" in report or " __schedule+" in report
            ours = ours or (not elsewhere and "[dmabuf_vfio_pci" in report)
        if not ours or ZAPS.search(line):
            foreign.add(i)
    return foreign


def splats(log):
    """{case or OUTSIDE: lines} of the splats in a kernel log, with the lines around each."""
    found = {}
    case, shown, foreign = OUTSIDE, -1, foreign_races(log)
    for i, line in enumerate(log):
        mark = MARK.search(line)
        if mark:
            case, shown = (mark[2] if mark[1] == "begin" else OUTSIDE), i
        if SPLAT.search(line) and i not in foreign and not ON_PURPOSE.search(line):
            found.setdefault(case, []).extend(log[max(shown + 1, i - 2) : max(shown + 1, i + 25)])
            shown = max(shown, i + 24)
    return found


def read_ktap(lines):
    """Cases of a TAP or KTAP stream. The output of each is the lines before its result.

    A missing plan and results beyond the plan, which the kernel's parser tolerates, are failures.
    """
    # boot.kernel() adds its directory to the path.
    import kunit_parser  # pylint: disable=import-error,import-outside-toplevel
    import kunit_printer  # pylint: disable=import-error,import-outside-toplevel

    report, rest, cases = io.StringIO(), iter(lines), []
    test = kunit_parser.parse_run_tests(rest, kunit_printer.Printer(output=report))
    status = kunit_parser.TestStatus
    words = {status.SUCCESS: "passed", status.SKIPPED: "skipped"}

    def walk(node, path):
        word = words.get(node.status, "failed")
        for number, child in enumerate(node.subtests, 1):
            walk(child, [*path, child.name or f"case {number}"])
        if not node.subtests or (word == "failed" and not any_failed(cases)):
            cases.append(Case(".".join(path) or "plan", word, node.log, node.skip_reason))

    walk(test, [])
    problems = [line for line in report.getvalue().split("\n") if "[ERROR]" in line]
    if test.expected_count is None:
        problems.append("there is no plan (1..N)")
    if any(RESULT.match(line) for line in rest):
        problems.append("there are more results than planned")
    if problems:
        cases.append(Case("plan", "failed", problems))
    return cases


def sections(lines):
    """[name, lines, exit status or None] of each section() of a script in the guest."""
    found, current = [], None
    for line in lines:
        mark = SECTION.match(line)
        if mark and mark[1] == "begin":
            current = [mark[2], [], None]
            found.append(current)
        elif mark and current and mark[2] == current[0]:
            current[2], current = int(mark[3]), None
        elif current:
            current[1].append(line)
    return found


def any_failed(cases):
    """Whether one of the cases failed."""
    return any(case.status == "failed" for case in cases)


def add_splats(cases, log):
    """Fails the cases that have a splat in the kernel log."""
    for name, lines in splats(log).items():
        case = next((case for case in cases if case.name.split()[:1] == [name]), None)
        if case is None:
            case = Case(f"kernel log, {name}", "failed")
            cases.append(case)
        case.status = "failed"
        case.output = case.output + ["kernel log:"] + lines


def judge(lines, log, status, problem):
    """Cases of a boot that printed `lines` of TAP (`problem`: how the boot failed)."""
    cases = read_ktap(lines)
    if problem:
        running = [mark[2] for mark in map(MARK.search, log) if mark and mark[1] == "begin"]
        last = f", in case {running[-1]}" if running else ""
        cases.append(Case(f"guest: {problem}{last}", "failed", log[-25:]))
    elif status != 0 and not any_failed(cases):
        cases.append(Case(f"exit status {status} though no case failed", "failed"))
    add_splats(cases, log)
    return cases


def judge_skips(cases):
    """Fails the skipped cases, and returns all: the test machine lacks nothing."""
    for case in cases:
        if case.status == "skipped":
            case.status = "failed"
            case.output.append(f"skipped: {case.reason}")
    return cases


def judge_suites(names, cases):
    """A failed case for each KUnit suite of the source that has no result."""
    seen = {case.name.split(".")[0] for case in cases}
    if not names:
        return [Case("kunit: there are no suites", "failed")]
    return [Case(f"kunit: {name} did not run", "failed") for name in names if name not in seen]


def judge_contract(table, cases, excluded=()):
    """A failed case for each row of the contract (`suite --contract`) of which no case passed.

    Less the rows of which all cases are excluded.
    """
    passed = {case.name for case in cases if case.status == "passed"}
    rows = {row: set(re.findall(r"`(\w+)`", names))
            for row, names in re.findall(r"^\| (.*) \| (`.*`) \|$", table, re.MULTILINE)}
    unproven = [row for row, names in rows.items()
                if not passed & names and not names <= set(excluded)]
    if not rows:
        return [Case("contract: there are no rows", "failed")]
    return [Case(f"contract: no case proves this: {row}", "failed") for row in unproven]


def totals(cases):
    """The last line of a test run, and whether it is good."""
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        count[case.status] += 1
    line = f"{count['passed']} passed, {count['failed']} failed"
    if count["skipped"]:
        line += f", {count['skipped']} skipped"
    return line, count["failed"] == 0 and count["passed"] > 0


def print_failure(name, lines):
    """Prints why something failed."""
    print(f"\nFAILED: {name}")
    print("".join(f"    {line}\n" for line in lines), end="")


def conclude(cases, label=""):
    """Prints every case that did not pass, and the totals last; returns the exit status."""
    for case in cases:
        if case.status == "failed":
            print_failure(case.name, case.output)
    for case in cases:
        if case.status == "skipped":
            print(f"skipped: {case.name}: {case.reason or 'no reason given'}")
    line, good = totals(cases)
    print(f"{label}{line}", flush=True)
    return 0 if good else 1
