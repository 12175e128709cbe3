// SPDX-License-Identifier: GPL-2.0
/*
 * Our names have our numbers, whatever <linux/vfio.h> has. The series' names are aliases of ours,
 * or with -DFUTURE those of future/linux/vfio.h. C90 and C++.
 */
#include <linux/vfio_dmabuf.h>

#define IS(number, name, value) struct is_##number { char ok[(name) == (value) ? 1 : -1]; }
#define SIZE(number, type, size) IS(number, sizeof(type), size)

IS(1, VFIO_DEVICE_FEATURE_DMA_BUF, 11);
IS(2, VFIO_DMABUF_REVOKE, 0xff0d);
IS(3, VFIO_DMABUF_MEMATTR, 0xff0e);
IS(4, VFIO_DMABUF_INFO, 0xff0f);
IS(5, VFIO_DMABUF_IOMMUFD, 0xff10);
IS(6, VFIO_DMABUF_IOCTL_REVOKE, _IO(';', 122));
IS(20, VFIO_DMABUF_BUFFER, 0x8000000);
IS(7, VFIO_DMABUF_ATTR_MASK, 0xf0000000U);
IS(8, VFIO_DMABUF_ATTR_UC, 0);
IS(9, VFIO_DMABUF_ATTR_WC, 0x10000000);
IS(10, VFIO_DMABUF_MEMATTR_NC, 0);
IS(11, VFIO_DMABUF_MEMATTR_WC, 1);
IS(12, VFIO_DMABUF_STATUS_LIVE, 0);
IS(13, VFIO_DMABUF_STATUS_REVOKED_TEMP, 1);
IS(14, VFIO_DMABUF_STATUS_REVOKED, 2);
IS(15, VFIO_DMABUF_STATUS_CLOSED, 3);
SIZE(16, struct vfio_dmabuf_feature_revoke, 4);
SIZE(17, struct vfio_dmabuf_feature_memattr, 8);
SIZE(18, struct vfio_dmabuf_feature_info, 24);
SIZE(19, struct vfio_dmabuf_ioctl_revoke, 8);

#ifdef FUTURE
IS(30, VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, 14);
IS(31, VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR, 15);
IS(32, VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_NC, 5);
IS(33, VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_WC, 4);
IS(34, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK, 0xff);
IS(35, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, 0x10);
IS(36, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, 0x20);
IS(37, VFIO_DEVICE_PCI_DMABUF_REVOKE, _IO(';', 130));
SIZE(38, struct vfio_device_feature_dma_buf_revoke, 16);
SIZE(39, struct vfio_device_feature_dma_buf_memattr, 16);
SIZE(40, struct vfio_pci_dmabuf_revoke, 12);
#else
IS(30, VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, VFIO_DMABUF_REVOKE);
IS(31, VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR, VFIO_DMABUF_MEMATTR);
IS(32, (int)VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_NC, (int)VFIO_DMABUF_MEMATTR_NC);
IS(33, (int)VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR_WC, (int)VFIO_DMABUF_MEMATTR_WC);
IS(34, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK, VFIO_DMABUF_ATTR_MASK);
IS(35, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, VFIO_DMABUF_ATTR_UC);
IS(36, VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, VFIO_DMABUF_ATTR_WC);
IS(37, VFIO_DEVICE_PCI_DMABUF_REVOKE, VFIO_DMABUF_IOCTL_REVOKE);
SIZE(38, struct vfio_device_feature_dma_buf_revoke, 4);
SIZE(39, struct vfio_device_feature_dma_buf_memattr, 8);
SIZE(40, struct vfio_pci_dmabuf_revoke, 8);
#endif
