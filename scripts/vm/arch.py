# SPDX-License-Identifier: GPL-2.0
"""What differs between guests of different architectures: one table."""

import dataclasses
import os

# Where scripts/build.sh puts objects and programs, and the programs of cargo below that.
BUILD = os.environ["BUILD"]
RELEASE = f"{os.environ['CARGO_BUILD_TARGET']}/release"
# What runs a guest's program on the host.
RUNS = os.environ.get("RUNS", "").split()


@dataclasses.dataclass(frozen=True)
class Guest:
    """A machine that QEMU emulates."""

    name: str  # of the programs that it runs
    elf: int  # e_machine of these
    qemu: tuple  # the program, and its options for the machine
    serial: tuple  # options for the serial ports with chardevs `console` and `control`
    console: str  # what the guest calls the first of these
    control: str  # and the second one
    cpu: str
    icount_cpu: str  # where instructions are counted
    image: str  # of the kernel, in its build directory
    append: str  # kernel command line
    # Whether the IOMMU translates MSIs. A root port loses its own, which report errors, when VFIO
    # takes the IOMMU group that it is in.
    translates_msis: bool


X86 = Guest(
    name="x86-64",
    elf=62,
    qemu=("qemu-system-x86_64", "-machine", "q35,kernel-irqchip=split",
          "-device", "intel-iommu,intremap=on"),
    serial=("-serial", "chardev:console", "-serial", "chardev:control"),
    console="ttyS1",
    control="ttyS2",
    # Linux allows peer-to-peer DMA through QEMU's host bridge only if the CPU is an AMD of family
    # 0x17 or later.
    cpu="max,vendor=AuthenticAMD,family=23,model=1",
    # `rep stosb` would count one instruction per byte.
    icount_cpu="max,-erms,-fsrm",
    image="arch/x86/boot/bzImage",
    # no_timer_check: on a busy host the timer check may time out.
    append="console=ttyS0,115200 intel_iommu=on no_timer_check",
    translates_msis=False,
)

ARM64 = Guest(
    name="arm64",
    elf=183,
    # The display's ROM is code for x86, in a package of its own.
    qemu=("qemu-system-aarch64", "-machine", "virt,gic-version=3,iommu=smmuv3",
          "-global", "bochs-display.romfile="),
    # The machine has one serial port for the kernel's console.
    serial=("-device", "pci-serial-2x,chardev1=console,chardev2=control,addr=0x2"),
    console="ttyS0",
    control="ttyS1",
    cpu="max",
    icount_cpu="max",
    image="arch/arm64/boot/Image",
    append="console=ttyAMA0,115200",
    translates_msis=True,
)

GUEST = {"x86": X86, "arm64": ARM64}[os.environ["ARCH"]]
# Cases that cannot run on this architecture, below the reason for each.
EXCLUDED = f"/src/scripts/{os.environ['ARCH']}/excluded-cases"


def reasons():
    """{reason: [case]} of that list."""
    found, cases = {}, []
    if os.path.exists(EXCLUDED):
        with open(EXCLUDED) as lines:
            for line in lines:
                if line[0].isspace():
                    cases += line.split()
                elif not line.startswith("#"):
                    cases = found[line.strip()] = []
    return found


def excluded():
    """The cases that the suite leaves out."""
    return [case for cases in reasons().values() for case in cases]
