#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (inside the root): scripts/kernel.sh FLAVOUR
#
# Makes sure that the kernel of a flavour exists and prints its directory. The config fragments
# in scripts/kernel/ name every option that is on (make allnoconfig): machine.config, then
# FLAVOUR.config, where `debug` and `kcsan` extend `test`, then those of the architecture and of the
# page size (PAGES). A later line about an option replaces an earlier one. The directory has:
#
#   build/    the O= directory: the image, .config, what M= builds of Rust modules need
#   modules/  lib/modules/RELEASE for the guest
#   uapi/     the kernel's headers for user space
#   source    link to the unpacked source
#   done      written last: without it, the next run resumes the build
set -eu

RECIPE=1 # raise it when a change of build() makes cached kernels unusable

. /src/scripts/lib.sh
flavour=$1
fragments=/src/scripts/kernel

ensure_source() {
	version=$(awk '/^linux-source/ { print $2 }' /etc/toolchain)
	source=/cache/source-$version
	[ ! -d "$source" ] || return 0
	lock /cache/source.lock
	if [ ! -d "$source" ]; then
		need_space /cache
		rm -rf "$source.new"
		mkdir "$source.new"
		tarball=$(echo /usr/src/linux-source-*.tar.xz)
		quietly "kernel: unpack linux-source $version" /cache/source.log \
			tar -C "$source.new" --strip-components=1 -xJf "$tarball"
		sync -f "$source.new"
		mv -T "$source.new" "$source"
		rm -f /cache/source.log
	fi
	unlock
}

config() {
	set -- machine "$flavour"
	case $flavour in debug | kcsan) set -- machine test "$flavour" ;; esac
	set -- "$@" "$ARCH" ${PAGES:+"$ARCH-$PAGES"}
	for name; do
		[ -e "$fragments/$name.config" ] || continue # nothing differs on x86
		content "$fragments/$name.config"
	done | awk '
		{ name = $0; sub(/^# /, "", name); sub(/[= ].*/, "", name) }
		!(name in line) { order[++n] = name }
		{ line[name] = $0 }
		END { for (i = 1; i <= n; i++) print line[order[i]] }'
}

# Kconfig silently drops unknown options and those whose dependencies are off.
verify_config() {
	lost=$(config | while read -r line; do
		name=${line#\# }
		name=${name%%[= ]*}
		case $line in
		'#'* | *=n) ! grep -q "^$name=" "$1" ;;
		*) grep -qxF "$line" "$1" ;;
		esac || printf '%s ' "$name"
	done)
	[ -z "$lost" ] || die "$(outside "$fragments"): no effect in the finished .config: $lost"
}

# shellcheck disable=SC2317 # quietly() calls it
kmake() {
	make -C "$source" O="$kernel/build" LLVM=1 -j"$(nproc)" "$@"
}

build() {
	mkdir -p "$kernel/build"
	ln -sfn "../${source##*/}" "$kernel/source"
	if [ ! -e "$kernel/configured" ]; then # a second time would invalidate objects
		config >"$kernel/fragment"
		quietly 'kernel: configure' "$kernel/config.log" \
			kmake KCONFIG_ALLCONFIG="$kernel/fragment" allnoconfig
		verify_config "$kernel/build/.config"
		touch "$kernel/configured"
	fi
	quietly 'kernel: build (about 10 minutes on 2 cores)' "$kernel/build.log" \
		kmake "$image" modules
	rm -rf "$kernel/modules"
	quietly 'kernel: install modules and headers' "$kernel/install.log" \
		kmake INSTALL_MOD_PATH="$kernel/modules" INSTALL_HDR_PATH="$kernel/uapi" \
		modules_install headers_install
	sync -f "$kernel"
	touch "$kernel/done"
	say 'kernel: done'
}

# A function and one last line, so that an edit or a git pull cannot touch a running script.
main() {
	[ -e "$fragments/$flavour.config" ] ||
		die "KERNEL=$flavour: there are bench, debug, kcsan and test"
	[ -z "${PAGES-}" ] || [ -e "$fragments/$ARCH-$PAGES.config" ] ||
		die "PAGES=$PAGES: there is 64k, for ARCH=arm64"
	case $ARCH in
	x86) image=bzImage ;;
	arm64) image=Image ;;
	esac
	ensure_source
	kernel=/cache/kernel-$(key "$RECIPE" "$(cat /etc/toolchain)" "$(config)")
	if [ ! -e "$kernel/done" ]; then
		mkdir -p "$kernel"
		lock "$kernel.lock"
		[ -e "$kernel/done" ] || {
			need_space /cache
			build
		}
		unlock
	fi
	printf '%s\n' "$kernel"
}

main "$@"; exit
