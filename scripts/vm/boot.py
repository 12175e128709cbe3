# SPDX-License-Identifier: GPL-2.0
"""What targets share: the kernel, the modules built for it, jobs for the guest, messages."""

import dataclasses
import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys
import time

import machine
import stock
from arch import BUILD, GUEST, RELEASE

MODULE = "dmabuf-vfio-pci"
SCRIPTS = "/src/scripts"
# The programs for guests: {where they are built: their directory in the guest}.
PROGRAMS = {f"{BUILD}/guest/{RELEASE}": "bin", f"{BUILD}/tools/target/{RELEASE}": "lib/tools",
            f"{BUILD}/tools/target/{RELEASE}/examples": "lib/tools"}
# Has copies of what was built, under the same paths.
SNAPSHOT = "/tmp/snapshot"
# Which cases the user wants; none: all.
CASE = os.environ.get("CASE", "").split()
# How many times slower than usual the guest is.
SLOWER = {"debug": 10, "kcsan": 10}
# KCSAN watches one of this many accesses of a CPU; 4000 is usual.
KCSAN = "kcsan.skip_watch=500"
# Modules that stay loaded or leak fail the command. kmemleak's first scan has false positives.
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


@dataclasses.dataclass(frozen=True)
class Run:
    """A target on one kernel."""

    target: str
    flavour: str  # names the kernel and the directory of the modules for it
    kernel: str  # the directory that scripts/kernel.sh or scripts/stock/kernel.sh made
    seconds: int  # limit of one boot, 0: none
    slower: int = 1

    @property
    def stock(self):
        """Whether the kernel is one of Debian's."""
        return self.flavour.startswith(("stock-", "deb-"))

    @property
    def output(self):
        """The directory in which the modules for this target and kernel are built."""
        flavour = "" if self.flavour == "test" else f"{self.flavour}-"
        counting = "coverage-" if self.target in ("coverage", "fuzz") else ""
        return f"{BUILD}/{counting}{flavour}module"

    @property
    def modules(self):
        """The directory of the modules that guests get."""
        return SNAPSHOT + self.output

    def build(self, *parts):
        """Builds parts of the project for this kernel (scripts/build.sh)."""
        script("build.sh", self.kernel, self.output, *parts)
        self.snapshot()

    def snapshot(self):
        """Copies what was built: all boots get these files, whatever is built meanwhile."""
        with open(f"{BUILD}/.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _copy(self.output, _is_module)
            for folder in PROGRAMS:
                _copy(folder, _is_program)

    def job(self, name, *command, driver="", load=True):
        """A guest with everything that was built in it, the driver loaded."""
        driver = driver or MODULE
        job = machine.Job(name, self.kernel, list(command), driver=driver)
        job.seconds = int(os.environ.get("TIMEOUT") or self.seconds * self.slower)
        folders = {self.modules: "lib/modules"}
        folders |= {SNAPSHOT + folder: name for folder, name in PROGRAMS.items()}
        job.files = {f"{name}/{os.path.basename(path)}": path
                     for folder, name in folders.items() for path in _files(folder)}
        job.modules = (stock.MODULES if self.stock else []) + ["vfio-pci-core"]
        if load and driver == MODULE:
            job.insmod.append(f"/lib/modules/{MODULE}.ko")
        elif load:
            job.modules.append(driver)
        job.append = stock.APPEND if self.stock else KCSAN if self.flavour == "kcsan" else ""
        job.env = {"DRIVER_KO": f"/lib/modules/{MODULE}.ko", "SLOWER": str(self.slower),
                   "HOST": f"/dev/{GUEST.control}"}
        return job


def _copy(folder, is_meant):
    """Replaces what the snapshot has of a directory."""
    os.makedirs(SNAPSHOT + folder, exist_ok=True)
    for path in _files(SNAPSHOT + folder):
        os.remove(path)
    for path in filter(is_meant, _files(folder)):
        shutil.copy(path, SNAPSHOT + path)


def _files(folder):
    return filter(os.path.isfile, glob.glob(f"{folder}/*"))


def _is_module(path):
    return path.endswith(".ko")


def _is_program(path):
    """Whether a file in a directory of cargo's is a program, and no hashed copy of one."""
    return os.access(path, os.X_OK) and not re.search("-[0-9a-f]{16}$", path)


def checking_leaks(*command):
    """The command, followed by a scan for leaks on kernels with kmemleak."""
    return ["sh", "-c", KMEMLEAK, "sh", *command]


def script(name, *args, **more):
    """Runs a program of scripts/. If it fails, having said why, so does this one."""
    done = subprocess.run([f"{SCRIPTS}/{name}", *args], text=True, check=False, **more)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def kernel(name, *args):
    """The directory of a kernel, which the script makes if necessary; judge uses its TAP parser."""
    path = script(name, *args, stdout=subprocess.PIPE).strip()
    sys.path.append(f"{path}/source/tools/testing/kunit")
    return path


def say(text):
    """Prints a line for the user that is not output of the guest's program."""
    started = int(os.environ.get("STARTED", time.time()))
    print(f"[{int(time.time()) - started:4d} s] {text}", file=sys.stderr, flush=True)


def where(result):
    """Tells the user where the log is."""
    return f"kernel log: {machine.outside(result.log)}"


def by_line(function):
    """A receiver of output that calls `function` for each line."""
    rest = b""

    def on_output(data):
        nonlocal rest
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            function(line.decode(errors="replace").rstrip("\r"))

    return on_output
