// SPDX-License-Identifier: GPL-2.0
/* Fences of sync files, which Rust has no bindings for: see dma_buf.rs. */

#include <linux/dma-resv.h>
#include <linux/sync_file.h>

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage);

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage)
{
	struct dma_fence *fence = NULL;
	int err;

	if (IS_ENABLED(CONFIG_SYNC_FILE))
		fence = sync_file_get_fence(sync_file);
	if (!fence)
		return -EINVAL;
	err = dma_resv_reserve_fences(resv, 1);
	if (!err)
		dma_resv_add_fence(resv, fence, usage);
	dma_fence_put(fence);
	return err;
}
