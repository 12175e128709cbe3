// SPDX-License-Identifier: GPL-2.0
#include <fcntl.h>
#include <sys/ioctl.h>
#include <linux/vfio_dmabuf.h>

/* An fd for LENGTH bytes at OFFSET of a BAR; DEVICE is the VFIO device fd. -1: see errno. */
int export_slice(int device, __u32 bar, __u64 offset, __u64 length)
{
	struct {
		struct vfio_device_feature head;
		struct vfio_device_feature_dma_buf dma_buf;
		struct vfio_region_dma_range range;
	} call = {
		.head.argsz = sizeof(call),
		.head.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.dma_buf.region_index = bar,
		.dma_buf.open_flags = O_RDWR | O_CLOEXEC,
		.dma_buf.flags = VFIO_DMABUF_BUFFER,
		.dma_buf.nr_ranges = 1,
		.range = { offset, length },
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &call);
}

/* When this has returned 0, nobody reaches the slice any more. -1: see errno. */
int revoke_slice(int device, int slice)
{
	struct {
		struct vfio_device_feature head;
		struct vfio_dmabuf_feature_revoke revoke;
	} call = {
		.head.argsz = sizeof(call),
		.head.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DMABUF_REVOKE,
		.revoke.dmabuf_fd = slice,
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &call);
}
