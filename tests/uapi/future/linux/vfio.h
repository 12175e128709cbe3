/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A <linux/vfio.h> of some day, which has the series' names with other numbers and layouts.
 */
#include_next <linux/vfio.h>

#ifndef FUTURE_VFIO_H
#define FUTURE_VFIO_H

#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK	0xff
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC	0x10
#define VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC	0x20

#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE	14

struct vfio_device_feature_dma_buf_revoke {
	__aligned_u64 flags;
	__s32 dmabuf_fd;
	__u32 reserved;
};

#define VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR	15

enum vfio_device_dma_buf_memattr {
	VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_WC = 4,
	VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_NC = 5
};

struct vfio_device_feature_dma_buf_memattr {
	__aligned_u64 memattr;
	__s32 dmabuf_fd;
	__u32 reserved;
};

struct vfio_pci_dmabuf_revoke {
	__u32 argsz;
	__u32 flags;
	__s32 dmabuf_fd;
};

#define VFIO_DEVICE_PCI_DMABUF_REVOKE	_IO(VFIO_TYPE, VFIO_BASE + 30)

#endif
