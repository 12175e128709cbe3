// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel probes, which Rust has no bindings for. A probe here stands at the entry of a function
 * and can make the caller do something else first, with sleeping allowed: see kprobe.rs.
 */

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "helpers.h"

static int pre_handler(struct kprobe *kp, struct pt_regs *regs)
{
	struct dmabuf_test_probe *probe = container_of(kp, struct dmabuf_test_probe, kp);

	if (!dmabuf_test_probe_hit(probe->hook))
		return 0;
	dmabuf_test_probe_divert(regs, probe);
	return 1;
}

/* With one of these the probe is not made a jump, where the handler could not change registers. */
static void post_handler(struct kprobe *kp, struct pt_regs *regs, unsigned long flags)
{
}

/*
 * Where a probe has to stand that the kernel made a call in the entry of its function, so that the
 * handler could not change the stack. What follows that call is reached by a breakpoint, with
 * nothing changed since.
 */
static kprobe_opcode_t *behind_call(struct kprobe *kp)
{
#ifdef CONFIG_KPROBES_ON_FTRACE
	if (kprobe_ftrace(kp))
		return kp->addr + MCOUNT_INSN_SIZE;
#endif
	return NULL;
}

int dmabuf_test_probe_register(struct dmabuf_test_probe **out, const char *function,
			       const void *hook)
{
	struct dmabuf_test_probe *probe = kzalloc(sizeof(*probe), GFP_KERNEL);
	int err;

	if (!probe)
		return -ENOMEM;
	probe->kp.symbol_name = function;
	probe->kp.pre_handler = pre_handler;
	probe->kp.post_handler = post_handler;
	probe->hook = hook;
	err = register_kprobe(&probe->kp);
	if (!err && behind_call(&probe->kp)) {
		kprobe_opcode_t *behind = behind_call(&probe->kp);

		unregister_kprobe(&probe->kp);
		probe->kp = (struct kprobe) {
			.addr = behind,
			.pre_handler = pre_handler,
			.post_handler = post_handler,
		};
		err = register_kprobe(&probe->kp);
	}
	if (err) {
		kfree(probe);
		return err;
	}
	*out = probe;
	return 0;
}

void dmabuf_test_probe_unregister(struct dmabuf_test_probe *probe)
{
	unregister_kprobe(&probe->kp);
	kfree(probe);
}

bool dmabuf_test_is_atomic(void)
{
	return preempt_count() != 0;
}

void dmabuf_test_synchronize_tasks(void)
{
	synchronize_rcu_tasks();
}
