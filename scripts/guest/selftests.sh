#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (in the guest): selftests.sh DEVICE...
#
# Runs the kernel's own VFIO tests in /selftests, those whose names contain $CASE, on the devices
# $BDF0, $BDF1, ..., whose names are given: first with all of them bound to the in-tree vfio-pci,
# then to $DRIVER. Marks what is run, on stdout and in the kernel log, for selftests.py.

pci=/sys/bus/pci/devices

# bind DRIVER BDF
bind() {
	[ ! -e "$pci/$2/driver" ] || echo "$2" >"$pci/$2/driver/unbind"
	echo "$1" >"$pci/$2/driver_override"
	echo "$2" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "$pci/$2/driver")")" = "$1" ]
}

# run DRIVER DEVICE PROGRAM BDF...
run() {
	name=$1:$2:$3
	program=$3
	shift 3
	echo "suite: begin $name" >/dev/kmsg
	echo "selftests: begin $name"
	"/selftests/$program" "$@" 2>&1
	status=$?
	echo
	echo "selftests: end $name $status"
	echo "suite: end $name" >/dev/kmsg
}

# run_all DRIVER DEVICE...
run_all() {
	with=$1
	shift
	n=0
	bdfs=
	for device; do
		eval "bdf=\$BDF$n"
		# shellcheck disable=SC2154 # set by eval
		bind "$with" "$bdf" || return 1
		bdfs="$bdfs $bdf"
		n=$((n + 1))
	done
	for program in /selftests/*"$CASE"*; do
		program=${program##*/}
		if [ "$program" = vfio_pci_device_init_perf_test ]; then
			# shellcheck disable=SC2086 # one word for each device
			run "$with" all "$program" $bdfs
			continue
		fi
		n=0
		for device; do
			eval "bdf=\$BDF$n"
			n=$((n + 1))
			run "$with" "$device" "$program" "$bdf"
		done
	done
}

echo 1 >/sys/module/vfio_pci/parameters/enable_sriov
# A GiB of shared memory, which the test of DMA wants each time, comes in big pages.
echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
run_all vfio-pci "$@" || exit 1
run_all "$DRIVER" "$@" || exit 1
