/* SPDX-License-Identifier: GPL-2.0 */
/* What sys/dma_buf.rs wants of sys/fence.c. */

#ifndef DMABUF_VFIO_PCI_TEST_FENCE_H
#define DMABUF_VFIO_PCI_TEST_FENCE_H

#include <linux/dma-resv.h>

/* As in uapi.rs. */
enum { PLAIN, LAZY, REFUSING };

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage,
			  unsigned int manners);

#endif
