# SPDX-License-Identifier: GPL-2.0
"""Gives the judge the logs of broken runs; run by `make check`."""

import unittest

import judge

GOOD = "TAP version 14\n1..2\nok 1 - first\nok 2 - second\n"
QUIET = ["[ 1.0] suite: begin first", "[ 1.1] suite: begin second", "[ 1.2] suite: end second"]


def failed(cases):
    """The names of the failed cases."""
    return [case.name for case in cases if case.status == "failed"]


class Results(unittest.TestCase):
    """judge(), with the parser of the kernel (scripts/check sets PYTHONPATH)"""

    KTAP = """KTAP version 1
1..1
    KTAP version 1
    # Subtest: range
    1..2
    ok 1 empty
    ok 2 whole
# range: pass:2 fail:0 skip:0 total:2
ok 1 range
"""

    def cases(self, text, log=(), status=0, problem=""):
        """The cases of a run."""
        return judge.judge(text.split("\n"), list(log), status, problem)

    def judge(self, text, log=(), status=0, problem=""):
        """The totals line of a run."""
        return judge.totals(self.cases(text, log, status, problem))

    def test_good_run(self):
        for text in (GOOD, self.KTAP):
            self.assertEqual(self.judge(text, QUIET), ("2 passed, 0 failed", True))

    def test_output_of_init_comes_first(self):
        self.assertEqual(self.judge(f"no TAP\n{GOOD}"), ("2 passed, 0 failed", True))

    def test_not_ok(self):
        text = GOOD.replace("ok 2", "not ok 2")
        self.assertEqual(self.judge(text, status=1), ("1 passed, 1 failed", False))
        text = self.KTAP.replace("ok 2 whole", "not ok 2 whole").replace("ok 1 r", "not ok 1 r")
        self.assertEqual(self.judge(text), ("1 passed, 1 failed", False))

    def test_suite_that_fails_without_a_case(self):
        self.assertFalse(self.judge(self.KTAP.replace("ok 1 range", "not ok 1 range"))[1])

    def test_suite_that_vanished(self):
        cases = self.cases(self.KTAP)
        self.assertEqual(judge.judge_suites(["range"], cases), [])
        self.assertEqual(failed(judge.judge_suites(["range", "state"], cases)),
                         ["kunit: state did not run"])
        self.assertTrue(judge.judge_suites([], cases))

    def test_skip_is_counted_apart(self):
        text = GOOD.replace("second", "second # SKIP no device")
        self.assertEqual(self.judge(text), ("1 passed, 0 failed, 1 skipped", True))
        self.assertEqual(self.cases(text)[1].reason, "no device")
        text = self.KTAP.replace("ok 2 whole", "ok 2 whole # SKIP no reason")
        self.assertEqual(self.judge(text), ("1 passed, 0 failed, 1 skipped", True))

    def test_all_skipped_is_not_good(self):
        text = "TAP version 14\n1..1\nok 1 - a # SKIP no device\n"
        self.assertEqual(self.judge(text), ("0 passed, 0 failed, 1 skipped", False))

    def test_broken_plans(self):
        for text in (
            "",
            "TAP version 14\n1..0\n",
            GOOD.replace("1..2\n", ""),
            GOOD.replace("1..2", "1..3"),
            GOOD.replace("1..2", "1..1"),
            GOOD.replace("ok 2", "ok 3"),
            GOOD.split("ok 2")[0] + "Bail out! tired\n",
            self.KTAP.replace("    1..2", "    1..3"),
            self.KTAP.replace("    ok 2 whole\n", ""),
            self.KTAP.replace("\n1..1\n", "\n1..2\n"),
            self.KTAP.split("    ok 2")[0],
            self.KTAP.replace("ok 2 whole", "BUG: in between"),
        ):
            with self.subTest(text=text):
                self.assertFalse(self.judge(text)[1])

    def test_exit_status_without_a_failed_case(self):
        for text in (GOOD, self.KTAP):
            self.assertEqual(self.judge(text, status=1), ("2 passed, 1 failed", False))

    def test_hang_names_the_case(self):
        cases = self.cases(GOOD.split("ok 2")[0], QUIET[:2], None, "did not finish")
        self.assertIn("guest: did not finish, in case second", failed(cases))

    def test_output_of_a_failed_case(self):
        text = "TAP version 14\n1..2\nok 1 - a\nprinted\n# left: 1\nnot ok 2 - b\n"
        case = self.cases(text)[1]
        self.assertEqual((case.name, case.output), ("b", ["printed", "# left: 1"]))


class Contract(unittest.TestCase):
    """judge_contract()"""

    TABLE = "| behaviour | cases |\n|---|---|\n| a | `one` `two` |\n| b | `three` |\n"

    def judge(self, *statuses):
        names = ("one", "two", "three")
        cases = [judge.Case(name, status) for name, status in zip(names, statuses)]
        return failed(judge.judge_contract(self.TABLE, cases))

    def test_all_passed(self):
        self.assertEqual(self.judge("passed", "passed", "passed"), [])

    def test_one_case_of_a_row_is_enough(self):
        self.assertEqual(self.judge("skipped", "passed", "passed"), [])

    def test_row_without_a_case_that_passed_fails(self):
        self.assertEqual(self.judge("passed"), ["contract: no case proves this: b"])
        self.assertEqual(self.judge("passed", "passed", "skipped"), self.judge("passed"))
        self.assertEqual(len(self.judge("failed", "skipped", "failed")), 2)

    def test_row_of_which_all_cases_are_excluded_needs_no_proof(self):
        passed = [judge.Case("three", "passed")]
        row = ["contract: no case proves this: a"]
        self.assertEqual(failed(judge.judge_contract(self.TABLE, passed, ["one", "two"])), [])
        self.assertEqual(failed(judge.judge_contract(self.TABLE, passed, ["one", "three"])), row)

    def test_table_without_rows_fails(self):
        self.assertEqual(failed(judge.judge_contract("", [])), ["contract: there are no rows"])


class Splats(unittest.TestCase):
    """splats() and add_splats()"""

    LINES = """WARNING: CPU: 0 PID: 1 at mm/memory.c:1 f+0x1/0x2
        WARNING: mm/memory.c:1 at f+0x1/0x2, CPU#0: suite/1
        BUG: kernel NULL pointer dereference, address: 0000000000000000
        kernel BUG at mm/memory.c:1!
        Oops: general protection fault, probably for non-canonical address
        Oops: invalid opcode: 0000 [#1] SMP
        WARNING: possible circular locking dependency detected
        WARNING: inconsistent lock state
        WARNING: suspicious RCU usage
        DEBUG_LOCKS_WARN_ON(1)
        BUG: KASAN: slab-use-after-free in f+0x1/0x2
        UBSAN: array-index-out-of-bounds in a.c:1:1
        rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
        rcu: INFO: rcu_preempt self-detected stall on CPU
        INFO: task suite:1 blocked for more than 60 seconds.
        BUG: sleeping function called from invalid context at a.c:1
        BUG: scheduling while atomic: suite/1/0x00000002
        list_del corruption. prev->next should be 1, but was 2.
        refcount_t: underflow; use-after-free.
        watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [suite:1]
        kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
        kmemleak: Kernel memory leak detector disabled
        kmemleak: Cannot allocate a kmemleak_object structure
        Disabling lock debugging due to kernel taint
        Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
        rust_kernel: panicked at src/range.rs:1:1:
        Call Trace:
        Call trace:
        Internal error: synchronous external abort: 0000000096000410 [#1] SMP
        Unable to handle kernel paging request at virtual address ffff800081234000
        SError Interrupt on CPU1, code 0x00000000be000011 -- SError
        Bad mode in Error handler detected on CPU0, code 0xbf000000 -- SError
        ** 17 printk messages dropped **"""

    def test_each_kind_is_seen(self):
        for line in self.LINES.split("\n"):
            with self.subTest(line=line.strip()):
                self.assertTrue(judge.splats([f"[    1.000000] {line.strip()}"]))

    def test_boot_messages_of_a_debug_kernel_are_no_splats(self):
        for line in (
            "rcu: \tRCU callback double-/use-after-free debug is enabled.",
            "DMA-API: preallocated 65536 debug entries",
            "DMA-API: debugging enabled by kernel config",
            "kmemleak: Kernel memory leak detector initialized (mem pool available: 11938)",
        ):
            self.assertEqual(judge.splats([f"[ 0.0] {line}"]), {})

    def test_messages_like_those_are_splats(self):
        for line in (
            "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "slab-use-after-free",
            "DMA-API: pci 0000:01:00.0: device driver frees DMA memory",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "memory leak",
        ):
            self.assertTrue(judge.splats([f"[ 1.0] {line}"]), line)

    RACE = """[ 1.0] ==================================================================
        [ 1.0] BUG: KCSAN: data-race in a / b
        [ 1.0]
        [ 1.0] write to 0xffffffffa022a000 of 8 bytes by task 261 on cpu 0:
        [ 1.0]  a+0x17/0x20
        [ 1.0]  c+0x9cf/0xac0
        [ 1.0]
        [ 1.0] read to 0xffffffffa022a000 of 8 bytes by task 260 on cpu 1:
        [ 1.0]  b+0x17/0x20
        [ 1.0] ==================================================================
        [ 1.1]  d+0x1/0x2 [dmabuf_vfio_pci]"""

    def test_race_without_our_functions_is_no_splat(self):
        self.assertEqual(judge.splats(self.RACE.split("\n")), {})

    def test_race_below_a_function_of_ours_is_a_splat(self):
        for place in ("a+0x17/0x20", "c+0x9cf/0xac0", "b+0x17/0x20"):
            log = self.RACE.replace(place, f"{place} [dmabuf_vfio_pci]")
            self.assertTrue(judge.splats(log.split("\n")), place)

    def test_frames_below_an_interrupt_or_the_scheduler_do_not_count(self):
        for entry in ("asm_sysvec_apic_timer_interrupt+0x16/0x20", "__schedule+0x472/0xa10"):
            below = f"{entry}\n[ 1.0]  e+0x1/0x2 [dmabuf_vfio_pci]"
            log = self.RACE.replace("c+0x9cf/0xac0", below)
            self.assertEqual(judge.splats(log.split("\n")), {})
            log = log.replace("b+0x17/0x20", "b+0x17/0x20 [dmabuf_vfio_pci]")
            self.assertTrue(judge.splats(log.split("\n")))

    def test_other_splats_within_a_race_report_are_seen(self):
        log = self.RACE.replace("c+0x9cf/0xac0", "WARNING: CPU: 0")
        self.assertTrue(judge.splats(log.split("\n")))

    def test_race_of_the_test_module_is_no_splat(self):
        name = "_RNvMs_NtNtCshm5B29ExFzL_20dmabuf_vfio_pci_test3sys8unlocked15race_on_purpose"
        name += " [dmabuf_vfio_pci_test]"
        log = self.RACE.replace("b+0x17/0x20", name)
        self.assertEqual(judge.splats(log.replace("a / b", f"{name} / {name}").split("\n")), {})
        self.assertTrue(judge.splats(log.replace("a / b", f"{name} / f").split("\n")))

    def test_splat_fails_its_case(self):
        log = [QUIET[0], QUIET[1], "[ 1.15] WARNING: CPU: 0", QUIET[2]]
        self.assertEqual(failed(judge.judge(GOOD.split("\n"), log, 0, "")), ["second"])

    def test_splat_outside_of_cases_is_a_failure(self):
        for log in (["BUG: early"] + QUIET, QUIET + ["BUG: late"]):
            cases = judge.judge(GOOD.split("\n"), log, 0, "")
            self.assertEqual(failed(cases), ["kernel log, outside any case"])

    def test_splat_in_a_case_without_result(self):
        log = ["suite: begin third", "Oops: 0000"]
        self.assertEqual(failed(judge.judge(GOOD.split("\n"), log, 0, "")), ["kernel log, third"])

    def test_two_splats_are_both_shown(self):
        log = ["BUG: one"] + ["filler"] * 60 + ["BUG: two"]
        shown = judge.splats(log)[judge.OUTSIDE]
        self.assertIn("BUG: one", shown)
        self.assertIn("BUG: two", shown)

    def test_every_case_of_a_dense_log_is_blamed(self):
        log = ["suite: begin first", "BUG: one", "suite: begin second", "BUG: two"]
        self.assertEqual(failed(judge.judge(GOOD.split("\n"), log, 0, "")), ["first", "second"])


if __name__ == "__main__":
    unittest.main()
