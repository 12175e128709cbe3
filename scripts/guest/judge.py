# SPDX-License-Identifier: GPL-2.0
"""Decides from logs alone what passed: the kernel's log, TAP, and how the guest ended.

Nothing is filtered out: a line that looks like a splat is a failure, whoever wrote it. But data
races count only if one of the two accesses was made in or below a function of our modules.
"""

import dataclasses
import re

# One line of any of these in a kernel log is a failure. The exceptions are what a debug kernel
# says when it starts.
SPLAT = re.compile(
    r"""WARNING: | \bBUG\b | \bOops\b | Kernel\ panic | cut\ here | Call\ Trace: | RIP:
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
# The data race of the test module, which KCSAN has to find.
ON_PURPOSE = re.compile(r"KCSAN: data-race in (\S*race_on_purpose \[\w+\])( / \1)?$")
# A data race of the kernel's own wherever it comes from: zap_pmd_range(), inlined, looks at an
# entry and then lets zap_huge_pmd() look again under the lock.
ZAPS = re.compile(r"KCSAN: data-race in __zap_vma_range / zap_huge_pmd$")
MARK = re.compile(r"suite: (begin|end)\b ?(\S*)")
RESULT = re.compile(r"(ok|not ok) +(\d+)(?: +-)? *(.*?)(?: *# *(SKIP)\b *(.*))?$", re.IGNORECASE)
PLAN = re.compile(r"1\.\.(\d+)\s*(?:#.*)?$")
OUTSIDE = "outside any case"


@dataclasses.dataclass
class Case:
    """One test case: status is "passed", "failed" or "skipped"."""

    name: str
    status: str
    output: list = dataclasses.field(default_factory=list)  # lines for the reader
    reason: str = ""  # why it was skipped


def foreign_races(log):
    """The numbers of the lines that begin a KCSAN report in which no function of ours occurs.

    Who was interrupted has no part in the accesses of the interrupt, nor has who goes to sleep in
    those of the scheduler.
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
    """{case or OUTSIDE: lines} for the lines of a kernel log that are splats.

    Each starts with the lines that came just before it and goes on for a while.
    """
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


def read_tap(text):
    """Cases of a TAP stream, and one failed case for each thing that is wrong with it.

    "# ..." lines belong to the result before them, lines that are no TAP to the one after.
    """
    cases, plan, pending, problems = [], None, [], []
    for line in text.replace("\r", "").split("\n"):
        result, planned = RESULT.match(line), PLAN.match(line)
        if planned:
            if plan is not None:
                problems.append("more than one plan")
            plan = int(planned[1])
        elif result:
            if int(result[2]) != len(cases) + 1:
                problems.append(f"result {result[2]} came where {len(cases) + 1} was due")
            status = "passed" if result[1].lower() == "ok" else "failed"
            if result[4] and status == "passed":
                status = "skipped"
            name = result[3] or f"case {result[2]}"
            cases.append(Case(name, status, pending, result[5] or ""))
            pending = []
        elif line.startswith("Bail out!"):
            problems.append(line)
        elif line.startswith("#") and cases:
            cases[-1].output.append(line)
        elif line.strip() and not line.upper().startswith("TAP VERSION"):
            pending.append(line)
    if plan is None:
        problems.append("there is no plan (1..N)")
    elif plan != len(cases):
        problems.append(f"the plan says {plan} cases, {len(cases)} reported")
    elif plan == 0:
        problems.append("no case was run")
    for i, problem in enumerate(problems):
        cases.append(Case(f"plan: {problem}", "failed", [] if i else pending))
    return cases


def add_splats(cases, log):
    """Turns cases with a splat in the kernel log into failed ones."""
    for name, lines in splats(log).items():
        case = next((case for case in cases if case.name.split()[:1] == [name]), None)
        if case is None:
            case = Case(f"kernel log, {name}", "failed")
            cases.append(case)
        case.status = "failed"
        case.output = case.output + ["kernel log:"] + lines


def judge_suite(text, log, status, problem):
    """Cases of one boot that ran the guest suite (`problem`: how the boot went wrong)."""
    cases = read_tap(text)
    if problem:
        running = [mark[2] for mark in map(MARK.search, log) if mark and mark[1] == "begin"]
        last = f", in case {running[-1]}" if running else ""
        cases.append(Case(f"guest: {problem}{last}", "failed", log[-25:]))
    elif status != 0 and all(case.status != "failed" for case in cases):
        cases.append(Case(f"suite: exit status {status} though no case failed", "failed"))
    add_splats(cases, log)
    return cases


def judge_skips(cases):
    """The cases, with those that were skipped turned into failed ones: this machine has it all."""
    for case in cases:
        if case.status == "skipped":
            case.status = "failed"
            case.output.append(f"skipped: {case.reason}")
    return cases


def judge_contract(table, cases):
    """A failed case for each row of the contract (`suite --contract`) of which no case passed."""
    passed = {case.name for case in cases if case.status == "passed"}
    rows = re.findall(r"^\| (.*) \| (`.*`) \|$", table, re.MULTILINE)
    unproven = [row for row, names in rows if not passed & set(re.findall(r"`(\w+)`", names))]
    if not rows:
        return [Case("contract: there are no rows", "failed")]
    return [Case(f"contract: no case proves this: {row}", "failed") for row in unproven]


def judge_kunit(test, parser, log, status, problem):
    """Cases of one boot that loaded KUnit modules.

    `test` is what the kernel's own `parser` (tools/testing/kunit/kunit_parser.py) made of the log.
    """
    cases = []
    statuses = {parser.TestStatus.SUCCESS: "passed", parser.TestStatus.SKIPPED: "skipped"}

    def walk(node, path):
        status = statuses.get(node.status, "failed")
        for child in node.subtests:
            walk(child, f"{path}.{child.name}" if path else child.name)
        if not node.subtests:
            cases.append(Case(path or "kunit", status, node.log, node.skip_reason))
        elif status == "failed" and all(case.status != "failed" for case in cases):
            cases.append(Case(path or "kunit", status, node.log))

    walk(test, "")
    if test.counts.errors and all(case.status != "failed" for case in cases):
        cases.append(Case(f"kunit: {test.counts.errors} errors in the KTAP", "failed"))
    if problem:
        cases.append(Case(f"guest: {problem}", "failed", log[-25:]))
    elif status != 0:
        cases.append(Case(f"kunit: exit status {status}", "failed"))
    add_splats(cases, log)
    return cases


def totals(cases):
    """The last line of a test run, and whether it is good."""
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        count[case.status] += 1
    line = f"{count['passed']} passed, {count['failed']} failed"
    if count["skipped"]:
        line += f", {count['skipped']} skipped"
    return line, count["failed"] == 0 and count["passed"] > 0
