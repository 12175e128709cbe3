# SPDX-License-Identifier: GPL-2.0
"""Gives coverage.py the output of its tools; run by `make check`."""

import struct
import unittest

import coverage

TEXT = """fn one() {
    first();
    second();
}

impl Two {
    const fn two() {
        third();
    }
}""".split("\n")


def file(counts):
    """A file with TEXT."""
    return coverage.File("src/a.rs", TEXT, dict(counts))


class Profile(unittest.TestCase):
    """From counters to a profile"""

    LINE = "{:016x}  0000040d00000018 R_X86_64_PC64          {:016x} {} + {:x}\n"

    def test_counters_are_read_among_other_output(self):
        lines = ["ok 1 - case", "# counter: 0", "# counter: 18", "# counters: 1", "a # counter: 2"]
        self.assertEqual(coverage.counters(lines), [0, 18])

    def test_boots_add_up(self):
        self.assertEqual(coverage.add([[1, 0], [2, 5]]), [3, 5])
        for boots in ([[1], [1, 2]], [[1], []], [[]]):
            self.assertRaises(coverage.Broken, coverage.add, boots)

    def test_relocations_become_distances(self):
        # The second function has the first counter.
        relocations = self.LINE.format(16, 0, "__llvm_prf_cnts", 16 + 24)
        relocations += self.LINE.format(80, 0, "__llvm_prf_cnts", 16)
        data = coverage.resolve(bytes(128), relocations)
        self.assertEqual(struct.unpack_from("<q", data, 16)[0], 24)
        self.assertEqual(struct.unpack_from("<q", data, 80)[0], -64)

    def test_unexpected_relocations_are_errors(self):
        one = self.LINE.format(16, 0, "__llvm_prf_cnts", 16)
        for size, text in ((128, one), (64, ""), (60, one), (64, one.replace("10 ", "18 ", 1))):
            self.assertRaises(coverage.Broken, coverage.resolve, bytes(size), text)

    def test_profile_has_all_parts(self):
        profile = coverage.raw_profile(bytes(64), [7, 9], b"names")
        self.assertEqual(len(profile), 128 + 64 + 16 + 8)
        self.assertEqual(struct.unpack_from("<2Q", profile, 192), (7, 9))


class Lines(unittest.TestCase):
    """explain() and report()"""

    def test_lines_that_run_are_not_listed(self):
        text, missed = coverage.report([file({1: 1, 2: 3})])
        self.assertEqual(missed, 0)
        self.assertNotIn("first();", text)
        self.assertTrue(text.endswith("\ncoverage: 2 of 2 lines, 0 explained, 0 not reached\n"))

    def test_missed_lines_are_listed_with_their_text(self):
        text, missed = coverage.report([file({1: 1, 2: 0, 3: 1, 8: 0})])
        self.assertEqual(missed, 2)
        self.assertIn("       2     first();\n\n       8         third();\n", text)
        self.assertIn("| `src/a.rs` | 2 | 4 |", text)

    def test_explained_lines_are_listed_apart(self):
        its = file({1: 1, 2: 0, 3: 0, 8: 0})
        entries = [{"file": "src/a.rs", "lines": "first();\nsecond();", "reason": "of lines"},
                   {"file": "src/a.rs", "functions": ["const fn two"], "reason": "of functions"}]
        self.assertEqual(coverage.explain([its], entries), [])
        text, missed = coverage.report([its])
        self.assertEqual(missed, 0)
        self.assertNotIn("## Not reached\n", text)
        self.assertIn("of lines\n\n       2     first();\n       3     second();\n", text)
        self.assertIn("of functions\n\n       8         third();\n", text)
        self.assertIn("coverage: 1 of 4 lines, 3 explained, 0 not reached", text)

    def test_function_ends_at_its_brace(self):
        self.assertEqual(coverage.function(TEXT, "fn one"), [range(0, 4)])
        self.assertEqual(coverage.function(TEXT, "const fn two"), [range(6, 9)])

    def test_entry_without_such_lines_is_reported(self):
        entries = [{"file": "src/a.rs", "lines": "first();\nthird();", "reason": ""},
                   {"file": "src/b.rs", "lines": "first();", "reason": ""},
                   {"file": "src/a.rs", "functions": ["fn three"], "reason": ""}]
        self.assertEqual(len(coverage.explain([file({2: 0})], entries)), 3)

    def test_source_has_all_that_is_explained(self):
        names = {entry["file"] for entry in coverage.explanations()}
        files = [coverage.File(name, coverage.read(f"{coverage.SOURCE}/{name}"), {})
                 for name in names]
        self.assertEqual(coverage.explain(files, coverage.explanations()), [])

    def test_lines_of_llvm_cov(self):
        text = f"SF:{__file__}\nFN:1,x\nDA:1,0\nDA:2,17\nend_of_record\n"
        self.assertEqual([its.counts for its in coverage.parse(text)], [{1: 0, 2: 17}])
        self.assertEqual(coverage.parse(""), [])


if __name__ == "__main__":
    unittest.main()
