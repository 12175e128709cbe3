#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (in the guest): selftests.sh DEVICE...
#
# Runs the kernel's own VFIO tests in /selftests whose names contain $CASE on $BDF0, $BDF1, ...; the
# arguments name these devices. First all are bound to the in-tree vfio-pci, then to $DRIVER. Marks
# begin and end of each program, on stdout and in the kernel log, for selftests.py.

# shellcheck source=vm/guest/lib.sh
. /lib/guest.sh
pci=/sys/bus/pci/devices

# rename_vf_driver PF DRIVER: mounts a view of sysfs in which the VF's driver is named vfio-pci: the
# SR-IOV test accepts no other name. First makes the VF once, to check that its real driver is
# DRIVER and to learn its group.
rename_vf_driver() {
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
			section "$with:all:$program" "/selftests/$program" $bdfs
			continue
		fi
		n=0
		for device; do
			eval "bdf=\$BDF$n"
			n=$((n + 1))
			view=false
			if [ "$program" = vfio_pci_sriov_uapi_test ] && [ "$with" != vfio-pci ] &&
				[ -e "$pci/$bdf/sriov_totalvfs" ]; then
				rename_vf_driver "$bdf" "$with" && view=true
			fi
			section "$with:$device:$program" "/selftests/$program" "$bdf"
			! $view || umount "$pci"
		done
	done
}

for parameter in /sys/module/*vfio_pci/parameters/enable_sriov; do
	echo 1 >"$parameter"
done
# The DMA test takes 1 GiB of shared memory each time; huge pages make that fast.
echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
run_all vfio-pci "$@" || exit 1
# shellcheck disable=SC2153 # init sets it
run_all "$DRIVER" "$@" || exit 1
