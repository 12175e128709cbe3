#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (inside the root): scripts/build.sh TARGET
#
# Makes the parts that TARGET needs, kernel first, then runs it:
#   module                  build/module/*.ko for the test kernel
#   demo test run shell     that and the guest programs, and boots a guest (scripts/guest/run.py)
#   bench                   the same with the kernel that is measured
#   test-stress             the same with little memory left
#   test-debug test-kcsan   the same with the kernels that see more
#   soak fuzz               the same with the kernel of flavour KERNEL (bench)
#   selftests               the kernel's own VFIO tests and the module, and boots a guest
#   apps-test               the module, and boots guests that run Debian's programs
#   contract                the suite, which prints its table
#   tools                   build/tools: the crate's examples and the programs
#   deb                     build/deb/*.deb (scripts/debian)
#   deb-test                that, in a clean root, and boots what DKMS made of it there
#   stock-test              the same with Debian's kernels STOCK (7.3 7.2), one after the other
#   check fmt               scripts/check builds on its own
set -eu

. /src/scripts/lib.sh
target=$1
llvm=1

# build_module [DIR [RUSTC-FLAGS]]
build_module() {
	objects=${1-/src/build/module}
	objects_for "$kernel" "$objects"
	say 'module: build'
	make ${V:+V=$V} -s -j"$(nproc)" -C "$kernel/build" M=/src MO="$objects" ${llvm:+LLVM=1} \
		${2:+KRUSTFLAGS="$2"} modules >&2 9>&- || die 'the module did not build: see above'
}

# Debian's kernels are built by gcc.
stock_test() {
	llvm='' failed=0
	for series in ${STOCK:-7.3 7.2}; do
		kernel=$(/src/scripts/stock/kernel.sh "$series")
		lock /src/build/.lock
		build_module "/src/build/stock-$series-module"
		build_guest --package suite --package demo --package soak --package fuzz
		build_tools
		unlock
		/src/scripts/stock/test-gates "$kernel" "$objects/dmabuf-vfio-pci.ko" || failed=1
		python3 /src/scripts/guest/run.py "$kernel" stock-test || failed=1
	done
	exit $failed
}

build_guest() {
	cd /src/tests/qemu
	CARGO_TARGET_DIR=/src/build/guest quietly 'guest programs: cargo build' \
		/src/build/guest.log cargo build --release --locked "$@"
	cd /src
}

# The packages: the driver's source, and the tool.
build_deb() {
	lock /src/build/.lock
	build_tools
	unlock
	/src/scripts/debian/build
}

# They, in a clean root; what DKMS built there runs the demo.
deb_test() {
	build_deb
	/src/scripts/debian/test
	for series in 7.2 7.3; do
		kernel=$(/src/scripts/stock/kernel.sh "$series")
		lock /src/build/.lock
		build_guest --package demo
		unlock
		python3 /src/scripts/guest/run.py "$kernel" deb-test
	done
}

# The kernel's tools/testing/selftests/vfio as it is, but static.
build_selftests() {
	objects_for "$kernel" /src/build/selftests
	quietly 'selftests: build' /src/build/selftests/build.log \
		make -C "$kernel/source/tools/testing/selftests/vfio" OUTPUT=/src/build/selftests \
		KHDR_INCLUDES="-isystem $kernel/uapi/include" USERLDFLAGS=-static -j"$(nproc)"
}

# The crate, its examples and the programs, static; what is for installing goes to build/tools.
build_tools() {
	cd /src/tools
	CARGO_TARGET_DIR=/src/build/tools/target quietly 'tools: cargo build' \
		/src/build/tools.log cargo build --release --locked --all-features --examples --bins
	cd /src
	programs=build/tools/target/x86_64-unknown-linux-gnu/release
	rm -rf build/tools/bin build/tools/man1 build/tools/completions
	install -D -t build/tools/bin "$programs/vfio-dmabuf"
	"$programs/vfio-dmabuf-pages" build/tools
}

# A function and one last line, so that an edit or a git pull cannot touch a running script.
main() {
	mkdir -p /src/build/tools
	case $target in
	deb)
		build_deb
		exit
		;;
	deb-test)
		deb_test
		exit
		;;
	stock-test) stock_test ;;
	esac
	flavour='test'
	case $target in
	bench) flavour=bench ;;
	test-debug) flavour=debug ;;
	test-kcsan) flavour=kcsan ;;
	soak | fuzz) flavour=${KERNEL:-bench} ;;
	tools | contract) flavour=none ;;
	esac
	case $flavour in
	bench | debug | kcsan | test) kernel=$(/src/scripts/kernel.sh "$flavour") ;;
	none) kernel= ;;
	*) die "KERNEL=$flavour: there are bench, debug, kcsan and test" ;;
	esac
	lock /src/build/.lock
	# Only what is needed: a part that does not build must not stop the others.
	case $target/${DRIVER:-dmabuf-vfio-pci} in
	run/dmabuf-vfio-pci | shell/dmabuf-vfio-pci | module/*) build_module ;;
	run/* | shell/*) ;;
	demo/*)
		build_module
		build_guest --package demo
		;;
	tools/*) build_tools ;;
	contract/*) build_guest --package suite ;;
	test/* | test-stress/*)
		build_module
		build_guest
		build_tools
		;;
	test-debug/* | test-kcsan/*)
		build_module "/src/build/$flavour-module"
		build_guest
		build_tools
		;;
	selftests/*)
		build_module
		build_selftests
		;;
	apps-test/*)
		build_module
		build_guest --package guest
		;;
	bench/*)
		build_module /src/build/bench-module
		build_module /src/build/untraced-module '--cfg untraced'
		build_guest --package bench
		;;
	soak/* | fuzz/*)
		case $flavour in
		test) build_module ;;
		*) build_module "/src/build/$flavour-module" ;;
		esac
		build_guest --package "$target"
		;;
	esac
	unlock
	case $target in
	module)
		say "module: $(outside /src/build/module)/dmabuf-vfio-pci.ko"
		;;
	tools)
		say "tools: $(outside /src/build/tools): bin, man1, completions"
		;;
	contract)
		exec build/guest/x86_64-unknown-linux-gnu/release/suite --contract
		;;
	check)
		exec /src/scripts/check "$kernel"
		;;
	fmt)
		exec /src/scripts/check "$kernel" --fmt
		;;
	*)
		exec python3 /src/scripts/guest/run.py "$kernel" "$target"
		;;
	esac
}

main "$@"; exit
