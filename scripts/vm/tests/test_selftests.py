# SPDX-License-Identifier: GPL-2.0
"""Gives the comparison of `make selftests` the output of broken runs; run by `make check`."""

import contextlib
import io
import unittest

import selftests

OURS = "dmabuf-vfio-pci"
HARNESS = """TAP version 13
1..3
# Starting 3 tests from 1 test cases.
#  RUN           dma.iommufd.map ...
Mapped HVA 0x7f00 at IOVA 0x1000
#            OK  dma.iommufd.map
ok 1 dma.iommufd.map
#  RUN           dma.iommufd.huge ...
#      SKIP      no pages
#            OK  dma.iommufd.huge
ok 2 dma.iommufd.huge # SKIP no pages
#  RUN           dma.iommufd.mapped ...
#            OK  dma.iommufd.mapped
ok 3 dma.iommufd.mapped
# PASSED: 3 / 3 tests passed.
# Totals: pass:2 fail:0 xfail:0 xpass:0 skip:1 error:0
"""
NO_DRIVER = "No driver found for device 0000:02:00.0\n"
BROKEN = HARNESS.replace("# PASSED: 3 / 3", "# FAILED: 2 / 3").replace(
    "#            OK  dma.iommufd.mapped\nok 3",
    "# dma.c:7:mapped:Expected 0 (0) == rc (1)\n#          FAIL  dma.iommufd.mapped\nnot ok 3",
)


def section(driver, text=HARNESS, status=0, program="dma_test", device="igb"):
    """The guest's output for one program."""
    name = f"{driver}:{device}:{program}"
    end = "" if status is None else f"section: end {name} {status}\n"
    return f"section: begin {name}\n{text}\n{end}"


class Report(unittest.TestCase):
    """compare() and report()"""

    def report(self, text, log=(), problem=""):
        """The last line, whether it is good, and all that was printed."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = selftests.report(selftests.compare(text.split("\n")), OURS, list(log), problem)
        return out.getvalue().rstrip().split("\n")[-1], status, out.getvalue()

    def both(self, **more):
        """The same section with both drivers."""
        return section(selftests.IN_TREE, **more) + section(OURS, **more)

    def test_same_on_both(self):
        line, status, text = self.report(self.both())
        self.assertEqual(line, "selftests: 2 cases passed on both, 1 skipped on both, 0 differ")
        self.assertEqual(status, 0)
        self.assertIn("passed   passed", text)
        self.assertIn("skipped  skipped  (no pages)", text)

    def test_failure_of_ours(self):
        text = section(selftests.IN_TREE) + section(OURS, BROKEN, 1)
        line, status, text = self.report(text)
        self.assertEqual(line, "selftests: 1 cases passed on both, 1 skipped on both, 1 differ")
        self.assertEqual(status, 1)
        self.assertIn("    igb dma.iommufd.mapped: passed, failed", text)
        self.assertIn("    # dma.c:7:mapped:Expected 0 (0) == rc (1)", text)
        self.assertNotIn("    ok 1 dma.iommufd.map", text)

    def test_failure_of_the_in_tree_driver_is_a_difference(self):
        self.assertEqual(self.report(section(selftests.IN_TREE, BROKEN, 1) + section(OURS))[1], 1)

    def test_failure_of_both_is_not_good(self):
        line, status, _ = self.report(self.both(text=BROKEN, status=1))
        self.assertIn("1 failed on both, 0 differ", line)
        self.assertEqual(status, 1)

    def test_skipped_with_one_driver_only(self):
        skipped = HARNESS.replace("ok 1 dma.iommufd.map", "ok 1 dma.iommufd.map # SKIP why")
        self.assertEqual(self.report(section(selftests.IN_TREE) + section(OURS, skipped))[1], 1)

    def test_driver_that_never_ran(self):
        for driver in (selftests.IN_TREE, OURS):
            line, status, _ = self.report(section(driver))
            self.assertEqual(status, 1)
            self.assertIn("3 differ", line)

    def test_broken_programs(self):
        for text, status in (
            (HARNESS, None),  # never ended
            (HARNESS, 139),
            (HARNESS.replace("1..3", "1..4"), 0),
            (HARNESS.split("ok 3")[0], 0),
            ("", 0),
        ):
            with self.subTest(text=text, status=status):
                self.assertEqual(self.report(self.both(text=text, status=status))[1], 1)

    def test_program_that_skips_as_a_whole(self):
        for text, why in (
            (NO_DRIVER, "No driver found for device 0000:02:00.0"),
            ("1..0 # SKIP no VFs\n", "no VFs"),
        ):
            both = self.both() + self.both(text=text, status=4, device="edu", program="other")
            line, status, text = self.report(both)
            self.assertIn("2 skipped on both", line)
            self.assertIn(f"skipped  skipped  ({why})", text)
            self.assertEqual(status, 0)

    def test_nothing_passed(self):
        self.assertEqual(self.report("")[1], 1)
        self.assertEqual(self.report(self.both(text=NO_DRIVER, status=4))[1], 1)

    def test_splat(self):
        log = ["suite: begin dmabuf-vfio-pci:igb:dma_test", "WARNING: CPU: 0"]
        line, status, text = self.report(self.both(), log)
        self.assertEqual(status, 1)
        self.assertIn("kernel log, dmabuf-vfio-pci:igb:dma_test", text)
        self.assertTrue(line.endswith("; the kernel log has a splat"))

    def test_messages_that_the_tests_provoke_are_no_splats(self):
        known = ("dmar_fault", "vfio_pci_core_match_token_uuid")
        for name, status in ((known[0], 0), (known[1], 0), ("somebody", 1)):
            log = [f"[  151.082387] {name}: 5 callbacks suppressed"]
            self.assertEqual(self.report(self.both(), log)[1], status)

    def test_guest_that_died(self):
        self.assertEqual(self.report(self.both(), problem="died")[1], 1)

    def test_same_case_on_two_devices(self):
        output = self.both() + self.both(device="edu")
        rows = selftests.compare(output.split("\n"))
        self.assertEqual(len(rows), 6)


if __name__ == "__main__":
    unittest.main()
