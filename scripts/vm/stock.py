# SPDX-License-Identifier: GPL-2.0
"""What is special about Debian's kernels in a guest.

They lack options that some cases need. scripts/stock/excluded-cases lists both: the suite leaves
these cases out, and no other case may be skipped.
"""

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


def _options(kernel):
    """{option: [case]} of the list. An option that the kernel has is an error."""
    with open(f"{kernel}/config") as config:
        has = {line.split("=")[0] for line in config if line.startswith("CONFIG_")}
    options, option = {}, None
    with open(EXCLUDED) as lines:
        for line in lines:
            if line.startswith("CONFIG_"):
                option = line.strip()
                if option in has:
                    raise machine.Unusable(f"{EXCLUDED}: {name(kernel)} has {option}")
                options[option] = []
            elif line.strip() and not line.startswith("#"):
                options[option].append(line.strip())
    return options


def excluded(kernel):
    """The cases that the suite leaves out."""
    return [case for cases in _options(kernel).values() for case in cases]


def summary(kernel):
    """The same for the reader, with the reason."""
    options = _options(kernel)
    lines = [f"{option}: {' '.join(cases)}" for option, cases in options.items()]
    return "\n  ".join([f"{name(kernel)}: {len(excluded(kernel))} cases excluded, for want of",
                        *lines])
