/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where LLVM's counters end. In a group of its own, as each of them: the linker merges the
 * sections of groups last, in the order of the objects.
 */

	.section __llvm_prf_cnts, "awG", @progbits, dmabuf_coverage_end, comdat
	.globl dmabuf_coverage_end
dmabuf_coverage_end:
