/* SPDX-License-Identifier: GPL-2.0 */
/* Where LLVM's counters begin. In a group, as each of them: the linker merges those last, in order. */

	.section __llvm_prf_cnts, "awG", @progbits, dmabuf_coverage_begin, comdat
	.globl dmabuf_coverage_begin
dmabuf_coverage_begin:
