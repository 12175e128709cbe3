# SPDX-License-Identifier: GPL-2.0
"""What targets share: the kernel, the modules built for it, jobs for the guest, messages."""

import dataclasses
import glob
import os
import re
import subprocess
import sys
import time

import machine
import stock
from arch import BUILD, GUEST, RELEASE

MODULE = "dmabuf-vfio-pci"
SCRIPTS = "/src/scripts"
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
    def modules(self):
        """The directory of the modules for this target and kernel."""
        if self.target == "coverage":
            return f"{BUILD}/coverage-module"
        return f"{BUILD}/module" if self.flavour == "test" else f"{BUILD}/{self.flavour}-module"

    def build(self, *parts):
        """Builds parts of the project for this kernel (scripts/build.sh)."""
        script("build.sh", self.kernel, self.modules, *parts)

    def job(self, name, *command, driver="", load=True):
        """A guest with everything that was built in it, the driver loaded."""
        driver = driver or MODULE
        job = machine.Job(name, self.kernel, list(command), driver=driver)
        job.seconds = int(os.environ.get("TIMEOUT") or self.seconds * self.slower)
        job.files = {f"lib/modules/{os.path.basename(path)}": path
                     for path in glob.glob(f"{self.modules}/*.ko")}
        job.files |= _programs("bin", f"{BUILD}/guest/{RELEASE}")
        tools = f"{BUILD}/tools/target/{RELEASE}"
        job.files |= _programs("lib/tools", tools) | _programs("lib/tools", f"{tools}/examples")
        job.modules = (stock.MODULES if self.stock else []) + ["vfio-pci-core"]
        if load and driver == MODULE:
            job.insmod.append(f"/lib/modules/{MODULE}.ko")
        elif load:
            job.modules.append(driver)
        job.append = stock.APPEND if self.stock else KCSAN if self.flavour == "kcsan" else ""
        job.env = {"DRIVER_KO": f"/lib/modules/{MODULE}.ko", "SLOWER": str(self.slower),
                   "HOST": f"/dev/{GUEST.control}"}
        return job


def _programs(folder, path):
    """{guest path: path} of the programs in a directory of cargo's, less its hashed copies."""
    return {f"{folder}/{os.path.basename(file)}": file for file in glob.glob(f"{path}/*")
            if os.path.isfile(file) and os.access(file, os.X_OK)
            and not re.search("-[0-9a-f]{16}$", file)}


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
