# SPDX-License-Identifier: GPL-2.0
"""`make test` and its variants, `make stock-test`: KUnit and the guest suite."""

import os
import shlex
import subprocess

import judge
import machine
import stock
import stress
from boot import BUILD, MODULE, RELEASE, by_line, checking_leaks, say, where

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
]
TEST_QEMU_ARGS = []
for memdev in ("shared", "same"):
    TEST_QEMU_ARGS += ["-object", f"memory-backend-file,id={memdev},share=on,size=1M,"
                       "mem-path=/tmp/shared"]
# Root ports with several devices, which are to reach each other without the IOMMU.
TEST_SHARED_PORTS = [
    f"00:{machine.FIRST_SLOT + number:02x}.0"
    for number, name in enumerate(TEST_DEVICES)
    if "+" in name or "|" in name
]
# Freed memory is zeroed at once, which exposes a use after free.
TEST_APPEND = f" init_on_free=1 pci=disable_acs_redir={';'.join(TEST_SHARED_PORTS)}"
# Only a kernel with KCSAN passes this case.
DATA_RACE = "data_race_is_found"


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
    return judge.judge(log[start:], log, result.status, result.problem)


def suite_job(run, *patterns):
    """A boot that runs cases of the guest suite on the test devices."""
    job = run.job("suite", *checking_leaks("suite", *patterns))
    job.devices, job.qemu_args = TEST_DEVICES, TEST_QEMU_ARGS
    job.modules.append("vfio-pci")
    job.append += TEST_APPEND
    return job


def suite(run):
    """The cases of the guest suite, on the test devices."""
    say("test: boot for the guest suite")
    job = suite_job(run, *shlex.split(os.environ.get("CASE", "")))
    if run.target == "test-stress":
        stress.beside(job)
    if run.stock:
        job.env["SUITE_EXCEPT"] = " ".join(stock.excluded(run.kernel))
    elif run.flavour != "kcsan":
        job.env["SUITE_EXCEPT"] = DATA_RACE

    def on_line(line):
        if line.startswith(("ok ", "not ok ")):
            say(line)

    result = machine.run(job, by_line(on_line))
    say(where(result))
    return judge.judge(result.lines(), result.kernel_log(), result.status, result.problem)


def contract():
    """The contract, printed by the suite: a static program, which also runs here."""
    return subprocess.check_output([f"{BUILD}/guest/{RELEASE}/suite", "--contract"], text=True)


def test(run):
    """KUnit and the suite, or with CASE some cases of the suite."""
    if os.environ.get("CASE"):
        return judge.conclude(suite(run))
    cases = kunit(run) + suite(run)
    if not os.environ.get("ACCEL"):
        judge.judge_skips(cases)
    cases += judge.judge_contract(contract(), cases)
    return judge.conclude(cases)


def stock_test(run):
    """The suite on one of Debian's kernels, less the cases for which it lacks an option."""
    cases = judge.judge_skips(suite(run))
    print(stock.summary(run.kernel))
    return judge.conclude(cases)
