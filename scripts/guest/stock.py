# SPDX-License-Identifier: GPL-2.0
"""What is special about a kernel of Debian's as a guest's kernel.

It lacks things that some cases need. Which cases, and what they need, is in scripts/stock/not-here:
a case that is named there is left out, and no other may be skipped.
"""

import os

import machine

LIST = "/src/scripts/stock/not-here"
# What is built into our own kernels.
MODULES = ["vfio_iommu_type1", "brd"]
# Our own kernels leave access control of QEMU's root ports and downstream ports alone, and let
# programs map BARs in sysfs that a driver has claimed.
APPEND = "iomem=relaxed pci=disable_acs_redir=pci:1b36:000c;pci:104c:8233"


def name(kernel):
    """The kernel's image package and its version."""
    with open(f"{kernel}/packages") as packages:
        return packages.readline().strip()


def flavour(kernel, target):
    """What modules for it are called by: stock-7.3, or deb-7.3 for those that DKMS built."""
    series = ".".join(os.path.basename(kernel).removeprefix("stock-").split(".")[:2])
    return f"{target.removesuffix('-test')}-{series}"


def _options(kernel):
    """{option: [case]} of the list. Wrong lines, and options that the kernel has, are errors."""
    with open(f"{kernel}/config") as config:
        has = {line.split("=")[0] for line in config if line.startswith("CONFIG_")}
    options, option = {}, None
    with open(LIST) as lines:
        for line in lines:
            if line.startswith("CONFIG_"):
                option = line.strip()
                if option in has:
                    raise machine.Unusable(f"{LIST}: {name(kernel)} has {option}")
                options[option] = []
            elif line.strip() and not line.startswith("#"):
                options[option].append(line.strip())
    return options


def not_here(kernel):
    """The cases that are left out."""
    return [case for cases in _options(kernel).values() for case in cases]


def told(kernel):
    """What was left out, for the reader."""
    options = _options(kernel)
    lines = [f"{option}: {' '.join(cases)}" for option, cases in options.items()]
    total = sum(map(len, options.values()))
    return "\n  ".join([f"not on stock kernels: {total} cases, which need", *lines])
