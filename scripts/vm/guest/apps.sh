#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (in the guest): apps.sh in-tree|as-vfio-pci|own
#
# Runs Debian's own programs on $BDF0, $BDF1 (igb), $BDF2, $BDF3 (e1000e), $BDF4 (edu), $BDF5, which
# has a driver at first, and $BDF6 (ivshmem). The driver is the in-tree vfio-pci, ours under that
# name, or ours under its own name. Runs `load` and the cases whose names contain $CASE. Marks begin
# and end of each, on stdout and in the kernel log, for apps.py, which judges the output.
#
# The programs come from the Debian root that QEMU runs in, mounted (9p) at $root/host. $root
# consists of links into it and of some writable directories.

# shellcheck source=vm/guest/lib.sh
. /lib/guest.sh
root=/debian
pci=/sys/bus/pci/devices
mode=$1

# debian COMMAND...: runs it in $root. The path of env matters: that of busybox prefers its own
# applets.
debian() {
	chroot $root /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
		LANG=C.UTF-8 "$@"
}

mount_host() {
	mkdir $root
	mount -t tmpfs -o mode=755 tmpfs $root # DPDK requires that only root can write here
	cd $root || return 1
	mkdir -p host dev proc sys tmp run root var/lib var/run var/tmp
	mkdir -p usr/local/bin usr/lib/modules
	mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 debian host ||
		return 1
	cp -a host/etc .
	for entry in bin sbin lib lib64; do
		ln -s "usr/$entry" "$entry"
	done
	for entry in host/usr/bin host/usr/sbin host/usr/lib64 host/usr/libexec host/usr/share \
		host/usr/lib/*; do
		[ -e "${entry#host/}" ] || ln -s "/$entry" "${entry#host/}"
	done
	mount --rbind /dev dev
	mount --rbind /sys sys
	mount -t proc proc proc
}

# Installs our module where DKMS does, with the settings of scripts/debian/README.md for DPDK.
install_module() {
	modules=$root/usr/lib/modules/$(uname -r)
	cp -a "/lib/modules/$(uname -r)" "$modules"
	mkdir -p "$modules/updates/dkms"
	cp /lib/modules/dmabuf-vfio-pci.ko "$modules/updates/dkms"
	debian depmod
	[ "$mode" != as-vfio-pci ] || cp /lib/as-vfio-pci.conf $root/etc/modprobe.d
	# dpdk-devbind.py lists routes with ip; this kernel has no IP networking.
	printf '#!/bin/sh\n' >$root/usr/local/bin/ip
	chmod +x $root/usr/local/bin/ip
}

# try NAME COMMAND...: runs a case.
try() {
	its=$mode:$1
	shift
	case $its in *:load | *"$CASE"*) section "$its" "$@" ;; esac
}

# bound BDF...: prints the driver of each.
bound() {
	for device; do
		echo "driver of $device: $(basename "$(readlink "$pci/$device/driver")")"
	done
}

load() {
	debian modprobe "$driver" || return
	echo "module of $driver: $(basename "$(readlink "/sys/bus/pci/drivers/$driver/module")")"
}

devbind() {
	debian dpdk-devbind.py "--bind=$driver" "$@" && debian dpdk-devbind.py --status-dev net &&
		bound "$@" && debian dpdk-devbind.py --unbind "$@" && bound "$@"
}

# give BDF...: binds devices to the driver through sysfs.
give() {
	for bdf; do
		bind "$driver" "$bdf"
	done
	bound "$@"
}

# take BDF...: undoes give.
take() {
	for device; do
		echo "$device" >"$pci/$device/driver/unbind"
		echo >"$pci/$device/driver_override"
	done
}

# ask COMMAND LINES PATTERN: repeats it until two of the last LINES match, for at most a minute.
ask() {
	n=0
	while [ $n -lt 60 ]; do
		echo "$1" >&5
		sleep 1
		[ "$(tail -n "$2" /tmp/said | grep -c "$3")" != 2 ] || return 0
		n=$((n + 1))
	done
	echo "apps: timed out waiting for: $3"
	return 1
}

# Sends commands to testpmd: 10 bursts of 32 packets from each port to the other, then traffic in
# both directions for 3 seconds.
conduct() {
	ask 'show port summary all' 4 ' up ' || return
	printf 'set fwd rxonly\nstart tx_first 10\n' >&5
	ask 'show port stats all' 25 'RX-packets: 320 ' || return
	printf 'stop\nset fwd mac\nstart tx_first 2\n' >&5
	sleep 3
	printf 'stop\nshow port stats all\n' >&5
}

# testpmd BDF BDF
testpmd() {
	give "$@"
	rm -f /tmp/commands
	mkfifo /tmp/commands
	debian timeout 240 dpdk-testpmd -l 0-1 --in-memory -m 64 -a "$1" -a "$2" -- -i \
		--total-num-mbufs=4096 </tmp/commands >/tmp/said 2>&1 &
	program=$!
	exec 5>/tmp/commands
	conduct
	echo quit >&5
	exec 5>&-
	wait $program
	status=$?
	cat /tmp/said
	take "$@"
	return $status
}

no_port() {
	give "$1"
	echo quit | debian timeout 120 dpdk-testpmd -l 0-1 --in-memory -m 64 -a "$1" -- -i \
		--total-num-mbufs=4096
	status=$?
	take "$1"
	return $status
}

# driverctl BDF
driverctl() {
	bound "$1"
	debian driverctl set-override "$1" "$driver" && bound "$1" &&
		debian driverctl list-overrides && debian driverctl list-persisted &&
		debian driverctl unset-override "$1" && bound "$1"
	status=$?
	debian driverctl list-overrides
	debian driverctl list-persisted
	return $status
}

# nested group|iommufd BDF...: boots a nested virtual machine with these devices. An emulator inside
# an emulator is slow, so the machine has a simple CPU and no RAM disks.
nested() {
	way=$1
	shift
	devices=$*
	give "$@"
	for device; do
		shift
		case $way in
		group) set -- "$@" -device "vfio-pci,host=$device" ;;
		iommufd) set -- "$@" -device "vfio-pci,host=$device,iommufd=iommufd0" ;;
		esac
	done
	[ "$way" = group ] || set -- -object iommufd,id=iommufd0 "$@"
	debian timeout 1200 qemu-system-x86_64 -nodefaults -no-user-config -display none \
		-machine q35 -accel tcg -cpu qemu64 -m 256M -no-reboot -serial stdio "$@" \
		-kernel "/host$KERNEL" -initrd /host/tmp/nested.cpio \
		-append 'console=ttyS0 quiet no_timer_check acpi=off brd.rd_nr=0 reboot=triple'
	status=$?
	# shellcheck disable=SC2086 # one word for each device
	take $devices
	return $status
}

# peers BDF...: the same by iommufd, with the parameter of our driver for peer-to-peer DMA.
peers() {
	[ "$mode" = in-tree ] || echo 1 >/sys/module/dmabuf_vfio_pci/parameters/core_dmabuf
	nested iommufd "$@"
}

main() {
	mount_host && install_module || exit 1
	driver=vfio-pci
	[ "$mode" != own ] || driver=dmabuf-vfio-pci
	try load load
	if [ "$mode" = own ]; then
		try no-port no_port "$BDF0"
		try driverctl driverctl "$BDF5"
		try qemu-iommufd nested iommufd "$BDF4" "$BDF6"
	else
		try devbind devbind "$BDF0" "$BDF1" "$BDF2" "$BDF3"
		try testpmd-igb testpmd "$BDF0" "$BDF1"
		try testpmd-e1000e testpmd "$BDF2" "$BDF3"
		try driverctl driverctl "$BDF5"
		[ "$mode" = in-tree ] || try qemu-group nested group "$BDF4" "$BDF6"
	fi
	try qemu-peers peers "$BDF4" "$BDF6" # last: it sets a parameter
}

main
