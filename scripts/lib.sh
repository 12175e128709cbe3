# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Shared by the scripts of this directory: messages with elapsed time, cache keys, locks,
# commands with progress. Source it after `set -eu`.
#
# Messages go to stderr, because stdout carries the output that the user asked for.

: "${STARTED:=$(date +%s)}"
export STARTED

say() {
	printf '[%4d s] %s\n' "$(($(date +%s) - STARTED))" "$*" >&2
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# key WORD...: a short hash of the words.
key() {
	printf '%s\n' "$@" | sha256sum | cut -c1-12
}

# content FILE...: the files without comments and empty lines, so that an edited comment
# causes no kernel build. `# CONFIG_X is not set` is not a comment.
content() {
	sed -e '/^# CONFIG_[A-Z0-9_]* is not set$/b' -e '/^[[:space:]]*\(#.*\)*$/d' "$@"
}

# need_space DIR: dies if the disk is too full for another stage.
need_space() {
	free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge 15 ] ||
		die "only $free GB free in $(outside "$1"), 15 GB are needed:" \
			'free some, or set XDG_CACHE_HOME to another disk'
}

# lock FILE: takes the exclusive lock on fd 9 and holds it until unlock or exit.
lock() {
	exec 9>"$1"
	flock -n 9 || {
		say "waiting: another run is building the same thing ($(outside "$1"))"
		flock 9
	}
}

unlock() {
	exec 9>&-
}

# objects_for KERNEL DIR: prepares DIR for objects; empties it if they are for another kernel.
objects_for() {
	[ "$(cat "$2/.kernel" 2>/dev/null)" != "$1" ] || return 0
	rm -rf "$2"
	mkdir -p "$2"
	printf '%s\n' "$1" >"$2/.kernel"
}

# quietly LABEL LOG COMMAND...: sends output to LOG, prints a line of progress every 20 s, and
# after a failure the end of the log.
quietly() {
	label=$1 log=$2
	shift 2
	say "$label"
	"$@" >"$log" 2>&1 </dev/null 9>&- &
	job=$!
	while sleep 20; do
		last=$(tail -n 1 "$log" | tr -s '\t ' ' ' | cut -c1-60)
		say "$label: $(wc -l <"$log") lines done: $last"
	done 9>&- &
	ticker=$!
	status=0
	wait "$job" || status=$?
	kill "$ticker" 2>/dev/null
	wait "$ticker" 2>/dev/null || :
	[ "$status" -eq 0 ] && return 0
	tail -n 30 "$log" >&2
	printf 'error: %s: failed with status %s; the whole log: %s\n' \
		"$label" "$status" "$(outside "$log")" >&2
	return 1
}

# outside PATH: the host's name of a path inside the Debian root.
outside() {
	case $1 in
	/src/*) printf '%s' "${HOST_SRC-/src}/${1#/src/}" ;;
	/cache/*) printf '%s' "${HOST_CACHE-/cache}/${1#/cache/}" ;;
	*) printf '%s' "$1" ;;
	esac
}
