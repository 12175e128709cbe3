# SPDX-License-Identifier: GPL-2.0
"""`make test` and its variants, `make stock-test`: KUnit and the guest suite."""

import glob
import os
import re
import subprocess

import arch
import judge
import machine
import stock
import stress
from arch import BUILD, RELEASE, RUNS
from boot import CASE, MODULE, by_line, checking_leaks, say, where

KUNIT = f"{MODULE}-kunit.ko"
# The devices of `make test`. The cases find them by their configuration space; a case whose device
# is not there skips itself.
TEST_DEVICES = [
    "edu",
    "edu,dma_mask=0xffffffff",
    "edu+edu",
    "bochs-display,vgamem=16M",
    "ivshmem-plain,memdev=shared",
    "igb",
    "pci-testdev,membar=4G",
    # Has the same file of the host as the first ivshmem.
    "ivshmem-plain,memdev=same",
    "bochs-display,vgamem=16M|edu,dma_mask=0xffffffff",
    # Has memory in BAR1 and BAR4 only.
    "virtio-rng-pci",
    # Has memory in BAR5 only.
    "ich9-ahci",
]
TEST_QEMU_ARGS = []
for memdev in ("shared", "same"):
    TEST_QEMU_ARGS += ["-object", f"memory-backend-file,id={memdev},share=on,size=1M,"
                       "mem-path=/tmp/shared"]
# Root ports with several devices, which are to reach each other without the IOMMU. They are in one
# IOMMU group then, functions of a device also with the port.
TEST_SHARED_PORTS = [
    f"00:{machine.FIRST_SLOT + number:02x}.0"
    for number, name in enumerate(TEST_DEVICES)
    if "|" in name or ("+" in name and not arch.GUEST.translates_msis)
]
# Freed memory is zeroed at once, which exposes a use after free.
TEST_APPEND = f" init_on_free=1 pci=disable_acs_redir={';'.join(TEST_SHARED_PORTS)}"
# Only a kernel with KCSAN passes this case.
DATA_RACE = "data_race_is_found"
# Only a kernel that was booted with `nopat`.
NO_PAT = "write_combining_is_refused_without_a_page_attribute_table"
# What the usual boot on the test kernel cannot run.
ELSEWHERE = {DATA_RACE, NO_PAT}


def kunit_job(run):
    """A boot that loads the KUnit module."""
    job = run.job("kunit", *checking_leaks("true"), load=False)
    job.insmod = [f"/lib/modules/{KUNIT}"]
    job.append += " kunit.enable=1 kunit.autorun=1"
    return job


def kunit(run):
    """The cases of the KUnit module, in a boot of its own."""
    if not os.path.exists(f"{run.modules}/{KUNIT}"):
        return [judge.Case(f"kunit: there is no {KUNIT}", "failed")]
    say("test: boot for KUnit")
    result = machine.run(kunit_job(run))
    say(where(result))
    return judge_kunit(result)


def judge_kunit(result):
    """The cases of a boot that loaded the KUnit module."""
    log = result.kernel_log()
    # The kernel's own suites run during boot, ours when init loads them.
    start = next((i for i, line in enumerate(log) if "guest: begin" in line), 0)
    cases = judge.judge(log[start:], log, result.status, result.problem)
    return cases + judge.judge_suites(kunit_suites(), cases)


def kunit_suites():
    """The names of the KUnit suites in the source."""
    sources = [open(path, encoding="utf-8").read() for path in glob.glob("/src/tests/kunit/*.rs")]
    return re.findall(r"#\[kunit_tests\((\w+)\)\]", "".join(sources))


def seed():
    """The seed of random operations: SEED, or one that the commit chooses."""
    return os.environ.get("SEED") or str(int(os.environ.get("COMMIT") or "1", 16))


def suite(run):
    """The boot of the guest suite, on the test devices."""
    say("test: boot for the guest suite")
    job = suite_job(run, *CASE)
    job.env["SEED"] = seed()
    say(f"test: SEED={seed()}")
    if run.target == "test-stress":
        stress.beside(job)
    left_out = arch.excluded() + ([] if CASE else [NO_PAT])
    if run.stock:
        left_out += stock.excluded(run.kernel)
    elif run.flavour != "kcsan":
        left_out.append(DATA_RACE)
    job.env["SUITE_EXCEPT"] = " ".join(left_out)
    return job


def without_pat(run):
    """The boot of the case for a CPU without a page attribute table."""
    say("test: boot with nopat")
    job = suite_job(run, NO_PAT, name="nopat")
    job.append += " nopat"
    return job


def boots(run):
    """The boots of the suite, less those that have no case which the user wants."""
    yield suite(run)
    if NO_PAT in arch.excluded():
        return
    if not CASE or any(pattern in NO_PAT for pattern in CASE):
        yield without_pat(run)


def suite_job(run, *patterns, name="suite"):
    """A boot that runs cases of the guest suite on the test devices."""
    job = run.job(name, *checking_leaks("suite", *patterns))
    job.devices, job.qemu_args = TEST_DEVICES, TEST_QEMU_ARGS
    job.modules.append("vfio-pci")
    job.append += TEST_APPEND
    return job


def judged(job):
    """The result of a boot, and its cases."""
    def on_line(line):
        if line.startswith(("ok ", "not ok ")):
            say(line)

    result = machine.run(job, by_line(on_line))
    say(where(result))
    cases = judge.judge(result.lines(), result.kernel_log(), result.status, result.problem)
    return result, cases


def contract():
    """The contract, printed by the suite: a static program, which runs here, too."""
    return subprocess.check_output([*RUNS, f"{BUILD}/guest/{RELEASE}/suite", "--contract"],
                                   text=True)


def test(run):
    """KUnit and the suite, or with CASE some cases of the suite."""
    cases = [] if CASE else kunit(run)
    for job in boots(run):
        cases += judged(job)[1]
    if CASE:
        return judge.conclude(cases)
    if not os.environ.get("ACCEL"):
        judge.judge_skips(cases)
    cases += judge.judge_contract(contract(), cases, arch.excluded())
    for why, names in arch.reasons().items():
        print(f"not run on {arch.GUEST.name}: {' '.join(names)}: {why}")
    return judge.conclude(cases)


def stock_test(run):
    """The suite on one of Debian's kernels, less the cases for which it lacks an option."""
    cases = judge.judge_skips(judged(suite(run))[1])
    print(stock.summary(run.kernel))
    return judge.conclude(cases)
