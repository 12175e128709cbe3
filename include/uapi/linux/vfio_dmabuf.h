/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User space interface of the dmabuf-vfio-pci driver: slices of a PCI device's BARs as dma-bufs.
 *
 * All of it is reached through the VFIO device fd: one ioctl, and features of
 * VFIO_DEVICE_FEATURE. The general rules of VFIO_DEVICE_FEATURE apply to each feature below:
 * a call with VFIO_DEVICE_FEATURE_PROBE and the operations that the feature has (GET, SET)
 * returns 0, reads no payload and has no effect. An operation that the feature lacks is EINVAL;
 * so is an argsz that does not hold the payload. A driver without the feature answers ENOTTY.
 *
 * Names: everything that only this driver has is called VFIO_DMABUF_* or vfio_dmabuf_*, and is
 * always defined, with the numbers of this driver. The names that the kernel patch series
 * "vfio/pci: Add mmap() for DMABUFs" gave to the same things are aliases at the end of this
 * header. Each is left out if <linux/vfio.h> has it. A program that uses the VFIO_DMABUF_* names
 * therefore keeps working when a later <linux/vfio.h> gives the series' names other numbers.
 *
 * An exported BAR slice is called a buffer. All offsets, lengths and sizes are bytes.
 */
#ifndef _LINUX_VFIO_DMABUF_H
#define _LINUX_VFIO_DMABUF_H

#include <linux/types.h>
#include <linux/ioctl.h>
#include <linux/vfio.h>

/* In mainline since Linux 6.19, number and structures included. For older headers: */
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
/**
 * define VFIO_DEVICE_FEATURE_DMA_BUF - export ranges of a BAR as a dma-buf
 *
 * GET creates a buffer over one or several ranges of one BAR and returns a dma-buf fd for it. This
 * driver adds mmap() of that fd, in any process that holds it. The page offset given to mmap()
 * counts in the ranges laid end to end in the order given.
 *
 * With the module parameter core_dmabuf, a call whose flags are 0 returns a dma-buf of the in-tree
 * core instead; see VFIO_DMABUF_IOMMUFD. VFIO_DMABUF_BUFFER in the flags always asks for a buffer.
 *
 * If the device's memory is disabled, the buffer starts temporarily revoked.
 *
 * Devices that import a buffer with the open flag O_RDONLY may read it but not write to it.
 *
 * Return: the fd (>= 0), or -1 with errno
 *   EINVAL     nr_ranges is 0, unknown bits in flags or open_flags, a length of 0, an offset or
 *              length that is not a multiple of the page size, a range past the end of the BAR, or
 *              a sum of lengths that overflows or has bit 63 set
 *   EOVERFLOW  the bus address of a range overflows
 *   E2BIG      nr_ranges > VFIO_DMABUF_MAX_RANGES
 *   ENODEV     region_index is not a BAR (>= 6), or the device has no memory there
 *   EFAULT     the payload cannot be read
 *   ENOSPC     the device's mmap offsets have no room for ranges of that total length
 *   EOPNOTSUPP flags ask for an attribute that this machine does not have
 *   EMFILE, ENFILE, ENOMEM  as usual
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF 11

/**
 * struct vfio_region_dma_range - a range of a BAR
 * @offset: from the start of the BAR, bytes, a multiple of the page size
 * @length: bytes, a multiple of the page size, not 0
 */
struct vfio_region_dma_range {
	__u64 offset;
	__u64 length;
};

/**
 * struct vfio_device_feature_dma_buf - payload of VFIO_DEVICE_FEATURE_DMA_BUF
 * @region_index: the BAR, 0 to 5
 * @open_flags: flags of the new fd as for open(2): O_RDONLY or O_RDWR, O_CLOEXEC, O_NONBLOCK
 * @flags: VFIO_DMABUF_BUFFER, VFIO_DMABUF_TYPE1, a VFIO_DMABUF_ATTR_* value; else 0
 * @nr_ranges: number of elements in @dma_ranges
 * @dma_ranges: the ranges; they may overlap and come in any order
 */
struct vfio_device_feature_dma_buf {
	__u32	region_index;
	__u32	open_flags;
	__u32	flags;
	__u32	nr_ranges;
	struct vfio_region_dma_range dma_ranges[];
};
#endif /* VFIO_DEVICE_FEATURE_DMA_BUF */

/**
 * define VFIO_DMABUF_MAX_RANGES - the most ranges that one buffer can have
 *
 * Each range costs the kernel a few dozen bytes, which are charged to the caller's memory cgroup.
 */
#define VFIO_DMABUF_MAX_RANGES	262144

/**
 * define VFIO_DMABUF_BUFFER - in vfio_device_feature_dma_buf.flags: export a buffer of this driver
 *
 * Without any flag, the module parameter core_dmabuf decides whether the call returns a buffer or
 * a dma-buf of the in-tree core. The in-tree core and the series have no such flag: EINVAL.
 */
#define VFIO_DMABUF_BUFFER	(1U << 27)

/**
 * define VFIO_DMABUF_TYPE1 - in vfio_device_feature_dma_buf.flags: let type1 containers map it
 *
 * Without the flag, VFIO_IOMMU_MAP_DMA of a mapping of the buffer is EFAULT. type1 is not notified
 * when page table entries are removed: with the flag, a container that has mapped the buffer
 * for DMA keeps that DMA access after a revoke, a reset or a close, until its process unmaps. Set
 * it for a buffer that only trusted processes get.
 */
#define VFIO_DMABUF_TYPE1	(1U << 26)

/**
 * define VFIO_DMABUF_ATTR_MASK - the attribute bits in vfio_device_feature_dma_buf.flags
 *
 * The memory attribute that a buffer starts with. VFIO_DMABUF_MEMATTR changes it later.
 */
#define VFIO_DMABUF_ATTR_MASK	(0xfU << 28)

/**
 * define VFIO_DMABUF_ATTR_UC - export with VFIO_DMABUF_MEMATTR_NC, the default
 */
#define VFIO_DMABUF_ATTR_UC	(0U << 28)

/**
 * define VFIO_DMABUF_ATTR_WC - export with VFIO_DMABUF_MEMATTR_WC
 */
#define VFIO_DMABUF_ATTR_WC	(1U << 28)

/**
 * define VFIO_DMABUF_REVOKE - feature: revoke a buffer for good
 *
 * SET revokes a buffer. When the call has returned 0, no process reaches the device's memory
 * through this buffer any more (an access is SIGBUS), and neither does any other device; mmap()
 * of its fd is ENODEV. Any copy of the fd will do, in whichever process the others are. Other
 * buffers over the same memory stay as they are, and the memory can be exported again.
 *
 * Return: 0, or -1 with errno
 *   EFAULT   the payload cannot be read
 *   EBADF    dmabuf_fd is not an open fd
 *   EINVAL   dmabuf_fd is not a dma-buf
 *   ENODEV   the dma-buf is not a buffer of this device, or the device was closed since
 *   EBADFD   the buffer was revoked before
 *   EINTR    a signal arrived while the call waited for importing devices. The buffer is revoked:
 *            no process and no new importer reaches it. Call again to go on waiting
 *
 * The number is from a part of the feature space that mainline does not use.
 */
#define VFIO_DMABUF_REVOKE	0xff0d

/**
 * struct vfio_dmabuf_feature_revoke - payload of VFIO_DMABUF_REVOKE
 * @dmabuf_fd: an fd of the buffer
 */
struct vfio_dmabuf_feature_revoke {
	__s32	dmabuf_fd;
};

/**
 * define VFIO_DMABUF_MEMATTR - feature: the memory attribute of a buffer
 *
 * SET changes the memory attribute with which later mmap() calls map this buffer; existing
 * mappings keep theirs. GET reads it.
 *
 * Return: 0, or -1 with errno
 *   EFAULT      the payload cannot be read or written
 *   EBADF, EINVAL, ENODEV  as for VFIO_DMABUF_REVOKE
 *   EOPNOTSUPP  SET of an attribute that this kernel or CPU does not have
 */
#define VFIO_DMABUF_MEMATTR	0xff0e

/**
 * enum vfio_dmabuf_memattr - how CPUs access a buffer
 * @VFIO_DMABUF_MEMATTR_NC: uncached; each access reaches the device, in program order
 * @VFIO_DMABUF_MEMATTR_WC: write-combining; writes may be merged and reordered until a barrier
 *
 * x86: uncached accesses are in order with those of other memory; SFENCE is the barrier for
 * write-combining. arm64: accesses of both kinds are not in order with those of other memory. A
 * doorbell needs "dmb oshst" before it, a load on which others depend "dmb oshld" after it. The
 * barrier for write-combining is "dsb st". An unaligned access of an uncached mapping, and
 * memset(), raise SIGBUS there. Write-combining memory may be read speculatively.
 */
enum vfio_dmabuf_memattr {
	VFIO_DMABUF_MEMATTR_NC = 0,
	VFIO_DMABUF_MEMATTR_WC = 1
};

/**
 * struct vfio_dmabuf_feature_memattr - payload of VFIO_DMABUF_MEMATTR
 * @dmabuf_fd: an fd of the buffer
 * @memattr: an enum vfio_dmabuf_memattr; written by GET, read by SET
 */
struct vfio_dmabuf_feature_memattr {
	__s32	dmabuf_fd;
	__u32	memattr;
};

/**
 * define VFIO_DMABUF_INFO - feature: describe a buffer
 *
 * GET never waits for a reset or for an importer. The status may be out of date when the call
 * returns, but a revoked or closed buffer never becomes live again. While another call changes
 * the state of the device's memory, a live buffer may be reported as temporarily revoked.
 *
 * Return: 0, or -1 with errno
 *   EFAULT  the payload cannot be read or written
 *   EBADF, EINVAL, ENODEV  as for VFIO_DMABUF_REVOKE, except that a buffer whose device was
 *           closed is described while the same device is open again
 */
#define VFIO_DMABUF_INFO	0xff0f

/**
 * enum vfio_dmabuf_status - the state of a buffer
 * @VFIO_DMABUF_STATUS_LIVE: accesses reach the device
 * @VFIO_DMABUF_STATUS_REVOKED_TEMP: the device's memory is off or being reset; will be live again
 * @VFIO_DMABUF_STATUS_REVOKED: revoked for good
 * @VFIO_DMABUF_STATUS_CLOSED: the device was closed; dead for good
 */
enum vfio_dmabuf_status {
	VFIO_DMABUF_STATUS_LIVE = 0,
	VFIO_DMABUF_STATUS_REVOKED_TEMP = 1,
	VFIO_DMABUF_STATUS_REVOKED = 2,
	VFIO_DMABUF_STATUS_CLOSED = 3
};

/**
 * struct vfio_dmabuf_feature_info - payload of VFIO_DMABUF_INFO
 * @dmabuf_fd: in: an fd of the buffer
 * @status: out: an enum vfio_dmabuf_status
 * @memattr: out: an enum vfio_dmabuf_memattr
 * @nr_ranges: out: the number of ranges that it was exported with
 * @size: out: the sum of their lengths, bytes
 */
struct vfio_dmabuf_feature_info {
	__s32	dmabuf_fd;
	__u32	status;
	__u32	memattr;
	__u32	nr_ranges;
	__aligned_u64 size;
};

/**
 * define VFIO_DMABUF_IOMMUFD - feature: a dma-buf of the in-tree VFIO PCI core
 *
 * GET returns a dma-buf fd that the in-tree VFIO PCI core makes, for IOMMU_IOAS_MAP_FILE: iommufd
 * maps no other exporter's. The payload is a struct vfio_device_feature_dma_buf with flags 0; the
 * rules and errors are those of VFIO_DEVICE_FEATURE_DMA_BUF in mainline's <linux/vfio.h>. ENOTTY
 * if the kernel was built without CONFIG_VFIO_PCI_DMABUF. Up to Linux 7.3 at least, iommufd takes
 * only fds of one range. It returns the same whatever the module parameter core_dmabuf says.
 *
 * Such an fd is not a buffer: a CPU cannot map it, and REVOKE, MEMATTR and INFO answer ENODEV.
 * What iommufd mapped through it goes away while the device's memory is disabled, when the device
 * is reset through its fd, and for good when the device is closed.
 *
 * Such an fd must not leave the owner. Up to Linux 7.3 at least, the core uses the dma-buf's file
 * after it is freed if a holder has it open by O_PATH; and as long as the device is open, an
 * unbind waits for whoever holds the fd.
 */
#define VFIO_DMABUF_IOMMUFD	0xff10

/**
 * struct vfio_dmabuf_ioctl_revoke - argument of VFIO_DMABUF_IOCTL_REVOKE
 * @argsz: size of this structure, bytes
 * @dmabuf_fd: an fd of the buffer
 */
struct vfio_dmabuf_ioctl_revoke {
	__u32	argsz;
	__s32	dmabuf_fd;
};

/**
 * define VFIO_DMABUF_IOCTL_REVOKE - VFIO_DMABUF_REVOKE as an ioctl on the device fd
 *
 * Return: as there; EINVAL also when argsz does not hold the structure.
 */
#define VFIO_DMABUF_IOCTL_REVOKE	_IO(VFIO_TYPE, VFIO_BASE + 22)

/*
 * The series' names. <linux/vfio.h> marks a structure or an enumeration by the macro of its
 * feature, so these go with that.
 */
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK VFIO_DMABUF_ATTR_MASK
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC VFIO_DMABUF_ATTR_UC
#endif
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC VFIO_DMABUF_ATTR_WC
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE VFIO_DMABUF_REVOKE
#define vfio_device_feature_dma_buf_revoke vfio_dmabuf_feature_revoke
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
#define VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR VFIO_DMABUF_MEMATTR
#define vfio_device_feature_dma_buf_memattr vfio_dmabuf_feature_memattr
/**
 * enum vfio_device_dma_buf_memattr - the series' name of enum vfio_dmabuf_memattr
 * @VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_NC: VFIO_DMABUF_MEMATTR_NC
 * @VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_WC: VFIO_DMABUF_MEMATTR_WC
 */
enum vfio_device_dma_buf_memattr {
	VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_NC = VFIO_DMABUF_MEMATTR_NC,
	VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_WC = VFIO_DMABUF_MEMATTR_WC
};
#endif

#ifndef VFIO_DEVICE_PCI_DMABUF_REVOKE
#define VFIO_DEVICE_PCI_DMABUF_REVOKE VFIO_DMABUF_IOCTL_REVOKE
#define vfio_pci_dmabuf_revoke vfio_dmabuf_ioctl_revoke
#endif

#endif /* _LINUX_VFIO_DMABUF_H */
