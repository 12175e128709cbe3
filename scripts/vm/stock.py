# SPDX-License-Identifier: GPL-2.0
"""What is special about Debian's kernels in a guest.

They lack options that some cases need, and old ones lack more. scripts/stock/excluded-cases lists
both: the suite leaves these cases out, and no other case may be skipped.
"""

import re

import machine

EXCLUDED = "/src/scripts/stock/excluded-cases"
# Modules that our own kernels have built in.
MODULES = ["vfio_iommu_type1", "brd"]
# Our own kernels do not touch access control of QEMU's root ports and downstream ports, and let
# programs map BARs through sysfs that a driver has claimed.
APPEND = "iomem=relaxed pci=disable_acs_redir=pci:1b36:000c;pci:104c:8233"


def name(kernel):
    """The kernel's image package and its version."""
    with open(f"{kernel}/packages") as packages:
        return packages.readline().strip()


def _is_before(kernel, series):
    """Whether a kernel is older than the first one of a series."""
    found, = re.findall(r"(\d+)\.(\d+)", name(kernel).split()[0])[:1]
    return tuple(map(int, found)) < tuple(map(int, series.split(".")))


def _reasons(kernel):
    """{reason: [case]} of the list, for this kernel. An option that it has is an error."""
    with open(f"{kernel}/config") as config:
        has = {line.split("=")[0] for line in config if line.startswith("CONFIG_")}
    reasons, cases = {}, []
    with open(EXCLUDED) as lines:
        for line in filter(None, map(str.strip, lines)):
            if line.startswith("before "):
                cases = []
                if _is_before(kernel, line.removeprefix("before ")):
                    reasons[line] = cases
            elif line.startswith("CONFIG_"):
                if line in has:
                    raise machine.Unusable(f"{EXCLUDED}: {name(kernel)} has {line}")
                cases = reasons[line] = []
            elif not line.startswith("#"):
                cases.append(line)
    return reasons


def excluded(kernel):
    """The cases that the suite leaves out."""
    return [case for cases in _reasons(kernel).values() for case in cases]


def summary(kernel):
    """The same for the reader, with the reason."""
    lines = [f"{why}: {' '.join(cases)}" for why, cases in _reasons(kernel).items()]
    return "\n  ".join([f"{name(kernel)}: {len(excluded(kernel))} cases excluded", *lines])
