# SPDX-License-Identifier: GPL-2.0
"""usage (inside the root): run.py KERNEL TARGET

The targets of the Makefile that boot a guest: see main(). They take what the user may set
from the environment: PROG ARGS DEVICES DRIVER QEMU_ARGS TIMEOUT CASE MINUTES SEED.
"""

import contextlib
import glob
import os
import re
import shlex
import subprocess
import sys
import time

import apps
import bench
import judge
import machine
import selftests
import soak
import stock
import stress

MODULE = "dmabuf-vfio-pci"
KUNIT = f"{MODULE}-kunit"
BUILD = "/src/build"
PROG_FD = 8  # scripts/run opens the user's program: its path means nothing in here

# The devices of `make test`; what the cases need to know of them is in their
# configuration space. A case that misses its device skips itself.
TEST_DEVICES = [
    "edu",
    "edu,dma_mask=0xffffffff",
    "edu+edu",
    "bochs-display,vgamem=16M",
    "ivshmem-plain,memdev=shared",
    "igb",
    "pci-testdev,membar=4G",
    # Behind the second one is the same file of the host as behind the first.
    "ivshmem-plain,memdev=same",
    "bochs-display,vgamem=16M|edu,dma_mask=0xffffffff",
]
TEST_QEMU_ARGS = [
    "-object",
    "memory-backend-file,id=shared,share=on,size=1M,mem-path=/tmp/shared",
    "-object",
    "memory-backend-file,id=same,share=on,size=1M,mem-path=/tmp/shared",
]
# Behind these root ports are several devices, which are to reach each other without the IOMMU.
TEST_SHARED_PORTS = [
    f"00:{machine.FIRST_SLOT + number:02x}.0"
    for number, name in enumerate(TEST_DEVICES)
    if "+" in name or "|" in name
]
# What is freed is all zero from then on, and who goes on using it is found out.
TEST_APPEND = f"init_on_free=1 pci=disable_acs_redir={';'.join(TEST_SHARED_PORTS)}"
SECONDS = {"demo": 180, "kunit": 180, "suite": 900, "selftests": 1800, "bench": 900, "run": 600}
SECONDS["apps"] = 2400

# Where the modules for the target's kernel are, and how much slower than usual that is.
FLAVOURS = {"bench": "bench", "test-debug": "debug", "test-kcsan": "kcsan"}
FLAVOURS["soak"] = FLAVOURS["fuzz"] = os.environ.get("KERNEL") or "bench"
FLAVOUR = FLAVOURS.get(sys.argv[-1], "test")
STOCK = sys.argv[-1] in ("stock-test", "deb-test")
if STOCK:
    FLAVOUR = stock.flavour(*sys.argv[1:])
MODULES = "module" if FLAVOUR == "test" else f"{FLAVOUR}-module"
SLOWER = 10 if FLAVOUR in ("debug", "kcsan") else 4 if sys.argv[-1] == "test-stress" else 1
# How many accesses of a CPU come between two that KCSAN watches; 4000 is usual.
KCSAN = "kcsan.skip_watch=500"
# The case that only a kernel with KCSAN can pass.
DATA_RACE = "data_race_is_found"
# After the cases: what they have left behind is a leak. Two scans, as the first finds false ones.
KMEMLEAK = """
"$@"
status=$?
leaks=/sys/kernel/debug/kmemleak
if [ -e $leaks ]; then
	for module in dmabuf_vfio_pci_test dmabuf_vfio_pci; do
		[ ! -e /sys/module/$module ] || rmmod $module || status=1
	done
	echo scan > $leaks && sleep 6 && echo scan > $leaks || status=1
	cat $leaks > /dev/kmsg
fi
exit $status
"""

# Exit statuses of `run` that are not the program's.
STATUS_TIME_LIMIT = 124
STATUS_GUEST_FAILED = 125


def say(text):
    """A line for the user that is not the program's output."""
    started = int(os.environ.get("STARTED", time.time()))
    print(f"[{int(time.time()) - started:4d} s] {text}", file=sys.stderr, flush=True)


def write(data):
    """Output of the guest's program, as it comes."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def by_line(function):
    """A taker of output that calls `function` with each whole line."""
    rest = [b""]

    def on_output(data):
        *lines, rest[0] = (rest[0] + data).split(b"\n")
        for line in lines:
            function(line)

    return on_output


def seconds(what):
    """The time limit of a boot."""
    return int(os.environ.get("TIMEOUT") or SECONDS.get(what, 0) * SLOWER)


def base_job(name, kernel, command, **more):
    """A job with everything that was built in the guest."""
    modules = f"{BUILD}/{MODULES}/*.ko"
    files = {f"lib/modules/{os.path.basename(p)}": p for p in glob.glob(modules)}
    for path in glob.glob(f"{BUILD}/guest/x86_64-unknown-linux-gnu/release/*"):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            files[f"bin/{os.path.basename(path)}"] = path
    # The tools, and the examples of their crate; of these cargo keeps a copy named by a hash.
    tools = f"{BUILD}/tools/target/x86_64-unknown-linux-gnu/release"
    for path in glob.glob(f"{tools}/*") + glob.glob(f"{tools}/examples/*"):
        hashed = re.search("-[0-9a-f]{16}$", path)
        if os.path.isfile(path) and os.access(path, os.X_OK) and not hashed:
            files[f"lib/tools/{os.path.basename(path)}"] = path
    job = machine.Job(name, kernel, command, files=files, seconds=seconds(name), **more)
    job.driver = job.driver or MODULE
    job.modules = job.modules or (stock.MODULES if STOCK else []) + ["vfio-pci-core"]
    job.append = stock.APPEND if STOCK else KCSAN if FLAVOUR == "kcsan" else ""
    job.env.setdefault("DRIVER_KO", f"/lib/modules/{MODULE}.ko")
    job.env["SLOWER"] = str(SLOWER)
    job.env["HOST"] = "/dev/ttyS2"
    return job


def load_driver(job):
    """Lets init load the job's driver before the command starts."""
    if job.driver == MODULE:
        job.insmod.append(f"/lib/modules/{MODULE}.ko")
    else:
        job.modules.append(job.driver)


def logs(result):
    """Where to look."""
    return f"kernel log: {machine.outside(result.log)}"


def demo(kernel):
    """The demo does its own insmod and bind; its verdict waits for the kernel log's."""
    verdict = []

    def on_line(line):
        if line.startswith((b"demo: OK", b"demo: FAILED")):
            verdict.append(line.decode(errors="replace").strip())
        else:
            write(line + b"\n")

    job = base_job("demo", kernel, ["demo"], devices=["edu"])
    result = machine.run(job, by_line(on_line))
    bad = judge.splats(result.kernel_log())
    why = ""
    if result.problem:
        why = result.problem
    elif verdict[-1:] != ["demo: OK"]:
        last = verdict[-1] if verdict else "the program gave no verdict"
        why = last.removeprefix("demo: FAILED: ")
    elif result.status != 0:
        why = f"exit status {result.status}"
    elif bad:
        why = "the kernel complained"
    if not why:
        print("demo: OK", flush=True)
        return 0
    for line in [line for lines in bad.values() for line in lines][:60]:
        print(line)
    print(logs(result))
    print(f"demo: FAILED: {why}", flush=True)
    return 1


def kunit(kernel):
    """One boot that loads the KUnit module; judged by the kernel's own parser."""
    if not os.path.exists(f"{BUILD}/{MODULES}/{KUNIT}.ko"):
        return [judge.Case(f"kunit: there is no {KUNIT}.ko", "failed")]
    sys.path.insert(0, f"{kernel}/source/tools/testing/kunit")
    import kunit_parser  # pylint: disable=import-error,import-outside-toplevel
    import kunit_printer  # pylint: disable=import-error,import-outside-toplevel

    say("test: boot for KUnit")
    command = ["sh", "-c", KMEMLEAK, "sh", "true"]
    job = base_job("kunit", kernel, command, insmod=[f"/lib/modules/{KUNIT}.ko"])
    job.append += " kunit.enable=1 kunit.autorun=1"
    result = machine.run(job)
    log = result.kernel_log()
    # The kernel's own tests run when it boots; ours when init loads them.
    start = next((i for i, line in enumerate(log) if "guest: begin" in line), 0)
    with open(os.path.join(os.path.dirname(result.log), "kunit"), "w") as report:
        with contextlib.redirect_stdout(report):
            test = kunit_parser.parse_run_tests(log[start:], kunit_printer.Printer(output=report))
    say(logs(result))
    return judge.judge_kunit(test, kunit_parser, log, result.status, result.problem)


def suite(kernel):
    """One boot that runs the guest programs' cases on the test devices."""
    say("test: boot for the guest suite")
    command = ["sh", "-c", KMEMLEAK, "sh", "suite"] + shlex.split(os.environ.get("CASE", ""))
    job = base_job("suite", kernel, command, devices=TEST_DEVICES, qemu_args=TEST_QEMU_ARGS)
    job.modules.append("vfio-pci")
    if sys.argv[-1] == "test-stress":
        stress.beside(job)
    if STOCK:
        job.env["SUITE_EXCEPT"] = " ".join(stock.not_here(kernel))
    elif FLAVOUR != "kcsan":
        job.env["SUITE_EXCEPT"] = DATA_RACE
    job.append += f" {TEST_APPEND}"
    load_driver(job)

    def on_line(line):
        if line.startswith((b"ok ", b"not ok ")):
            say(line.decode(errors="replace").strip())

    result = machine.run(job, by_line(on_line))
    with open(os.path.join(os.path.dirname(result.log), "output"), "wb") as file:
        file.write(result.output)
    say(logs(result))
    return judge.judge_suite(
        result.output.decode(errors="replace"), result.kernel_log(), result.status, result.problem
    )


def test(kernel):
    """Everything."""
    everything = not os.environ.get("CASE")
    cases = kunit(kernel) if everything else []
    cases += suite(kernel)
    if everything and not os.environ.get("ACCEL"):
        judge.judge_skips(cases)
    if everything:
        cases += judge.judge_contract(contract(), cases)
    return conclude(cases)


def contract():
    """The table of which case proves what, from the suite itself: it is static, and runs here."""
    suite_program = f"{BUILD}/guest/x86_64-unknown-linux-gnu/release/suite"
    return subprocess.check_output([suite_program, "--contract"], text=True)


def stock_test(kernel):
    """The demo and the suite on a kernel of Debian's, less what that kernel does not have."""
    print(f"--- {stock.name(kernel)}", flush=True)
    status = 0 if os.environ.get("CASE") else demo(kernel)
    cases = judge.judge_skips(suite(kernel))
    print(stock.told(kernel))
    return conclude(cases) or status


def conclude(cases):
    """Prints each case that did not pass, and the totals last; returns the exit status."""
    for case in cases:
        if case.status == "failed":
            print(f"\nFAILED: {case.name}")
            print("".join(f"    {line}\n" for line in case.output), end="")
    for case in cases:
        if case.status == "skipped":
            print(f"skipped: {case.name}: {case.reason or 'no reason given'}")
    line, good = judge.totals(cases)
    print(line, flush=True)
    return 0 if good else 1


def soaked(kernel):
    """Random operations or hostile calls, by the program of the target's name; see soak.py."""
    minutes, name = int(os.environ.get("MINUTES") or 10), sys.argv[-1]
    command = ["sh", "-c", KMEMLEAK, "sh"] + soak.command(name, minutes, os.environ.get("SEED"))
    job = base_job(name, kernel, command, devices=TEST_DEVICES, qemu_args=TEST_QEMU_ARGS)
    return soak.soak(job, minutes, by_line)


def measure(kernel):
    """The table of costs; see bench.py."""
    job = base_job("bench", kernel, ["bench"])
    job.files[f"lib/untraced/{MODULE}.ko"] = f"{BUILD}/untraced-module/{MODULE}.ko"
    return bench.bench(job, BUILD) or bench.contention(base_job("bench", kernel, ["bench"]))


def compare(kernel):
    """The kernel's own VFIO tests; see selftests.py."""
    job = base_job("selftests", kernel, [])
    load_driver(job)
    return selftests.selftests(job, say)


def programs(kernel):
    """Debian's own programs; see apps.py."""
    return apps.apps(lambda: base_job("apps", kernel, []), say)


def user_job(name, kernel, command):
    """A job on the devices, driver and QEMU arguments that the user named."""
    devices = (os.environ.get("DEVICES") or "edu").split()
    job = base_job(name, kernel, command, devices=devices, driver=os.environ.get("DRIVER", ""))
    job.qemu_args = shlex.split(os.environ.get("QEMU_ARGS", ""))
    job.bind = True
    load_driver(job)
    return job


def run(kernel):
    """Runs the user's program and becomes its exit status."""
    name = os.environ.get("PROG", "")
    if not name:
        raise machine.Unusable('nothing to run: make run PROG=./program [ARGS="..."]')
    command = [name] + shlex.split(os.environ.get("ARGS", ""))
    job = user_job("run", kernel, command)
    if os.path.exists(f"/proc/self/fd/{PROG_FD}"):
        path = f"/dev/fd/{PROG_FD}"
        loader = machine.interpreter(path)
        if loader:
            say(f"warning: {name} is not a static binary: the guest has no {loader}")
        command[0] = f"/root/{os.path.basename(name)}"
        job.files[command[0]] = path
    job.terminal = sys.stdin.isatty() and sys.stdout.isatty()
    job.stdin = 0
    result = machine.run(job, write)
    bad = judge.splats(result.kernel_log())
    for case_lines in bad.values():
        say("warning: the kernel complained:")
        print("\n".join(case_lines[:40]), file=sys.stderr)
    if result.problem:
        say(f"{result.problem}; {logs(result)}")
        if not bad and not result.timed_out:
            print("\n".join(result.kernel_log()[-8:]), file=sys.stderr)
        return STATUS_TIME_LIMIT if result.timed_out else STATUS_GUEST_FAILED
    return result.status


def shell(kernel):
    """A prompt with the module loaded and the devices bound."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise machine.Unusable("make shell needs a terminal; for a script use make run PROG=sh")
    job = user_job("shell", kernel, ["sh"])
    job.terminal, job.stdin, job.seconds = True, 0, 0
    job.env.update(TERM=os.environ.get("TERM", "vt100"), PS1="guest# ")
    say("the guest's prompt comes in a few seconds; exit or Ctrl-D powers it off, Ctrl-] kills it")
    say(f"in it: $BDF0, $GROUP0, ... name the devices ({' '.join(job.devices)})")
    result = machine.run(job, write)
    say(result.problem or "the guest powered off")
    say(logs(result))
    return 0


def main():
    """Runs one target."""
    try:
        kernel, target = sys.argv[1:]
        targets = {"demo": demo, "test": test, "bench": measure, "run": run, "shell": shell}
        targets.update({"test-debug": test, "test-kcsan": test, "test-stress": test})
        targets.update({"selftests": compare, "soak": soaked, "fuzz": soaked})
        targets["apps-test"] = programs
        targets.update({"stock-test": stock_test, "deb-test": demo})
        sys.exit(targets[target](kernel))
    except machine.Unusable as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
