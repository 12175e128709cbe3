#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# usage (in the guest): apps.sh in-tree|stand-in|own
#
# Runs Debian's own programs on the devices $BDF0, $BDF1 (igb), $BDF2, $BDF3 (e1000e), $BDF4 (edu)
# and $BDF5 (which has a driver at first): `load` and those cases whose names contain $CASE. With
# the in-tree vfio-pci, with our driver under that name, or with our driver under its own. Marks
# what is run, on stdout and in the kernel log, for apps.py, which judges it.
#
# The programs come from the Debian root that QEMU runs in: it is mounted (9p) below $root/host,
# and $root is a root made of it in which some folders can be written to.

root=/debian
pci=/sys/bus/pci/devices
mode=$1

# By its path, for busybox has an env of its own, and that runs what else busybox has.
debian() {
	chroot $root /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
		LANG=C.UTF-8 "$@"
}

mount_host() {
	mkdir $root
	mount -t tmpfs -o mode=755 tmpfs $root # DPDK wants that nobody else can write there
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

# Our module where DKMS would put it. What a user with DPDK sets, see scripts/debian/README.md.
install_module() {
	modules=$root/usr/lib/modules/$(uname -r)
	cp -a "/lib/modules/$(uname -r)" "$modules"
	mkdir -p "$modules/updates/dkms"
	cp /lib/modules/dmabuf-vfio-pci.ko "$modules/updates/dkms"
	debian depmod
	[ "$mode" != stand-in ] || cp /lib/as-vfio-pci.conf $root/etc/modprobe.d
	# dpdk-devbind.py asks for routes; this kernel has no IP, so there are none.
	printf '#!/bin/sh\n' >$root/usr/local/bin/ip
	chmod +x $root/usr/local/bin/ip
}

# try NAME COMMAND...: a case.
try() {
	name=$mode:$1
	shift
	case $name in *:load | *"$CASE"*) ;; *) return ;; esac
	echo "suite: begin $name" >/dev/kmsg
	echo "apps: begin $name"
	"$@" 2>&1
	status=$?
	echo
	echo "apps: end $name $status"
	echo "suite: end $name" >/dev/kmsg
}

# bound DRIVER BDF...: who has them, for the judge.
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

# Gives devices to the driver by hand.
give() {
	for device; do
		echo "$driver" >"$pci/$device/driver_override"
		echo "$device" >/sys/bus/pci/drivers_probe
	done
	bound "$@"
}

# take BDF...: and takes them back.
take() {
	for device; do
		echo "$device" >"$pci/$device/driver/unbind"
		echo >"$pci/$device/driver_override"
	done
}

# ask COMMAND LINES PATTERN: until two of the last LINES of the answer match, a minute at most.
ask() {
	n=0
	while [ $n -lt 60 ]; do
		echo "$1" >&5
		sleep 1
		[ "$(tail -n "$2" /tmp/said | grep -c "$3")" != 2 ] || return 0
		n=$((n + 1))
	done
	echo "apps: waited in vain for: $3"
	return 1
}

# What testpmd is told: 10 bursts of 32 packets from each port to the other, then traffic that goes
# to and fro for 3 seconds.
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

# nested BDF PARAMETERS OPTION...: a virtual machine in this one, with the edu of this one.
nested() {
	edu=$1
	passed_on=vfio-pci,host=$1$2
	shift 2
	give "$edu"
	debian timeout 1200 qemu-system-x86_64 -nodefaults -no-user-config -display none \
		-machine q35 -accel tcg -cpu max -m 256M -no-reboot -serial stdio "$@" \
		-device "$passed_on" -kernel "/host$KERNEL" -initrd /host/tmp/nested.cpio \
		-append 'console=ttyS0 quiet no_timer_check acpi=off reboot=triple'
	status=$?
	take "$edu"
	return $status
}

main() {
	mount_host && install_module || exit 1
	driver=vfio-pci
	[ "$mode" != own ] || driver=dmabuf-vfio-pci
	try load load
	if [ "$mode" = own ]; then
		try no-port no_port "$BDF0"
		try driverctl driverctl "$BDF5"
		try qemu-iommufd nested "$BDF4" ,iommufd=iommufd0 -object iommufd,id=iommufd0
	else
		try devbind devbind "$BDF0" "$BDF1" "$BDF2" "$BDF3"
		try testpmd-igb testpmd "$BDF0" "$BDF1"
		try testpmd-e1000e testpmd "$BDF2" "$BDF3"
		try driverctl driverctl "$BDF5"
		[ "$mode" = in-tree ] || try qemu-group nested "$BDF4" ''
	fi
}

main
