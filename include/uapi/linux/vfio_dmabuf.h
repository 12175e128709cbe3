/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User space interface of the dmabuf-vfio-pci driver: slices of a PCI device's BARs as dma-bufs.
 *
 * Everything here is reached through the VFIO device fd, and all of it but one ioctl through
 * VFIO_DEVICE_FEATURE. The general rules of VFIO_DEVICE_FEATURE apply to each feature below:
 * a call with VFIO_DEVICE_FEATURE_PROBE and the operations that the feature has (GET, SET)
 * returns 0, reads no payload and has no effect; an operation that it does not have is EINVAL;
 * so is an argsz that does not hold the payload. A driver without the feature answers ENOTTY.
 *
 * Every item stands under an #ifndef, so that this header goes along with a <linux/vfio.h> that
 * has the item already.
 *
 * A BAR slice that was exported is called a buffer. All offsets, lengths and sizes are bytes.
 */
#ifndef _LINUX_VFIO_DMABUF_H
#define _LINUX_VFIO_DMABUF_H

#include <linux/types.h>
#include <linux/ioctl.h>
#include <linux/vfio.h>

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
/*
 * Upon VFIO_DEVICE_FEATURE_GET create a buffer over one or several ranges of one BAR, and return
 * a dma-buf fd for it. Mainline has this feature since Linux 7.0; here mmap() of the fd works
 * too, from any process that holds it. The page offset given to mmap() counts in the ranges laid
 * end to end in the order given.
 *
 * Return: the fd (>= 0), or -1 with errno
 *   EINVAL     nr_ranges is 0, unknown bits in flags or open_flags, a length of 0, an offset or
 *              length that is no multiple of the page size, a range past the end of the BAR, or
 *              a sum of lengths that overflows or has bit 63 set
 *   EOVERFLOW  the bus address of a range overflows
 *   E2BIG      nr_ranges > VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES
 *   ENODEV     region_index is not a BAR (>= 6), or the device has no memory there
 *   EFAULT     the payload cannot be read
 *   ENOSPC     the ranges are so long together that the device's mmap offsets cannot hold them
 *   EOPNOTSUPP flags ask for an attribute that this machine does not have
 *   EMFILE, ENFILE, ENOMEM  as usual
 *
 * Memory of the device may be disabled at that time: the buffer is then temporarily revoked.
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
 * @flags: a VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_* value; all other bits are 0
 * @nr_ranges: how many elements @dma_ranges has
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

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES
/*
 * The most ranges that one buffer can have. Each costs the kernel a few dozen bytes, which are
 * charged to the caller's memory cgroup.
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES	65536
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK
/*
 * The memory attribute that a buffer is born with, in vfio_device_feature_dma_buf.flags.
 * Uncached is the default. VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR changes it later.
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK	(0xfU << 28)
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC	(0U << 28)
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC	(1U << 28)
#endif

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
/*
 * Upon VFIO_DEVICE_FEATURE_SET revoke a buffer for good. When the call has returned 0, no process
 * reaches the device's memory through this buffer any more (an access is SIGBUS) and no other
 * device does; mmap() of its fd is ENODEV. It does not matter which copy of the fd is given, nor
 * who holds the others. Other buffers over the same memory stay as they are, and the memory can
 * be exported again.
 *
 * Return: 0, or -1 with errno
 *   EFAULT   the payload cannot be read
 *   EBADF    dmabuf_fd is not an open fd
 *   EINVAL   dmabuf_fd is not a dma-buf
 *   ENODEV   the dma-buf is not a buffer of this device, or the device was closed since
 *   EBADFD   the buffer was revoked before
 *   EINTR    a signal came while the call waited for importing devices. The buffer is revoked:
 *            no process and no new importer reaches it. Call again to go on waiting
 *
 * The number is from the part of the feature space that mainline does not use.
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 0xff0d

/**
 * struct vfio_device_feature_dma_buf_revoke - payload of VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
 * @dmabuf_fd: an fd of the buffer
 */
struct vfio_device_feature_dma_buf_revoke {
	__s32	dmabuf_fd;
};
#endif /* VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE */

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
/*
 * Upon VFIO_DEVICE_FEATURE_SET set the memory attribute with which later mmap() calls map this
 * buffer; mappings that exist keep theirs. Upon VFIO_DEVICE_FEATURE_GET read it.
 *
 * Return: 0, or -1 with errno
 *   EFAULT      the payload cannot be read or written
 *   EBADF, EINVAL, ENODEV  as for VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
 *   EOPNOTSUPP  SET of an attribute that this kernel or CPU does not have
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR 0xff0e

/**
 * enum vfio_dma_buf_memattr - how CPUs access a buffer
 * @VFIO_DMA_BUF_MEMATTR_NC: uncached; each access reaches the device, in program order
 * @VFIO_DMA_BUF_MEMATTR_WC: write-combining; writes may be merged and reordered until a barrier
 */
enum vfio_dma_buf_memattr {
	VFIO_DMA_BUF_MEMATTR_NC = 0,
	VFIO_DMA_BUF_MEMATTR_WC = 1
};

/**
 * struct vfio_device_feature_dma_buf_memattr - payload of VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
 * @dmabuf_fd: an fd of the buffer
 * @memattr: an enum vfio_dma_buf_memattr; written by GET, read by SET
 */
struct vfio_device_feature_dma_buf_memattr {
	__s32	dmabuf_fd;
	__u32	memattr;
};
#endif /* VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR */

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_INFO
/*
 * Upon VFIO_DEVICE_FEATURE_GET describe a buffer. The status may be out of date when the call
 * returns; only what is revoked or closed never becomes live again.
 *
 * Return: 0, or -1 with errno
 *   EFAULT  the payload cannot be read or written
 *   EBADF, EINVAL, ENODEV  as for VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, but that a buffer whose
 *           device was closed is described while the same device is open again
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_INFO 0xff0f

/**
 * enum vfio_dma_buf_status - the state of a buffer
 * @VFIO_DMA_BUF_STATUS_LIVE: accesses reach the device
 * @VFIO_DMA_BUF_STATUS_REVOKED_TEMP: the device's memory is off or being reset; will be live again
 * @VFIO_DMA_BUF_STATUS_REVOKED: revoked for good
 * @VFIO_DMA_BUF_STATUS_CLOSED: the device was closed; dead for good
 */
enum vfio_dma_buf_status {
	VFIO_DMA_BUF_STATUS_LIVE = 0,
	VFIO_DMA_BUF_STATUS_REVOKED_TEMP = 1,
	VFIO_DMA_BUF_STATUS_REVOKED = 2,
	VFIO_DMA_BUF_STATUS_CLOSED = 3
};

/**
 * struct vfio_device_feature_dma_buf_info - payload of VFIO_DEVICE_FEATURE_DMA_BUF_INFO
 * @dmabuf_fd: in: an fd of the buffer
 * @status: out: an enum vfio_dma_buf_status
 * @memattr: out: an enum vfio_dma_buf_memattr
 * @nr_ranges: out: how many ranges it was exported with
 * @size: out: the sum of their lengths, bytes
 */
struct vfio_device_feature_dma_buf_info {
	__s32	dmabuf_fd;
	__u32	status;
	__u32	memattr;
	__u32	nr_ranges;
	__aligned_u64 size;
};
#endif /* VFIO_DEVICE_FEATURE_DMA_BUF_INFO */

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF_IOMMUFD
/*
 * Upon VFIO_DEVICE_FEATURE_GET return a dma-buf fd that the in-tree VFIO PCI core makes, for
 * IOMMU_IOAS_MAP_FILE: iommufd maps no other exporter's. The payload is a struct
 * vfio_device_feature_dma_buf with flags 0; the rules and errors are those of
 * VFIO_DEVICE_FEATURE_DMA_BUF in mainline's <linux/vfio.h>. ENOTTY if the kernel was built without
 * CONFIG_VFIO_PCI_DMABUF. Up to Linux 7.3 at least, iommufd takes only fds of one range.
 *
 * Such an fd is not a buffer: it cannot be mapped by a CPU, and REVOKE, MEMATTR and INFO answer
 * ENODEV. What iommufd mapped through it goes away while the device's memory is disabled, when it
 * is reset through its device fd, and for good when it is closed.
 */
#define VFIO_DEVICE_FEATURE_DMA_BUF_IOMMUFD 0xff10
#endif /* VFIO_DEVICE_FEATURE_DMA_BUF_IOMMUFD */

#ifndef VFIO_DEVICE_PCI_DMABUF_REVOKE
/**
 * struct vfio_pci_dmabuf_revoke - argument of VFIO_DEVICE_PCI_DMABUF_REVOKE
 * @argsz: size of this structure, bytes
 * @dmabuf_fd: an fd of the buffer
 */
struct vfio_pci_dmabuf_revoke {
	__u32	argsz;
	__s32	dmabuf_fd;
};

/*
 * The same as VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, as an ioctl of its own on the device fd.
 *
 * Return: as there; EINVAL also when argsz does not hold the structure.
 */
#define VFIO_DEVICE_PCI_DMABUF_REVOKE _IO(VFIO_TYPE, VFIO_BASE + 22)
#endif /* VFIO_DEVICE_PCI_DMABUF_REVOKE */

#endif /* _LINUX_VFIO_DMABUF_H */
