#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (inside the root): scripts/build.sh KERNEL MODULES PART...
#
# Builds parts of the project. scripts/vm/run.py knows which parts a target needs; a part that
# does not build must not stop the targets that do not need it.
#
#   module     the modules, for the kernel in directory KERNEL, into the directory MODULES
#   untraced   the same without tracepoints, into untraced-module/
#   coverage   the modules with a driver that counts what runs, and a module that collects it
#   selftests  the kernel's tools/testing/selftests/vfio, static, into selftests/
#   tools      the crate, its examples and programs, static; what users install: tools/
#   guest      all guest programs
#   suite ...  one guest program
#
# All folders are in $BUILD, which scripts/root.sh sets.
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
	CARGO_TARGET_DIR=$BUILD/guest quietly 'guest programs: cargo build' \
		"$BUILD/guest.log" cargo build --release --locked "$@"
	cd /src
}

build_selftests() {
	objects_for "$kernel" "$BUILD/selftests"
	quietly 'selftests: build' "$BUILD/selftests/build.log" \
		make -C "$kernel/source/tools/testing/selftests/vfio" OUTPUT="$BUILD/selftests" \
		KHDR_INCLUDES="-isystem $kernel/uapi/include" USERLDFLAGS=-static -j"$(nproc)"
}

build_tools() {
	cd /src/tools
	CARGO_TARGET_DIR=$BUILD/tools/target quietly 'tools: cargo build' \
		"$BUILD/tools.log" cargo build --release --locked --all-features --examples --bins
	cd /src
	tools=$BUILD/tools
	programs=$tools/target/$CARGO_BUILD_TARGET/release
	rm -rf "$BUILD/tools/bin" "$BUILD/tools/man1" "$BUILD/tools/completions"
	install -D -t "$tools/bin" "$programs/vfio-dmabuf"
	# shellcheck disable=SC2086 # one word or none
	${RUNS-} "$programs/vfio-dmabuf-pages" "$tools"
}

# A function and one last line, so that an edit or a git pull cannot touch a running script.
main() {
	kernel=$1 modules=$2
	shift 2
	mkdir -p "$BUILD/tools"
	lock "$BUILD/.lock"
	for part; do
		case $part in
		module) build_module "$modules" ;;
		untraced) build_module "$BUILD/untraced-module" 'KRUSTFLAGS=--cfg untraced' ;;
		coverage) build_module "$modules" DMABUF_COVERAGE=1 ;;
		selftests) build_selftests ;;
		tools) build_tools ;;
		guest) build_guest ;;
		*) build_guest --package "$part" ;;
		esac
	done
}

main "$@"; exit
