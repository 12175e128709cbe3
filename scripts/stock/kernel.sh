#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (inside the root): scripts/stock/kernel.sh X.Y
#
# Makes sure that the cache has Debian's newest Linux X.Y, ready to boot and to build modules for,
# and prints its directory. Everything comes through apt from the mirror of the root. The
# directory has:
#
#   build     what M= builds of Rust modules need (scripts/debian/prepare)
#   vmlinuz   the image: the signed one if there is one
#   modules/  lib/modules/RELEASE for the guest: VFIO and its dependencies
#   source/   tools/testing/kunit: the parser of test results
#   config    the kernel's configuration
#   packages  names and versions of the packages
#   done      written last: without it, the next run starts again
set -eu

RECIPE=2 # raise it when a change of make_kernel() makes cached kernels unusable
MODULES='vfio-pci vfio-pci-core vfio_iommu_type1 vfio irqbypass brd'

. /src/scripts/lib.sh
series=$1
lists=/cache/stock-lists

apt() {
	command=$1
	shift
	"apt-$command" -o Dir::State::Lists=$lists -o Dir::Cache=/tmp/apt \
		-o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}

# Updates the package index if it is older than a day; without a network, keeps it.
refresh() {
	mkdir -p $lists/partial /tmp/apt/archives/partial
	[ -z "$(find $lists/fresh -mtime -1 2>/dev/null)" ] || return 0
	if apt get update >/tmp/apt.log 2>&1; then
		touch $lists/fresh
	elif [ ! -e $lists/fresh ]; then
		cat /tmp/apt.log >&2
		die 'apt-get update failed: see above'
	else
		say 'stock: apt-get update failed: using the old index'
	fi
}

# versions PACKAGE: prints the available ones, newest first.
versions() {
	apt cache madison "$1" | awk -F ' *[|] *' '{ print $2 }'
}

# Sets `version`, `release` and `packages`, the last with one line per package.
choose() {
	version=$(versions "linux-source-$series" | head -n 1)
	[ -n "$version" ] || die "Debian has no linux-source-$series"
	release=
	for headers in $(apt cache pkgnames "linux-headers-$series." |
		grep -E '^linux-headers-[0-9.]+[^-]*-amd64$' | sort -rV); do
		if versions "$headers" | grep -qxF "$version"; then
			release=${headers#linux-headers-}
			break
		fi
	done
	[ -n "$release" ] || die "there are no linux-headers of $version"
	image=linux-binary-$release
	[ -n "$(versions "$image")" ] || image=linux-binary-unsigned-$release
	packages=$(
		for name in "$image" "linux-modules-$release" "linux-headers-$release" \
			"linux-headers-${release%-amd64}-common" "linux-kbuild-${release%-amd64}" \
			"linux-source-$series"; do
			printf '%s %s\n' "$name" "$version"
		done
	)
}

# shellcheck disable=SC2317 # quietly() calls it
fetch() {
	mkdir -p "$stock/debs"
	cd "$stock/debs"
	while read -r name its; do
		# The root may have the same linux-source installed.
		[ "$(dpkg-query -W -f '${Version}' "$name" 2>/dev/null)" = "$its" ] ||
			apt get -q download "$name=$its"
	done <"$stock/packages"
	cd /
}

# shellcheck disable=SC2317 # quietly() calls it
# Unpacks headers in their place, and of the modules only $MODULES.
unpack() {
	for deb in "$stock"/debs/*.deb; do
		case ${deb##*/} in
		linux-modules-*)
			set -- --wildcards
			for module in $MODULES; do
				set -- "$@" "*/$module.ko*"
			done
			dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$stock/root" "$@"
			;;
		*) dpkg-deb -x "$deb" "$stock/root" ;;
		esac
	done
	tree=$stock/root/usr/lib/modules/$release
	modules=$stock/modules/lib/modules/$release/kernel
	mkdir -p "$modules"
	find "$tree/kernel" -name '*.ko.xz' -exec cp -t "$modules" {} +
	unxz "$modules"/*.xz
	depmod -b "$stock/modules" "$release"
	image=$tree/vmlinuz
	[ -e "$image" ] || image=$tree/vmlinuz.unsigned
	ln "$image" "$stock/vmlinuz"
}

# shellcheck disable=SC2317 # quietly() calls it
metadata() {
	tarball=usr/src/linux-source-$series.tar.xz
	[ ! -e "$stock/root/$tarball" ] || tarball=${stock#/}/root/$tarball
	mkdir "$stock/source"
	tar -C "$stock/source" --strip-components=1 -xf "/$tarball" \
		"linux-source-$series/tools/testing/kunit"
	HEADERS_VERSION=$version SOURCE_VERSION=$version /src/scripts/debian/prepare \
		"$stock/root/usr/src/linux-headers-$release" "/$tarball" "$stock/prepared"
}

make_kernel() {
	rm -rf "$stock"
	mkdir -p "$stock/root"
	printf '%s\n' "$packages" >"$stock/packages"
	quietly "stock: apt-get download Linux $release ($version)" "$stock/fetch.log" fetch
	quietly 'stock: unpack' "$stock/unpack.log" unpack
	quietly 'stock: prepare for Rust modules (about 2 minutes on 2 cores)' "$stock/build.log" \
		metadata
	ln -s prepared/build "$stock/build"
	cp "$stock/build/.config" "$stock/config"
	rm -rf "$stock/debs" "$stock"/root/usr/src/linux-source-*.tar.xz
	sync -f "$stock"
	touch "$stock/done"
	say "stock: Linux $release is done"
}

# A function and one last line, so that an edit or a git pull cannot touch a running script.
main() {
	lock $lists.lock
	refresh
	unlock
	choose
	stock=/cache/stock-$release-$(key "$RECIPE" "$packages" "$MODULES" "$(cat /etc/toolchain)" \
		"$(content /src/scripts/debian/prepare)")
	if [ ! -e "$stock/done" ]; then
		lock "$stock.lock"
		[ -e "$stock/done" ] || {
			need_space /cache
			make_kernel
		}
		unlock
	fi
	printf '%s\n' "$stock"
}

main "$@"; exit
