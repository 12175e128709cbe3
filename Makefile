# SPDX-License-Identifier: GPL-2.0
#
# For users: `make help`. The kernel's build system reads Kbuild instead. A new target needs a name
# below, a line of help, and an entry in the table of scripts/vm/run.py.

SHELL := /bin/sh
.DEFAULT_GOAL := module

plain := tools check fmt contract demo shell
plain += test test-debug test-kcsan test-stress coverage soak fuzz bench selftests mutants
debian := stock-test deb deb-test
.PHONY: module run everything help clean distclean apps-test $(plain) $(debian)

# Chooses the seed of random operations in make test, so that each commit tries others.
export COMMIT := $(shell git rev-parse --short=10 HEAD 2>/dev/null)

# The settings that scripts/vm/run.py takes from the user.
export ARCH PAGES CPU
export PROG ARGS DEVICES DRIVER CASE ACCEL TIMEOUT QEMU_ARGS V MINUTES SEED FROM KERNEL STOCK
export OPERATIONS N FILE PART JOBS SEMANTIC

ifdef KDIR
clang = $(shell grep -qs '^CONFIG_CC_IS_CLANG=y' '$(KDIR)/include/config/auto.conf' && echo LLVM=1)
module:
	@scripts/kdir.sh '$(KDIR)'
	+@$(MAKE) -C '$(KDIR)' M='$(CURDIR)' MO='$(CURDIR)/build/module' \
		$(if $(LLVM)$(filter command,$(origin CC)),,$(clang)) modules
else
module:
	@scripts/root.sh scripts/vm/run.py module
endif

$(plain):
	@scripts/root.sh scripts/vm/run.py $@

$(debian):
	@scripts/root.sh --with scripts/stock/packages scripts/vm/run.py $@

apps-test:
	@scripts/root.sh --with scripts/apps/packages scripts/vm/run.py $@

run:
	@scripts/run

everything:
	@scripts/everything

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
#: make contract        print the contract: each behaviour, and the cases that prove it
#: make test-debug      make test on a kernel with KASAN, UBSAN, kmemleak and more (slow)
#: make test-kcsan      make test on a kernel with KCSAN, which reports data races (slow)
#: make test-stress     make test while stress-ng takes nearly all memory of the guest (slow)
#: make coverage        which lines of the driver the suite reaches: build/coverage.md (slow)
#: make soak MINUTES=n  run random operations for n minutes (10) and compare each with a model of
#:                      the contract; SEED=s repeats a run; KERNEL=debug or kcsan selects a kernel
#:                      OPERATIONS=n makes n operations instead
#: make fuzz MINUTES=n  make hostile calls of every interface of the driver; SEED and KERNEL as for
#:                      soak, FROM=r starts at a round, as a failure reports it. Calls that reach
#:                      new code of the driver are the beginning of others
#: make selftests       the kernel's own VFIO tests, with the in-tree vfio-pci and with this driver
#: make apps-test       Debian's DPDK, driverctl and (nested) QEMU with the in-tree vfio-pci, with
#:                      this driver under that name, and with this driver under its own name
#: make stock-test      the demo and the suite on Debian's own kernels, unmodified; STOCK=7.3 or
#:                      STOCK=7.2 selects one
#: make deb             build the Debian packages of driver (DKMS) and tool: build/deb/*.deb
#: make deb-test        install, upgrade, break and remove them in a clean Debian root
#: make mutants         break the module on purpose, one change at a time, and name the case that
#:                      notices; resumes. N=n stops after n of them, FILE=part-of-a-path selects,
#:                      PART=k/n takes a share, SEMANTIC=1 leaves the generated ones out, JOBS=j
#:                      boots j guests side by side (2)
#: make everything      all targets that prove something, in order (many hours); the table is in
#:                      build/everything.md; a run that was stopped goes on where it was
#: make bench           measure faults, mappings, exports and revokes, compared with vfio-pci
#: make check           formatting, lints, warnings as errors, unit tests, the UAPI header alone
#: make fmt             format all Rust code with rustfmt
#: make shell           a prompt in the guest: driver loaded, devices bound; Ctrl-] leaves
#: make run PROG=./p    run your own static program in the guest, as root, with your stdin;
#:                      in its environment: BDF0, GROUP0 (IOMMU group), BDF1, ...
#: make clean           remove build/
#: make distclean       remove build/ and the cache (Debian root, kernels)
#:
#: Guests of shell and run have the tools of tools/ in their PATH: vfio-dmabuf, vfio-dmabuf-broker,
#: the crate's examples. Settings of both (all optional):
#:   ARGS="a 'b c'"     arguments of PROG
#:   DEVICES="edu ..."  QEMU devices, each behind its own root port (default: edu);
#:                      a+b are two functions of one device, 'a|b' two devices below a switch
#:   DRIVER=vfio-pci    bind the devices to the in-tree driver instead
#:   QEMU_ARGS="..."    more arguments for QEMU (-object, -drive, -netdev)
#:   TIMEOUT=seconds    limit of the guest's run time (also for other targets that boot a guest)
#:   ACCEL=kvm          hardware virtualization instead of emulation, where KVM works (likewise)
#:
#: ARCH=arm64 with check, demo, test, bench, soak, fuzz, run, shell and others that only build: an
#: emulated arm64 machine. CPU=cortex-a72 selects one without what newer ones have (default: max),
#: PAGES=64k a kernel with pages of 64 KiB. An x86-64 host cross-compiles.
#:
#: make answers every failure with status 2; `scripts/run PROG ARG...` is `make run` with exactly
#: the program's status (124: time limit, 125: the guest failed).
#:
#: Every target but KDIR builds needs root, and 15 GB of disk the first time. The cache is in
#: $XDG_CACHE_HOME/dmabuf-vfio-pci (~/.cache); DMABUF_VFIO_MIRROR names another Debian mirror.
