/* SPDX-License-Identifier: GPL-2.0 */
/* What sys/helpers.c and sys/kprobe.rs want of each other. */

#ifndef DMABUF_VFIO_PCI_TEST_HELPERS_H
#define DMABUF_VFIO_PCI_TEST_HELPERS_H

#include <linux/kprobes.h>

struct dmabuf_test_probe {
	struct kprobe kp;
	const void *hook;
};

int dmabuf_test_probe_register(struct dmabuf_test_probe **out, const char *function,
			       const void *hook);
void dmabuf_test_probe_unregister(struct dmabuf_test_probe *probe);
bool dmabuf_test_is_atomic(void);
void dmabuf_test_synchronize_tasks(void);

/* In arch/: makes the task enter the trampoline, which calls the hook and returns to the probe. */
void dmabuf_test_probe_divert(struct pt_regs *regs, const struct dmabuf_test_probe *probe);
void dmabuf_test_probe_trampoline(void);

/* In Rust. */
bool dmabuf_test_probe_hit(const void *hook);
void dmabuf_test_probe_pause(const void *hook);

#endif
