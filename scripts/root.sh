#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage: scripts/root.sh [--with FILE] COMMAND... | --remove-cache
#
# Runs COMMAND inside the project's own Debian trixie root, which has the kernel's toolchain, the
# kernel source and QEMU. Makes the root first if it does not exist. The host needs only Debian's
# base system, make and debootstrap. --with selects a root that also has the packages of FILE.
#
# Inside, the checkout is /src and the cache is /cache; the rest is read-only. The command runs
# in its own mount and PID namespaces: when this script ends, however it ends, none of its
# processes and mounts remains.
#
# ARCH names the architecture of the guest: x86 or arm64, as the kernel does; the default is that of
# this machine. Each has its own root, with the packages of scripts/ARCH/packages, too.
set -eu

SUITE=trixie
RECIPE=1 # raise it when a change of make_root() makes cached roots unusable

src=$(cd "$(dirname "$0")/.." && pwd -P)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dmabuf-vfio-pci
. "$src/scripts/lib.sh"

# What differs between architectures, for all scripts inside.
case $(uname -m) in
x86_64) native=x86 ;;
aarch64) native=arm64 ;;
*) native=none ;;
esac
: "${ARCH:=$native}"
BUILD=/src/build # for the objects and programs
RUNS=            # what runs a program for ARCH here
case $ARCH in
x86) CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu ;;
arm64) CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu RUNS=qemu-aarch64 ;;
esac
[ "$ARCH" = "$native" ] || BUILD=/src/build/$ARCH
export ARCH BUILD RUNS CARGO_BUILD_TARGET

# The settings that pass from the caller's environment into the root.
PASS='COMMIT PROG ARGS DEVICES DRIVER CASE ACCEL TIMEOUT QEMU_ARGS CPU TERM STARTED V MINUTES SEED
	FROM OPERATIONS KERNEL STOCK N FILE PART JOBS SEMANTIC http_proxy https_proxy no_proxy
	CARGO_NET_OFFLINE ARCH PAGES
	BUILD RUNS CARGO_BUILD_TARGET'

check_host() {
	[ "$(id -u)" -eq 0 ] ||
		die 'not root: the environment is a chroot with its own mounts; use sudo make ...'
	case $native-$ARCH in
	x86-x86 | x86-arm64 | arm64-arm64) ;;
	*) die "this is $(uname -m): ARCH=$ARCH does not work here" ;;
	esac
	for tool in unshare:util-linux setpriv:util-linux flock:util-linux mount:mount awk:mawk; do
		command -v "${tool%:*}" >/dev/null ||
			die "no ${tool%:*}: install it with apt-get install ${tool#*:}"
	done
	unshare --mount --pid --fork true 2>/dev/null ||
		die 'cannot make a mount namespace: in a container, start it with --privileged'
}

# Installs debootstrap, the one tool that a fresh machine may lack.
get_debootstrap() {
	command -v debootstrap >/dev/null &&
		[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] && return
	command -v apt-get >/dev/null || die 'no debootstrap: install it and debian-archive-keyring'
	say 'host: apt-get install debootstrap debian-archive-keyring'
	{
		apt-get update &&
			DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
				debootstrap debian-archive-keyring
	} >&2 || die 'apt-get could not install debootstrap: see above'
}

# contain COMMAND...: in new namespaces; SIGKILL ends all of it if this script dies.
contain() {
	setpriv --pdeathsig KILL \
		unshare --mount --propagation private --pid --fork --kill-child "$@"
}

# wanted [FILE]: prints the packages of a root.
wanted() {
	content "$src/scripts/packages" "$src/scripts/$ARCH/packages" ${1:+"$src/$1"}
}

# make_root DIR [FILE]: in its own namespaces, makes the root from nothing; FILE is that of --with.
make_root() {
	new=$1
	shift
	rm -rf "$new"
	mkdir -p "$new"
	# shellcheck disable=SC2086 # an empty mirror means debootstrap's own default
	quietly 'root: debootstrap (about half a minute)' "$new.log" \
		debootstrap --variant=minbase "$SUITE" "$new" ${DMABUF_VFIO_MIRROR-} || {
		echo 'hint: DMABUF_VFIO_MIRROR names another Debian mirror' >&2
		exit 1
	}
	mkdir -p "$new/src" "$new/cache"
	mount -t proc proc "$new/proc"
	cp -L /etc/resolv.conf "$new/etc/resolv.conf"
	sed -n "s/ $SUITE main/ $SUITE-backports main/p" "$new/etc/apt/sources.list" \
		>"$new/etc/apt/sources.list.d/backports.list"
	printf 'path-exclude=/usr/share/%s/*\n' doc man locale >"$new/etc/dpkg/dpkg.cfg.d/small"
	echo force-unsafe-io >>"$new/etc/dpkg/dpkg.cfg.d/small"
	[ "$ARCH" = x86 ] || chroot "$new" dpkg --add-architecture "$ARCH"
	# shellcheck disable=SC2046 # one word per package
	quietly 'root: apt-get install (a minute or two, 500 MB to fetch)' "$new.log" \
		chroot "$new" env DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 sh -euc '
			apt-get -o Acquire::Retries=3 update
			apt-get -o Acquire::Retries=3 install -y --no-install-recommends "$@"
			apt-get clean' sh $(wanted "$@")
	# shellcheck disable=SC2016 # dpkg-query expands it
	chroot "$new" dpkg-query -W -f '${Package} ${Version}\n' \
		'linux-source-*' bindgen clang gcc lld rustc rust-src >"$new/etc/toolchain"
	umount "$new/proc"
	sync -f "$new"
}

# debootstrap uses the proxy of the host's apt.
use_apt_proxy() {
	[ -z "${http_proxy-}" ] && command -v apt-config >/dev/null || return 0
	eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
	[ -z "${http_proxy-}" ] || export http_proxy
}

ensure_root() {
	root=$cache/root-$(key "$SUITE" "$RECIPE" "$(wanted "$@")")
	[ ! -d "$root" ] || return 0
	get_debootstrap
	lock "$cache/root.lock"
	if [ ! -d "$root" ]; then # no other run made it meanwhile
		need_space "$cache"
		use_apt_proxy
		contain "$src/scripts/root.sh" --make "$root.new" "$@"
		mv -T "$root.new" "$root"
		rm -f "$root.new.log"
		say 'root: done'
	fi
	unlock
}

# enter ROOT COMMAND...: in its own namespaces, mounts what the root needs, executes the command.
enter() {
	root=$1
	shift
	mount --bind "$root" "$root"
	mount -o remount,bind,ro "$root"
	mount -t proc proc "$root/proc"
	mount -t tmpfs tmpfs "$root/tmp"
	mount --rbind /dev "$root/dev"
	mount -o remount,bind,ro "$root/dev" # the host's: rustc would replace a file it is to write
	mount --bind "$src" "$root/src"
	mount --bind "$cache" "$root/cache"
	# The host's certificates too: some proxies present their own.
	for file in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
		[ ! -e "$file" ] || mount --bind "$file" "$root$file"
	done
	set -- HOST_SRC="$src" HOST_CACHE="$cache" "$@"
	for name in $PASS; do
		eval "value=\${$name-}"
		# shellcheck disable=SC2154 # set by eval
		[ -z "$value" ] || set -- "$name=$value" "$@"
	done
	exec chroot "$root" env -i --chdir=/src PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp \
		LANG=C.UTF-8 CARGO_HOME=/cache/cargo PYTHONDONTWRITEBYTECODE=1 "$@"
}

remove_cache() {
	[ -d "$cache" ] || return 0
	say "removing $cache ($(du -sh "$cache" | cut -f1))"
	rm -rf --one-file-system "$cache"
}

# A function and one last line, so that an edit or a git pull cannot touch a running script.
main() {
	with=
	if [ "${1-}" = --with ]; then
		with=$2
		shift 2
	fi
	case ${1-} in
	--remove-cache)
		remove_cache
		;;
	--make)
		shift
		make_root "$@"
		;;
	--enter)
		shift
		enter "$@"
		;;
	'')
		die 'usage: scripts/root.sh [--with FILE] COMMAND...'
		;;
	*)
		check_host
		mkdir -p "$cache"
		ensure_root ${with:+"$with"}
		contain "$src/scripts/root.sh" --enter "$root" "$@"
		;;
	esac
}

main "$@"; exit
