// SPDX-License-Identifier: GPL-2.0
/* Fences of sync files, which Rust has no bindings for: see dma_buf.rs. */

#include <linux/dma-resv.h>
#include <linux/slab.h>
#include <linux/sync_file.h>

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage,
			  bool refuses);

/* A fence that is signalled with another one. */
struct follower {
	struct dma_fence base;
	spinlock_t lock; /* of base */
	struct dma_fence_cb cb;
};

static const char *follower_name(struct dma_fence *fence)
{
	return "dmabuf-vfio-pci-test";
}

/* As that of a GPU driver (radeon) after a lockup. */
static signed long follower_wait(struct dma_fence *fence, bool interruptible, signed long timeout)
{
	return -EDEADLK;
}

static const struct dma_fence_ops follower_ops = {
	.get_driver_name = follower_name,
	.get_timeline_name = follower_name,
	.wait = follower_wait,
};

/* Gives back the reference of the callback. */
static void on_signal(struct dma_fence *first, struct dma_fence_cb *cb)
{
	struct follower *it = container_of(cb, struct follower, cb);

	dma_fence_signal(&it->base);
	dma_fence_put(&it->base);
}

/* Takes over the reference to `first`. */
static struct dma_fence *follow(struct dma_fence *first)
{
	struct follower *it = kzalloc(sizeof(*it), GFP_KERNEL);

	if (!it) {
		dma_fence_put(first);
		return NULL;
	}
	spin_lock_init(&it->lock);
	dma_fence_init(&it->base, &follower_ops, &it->lock, dma_fence_context_alloc(1), 1);
	dma_fence_get(&it->base);
	if (dma_fence_add_callback(first, &it->cb, on_signal))
		on_signal(first, &it->cb);
	dma_fence_put(first);
	return &it->base;
}

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage,
			  bool refuses)
{
	struct dma_fence *fence = NULL;
	int err;

	if (IS_ENABLED(CONFIG_SYNC_FILE))
		fence = sync_file_get_fence(sync_file);
	if (fence && refuses)
		fence = follow(fence);
	if (!fence)
		return -EINVAL;
	err = dma_resv_reserve_fences(resv, 1);
	if (!err)
		dma_resv_add_fence(resv, fence, usage);
	dma_fence_put(fence);
	return err;
}
