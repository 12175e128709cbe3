# SPDX-License-Identifier: GPL-2.0
"""Boots QEMU for one job and talks to the guest's init (scripts/vm/guest/init).

The guest (arch.py) has three serial ports: the kernel's log (to a file), the program's stdin and
stdout, and a control channel. On that init reports "ready", "ack" (one chunk of stdin was read),
"exit N" or "failed WHY". Programs request "aer ID ERROR": QEMU injects the PCI Express error into
that device.
"""

import base64
import dataclasses
import glob
import json
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import termios
import time
import tty
import typing

from arch import BUILD, GUEST, RUNS
from cpio import Archive

INSIDE = f"{os.path.dirname(os.path.abspath(__file__))}/guest"  # what runs in the guest
FIRST_SLOT = 0x10
MAX_DEVICES = 15
CHUNK = 1536
LEAVE_KEY = b"\x1d"  # Ctrl-]
AER = re.compile(r"[a-z0-9.]+ [A-Z_]+")
POWER_OFF_SECONDS = 60
APPEND = (
    f"{GUEST.append} ignore_loglevel printk.devkmsg=on oops=panic panic=-1 random.trust_cpu=on "
    # The kernel asks the firmware for error reporting only together with ASPM.
    "pcie_ports=native"
)


class Unusable(Exception):
    """The job cannot run as requested; the text says why."""


@dataclasses.dataclass
class Job:
    """A guest to boot, and the command to run in it."""

    name: str
    kernel: str  # the directory that scripts/kernel.sh or scripts/stock/kernel.sh made
    command: list  # argv in the guest
    files: dict = dataclasses.field(default_factory=dict)  # guest path -> host path
    modules: list = dataclasses.field(default_factory=list)  # for modprobe
    insmod: list = dataclasses.field(default_factory=list)  # guest paths, after `modules`
    # As for -device, without a bus. "a+b": two functions of one device; "a|b": two devices below
    # a switch.
    devices: list = dataclasses.field(default_factory=list)
    qemu_args: list = dataclasses.field(default_factory=list)
    append: str = ""  # more kernel command line
    memory: str = "1G"
    icount: bool = False  # one CPU, one instruction per virtual nanosecond
    parallel: bool = False  # one host thread per CPU
    driver: str = ""
    bind: bool = False
    env: dict = dataclasses.field(default_factory=dict)
    terminal: bool = False  # the program gets our terminal
    stdin: int = -1  # a file descriptor to forward, -1: none
    seconds: int = 0  # wall-clock limit, 0: none
    folder: str = ""  # of the logs, "": a new one
    # Called at least once a second; a text that it returns ends the run, as the problem.
    watch: typing.Callable = None


@dataclasses.dataclass
class Result:
    """How the guest ended. `problem` is empty if the program ran and the guest powered off."""

    status: int = None
    problem: str = ""
    timed_out: bool = False
    output: bytes = b""
    log: str = ""

    def lines(self):
        """The lines of the program's output."""
        return self.output.decode(errors="replace").replace("\r", "").split("\n")

    def kernel_log(self):
        """The lines of the kernel's log."""
        with open(self.log, errors="replace") as file:
            return file.read().replace("\r", "").split("\n")


def new_log_dir(name):
    """Makes a directory build/logs/NAME-... and removes all but the newest 20."""
    base = f"{BUILD}/logs"
    os.makedirs(base, exist_ok=True)
    old = sorted(glob.glob(f"{base}/*-*/"), key=os.path.getmtime)
    for path in old[:-20]:
        shutil.rmtree(path, ignore_errors=True)
    path = f"{base}/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    extra = ""
    while True:
        try:
            os.mkdir(path + extra)
            return path + extra
        except FileExistsError:
            extra = f".{int(extra[1:] or 0) + 1}"


def outside(path):
    """The host's name of a path inside the root."""
    if path.startswith("/src/"):
        return os.environ.get("HOST_SRC", "/src") + path[4:]
    return path


def _write_initramfs(job, path):
    archive = Archive(path)
    for name in ("proc", "sys", "dev", "tmp", "bin", "sbin", "etc", "root", "run"):
        archive.add_dir(name)
    archive.add_link("linuxrc", "bin/busybox")
    archive.add_file("init", f"{INSIDE}/init")
    archive.add_file("lib/guest.sh", f"{INSIDE}/lib.sh")
    for name, source in job.files.items():
        archive.add_file(name, source)
    archive.add_file("bin/busybox", "/bin/busybox")
    applets = subprocess.check_output([*RUNS, "/bin/busybox", "--list"], text=True)
    for applet in applets.split():
        archive.add_link(f"bin/{applet}", "busybox")
    archive.add_tree("lib/modules", f"{job.kernel}/modules/lib/modules")
    for path in glob.glob(f"{job.kernel}/modules/lib/modules/*/kernel/**/*.ko", recursive=True):
        target = os.path.relpath(path, f"{job.kernel}/modules/lib/modules")
        archive.add_link(f"lib/modules/{os.path.basename(path)}", target)
    size = os.get_terminal_size() if job.terminal else os.terminal_size((80, 24))
    settings = {
        "MODPROBE": " ".join(job.modules),
        "INSMOD": " ".join(job.insmod),
        "DEVICES": str(len(job.devices)),
        "DRIVER": job.driver,
        "BIND": str(int(job.bind)),
        "TTY": str(int(job.terminal)),
        "CONSOLE": f"/dev/{GUEST.console}",
        "CONTROL": f"/dev/{GUEST.control}",
        "ROWS": str(size.lines or 24),
        "COLS": str(size.columns or 80),
    }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    lines += [f"export {name}={shlex.quote(value)}\n" for name, value in job.env.items()]
    lines += ["export DRIVER\n"]
    archive.add_data("job/env", "".join(lines).encode())
    archive.add_data("job/run", f"exec {shlex.join(job.command)}\n".encode())
    archive.close()


def _device_args(devices):
    """QEMU's -device options: each entry of a job's `devices` gets its own root port."""
    if len(devices) > MAX_DEVICES:
        raise Unusable(f"{len(devices)} devices: at most {MAX_DEVICES} fit")
    args = []
    for i, entry in enumerate(devices):
        if ",bus=" in entry or ",addr=" in entry:
            raise Unusable(f"device {entry}: leave bus and addr out, each gets its own root port")
        where = f"bus=pcie.0,addr={FIRST_SLOT + i:#x},chassis={i + 1},slot={i + 1}"
        # QEMU's links do not retrain after a reset, which faster ones have to.
        args.append(f"pcie-root-port,id=port{i},hotplug=off,x-speed=5,{where}")
        below = entry.split("|")
        if len(below) > 1:
            args.append(f"x3130-upstream,id=switch{i},bus=port{i}")
        for number, device in enumerate(below):
            bus = f"port{i}"
            if len(below) > 1:
                bus = f"port{i}.{number}"
                where = f"bus=switch{i},addr={number:#x},chassis={64 + i},slot={number}"
                args.append(f"xio3130-downstream,id={bus},hotplug=off,{where}")
            functions = device.split("+")
            for function, name in enumerate(functions):
                more = ",multifunction=on" if len(functions) > 1 and function == 0 else ""
                args.append(f"{name},bus={bus},addr=0.{function}{more}")
    return [word for arg in args for word in ("-device", arg)]


def _qemu_command(job, folder, initramfs, console, control, monitor):
    # Parallel CPUs trip an assertion of QEMU 10.0 if memory enable is toggled meanwhile.
    emulation = "tcg,thread=multi" if job.parallel else "tcg,thread=single"
    accel = os.environ.get("ACCEL") or "tcg"
    cpu = "host" if accel.startswith("kvm") else GUEST.cpu
    # A case stops a thread that spins, lets another one spin behind it, and looks on.
    cpus = "4"
    command = [*GUEST.qemu, "-nodefaults", "-no-user-config", "-display", "none"]
    if job.icount:
        cpu, cpus = GUEST.icount_cpu, "1"
        command += ["-icount", "shift=0,sleep=off"]
    cpu = os.environ.get("CPU") or cpu
    image = f"{job.kernel}/vmlinuz"
    if not os.path.exists(image):
        image = f"{job.kernel}/build/{GUEST.image}"
    command += ["-no-reboot", "-m", job.memory]
    command += ["-accel", emulation if accel == "tcg" else accel, "-cpu", cpu, "-smp", cpus]
    command += ["-kernel", image, "-initrd", initramfs, "-append", f"{APPEND} {job.append}"]
    command += ["-serial", f"file:{folder}/kernel.log"]
    for name, sock in (("console", console), ("control", control)):
        command += ["-chardev", f"socket,id={name},fd={sock.fileno()}"]
    command += GUEST.serial
    command += ["-chardev", f"socket,id=monitor,fd={monitor.fileno()}"]
    command += ["-mon", "chardev=monitor,mode=control"]
    return command + job.qemu_args + _device_args(job.devices)


class _Session:
    """One run of QEMU."""

    def __init__(self, job, folder, on_output):
        self.job, self.folder, self.on_output = job, folder, on_output
        self.result = Result(log=f"{folder}/kernel.log")
        self.may_send = False  # the guest is ready for a chunk of stdin
        self.control_text = b""
        self.deadline = time.monotonic() + job.seconds if job.seconds else None

    def run(self):
        """Boots, forwards input and output until QEMU exits, returns the result."""
        self.console, console = socket.socketpair()
        self.control, control = socket.socketpair()
        self.monitor, monitor = socket.socketpair()
        # /tmp is private to this run: scripts/root.sh mounts a tmpfs.
        initramfs = f"/tmp/initramfs-{os.path.basename(self.folder)}"
        command = _qemu_command(self.job, self.folder, initramfs, console, control, monitor)
        _write_initramfs(self.job, initramfs)
        with open(f"{self.folder}/qemu.log", "w") as log:
            self.qemu = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(console.fileno(), control.fileno(), monitor.fileno()),
            )
        for sock in (console, control, monitor):
            sock.close()
        self.monitor.sendall(b'{"execute": "qmp_capabilities"}')
        try:
            self._loop()
        finally:
            self.qemu.kill()
            self.qemu.wait()
            os.unlink(initramfs)
        return self._conclude()

    def _loop(self):
        sources = {self.console: self._from_guest, self.control: self._from_init}
        sources[self.monitor] = self._from_monitor
        while sources:
            inputs = list(sources)
            if self.job.stdin >= 0 and (self.may_send or self.job.terminal):
                inputs.append(self.job.stdin)
            left = None if self.deadline is None else self.deadline - time.monotonic()
            if left is not None and left <= 0:
                self._time_out()
                return
            if self.job.watch:
                self.result.problem = self.result.problem or self.job.watch()
                if self.result.problem:
                    return
                left = 1 if left is None else min(left, 1)
            for ready in select.select(inputs, [], [], left)[0]:
                if ready == self.job.stdin:
                    if not self._from_stdin():
                        return
                    continue
                try:
                    data = ready.recv(65536)
                except ConnectionResetError:
                    data = b""
                if data:
                    sources[ready](data)
                else:
                    del sources[ready]
        self.qemu.wait()

    def _time_out(self):
        if self.result.problem:
            return
        if self.result.status is None:
            self.result.timed_out = True
            self.result.problem = f"the guest did not finish within {self.job.seconds} s"
        else:
            self.result.problem = "the guest hung while it powered off"

    def _from_guest(self, data):
        self.result.output += data
        self.on_output(data)

    def _from_init(self, data):
        *lines, self.control_text = (self.control_text + data).split(b"\n")
        for line in lines:
            word, _, value = line.strip().decode(errors="replace").partition(" ")
            if word in ("ready", "ack"):
                self.may_send = True
                if self.job.stdin < 0 and not self.job.terminal:
                    self.console.sendall(b".\n")
            elif word == "aer" and AER.fullmatch(value):
                self._monitor_command(f"pcie_aer_inject_error {value}")
            elif word == "exit" and value.isdigit():
                self.result.status = int(value)
                self.deadline = time.monotonic() + POWER_OFF_SECONDS
            elif word == "failed":
                self.result.problem = value
                self.deadline = time.monotonic() + POWER_OFF_SECONDS

    def _monitor_command(self, line):
        say = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
        self.monitor.sendall(json.dumps(say).encode())

    def _from_monitor(self, data):
        with open(f"{self.folder}/monitor.log", "ab") as log:
            log.write(data)

    def _from_stdin(self):
        """Forwards a chunk of stdin; False if the user wants to leave."""
        data = os.read(self.job.stdin, CHUNK)
        if self.job.terminal:
            if LEAVE_KEY in data or not data:
                self.result.problem = "left with Ctrl-]"
                return False
            self.console.sendall(data)
            return True
        self.may_send = False
        self.console.sendall((base64.b64encode(data) if data else b".") + b"\n")
        if not data:
            self.job.stdin = -1
        return True

    def _conclude(self):
        result = self.result
        with open(f"{self.folder}/output", "wb") as output:
            output.write(result.output)
        if result.status is None and not result.problem:
            with open(f"{self.folder}/qemu.log") as file:
                last = file.read().strip().split("\n")[-1]
            if self.qemu.returncode:
                result.problem = f"QEMU failed with status {self.qemu.returncode}: {last}"
            else:
                result.problem = "the guest died: see the kernel log"
        return result


def run(job, on_output=lambda data: None):
    """Runs one job in a new guest; Ctrl-] leaves if it has our terminal."""
    session = _Session(job, job.folder or new_log_dir(job.name), on_output)
    if not job.terminal:
        return session.run()
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        return session.run()
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
        print()


def interpreter(path):
    """The dynamic loader that a program asks for, or "" for a static one or a script."""
    with open(path, "rb") as file:
        magic = file.read(20)
    if magic[:2] == b"#!":
        return ""
    if magic[:5] != b"\x7fELF\x02" or int.from_bytes(magic[18:], "little") != GUEST.elf:
        raise Unusable(f"{path} is neither an {GUEST.name} program nor a script")
    with open(path, "rb") as file:
        done = subprocess.run(["readelf", "-lW", "/dev/stdin"], stdin=file, capture_output=True,
                              check=True, text=True)
    found = re.search(r"program interpreter: (.*)]", done.stdout)
    return found[1] if found else ""
