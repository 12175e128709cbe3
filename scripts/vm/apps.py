# SPDX-License-Identifier: GPL-2.0
"""`make apps-test`: Debian's DPDK, driverctl and QEMU on devices of this driver.

One boot for each mode of scripts/vm/guest/apps.sh: the in-tree vfio-pci, this driver under that
name, this driver under its own name. This judges the output of the programs, and counts the packets
that QEMU saw between the network devices.
"""

import os
import re
import struct
import subprocess

import judge
import machine
from boot import say, where
from cpio import Archive

EXAMPLE = "/src/scripts/debian/dmabuf-vfio-pci-as-vfio-pci.conf"
INIT = "/src/build/guest/x86_64-unknown-linux-gnu/release/nested"
INITRAMFS = "/tmp/nested.cpio"
PACKAGES = ["dpdk", "dpdk-dev", "driverctl", "qemu-system-x86", "kmod"]
# The required cases of each mode.
USUAL = ["load", "devbind", "testpmd-igb", "testpmd-e1000e", "driverctl"]
MODES = {"in-tree": USUAL + ["qemu-peers"], "as-vfio-pci": USUAL + ["qemu-group", "qemu-peers"]}
MODES["own"] = ["load", "no-port", "driverctl", "qemu-iommufd", "qemu-peers"]
MODULES = {"in-tree": "vfio_pci", "as-vfio-pci": "dmabuf_vfio_pci", "own": "dmabuf_vfio_pci"}
DRIVERS = {"in-tree": "vfio-pci", "as-vfio-pci": "vfio-pci", "own": "dmabuf-vfio-pci"}
# Kinds of network devices. QEMU joins the two of a kind by a hub.
KINDS = ["igb", "e1000e"]
# How QEMU reports that iommufd does not map a BAR.
REFUSED = "= -95 (Operation not supported)"
OTHERS = ["edu,dma_mask=0xffffffff", "virtio-rng-pci", "ivshmem-plain,memdev=peer"]
BURSTS = 320  # packets that each port sends first, see conduct() in apps.sh
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


def require(condition, problem):
    """A list with the problem, unless the condition holds."""
    return [] if condition else [problem]


def load(mode, text, _count):
    """modprobe loads the right driver."""
    line = f"module of {DRIVERS[mode]}: {MODULES[mode]}"
    return require(line in text.split("\n"), f"no line {line!r}")


def drivers(text, *wanted):
    """The lines about devices name these drivers, in this order."""
    names = [name for _, name in DRIVER.findall(text)]
    return require(names == list(wanted), f"drivers {names}, not {wanted}")


def devbind(mode, text, _count):
    """dpdk-devbind.py binds, lists and unbinds."""
    ours = text.partition("using DPDK-compatible driver")[2].partition("\n\n")[0]
    listed = ours.count(f"drv={DRIVERS[mode]} ")
    bound = drivers(text, *[DRIVERS[mode]] * 4, *[""] * 4)
    return require(listed == 4, f"{listed} devices listed, not 4") + bound


def testpmd(_mode, text, count):
    """Each port receives the packets of the other, and QEMU counts as many as DPDK."""
    numbers = [tuple(map(int, row)) for row in NUMBERS.findall(text)]
    if len(numbers) < 4:
        return ["no statistics of two ports"]
    first = text[text.index("Forward statistics") :].partition("Accumulated")[0]
    first, last = NUMBERS.findall(first), numbers[-2:]
    problems = require(first == [(port, str(BURSTS), str(BURSTS)) for port in "01"],
                     f"first {BURSTS} packets: (port, received, sent) {first}")
    for port, received, sends in last:
        other, seen = last[1 - port][2], count(port)
        problems += require(BURSTS < received <= other, f"port {port} got {received} of {other}")
        problems += require(sends == seen, f"port {port} sent {sends}, QEMU saw {seen}")
    return problems


def driverctl(mode, text, _count):
    """driverctl binds the device to the driver, saves the override, and undoes both."""
    device = (DRIVER.findall(text) or [("none", "")])[0][0]
    lists = [line for line in text.split("\n") if line == f"{device} {DRIVERS[mode]}"]
    problems = require(len(lists) == 2, f"{lists}, not one override that is saved, too")
    return problems + drivers(text, "virtio-pci", DRIVERS[mode], "virtio-pci")


def nested(_mode, text, _count, words=1024):
    """A virtual machine in the guest reads its edu's registers; `words` of DMA reach its peer."""
    lines = ["id register 0x010000ed", "inverter 0xedcba987", f": {words} of 1024 words arrived",
             "nested: OK"]
    return [f"no {line!r}" for line in lines if line not in text]


def nested_without_peers(mode, text, count):
    """The same, but iommufd refuses to map the buffers of this driver, and no DMA arrives."""
    return nested(mode, text, count, 0) + require(REFUSED in text, f"no {REFUSED!r}")


def no_port(_mode, text, _count):
    """DPDK ignores a driver of another name."""
    return require("No probed ethernet devices" in text, "it has a port") + require(
        "using DPDK" not in text, text)


JUDGES = {"load": load, "devbind": devbind, "testpmd-igb": testpmd, "testpmd-e1000e": testpmd,
          "driverctl": driverctl, "no-port": no_port, "qemu-group": nested, "qemu-peers": nested,
          "qemu-iommufd": nested_without_peers}


def cases(mode, output, count, pattern=""):
    """The cases of a boot. `count` returns how many packets QEMU saw a port of a kind send."""
    found = {name: ("\n".join(lines), status) for name, lines, status in judge.sections(output)}
    result = []
    for what in MODES[mode]:
        name = f"{mode}:{what}"
        if what != "load" and pattern not in name:
            continue
        text, status = found.get(name, ("", None))
        kind = what.partition("-")[2]
        problems = require(status == 0, "it did not end" if status is None else f"status {status}")
        problems += JUDGES[what](mode, text, lambda port, kind=kind: count(kind, port))
        lines = problems + text.split("\n") if problems else []
        result.append(judge.Case(name, "failed" if problems else "passed", lines))
    return result


def qemu_args():
    """Shares the Debian root of this process with the guest; puts hubs between network devices."""
    args = ["-fsdev", "local,id=debian,path=/,security_model=none,readonly=on,multidevs=remap"]
    args += ["-object", "memory-backend-ram,id=peer,size=1M,share=on"]
    args += ["-device", "virtio-9p-pci,fsdev=debian,mount_tag=debian"]
    for hub, kind in enumerate(KINDS):
        for port in (0, 1):
            name, file = f"{kind}{port}", dump(kind, port)
            args += ["-netdev", f"hubport,id={name},hubid={hub}"]
            args += ["-object", f"filter-dump,id=dump-{name},netdev={name},file={file},maxlen=64"]
    return args


def boot_mode(run, mode):
    """The cases of one boot."""
    say(f"apps: boot, {mode}")
    pattern = os.environ.get("CASE", "")
    job = run.job("apps", "sh", "/bin/apps.sh", mode, load=False)
    job.files |= {"bin/apps.sh": f"{machine.GUEST}/apps.sh", "lib/as-vfio-pci.conf": EXAMPLE}
    job.devices = [f"{kind},netdev={kind}{port},mac={mac(kind, port)}"
                   for kind in KINDS for port in (0, 1)] + OTHERS
    job.qemu_args, job.memory = qemu_args(), "2G"
    job.append = "hugepagesz=2M hugepages=64"
    job.env.update(CASE=pattern, KERNEL=f"{job.kernel}/build/arch/x86/boot/bzImage")
    result = machine.run(job)
    say(where(result))
    found = cases(mode, result.lines(), sent, pattern)
    if result.problem or result.status:
        why = result.problem or f"exit status {result.status}"
        found.append(judge.Case(f"{mode}:guest: {why}", "failed", result.kernel_log()[-25:]))
    judge.add_splats(found, result.kernel_log())
    for case in found:
        say(f"{'ok' if case.status == 'passed' else 'not ok'} {case.name}")
    for kind in KINDS:
        if pattern in f"{mode}:testpmd-{kind}" and mode != "own":
            print(f"{mode}: {kind}: packets of each port at QEMU: {sent(kind, 0)} {sent(kind, 1)}")
    return found


def apps(run):
    """One boot for each mode of which CASE selects cases."""
    archive = Archive(INITRAMFS)
    archive.add_file("init", INIT)
    archive.close()
    found = []
    for mode, whats in MODES.items():
        if any(os.environ.get("CASE", "") in f"{mode}:{what}" for what in whats):
            found += boot_mode(run, mode)
    subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES], check=True)
    return judge.conclude(found, "apps: ")
