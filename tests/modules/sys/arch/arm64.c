// SPDX-License-Identifier: GPL-2.0
/* How a probe makes the caller do something else first: arm64. See ../helpers.c. */

#include <asm/ptrace.h>

#include "../helpers.h"

/*
 * At the entry of a function x0 to x8 may have arguments, and x30 has the return address. x16 and
 * x17 are free there: the probe passes in them where it stands, and its hook.
 */
asm(".pushsection .text\n"
	".globl dmabuf_test_probe_trampoline\n"
	".type dmabuf_test_probe_trampoline, %function\n"
	"dmabuf_test_probe_trampoline:\n"
	"hint #38\n" /* bti jc */
	"stp x29, x30, [sp, #-96]!\n"
	"mov x29, sp\n"
	"stp x0, x1, [sp, #16]\n"
	"stp x2, x3, [sp, #32]\n"
	"stp x4, x5, [sp, #48]\n"
	"stp x6, x7, [sp, #64]\n"
	"stp x8, x16, [sp, #80]\n"
	"mov x0, x17\n"
	"bl dmabuf_test_probe_pause\n"
	"ldp x8, x16, [sp, #80]\n"
	"ldp x6, x7, [sp, #64]\n"
	"ldp x4, x5, [sp, #48]\n"
	"ldp x2, x3, [sp, #32]\n"
	"ldp x0, x1, [sp, #16]\n"
	"ldp x29, x30, [sp], #96\n"
	"br x16\n"
	".size dmabuf_test_probe_trampoline, . - dmabuf_test_probe_trampoline\n"
	".popsection\n");

void dmabuf_test_probe_divert(struct pt_regs *regs, const struct dmabuf_test_probe *probe)
{
	regs->regs[16] = (unsigned long)probe->kp.addr;
	regs->regs[17] = (unsigned long)probe->hook;
	instruction_pointer_set(regs, (unsigned long)dmabuf_test_probe_trampoline);
}
