# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=busybox
#
# Shared by the scripts in the guest.

# bind DRIVER BDF: binds the device to the driver; fails if that does not work.
bind() {
	device=/sys/bus/pci/devices/$2
	[ ! -e "$device/driver" ] || echo "$2" >"$device/driver/unbind"
	echo "$1" >"$device/driver_override"
	echo "$2" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "$device/driver")")" = "$1" ]
}

# section NAME COMMAND...: marks begin and end, on stdout (sections() in judge.py reads them) and in
# the kernel log.
section() {
	section=$1
	shift
	echo "suite: begin $section" >/dev/kmsg
	echo "section: begin $section"
	"$@" 2>&1
	status=$?
	echo
	echo "section: end $section $status"
	echo "suite: end $section" >/dev/kmsg
}
