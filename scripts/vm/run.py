#!/usr/bin/python3 -u
# SPDX-License-Identifier: GPL-2.0
"""usage (inside the root): run.py TARGET

Runs a target of the Makefile. TARGETS is the one table of them: what each needs and does.
Settings (PROG, CASE, MINUTES, ...) come from the environment, see `make help`.
"""

import dataclasses
import os
import subprocess
import sys
import typing

import apps
import arch
import bench
import boot
import coverage
import machine
import mutants
import selftests
import stock
import suite
import user
import verdict

STOCK_SERIES = ["7.3", "7.2"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A target. `function` gets a boot.Run and returns the exit status."""

    function: typing.Callable
    flavour: str  # of the kernel, see scripts/kernel.sh; "": none
    parts: tuple = ()  # what scripts/build.sh builds first
    seconds: int = 0  # limit of one boot, on the usual kernel
    slower: int = 1  # how many times slower than usual the guest is on the usual kernel
    choice: bool = False  # KERNEL names another flavour


def module(run):
    """`make` alone."""
    boot.say(f"module: {machine.outside(run.output)}/{boot.MODULE}.ko")


def tools(_run):
    """`make tools`"""
    boot.say(f"tools: {machine.outside(arch.BUILD)}/tools: bin, man1, completions")


def check(run):
    """`make check`, `make fmt`"""
    boot.script("check", run.kernel, *["--fmt"] * (run.target == "fmt"))


def contract(_run):
    """`make contract`"""
    print(suite.contract(), end="")


def deb(_run):
    """`make deb`"""
    boot.script("debian/build")


def _on_stock(run, series):
    """The same target on Debian's newest kernel of a series."""
    flavour = f"{run.target.removesuffix('-test')}-{series}"
    kernel = boot.kernel("stock/kernel.sh", series)
    return dataclasses.replace(run, flavour=flavour, kernel=kernel)


def deb_test(run):
    """Builds, installs and removes the packages; the modules that DKMS built run the demo."""
    deb(run)
    boot.script("stock/test-packages")
    status = 0
    for series in STOCK_SERIES:
        its = _on_stock(run, series)
        its.snapshot()
        status |= verdict.demo(its)
    return status


def stock_test(run):
    """The demo and the suite on Debian's kernels."""
    status = 0
    for series in (os.environ.get("STOCK") or " ".join(STOCK_SERIES)).split():
        its = _on_stock(run, series)
        print(f"--- {stock.name(its.kernel)}", flush=True)
        its.build("module")
        gates = [f"{boot.SCRIPTS}/stock/test-gates", its.kernel, f"{its.modules}/{boot.MODULE}.ko"]
        status |= subprocess.run(gates, check=False).returncode
        if not boot.CASE:
            status |= verdict.demo(its)
        status |= suite.stock_test(its)
    return status


SUITE = ("module", "guest", "tools")
TARGETS = {
    "module": Target(module, "test", ("module",)),
    "tools": Target(tools, "", ("tools",)),
    "check": Target(check, "test"),
    "fmt": Target(check, "test"),
    "contract": Target(contract, "", ("suite",)),
    "demo": Target(verdict.demo, "test", ("module", "demo"), 180),
    "run": Target(user.program, "test", ("module", "tools"), 600),
    "shell": Target(user.shell, "test", ("module", "tools")),
    "test": Target(suite.test, "test", SUITE, 2700),
    "test-stress": Target(suite.test, "test", SUITE, 2700, slower=4),
    "test-debug": Target(suite.test, "debug", SUITE, 2700),
    "test-kcsan": Target(suite.test, "kcsan", SUITE, 2700),
    "coverage": Target(coverage.coverage, "test", ("coverage", "guest", "tools"), 2700),
    "soak": Target(verdict.soak, "bench", ("module", "soak"), choice=True),
    "fuzz": Target(verdict.soak, "bench", ("coverage", "fuzz"), choice=True),
    "selftests": Target(selftests.selftests, "test", ("module", "selftests"), 1800),
    "bench": Target(bench.bench, "bench", ("module", "untraced", "bench"), 900),
    "mutants": Target(mutants.mutants, "test", SUITE),
    "apps-test": Target(apps.apps, "test", ("module", "guest"), 2400),
    "stock-test": Target(stock_test, "", ("suite", "demo", "soak", "fuzz", "tools"), 2700),
    "deb": Target(deb, "", ("tools",)),
    "deb-test": Target(deb_test, "", ("tools", "demo"), 180),
}
# They need what is x86's, or packages for it.
X86_ONLY = {"test-stress", "test-debug", "test-kcsan", "coverage", "selftests", "mutants",
            "apps-test", "stock-test", "deb", "deb-test"}


def main():
    """Runs one target."""
    name, = sys.argv[1:]
    target = TARGETS[name]
    if name in X86_ONLY and arch.GUEST is not arch.X86:
        sys.exit(f"error: make {name} works with ARCH=x86 only")
    flavour = os.environ.get("KERNEL") or target.flavour if target.choice else target.flavour
    slower = boot.SLOWER.get(flavour, target.slower)
    try:
        kernel = boot.kernel("kernel.sh", flavour) if flavour else ""
        run = boot.Run(name, flavour, kernel, target.seconds, slower)
        if target.parts:
            run.build(*target.parts)
        sys.exit(target.function(run))
    except machine.Unusable as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
