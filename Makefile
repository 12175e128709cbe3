# SPDX-License-Identifier: GPL-2.0
#
# For people; the kernel's build system reads Kbuild. Every target does its own
# set-up: `make help`.

SHELL := /bin/sh
.DEFAULT_GOAL := module
.PHONY: module tools demo test test-debug test-kcsan test-stress selftests soak fuzz bench
.PHONY: contract check fmt shell run help
.PHONY: apps-test stock-test deb deb-test clean distclean

# What scripts/guest/run.py takes from the user.
export PROG ARGS DEVICES DRIVER CASE ACCEL TIMEOUT QEMU_ARGS V MINUTES SEED FROM KERNEL STOCK

ifdef KDIR
clang = $(shell grep -qs '^CONFIG_CC_IS_CLANG=y' '$(KDIR)/include/config/auto.conf' && echo LLVM=1)
module:
	@scripts/kdir.sh '$(KDIR)'
	+@$(MAKE) -C '$(KDIR)' M='$(CURDIR)' MO='$(CURDIR)/build/module' \
		$(if $(LLVM)$(filter command,$(origin CC)),,$(clang)) modules
else
module:
	@scripts/root.sh scripts/build.sh module
endif

tools demo test test-debug test-kcsan test-stress selftests soak fuzz bench check fmt shell contract:
	@scripts/root.sh scripts/build.sh $@

stock-test deb deb-test:
	@scripts/root.sh --with scripts/stock/packages scripts/build.sh $@

apps-test:
	@scripts/root.sh --with scripts/apps/packages scripts/build.sh $@

run:
	@scripts/run

clean:
	rm -rf build

distclean: clean
	@scripts/root.sh --remove-cache

help:
	@sed -n 's/^#: \{0,1\}//p' Makefile

#: make                 build the module for the test kernel: build/module/dmabuf-vfio-pci.ko
#: make KDIR=/path      build it for your own kernel tree (no root needed)
#: make tools           build the programs of tools/, static, into build/tools
#: make demo            boot a guest and show the main job on an emulated PCI device
#: make test            KUnit and the guest suite; CASE=pattern runs the cases that match
#: make contract        print the contract, and which case proves what
#: make test-debug      make test on a kernel with KASAN, UBSAN, kmemleak and more (slow)
#: make test-kcsan      make test on a kernel that looks for data races, in the driver, too (slow)
#: make test-stress     make test while stress-ng takes nearly all memory of the guest (slow)
#: make soak MINUTES=n  random operations, each compared with a model of the contract, for so long
#:                      (10); SEED=s repeats a run; KERNEL=debug or kcsan takes that kernel
#: make fuzz MINUTES=n  hostile calls of all that the driver answers; SEED and KERNEL as for soak,
#:                      FROM=r begins with a round, as a failure says
#: make selftests       the kernel's own VFIO tests, with the in-tree vfio-pci and with this driver
#: make apps-test       Debian's DPDK, driverctl and (nested) QEMU with the in-tree vfio-pci, with
#:                      this driver under that name, and under its own
#: make stock-test      the demo and the suite on Debian's own kernels, unmodified; STOCK=7.3 takes
#:                      one of 7.3 and 7.2
#: make deb             the Debian packages, of driver (DKMS) and tool: build/deb/*.deb
#: make deb-test        these, installed, upgraded, crippled and removed in a clean Debian root
#: make bench           count what faults, mappings, exports, revokes cost, beside vfio-pci
#: make check           formatting, lints, warnings as errors, the UAPI header by itself
#: make fmt             rustfmt all of it
#: make shell           a prompt in the guest: module loaded, devices bound, Ctrl-] leaves
#: make run PROG=./p    run your own static program in the guest, as root; stdin is passed on;
#:                      in its environment: BDF0, GROUP0 (IOMMU group), BDF1, ...
#: make clean           remove build/
#: make distclean       remove build/ and the cache (Debian root, kernel), too
#:
#: Settings of shell and run (all optional):
#:   ARGS="a 'b c'"     arguments of PROG
#:   DEVICES="edu ..."  QEMU devices, each behind its own root port (default: edu);
#:                      a+b are two functions of one device, 'a|b' two below a switch
#:   DRIVER=vfio-pci    bind them to the in-tree driver instead
#:   QEMU_ARGS="..."    more arguments for QEMU (-object, -drive, -netdev)
#:   TIMEOUT=seconds    when to give the guest up (also for demo and test)
#:   ACCEL=kvm          instead of emulation, where KVM works (also for demo and test)
#:
#: make answers every failure with status 2; `scripts/run PROG ARG...` is `make run` with exactly
#: the program's status (124: time limit, 125: the guest failed).
#:
#: All but KDIR builds need root, and 15 GB the first time. The cache is in
#: $XDG_CACHE_HOME/dmabuf-vfio-pci (~/.cache); DMABUF_VFIO_MIRROR names another Debian mirror.
