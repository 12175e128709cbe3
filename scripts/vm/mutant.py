# SPDX-License-Identifier: GPL-2.0
"""Mutants of the module: what they are, where they come from, and what became of them.

Pure. tests/mutants/semantic.toml has those that only a reader of the driver thinks of,
cargo-mutants makes the others. tests/mutants/equivalent.toml has the arguments for generated ones
that change no behaviour, tests/mutants/cases.toml the cases that are likely to notice a change of a
file.
"""

import collections
import dataclasses
import hashlib
import json
import re
import tomllib

KUNIT = "kunit"  # stands for the KUnit suites in a list of cases
KILLED = "killed"  # a case has failed
PASSED = "passed"  # KUnit and the likely cases have passed, the whole suite has not run
SURVIVED = "survived"  # the whole suite has passed
UNBUILDABLE = "unbuildable"  # rustc refuses it
HEAD = re.compile(r"^\+\+\+ (.*)$", re.MULTILINE)
HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


class Stale(Exception):
    """A table does not fit the sources; the text says where."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    name: str  # unique, without line numbers
    file: str
    text: str  # of the whole file, changed
    generated: bool
    cases: tuple = ()  # patterns of the cases that are likely to notice
    equivalent: str = ""  # why no case can notice


def digest(*texts):
    """A hash of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def key(mutant, sources):
    """Names a result: another text of the mutant, the module or a test makes another key.

    `sources` is a hash of the module and the tests.
    """
    return digest(sources, mutant.file, mutant.text)


def semantic(table, sources, likely):
    """The mutants of semantic.toml; `sources` are the texts of the files, by path."""
    found = []
    for entry in tomllib.loads(table)["mutant"]:
        name, file = entry["name"], entry["file"]
        old, new = entry["old"].rstrip("\n"), entry["new"].rstrip("\n")
        count = sources.get(file, "").count(old)
        if count != 1 or old == new:
            raise Stale(f"semantic.toml is stale: {name}: {file} has the old text {count} times")
        text = sources[file].replace(old, new)
        cases = tuple(entry.get("cases") or likely.get(file, ()))
        found.append(Mutant(name, file, text, False, cases, _line(entry.get("equivalent", ""))))
    repeated = [name for name, count in _count(mutant.name for mutant in found) if count > 1]
    if repeated:
        raise Stale(f"semantic.toml has two mutants with the name {repeated[0]}")
    return found


def generated(listing, arguments, sources, likely):
    """The mutants of `cargo mutants --list --json --diff`; `arguments` is equivalent.toml."""
    equivalent = {entry["name"]: _line(entry["argument"])
                  for entry in tomllib.loads(arguments).get("mutant", ())}
    seen, found = collections.Counter(), []
    for entry in json.loads(listing):
        # The head of the diff has what cargo-mutants calls it, without the position.
        file, head = entry["file"], HEAD.search(entry["diff"])
        name = f"{file}: {head[1]}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        text = patched(sources[file], entry["diff"])
        why = equivalent.pop(name, "")
        found.append(Mutant(name, file, text, True, tuple(likely.get(file, ())), why))
    files = {mutant.file for mutant in found}
    stale = [name for name in equivalent if name.split(":")[0] in files]
    if stale:
        raise Stale(f"equivalent.toml is stale: there is no mutant {stale[0]}")
    return found


def patched(text, diff):
    """The text after a unified diff, whose context must fit."""
    lines, result, position = text.split("\n"), [], 0
    for line in diff.split("\n"):
        hunk = HUNK.match(line)
        if hunk:
            start = int(hunk[1]) - 1
            result += lines[position:start]
            position = start
        elif line.startswith(("--- ", "+++ ", "\\")) or not line:
            continue
        elif line[0] == "+":
            result.append(line[1:])
        else:
            if lines[position] != line[1:]:
                raise Stale(f"a diff of cargo-mutants does not fit: {line[1:]}")
            if line[0] == " ":
                result.append(line[1:])
            position += 1
    return "\n".join(result + lines[position:])


def _line(text):
    return " ".join(text.split())


def _count(values):
    return collections.Counter(values).items()


def selected(mutants, part, file):
    """Those of share `part` ("k/n") whose path contains `file`: first those of semantic.toml.

    The order of each source mixes the files.
    """
    share, _, shares = (part or "1/1").partition("/")
    if not (share.isdigit() and shares.isdigit() and 1 <= int(share) <= int(shares)):
        raise Stale(f"PART={part}: k/n, with k from 1 to n")
    order = sorted(mutants, key=lambda mutant: (mutant.generated, digest(mutant.name)))
    return [mutant for mutant in order if file in mutant.file
            and int(digest(mutant.name), 16) % int(shares) == int(share) - 1]


def without_kunit(patterns):
    """The patterns for the suite, and whether KUnit is among them."""
    return [name for name in patterns if name != KUNIT], KUNIT in patterns


def read_results(lines):
    """{key: the last result} of a file of results, and what is known of the module itself.

    That is, for each hash of sources: the cases that it passes, and how long the slowest took. The
    last line may be half a line, of a run that was killed.
    """
    results, passed = {}, {}
    for line in lines:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if "baseline" in result:
            cases, slowest = passed.get(result["baseline"], (set(), 0))
            slowest = max(slowest, result.get("slowest", 0))
            passed[result["baseline"]] = cases | set(result["cases"]), slowest
        else:
            results[result["key"]] = result
    return results, passed


def report(mutants, results, sources):
    """The lines of the report, of which the last one has the totals; and whether it is good."""
    lines, count = [], collections.Counter()
    for mutant in sorted(mutants, key=lambda mutant: (mutant.file, mutant.name)):
        result = results.get(key(mutant, sources), {})
        outcome = "equivalent" if mutant.equivalent else result.get("outcome", "waiting")
        count[outcome] += 1
        if outcome == UNBUILDABLE and not mutant.generated:
            outcome = "does not compile: semantic.toml is wrong"
            count["wrong"] += 1
        why = {"equivalent": mutant.equivalent, KILLED: f"by {result.get('killer')}"}.get(outcome)
        if outcome != UNBUILDABLE and outcome != "waiting":
            lines.append(f"{outcome:10}  {mutant.name}" + (f": {why}" if why else ""))
    lines.append(f"{count[UNBUILDABLE]} do not compile, {count['waiting']} did not run, "
                 f"{count[PASSED]} have passed their likely cases and not met the whole suite")
    lines.append(f"mutants: {count[KILLED]} killed, {count['equivalent']} equivalent, "
                 f"{count[SURVIVED]} survived")
    return lines, not (count[SURVIVED] or count[PASSED] or count["wrong"])
