# SPDX-License-Identifier: GPL-2.0
"""`make apps-test`: Debian's own programs through this driver, registered as vfio-pci.

A boot for each mode of scripts/guest/apps.sh: the in-tree vfio-pci, this driver under that name,
this driver under its own. The guest runs the programs, this judges what they printed, and counts on
its own the packets that QEMU saw between the network devices.
"""

import os
import re
import struct
import subprocess

import judge
import machine
from cpio import Archive

FOLDER = os.path.dirname(os.path.abspath(__file__))
EXAMPLE = "/src/scripts/debian/dmabuf-vfio-pci-as-vfio-pci.conf"
INIT = "/src/build/guest/x86_64-unknown-linux-gnu/release/nested"
INITRAMFS = "/tmp/nested.cpio"
PACKAGES = ["dpdk", "dpdk-dev", "driverctl", "qemu-system-x86", "kmod"]
# What a case that has to be there is called, by mode.
USUAL = ["load", "devbind", "testpmd-igb", "testpmd-e1000e", "driverctl"]
MODES = {"in-tree": USUAL, "stand-in": USUAL + ["qemu-group"]}
MODES["own"] = ["load", "no-port", "driverctl", "qemu-iommufd"]
MODULES = {"in-tree": "vfio_pci", "stand-in": "dmabuf_vfio_pci", "own": "dmabuf_vfio_pci"}
DRIVERS = {"in-tree": "vfio-pci", "stand-in": "vfio-pci", "own": "dmabuf-vfio-pci"}
# Two of each kind, joined by a hub of QEMU's.
KINDS = ["igb", "e1000e"]
BURSTS = 320  # packets that each port sends first, see conduct() in apps.sh
MARK = re.compile(r"apps: (begin|end) (\S+?)(?: (\d+))?$")
DRIVER = re.compile(r"^driver of (\S+): (\S*)$", re.MULTILINE)
NUMBERS = re.compile(
    r"[NF]\w+ statistics for port (\d).*?RX-packets: (\d+).*?TX-packets: (\d+)", re.DOTALL
)


def mac(kind, port):
    """The address of a network device."""
    return f"52:54:00:00:{KINDS.index(kind):02x}:{port:02x}"


def dump(kind, port):
    """Where QEMU writes the packets at a network device."""
    return f"/tmp/{kind}{port}.pcap"


def senders(path):
    """{address: packets} of a pcap file."""
    with open(path, "rb") as file:
        data = file.read()
    counts, at = {}, 24
    while at + 16 <= len(data):
        length, = struct.unpack_from("<I", data, at + 8)
        sender = data[at + 22 : at + 28].hex(":")
        counts[sender] = counts.get(sender, 0) + 1
        at += 16 + length
    return counts


def sent(kind, port):
    """How many packets QEMU saw a device send."""
    return senders(dump(kind, port)).get(mac(kind, port), 0)


def read(text):
    """{case: (text, exit status or None)} of what the guest printed."""
    found, name = {}, None
    for line in text.replace("\r", "").split("\n"):
        mark = MARK.match(line)
        if mark and mark[1] == "begin":
            name = mark[2]
            found[name] = ["", None]
        elif mark and mark[2] == name:
            found[name][1], name = int(mark[3]), None
        elif name:
            found[name][0] += line + "\n"
    return found


def wants(condition, problem):
    """A list with the problem, if there is one."""
    return [] if condition else [problem]


def load(mode, text, _count):
    """modprobe brought the right driver."""
    line = f"module of {DRIVERS[mode]}: {MODULES[mode]}"
    return wants(line in text.split("\n"), f"no line {line!r}")


def drivers(text, *wanted):
    """Devices had these drivers, one after the other."""
    names = [name for _, name in DRIVER.findall(text)]
    return wants(names == list(wanted), f"drivers {names}, not {wanted}")


def devbind(mode, text, _count):
    """dpdk-devbind.py binds, lists and unbinds."""
    ours = text.partition("using DPDK-compatible driver")[2].partition("\n\n")[0]
    listed = ours.count(f"drv={DRIVERS[mode]} ")
    bound = drivers(text, *[DRIVERS[mode]] * 4, *[""] * 4)
    return wants(listed == 4, f"{listed} devices listed, not 4") + bound


def testpmd(_mode, text, count):
    """Packets went from each port to the other, and QEMU counted as many as DPDK."""
    numbers = [tuple(map(int, row)) for row in NUMBERS.findall(text)]
    if len(numbers) < 4:
        return ["no statistics of two ports"]
    first = text[text.index("Forward statistics") :].partition("Accumulated")[0]
    first, last = NUMBERS.findall(first), numbers[-2:]
    problems = wants(first == [(port, str(BURSTS), str(BURSTS)) for port in "01"],
                     f"first {BURSTS} packets: (port, received, sent) {first}")
    for port, received, sends in last:
        other, seen = last[1 - port][2], count(port)
        problems += wants(BURSTS < received <= other, f"port {port} got {received} of {other}")
        problems += wants(sends == seen, f"port {port} sent {sends}, QEMU saw {seen}")
    return problems


def driverctl(mode, text, _count):
    """driverctl gives the device to the driver, remembers that, and takes all back."""
    device = (DRIVER.findall(text) or [("none", "")])[0][0]
    lists = [line for line in text.split("\n") if line == f"{device} {DRIVERS[mode]}"]
    problems = wants(len(lists) == 2, f"{lists}, not one override that is saved, too")
    return problems + drivers(text, "virtio-pci", DRIVERS[mode], "virtio-pci")


def nested(_mode, text, _count):
    """A virtual machine in the guest reads the registers of its edu."""
    lines = ["id register 0x010000ed", "inverter 0xedcba987", "nested: OK"]
    return [f"no {line!r}" for line in lines if line not in text]


def no_port(_mode, text, _count):
    """DPDK does not look at a driver of another name."""
    return wants("No probed ethernet devices" in text, "it has a port") + wants(
        "using DPDK" not in text, text)


JUDGES = {"load": load, "devbind": devbind, "testpmd-igb": testpmd, "testpmd-e1000e": testpmd,
          "driverctl": driverctl, "qemu-group": nested, "qemu-iommufd": nested, "no-port": no_port}


def cases(mode, text, count, pattern=""):
    """The cases of a boot. `count` tells of a kind of device and a port what it sent, for QEMU."""
    found, result = read(text), []
    for what in MODES[mode]:
        name = f"{mode}:{what}"
        if what != "load" and pattern not in name:
            continue
        said, status = found.get(name, ("", None))
        kind = what.partition("-")[2]
        problems = wants(status == 0, "it did not end" if status is None else f"status {status}")
        problems += JUDGES[what](mode, said, lambda port, kind=kind: count(kind, port))
        output = problems + said.split("\n") if problems else []
        result.append(judge.Case(name, "failed" if problems else "passed", output))
    return result


def qemu_args():
    """The Debian root that this runs in, for the guest; hubs between network devices."""
    args = ["-fsdev", "local,id=debian,path=/,security_model=none,readonly=on,multidevs=remap"]
    args += ["-device", "virtio-9p-pci,fsdev=debian,mount_tag=debian"]
    for hub, kind in enumerate(KINDS):
        for port in (0, 1):
            name, file = f"{kind}{port}", dump(kind, port)
            args += ["-netdev", f"hubport,id={name},hubid={hub}"]
            args += ["-object", f"filter-dump,id=dump-{name},netdev={name},file={file},maxlen=64"]
    return args


def boot(mode, job, say):
    """The cases of one boot."""
    say(f"apps: boot, {mode}")
    job.command = ["sh", "/bin/apps.sh", mode]
    job.files["bin/apps.sh"] = f"{FOLDER}/apps.sh"
    job.files["lib/as-vfio-pci.conf"] = EXAMPLE
    job.devices = [f"{kind},netdev={kind}{port},mac={mac(kind, port)}"
                   for kind in KINDS for port in (0, 1)] + ["edu", "virtio-rng-pci"]
    job.qemu_args, job.memory = qemu_args(), "2G"
    job.append = "hugepagesz=2M hugepages=64"
    pattern = os.environ.get("CASE", "")
    job.env.update(CASE=pattern, KERNEL=f"{job.kernel}/build/arch/x86/boot/bzImage")
    result = machine.run(job)
    text = result.output.decode(errors="replace")
    with open(os.path.join(os.path.dirname(result.log), "output"), "w") as file:
        file.write(text)
    say(f"kernel log: {machine.outside(result.log)}")
    found = cases(mode, text, sent, pattern)
    if result.problem or result.status:
        why = result.problem or f"exit status {result.status}"
        found.append(judge.Case(f"{mode}:guest: {why}", "failed", result.kernel_log()[-25:]))
    judge.add_splats(found, result.kernel_log())
    for case in found:
        say(f"{'ok' if case.status == 'passed' else 'not ok'} {case.name}")
    for kind in KINDS:
        if pattern in f"{mode}:testpmd-{kind}" and mode != "own":
            print(f"{mode}: {kind}: sent by each port, for QEMU: {sent(kind, 0)} {sent(kind, 1)}")
    return found


def apps(make_job, say):
    """A boot for each mode; 0 if all that was to pass has passed."""
    archive = Archive(INITRAMFS)
    archive.add_file("init", INIT)
    archive.close()
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES]
    found = []
    pattern = os.environ.get("CASE", "")
    for mode, whats in MODES.items():
        if any(pattern in f"{mode}:{what}" for what in whats):
            found += boot(mode, make_job(), say)
    for case in found:
        if case.status == "failed":
            print(f"\nFAILED: {case.name}")
            print("".join(f"    {line}\n" for line in case.output), end="")
    print(subprocess.run(query, check=True, capture_output=True, text=True).stdout, end="")
    line, good = judge.totals(found)
    print(f"apps: {line}", flush=True)
    return 0 if good else 1
