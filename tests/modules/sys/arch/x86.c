// SPDX-License-Identifier: GPL-2.0
/* How a probe makes the caller do something else first: x86-64. See ../helpers.c. */

#include <linux/kprobes.h>
#include <linux/linkage.h>
#include <asm/ibt.h>
#include <asm/text-patching.h>

#include "../helpers.h"

/*
 * At the entry of a function these registers may have arguments. The stack is aligned at the call:
 * the probed function was called with 8 bytes on it, the probe has put 8 more there, and these are
 * 8 registers.
 */
asm(".pushsection .text\n"
	".globl dmabuf_test_probe_trampoline\n"
	".type dmabuf_test_probe_trampoline, @function\n"
	"dmabuf_test_probe_trampoline:\n"
	ASM_ENDBR
	"push %rdi\n"
	"push %rsi\n"
	"push %rdx\n"
	"push %rcx\n"
	"push %r8\n"
	"push %r9\n"
	"push %r10\n"
	"push %rax\n"
	"mov %r11, %rdi\n"
	"call dmabuf_test_probe_pause\n"
	"pop %rax\n"
	"pop %r10\n"
	"pop %r9\n"
	"pop %r8\n"
	"pop %rcx\n"
	"pop %rdx\n"
	"pop %rsi\n"
	"pop %rdi\n"
	ASM_RET
	".size dmabuf_test_probe_trampoline, . - dmabuf_test_probe_trampoline\n"
	".popsection\n");

/* A call of the trampoline, which returns to the probe. r11 is free at an entry. */
void dmabuf_test_probe_divert(struct pt_regs *regs, const struct dmabuf_test_probe *probe)
{
	regs->r11 = (unsigned long)probe->hook;
	int3_emulate_push(regs, (unsigned long)probe->kp.addr);
	int3_emulate_jmp(regs, (unsigned long)dmabuf_test_probe_trampoline);
}
