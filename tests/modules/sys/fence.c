// SPDX-License-Identifier: GPL-2.0
/* Fences of sync files, which Rust has no bindings for: see dma_buf.rs. */

#include <linux/irq_work.h>
#include <linux/slab.h>
#include <linux/sync_file.h>

#include "fence.h"

/* A fence that is signalled with another one, once somebody has enabled that. */
struct follower {
	struct dma_fence base;
	spinlock_t lock; /* of base */
	struct dma_fence *first;
	struct dma_fence_cb cb;
	struct irq_work work;
};

static const char *follower_name(struct dma_fence *fence)
{
	return "dmabuf-vfio-pci-test";
}

/* Without the lock of the first fence. Gives back the reference of the callback. */
static void on_work(struct irq_work *work)
{
	struct follower *it = container_of(work, struct follower, work);

	dma_fence_signal(&it->base);
	dma_fence_put(&it->base);
}

static void on_signal(struct dma_fence *first, struct dma_fence_cb *cb)
{
	irq_work_queue(&container_of(cb, struct follower, cb)->work);
}

static bool follower_enable_signaling(struct dma_fence *fence)
{
	struct follower *it = container_of(fence, struct follower, base);

	dma_fence_get(fence);
	if (!dma_fence_add_callback(it->first, &it->cb, on_signal))
		return true;
	dma_fence_put(fence);
	return false;
}

/* As that of a GPU driver (radeon) after a lockup. */
static signed long follower_wait(struct dma_fence *fence, bool interruptible, signed long timeout)
{
	return -EDEADLK;
}

static void follower_release(struct dma_fence *fence)
{
	dma_fence_put(container_of(fence, struct follower, base)->first);
	dma_fence_free(fence);
}

static const struct dma_fence_ops lazy_ops = {
	.get_driver_name = follower_name,
	.get_timeline_name = follower_name,
	.enable_signaling = follower_enable_signaling,
	.release = follower_release,
};

static const struct dma_fence_ops refusing_ops = {
	.get_driver_name = follower_name,
	.get_timeline_name = follower_name,
	.enable_signaling = follower_enable_signaling,
	.wait = follower_wait,
	.release = follower_release,
};

/* Takes over the reference to `first`. */
static struct dma_fence *follow(struct dma_fence *first, const struct dma_fence_ops *ops)
{
	struct follower *it = kzalloc(sizeof(*it), GFP_KERNEL);

	if (!it) {
		dma_fence_put(first);
		return NULL;
	}
	spin_lock_init(&it->lock);
	init_irq_work(&it->work, on_work);
	it->first = first;
	dma_fence_init(&it->base, ops, &it->lock, dma_fence_context_alloc(1), 1);
	return &it->base;
}

int dmabuf_test_add_fence(struct dma_resv *resv, int sync_file, enum dma_resv_usage usage,
			  unsigned int manners)
{
	struct dma_fence *fence = NULL;
	int err;

	if (IS_ENABLED(CONFIG_SYNC_FILE))
		fence = sync_file_get_fence(sync_file);
	if (fence && manners != PLAIN)
		fence = follow(fence, manners == LAZY ? &lazy_ops : &refusing_ops);
	if (!fence)
		return -EINVAL;
	err = dma_resv_reserve_fences(resv, 1);
	if (!err)
		dma_resv_add_fence(resv, fence, usage);
	dma_fence_put(fence);
	return err;
}
