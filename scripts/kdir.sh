#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage: scripts/kdir.sh KDIR
#
# Checks that the module can be built for the kernel build directory KDIR. Prints one line per
# problem; with none, exits with 0 and leaves build/module ready for objects.
#
# RUSTC and BINDGEN name the tools, as in the kernel's own build.
set -eu

src=$(cd "$(dirname "$0")/.." && pwd -P)
. "$src/scripts/lib.sh"

NEEDS_MAJOR=7 NEEDS_MINOR=2 # the oldest API that rust/compat.rs supports

problems=0
problem() {
	printf 'error: %s\n' "$*" >&2
	problems=1
}

# has CONFIG: succeeds if it is y or m in this kernel.
has() {
	grep -q "^$1=[ym]$" "$conf"
}

check_tree() {
	release=$(cat "$kdir/include/config/kernel.release" 2>/dev/null || echo 0.0)
	major=${release%%.*} minor=${release#*.}
	minor=${minor%%[!0-9]*}
	if [ "$major" -lt $NEEDS_MAJOR ] ||
		{ [ "$major" -eq $NEEDS_MAJOR ] && [ "$minor" -lt $NEEDS_MINOR ]; }; then
		problem "KDIR is Linux $release: $NEEDS_MAJOR.$NEEDS_MINOR or newer is needed"
	fi
	has CONFIG_MODULES || problem 'KDIR has no CONFIG_MODULES: enable it and rebuild the kernel'
	has CONFIG_VFIO_PCI_CORE ||
		problem 'KDIR has no CONFIG_VFIO_PCI_CORE: enable CONFIG_VFIO_PCI'
	has CONFIG_DMA_SHARED_BUFFER ||
		problem 'KDIR has no CONFIG_DMA_SHARED_BUFFER: enable CONFIG_VFIO_PCI_DMABUF'
	[ -e "$kdir/Module.symvers" ] ||
		problem "KDIR has no Module.symvers: build the kernel first (make -C $kdir)"
}

# before VERSION: succeeds if KDIR is of an earlier stable release of that series.
before() {
	case $release in "${1%.*}".*) ;; *) return 1 ;; esac
	patch=${release#"${1%.*}".}
	[ "${patch%%[!0-9]*}" -lt "${1##*.}" ]
}

check_arm64() {
	[ "$(uname -m)" = aarch64 ] || [ "${ARCH-}" = arm64 ] ||
		problem 'KDIR is for arm64: pass ARCH=arm64'
	! has CONFIG_DEBUG_VM ||
		problem 'KDIR has CONFIG_DEBUG_VM: its checks need symbols that modules do not get'
	! grep -q '^CONFIG_PGTABLE_LEVELS=2$' "$conf" ||
		problem 'KDIR has page tables of two levels, not for modules: use more VA bits'
	if has CONFIG_KVM && { before 7.2.10 || before 7.3.4; }; then
		problem "KDIR is Linux $release, whose KVM maps more than a slice to guests:" \
			'7.2.10 or 7.3.4 is needed'
	fi
}

check_rust() {
	if ! has CONFIG_RUST; then
		problem 'KDIR has no CONFIG_RUST: enable it (make rustavailable says what it needs)'
		return
	fi
	for file in libcore.rmeta libkernel.rmeta libmacros.so; do
		[ -e "$kdir/rust/$file" ] || {
			problem "KDIR has CONFIG_RUST but no rust/$file: use a full build tree," \
				"or the package of make deb for one of Debian's"
			break
		}
	done
	rustc=${RUSTC:-rustc} bindgen=${BINDGEN:-bindgen}
	wants=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="*\([^"]*\)"*$/\1/p' "$conf")
	is=$("$rustc" --version 2>/dev/null) || is=
	if [ -z "$is" ]; then
		problem "no $rustc: KDIR was built with \"$wants\": install it or set RUSTC=/path"
	elif [ "$is" != "$wants" ]; then
		problem "wrong rustc: KDIR was built with \"$wants\", $rustc is \"$is\":" \
			'set RUSTC=/path'
	fi
	"$bindgen" --version >/dev/null 2>&1 ||
		problem "no $bindgen: install it (Debian: bindgen) or set BINDGEN=/path"
}

check_compiler() {
	compiler=${CROSS_COMPILE-}gcc
	! has CONFIG_CC_IS_CLANG || compiler=clang
	[ -n "${LLVM-}" ] || command -v "$compiler" >/dev/null ||
		problem "no $compiler, which built KDIR: install it or pass LLVM="
	[ "$compiler" != clang ] || [ -n "${LLVM-}" ] || command -v ld.lld >/dev/null ||
		problem 'no ld.lld: install lld or pass LLVM= to make'
}

kdir=${1-}
conf=$kdir/include/config/auto.conf
case $kdir in
/*) ;;
*) problem "KDIR=$kdir: give an absolute path" ;;
esac
if [ ! -e "$kdir/Makefile" ] || [ ! -e "$conf" ]; then
	problem "KDIR=$kdir is not a built kernel: it lacks Makefile or include/config/auto.conf"
else
	check_tree
	! has CONFIG_ARM64 || check_arm64
	check_rust
	check_compiler
fi
[ "$problems" -eq 0 ] || exit 1
objects_for "$kdir $release" "$src/build/module"
