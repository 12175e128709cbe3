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

# called_vfio_pci PF DRIVER: what the test of SR-IOV wants to see of a VF whose driver has another
# name. It compares the name with "vfio-pci" and cannot be told another one. The VF is made
# once without it, to see that its driver is that of its PF and which group it will have.
called_vfio_pci() {
	echo 1 >"$pci/$1/sriov_numvfs"
	vf=$(basename "$(readlink "$pci/$1/virtfn0")")
	real=$(realpath "$pci/$vf")
	driver=$(basename "$(readlink "$real/driver")")
	group=$(readlink "$real/iommu_group")
	echo 0 >"$pci/$1/sriov_numvfs"
	[ "$driver" = "$2" ] || return 1
	links=$(cd "$pci" && for name in *; do echo "$name $(readlink "$name")"; done)
	mount -t tmpfs tmpfs "$pci"
	echo "$links" | while read -r name link; do ln -s "$link" "$pci/$name"; done
	mkdir "$pci/$vf"
	ln -s /sys/bus/pci/drivers/vfio-pci "$pci/$vf/driver"
	ln -s "$group" "$pci/$vf/iommu_group"
	ln -s "$real/vfio-dev" "$pci/$vf/vfio-dev"
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
			view=false
			if [ "$program" = vfio_pci_sriov_uapi_test ] && [ "$with" != vfio-pci ] &&
				[ -e "$pci/$bdf/sriov_totalvfs" ]; then
				called_vfio_pci "$bdf" "$with" && view=true
			fi
			run "$with" "$device" "$program" "$bdf"
			! $view || umount "$pci"
		done
	done
}

for parameter in /sys/module/*vfio_pci/parameters/enable_sriov; do
	echo 1 >"$parameter"
done
# A GiB of shared memory, which the test of DMA wants each time, comes in big pages.
echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
run_all vfio-pci "$@" || exit 1
# shellcheck disable=SC2153 # init sets it
run_all "$DRIVER" "$@" || exit 1
