# SPDX-License-Identifier: GPL-2.0
"""Checks the tables of mutants against the sources, and what is made of results."""

import glob
import json
import os
import re
import tomllib
import unittest

import judge
import mutant
import mutants
import suite

ROOT = f"{os.path.dirname(os.path.abspath(__file__))}/../../.."
SOURCES = {"src/a.rs": "one\ntwo\nthree\nfour\n"}
ENTRY = '[[mutant]]\nname = "{}"\nfile = "src/a.rs"\nold = "{}"\nnew = "{}"\n{}\n'


def table(name):
    """The text of a table."""
    with open(f"{ROOT}/tests/mutants/{name}.toml") as file:
        return file.read()


def entry(name="a", old="two", new="zwei", more=""):
    """An entry of semantic.toml."""
    return ENTRY.format(name, old, new, more)


class Tables(unittest.TestCase):
    """tests/mutants"""

    def test_semantic_fits_the_sources(self):
        sources = {}
        for path in glob.glob(f"{ROOT}/src/**/*.rs", recursive=True) + glob.glob(
                f"{ROOT}/rust/**/*.rs", recursive=True):
            with open(path) as file:
                sources[os.path.relpath(path, ROOT)] = file.read()
        likely = tomllib.loads(table("cases"))
        self.assertLessEqual(set(likely), set(sources))
        self.assertEqual(set(sources) - set(likely), {"src/pure/mod.rs"})
        found = mutant.semantic(table("semantic"), sources, likely)
        self.assertGreaterEqual(len(found), 60)
        self.assertTrue(all(one.cases or one.equivalent for one in found))
        tomllib.loads(table("equivalent"))

    def test_likely_cases_exist(self):
        names = set()
        for path in glob.glob(f"{ROOT}/tests/qemu/suite/src/cases/*.rs"):
            with open(path) as file:
                names.update(re.findall(r"\w+", file.read().split("\nfn ")[0]))  # cases!
        lists = [entry.get("cases", ()) for entry in tomllib.loads(table("semantic"))["mutant"]]
        lists += tomllib.loads(table("cases")).values()
        for pattern in {pattern for patterns in lists for pattern in patterns} - {mutant.KUNIT}:
            self.assertTrue(any(pattern in name for name in names - suite.ELSEWHERE), pattern)


class Sources(unittest.TestCase):
    """semantic(), generated(), patched(), selected()"""

    def semantic(self, text):
        """The mutants of a table."""
        return mutant.semantic(text, SOURCES, {"src/a.rs": ["likely"]})

    def test_semantic_entry(self):
        one, = self.semantic(entry())
        self.assertEqual(one.text, "one\nzwei\nthree\nfour\n")
        self.assertEqual(one.cases, ("likely",))
        one, = self.semantic(entry(more='cases = ["own"]\nequivalent = "why"'))
        self.assertEqual((one.cases, one.equivalent), (("own",), "why"))

    def test_semantic_table_is_stale(self):
        for bad in (entry(old="five"), entry(old="o"), entry(new="two"), entry() + entry()):
            with self.assertRaises(mutant.Stale):
                self.semantic(bad)

    def listing(self):
        """What cargo-mutants might print."""
        diff = ("--- src/a.rs\n+++ replace two with zwei\n"
                "@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n")
        return json.dumps([{"file": "src/a.rs", "diff": diff}] * 2)

    def test_generated(self):
        first, second = mutant.generated(self.listing(), "", SOURCES, {})
        self.assertEqual(first.name, "src/a.rs: replace two with zwei")
        self.assertEqual(second.name, "src/a.rs: replace two with zwei (2)")
        self.assertEqual(first.text, "one\nzwei\nthree\nfour\n")

    def test_argument_belongs_to_a_mutant(self):
        line = '[[mutant]]\nname = "src/a.rs: {}"\nargument = "why"'
        first, second = mutant.generated(
            self.listing(), line.format("replace two with zwei"), SOURCES, {})
        self.assertEqual((first.equivalent, second.equivalent), ("why", ""))
        with self.assertRaises(mutant.Stale):
            mutant.generated(self.listing(), line.format("gone"), SOURCES, {})

    def test_patch_must_fit(self):
        with self.assertRaises(mutant.Stale):
            mutant.patched("eins\nzwei", "@@ -1 +1 @@\n-one\n+uno")

    def test_patch_of_several_places(self):
        diff = "@@ -1,2 +1,1 @@\n-one\n two\n@@ -4 +3,2 @@\n-four\n+vier\n+five"
        text = mutant.patched("one\ntwo\nthree\nfour\n", diff)
        self.assertEqual(text, "two\nthree\nvier\nfive\n")

    def test_parts_are_all(self):
        found = self.semantic("".join(entry(str(i), "two", f"zwei{i}") for i in range(20)))
        parts = [mutant.selected(found, f"{i}/3", "src") for i in (1, 2, 3)]
        self.assertEqual(sum(map(len, parts)), 20)
        self.assertEqual(set().union(*map(set, parts)), set(found))
        self.assertEqual(mutant.selected(found, "", "rust"), [])
        for bad in ("0/3", "4/3", "x", "1/"):
            with self.assertRaises(mutant.Stale):
                mutant.selected(found, bad, "")


class Results(unittest.TestCase):
    """read_results(), report(), killer()"""

    def test_results_of_a_run_that_was_killed(self):
        lines = ['{"key": "a", "outcome": "passed"}', '{"key": "a", "outcome": "killed"}',
                 '{"baseline": "s", "cases": ["x"], "slowest": 3}',
                 '{"baseline": "s", "cases": ["y"], "slowest": 2}', '{"key": "b", "outc']
        results, passed = mutant.read_results(lines)
        self.assertEqual(results["a"]["outcome"], "killed")
        self.assertEqual((set(results), passed), ({"a"}, {"s": ({"x", "y"}, 3)}))

    def report(self, *outcomes):
        """The last line of the report of mutants with these outcomes."""
        found, results = [], {}
        for i, outcome in enumerate(outcomes):
            one = mutant.Mutant(str(i), "src/a.rs", str(i), False, (),
                                "why" if outcome == "equivalent" else "")
            found.append(one)
            results[mutant.key(one, "s")] = {"outcome": outcome, "killer": "case"}
        lines, good = mutant.report(found, results, "s")
        return lines[-1], good

    def test_totals(self):
        self.assertEqual(self.report("killed", "killed", "equivalent"),
                         ("mutants: 2 killed, 1 equivalent, 0 survived", True))
        self.assertEqual(self.report("killed", "survived"),
                         ("mutants: 1 killed, 0 equivalent, 1 survived", False))
        for bad in ("passed", "unbuildable"):
            self.assertFalse(self.report("killed", bad)[1])

    def killer(self, output, log=(), problem="a case has failed"):
        """Who noticed."""
        cases = judge.judge(output.split("\n"), list(log), None, problem)
        return mutants.killer(cases, log)

    def test_failed_case(self):
        log = ["suite: begin one", "suite: end one", "suite: begin two", "suite: begin three"]
        output = "TAP version 14\n1..3\nok 1 - one\nnot ok 2 - two\n"
        self.assertEqual(self.killer(output, log), "two")

    def test_skipped_case(self):
        self.assertEqual(self.killer("TAP version 14\n1..1\nok 1 - one # SKIP why\n"), "one")

    def test_guest_that_died(self):
        log = ["suite: begin one", "BUG: unable to handle page fault"]
        self.assertEqual(self.killer("TAP version 14\n1..3\n", log, "the guest died"), "one")
        self.assertEqual(self.killer("", (), "the guest died"), "the boot")

    def test_splat_after_a_case_that_passed(self):
        log = ["suite: begin one", "suite: end one", "suite: begin two", "WARNING: at two"]
        self.assertEqual(self.killer("TAP version 14\n1..3\nok 1 - one\n", log), "two")

    def test_good_run(self):
        cases = judge.judge("TAP version 14\n1..1\nok 1 - one\n".split("\n"), [], 0, "")
        self.assertEqual(mutants.killer(cases, []), "")


if __name__ == "__main__":
    unittest.main()
