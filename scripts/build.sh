#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (inside the root): scripts/build.sh KERNEL MODULES PART...
#
# Builds parts of the project. scripts/vm/run.py knows which parts a target needs; a part that
# does not build must not stop the targets that do not need it.
#
#   module     the modules, for the kernel in directory KERNEL, into the directory MODULES
#   untraced   the same without tracepoints, into build/untraced-module
#   coverage   the modules with a driver that counts what runs, and a module that collects it
#   selftests  the kernel's tools/testing/selftests/vfio, static, into build/selftests
#   tools      the crate, its examples and programs, static; what users install: build/tools
#   guest      all guest programs
#   suite ...  one guest program
set -eu

. /src/scripts/lib.sh

# build_module DIR [VARIABLE=VALUE]
build_module() {
	llvm=
	! grep -q '^CONFIG_CC_IS_CLANG=y' "$kernel/build/include/config/auto.conf" || llvm=1
	objects_for "$kernel" "$1"
	say 'module: build'
	make ${V:+V=$V} -s -j"$(nproc)" -C "$kernel/build" M=/src MO="$1" ${llvm:+LLVM=1} \
		${2:+"$2"} modules >&2 9>&- || die 'the module did not build: see above'
}

build_guest() {
	cd /src/tests/qemu
	CARGO_TARGET_DIR=/src/build/guest quietly 'guest programs: cargo build' \
		/src/build/guest.log cargo build --release --locked "$@"
	cd /src
}

build_selftests() {
	objects_for "$kernel" /src/build/selftests
	quietly 'selftests: build' /src/build/selftests/build.log \
		make -C "$kernel/source/tools/testing/selftests/vfio" OUTPUT=/src/build/selftests \
		KHDR_INCLUDES="-isystem $kernel/uapi/include" USERLDFLAGS=-static -j"$(nproc)"
}

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
	kernel=$1 modules=$2
	shift 2
	mkdir -p /src/build/tools
	lock /src/build/.lock
	for part; do
		case $part in
		module) build_module "$modules" ;;
		untraced) build_module /src/build/untraced-module 'KRUSTFLAGS=--cfg untraced' ;;
		coverage) build_module "$modules" DMABUF_COVERAGE=1 ;;
		selftests) build_selftests ;;
		tools) build_tools ;;
		guest) build_guest ;;
		*) build_guest --package "$part" ;;
		esac
	done
}

main "$@"; exit
