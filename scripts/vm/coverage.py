# SPDX-License-Identifier: GPL-2.0
"""`make coverage`: which lines of src/ and rust/ the guest suite reaches.

rustc and clang have put a counter into each block of the driver (see Kbuild). A module of
tests/modules/coverage adds up the counters of all loads of the driver. From the sums and the
driver's file this makes a profile for llvm-cov, which knows the lines of each block.
"""

import dataclasses
import os
import re
import struct
import subprocess
import tempfile
import tomllib

import judge
import machine
import suite
from arch import BUILD
from boot import MODULE, say

COLLECTOR = f"lib/modules/{MODULE}-coverage.ko"
SOURCE = "/src"
REPORT = f"{BUILD}/coverage.md"
EXPLAINED = f"{SOURCE}/tests/coverage-explained.toml"
# Prints the counters behind the output of the command.
DUMP = """
"$@"
status=$?
sed 's/^/# counter: /' /sys/kernel/debug/dmabuf-coverage
exit $status
"""
COUNTER = re.compile(r"# counter: (\d+)$")
# The layout of LLVM's raw profiles (InstrProfData.inc): header and one function. llvm-profdata
# rejects any other version.
MAGIC, VERSION = 0xFF6C70726F667281, 10
FUNCTION, POINTER = 64, 16
RELOCATION = re.compile(r"^([0-9a-f]{16})\s+\S+\s+R_X86_64_PC64\s+([0-9a-f]{16}) \S+ ([+-]) (\w+)$",
                        re.MULTILINE)


class Broken(machine.Unusable):
    """The output of a tool is not what this file expects."""


@dataclasses.dataclass
class File:
    """The lines of a source file that have code."""

    name: str
    text: list  # all lines
    counts: dict  # {number of a line: how often it ran}
    reasons: dict = dataclasses.field(default_factory=dict)  # {number of a line: why it does not}

    def missed(self):
        """The numbers of the lines that did not run."""
        return [line for line in sorted(self.counts) if not self.counts[line]]

    def unexplained(self):
        """Those for which there is no reason."""
        return [line for line in self.missed() if line not in self.reasons]


def counters(lines):
    """What DUMP has printed."""
    return [int(match[1]) for match in map(COUNTER.match, lines) if match]


def add(boots):
    """The sums of the counters of several boots."""
    sizes = {len(boot) for boot in boots}
    if len(sizes) != 1 or 0 in sizes:
        raise Broken(f"boots printed {', '.join(map(str, sorted(sizes)))} counters")
    return [sum(counts) for counts in zip(*boots)]


def resolve(data, relocations):
    """__llvm_prf_data with the counters of each function at the distance that a profile wants: as
    if the counters began where the functions begin."""
    data = bytearray(data)
    found = RELOCATION.findall(relocations)
    if len(data) % FUNCTION or len(found) != len(data) // FUNCTION:
        raise Broken(f"{len(found)} relocations in {len(data)} bytes of functions")
    for place, symbol, sign, addend in found:
        place = int(place, 16)
        if place % FUNCTION != POINTER:
            raise Broken(f"a relocation at byte {place} of a function")
        target = int(symbol, 16) + int(f"{sign}{addend}", 16)
        struct.pack_into("<Q", data, place, (target - place) % 2**64)
    return bytes(data)


def raw_profile(data, counts, names):
    """A raw profile, as the runtime of LLVM would write one at the end of a process."""
    header = [MAGIC, VERSION, 0, len(data) // FUNCTION, 0, len(counts), 0, 0, 0, len(names)]
    header += [0, 0, 0, 0, 0, 2]
    start, middle = (struct.pack(f"<{len(words)}Q", *words) for words in (header, counts))
    return start + data + middle + names + bytes(-len(names) % 8)


def _tool(*command):
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Broken(f"{command[0]} failed with status {done.returncode}")
    return done.stdout


def lcov(driver, counts):
    """What llvm-cov says of the lines of the driver."""
    with tempfile.TemporaryDirectory() as folder:
        dumps = {name: f"{folder}/{name}" for name in ("__llvm_prf_data", "__llvm_prf_names")}
        words = [f"--dump-section={name}={path}" for name, path in dumps.items()]
        _tool("llvm-objcopy", *words, driver, "/dev/null")
        data, names = (open(path, "rb").read() for path in dumps.values())
        relocations = _tool("readelf", "-rW", driver)
        relocations = relocations.partition("'.rela__llvm_prf_data'")[2].partition("\n\n")[0]
        with open(f"{folder}/raw", "wb") as file:
            file.write(raw_profile(resolve(data, relocations), counts, names))
        _tool("llvm-profdata", "merge", f"{folder}/raw", "-o", f"{folder}/indexed")
        return _tool("llvm-cov", "export", "-format=lcov", f"-instr-profile={folder}/indexed",
                     driver, f"{SOURCE}/src", f"{SOURCE}/rust")


def read(path):
    """The lines of a source file."""
    with open(path, encoding="utf-8") as file:
        return file.read().split("\n")


def parse(text):
    """[File] of llvm-cov's output."""
    files = []
    for record in text.split("end_of_record"):
        path = re.search(r"^SF:(.*)$", record, re.MULTILINE)
        if path:
            counts = {int(line): int(count)
                      for line, count in re.findall(r"^DA:(\d+),(\d+)", record, re.MULTILINE)}
            files.append(File(os.path.relpath(path[1], SOURCE), read(path[1]), counts))
    return files


def explanations():
    """The entries of EXPLAINED."""
    with open(EXPLAINED, "rb") as file:
        return tomllib.load(file)["explained"]


def lines_like(text, wanted):
    """[range] of the places in the text that have these lines, whatever their indentation."""
    wanted = [line.strip() for line in wanted.strip().split("\n")]
    text = [line.strip() for line in text]
    return [range(start, start + len(wanted)) for start in range(len(text))
            if text[start : start + len(wanted)] == wanted]


def function(text, first):
    """[range] of the functions whose first line begins like this; rustfmt lets them end at `}`."""
    found = []
    for start, line in enumerate(text):
        if line.strip().startswith(first):
            last = line[: len(line) - len(line.lstrip())] + "}"
            found.append(range(start, text.index(last, start) + 1))
    return found


def explain(files, entries):
    """Enters the reasons into the files; returns what no file has."""
    lost = []
    texts = {file.name: file for file in files}
    for entry in entries:
        file = texts.get(entry["file"], File(entry["file"], [], {}))
        wanted = [(first, function(file.text, first)) for first in entry.get("functions", [])]
        if "lines" in entry:
            wanted.append((entry["lines"].strip(), lines_like(file.text, entry["lines"])))
        for what, places in wanted:
            for place in places:
                file.reasons |= {number + 1: entry["reason"] for number in place}
            if not places:
                lost.append(f"{file.name}: {what}")
    return lost


def blocks(file, numbers):
    """The lines with these numbers in Markdown; a gap in the source separates blocks."""
    out, last = [], 0
    for number in numbers:
        if out and any(line in file.counts for line in range(last + 1, number)):
            out.append("")
        out.append(f"    {number:4d} {file.text[number - 1]}")
        last = number
    return out


def report(files):
    """The report in Markdown, and how many lines are not reached and not explained."""
    total = covered = explained = missed = 0
    table = ["| file | reached | lines |", "|---|---:|---:|"]
    listed, reasons = [], []
    for file in sorted(files, key=lambda file: file.name):
        bad = file.unexplained()
        good = [line for line in file.missed() if line in file.reasons]
        reached = len(file.counts) - len(bad) - len(good)
        table.append(f"| `{file.name}` | {reached} | {len(file.counts)} |")
        total, covered = total + len(file.counts), covered + reached
        explained, missed = explained + len(good), missed + len(bad)
        if bad:
            listed += ["", f"### {file.name}", "", *blocks(file, bad)]
        for reason in dict.fromkeys(file.reasons[line] for line in good):
            lines = [line for line in good if file.reasons[line] == reason]
            reasons += ["", f"`{file.name}`: {reason}", "", *blocks(file, lines)]
    summary = f"coverage: {covered} of {total} lines, {explained} explained, {missed} not reached"
    parts = [["# Lines of the driver that the suite reaches", "", *table]]
    parts += [["", "## Not reached", *listed]] if listed else []
    parts += [["", "## Not reached, for a reason", *reasons]] if reasons else []
    return "\n".join([*sum(parts, []), "", summary, ""]), missed


def coverage(run):
    """Runs the suite with a driver that counts, writes the report; 0 if no line is missed."""
    boots, cases = [], []
    for job in suite.boots(run):
        job.insmod.insert(0, f"/{COLLECTOR}")
        job.command = ["sh", "-c", DUMP, "sh", *job.command]
        result, its = suite.judged(job)
        boots.append(counters(result.lines()))
        cases += its
    status = judge.conclude(cases)
    files = parse(lcov(f"{run.modules}/{MODULE}.ko", add(boots)))
    lost = explain(files, explanations())
    for what in lost:
        print(f"tests/coverage-explained.toml: not in the source: {what}")
    text, missed = report(files)
    with open(REPORT, "w", encoding="utf-8") as file:
        file.write(text)
    say(f"coverage: {machine.outside(REPORT)}")
    print(text.rstrip("\n").rpartition("\n")[2])
    return 1 if status or lost or missed else 0
