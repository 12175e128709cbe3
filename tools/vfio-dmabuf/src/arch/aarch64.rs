// SPDX-License-Identifier: GPL-2.0
//! arm64.

use std::arch::asm;

/// The two functions of one width. X3 and X1 advance and X0 counts down. The handler leaves X0 as
/// the return value.
macro_rules! functions {
    ($load:ident $load_at:ident $store:ident $store_at:ident:
        $size:literal $part:literal $step:literal) => {
        function!($load $load_at:
            "mov x3, x0; mov x0, x2; cbz x0, 3f",
            "",
            concat!("ldr", $size, " ", $part, ", [x3]"),
            concat!("str", $size, " ", $part, ", [x1]"),
            concat!("add x3, x3, ", $step, "; add x1, x1, ", $step, "; subs x0, x0, 1; b.ne 2b"));
        function!($store $store_at:
            "mov x3, x0; mov x0, x2; cbz x0, 3f",
            concat!("ldr", $size, " ", $part, ", [x1]"),
            concat!("str", $size, " ", $part, ", [x3]"),
            "",
            concat!("add x3, x3, ", $step, "; add x1, x1, ", $step, "; subs x0, x0, 1; b.ne 2b"));
    };
}

functions!(vfio_dmabuf_load8 vfio_dmabuf_load8_at
    vfio_dmabuf_store8 vfio_dmabuf_store8_at: "b" "w4" "1");
functions!(vfio_dmabuf_load16 vfio_dmabuf_load16_at
    vfio_dmabuf_store16 vfio_dmabuf_store16_at: "h" "w4" "2");
functions!(vfio_dmabuf_load32 vfio_dmabuf_load32_at
    vfio_dmabuf_store32 vfio_dmabuf_store32_at: "" "w4" "4");
functions!(vfio_dmabuf_load64 vfio_dmabuf_load64_at
    vfio_dmabuf_store64 vfio_dmabuf_store64_at: "" "x4" "8");

/// Where the signal has interrupted the thread, and where it resumes.
pub(crate) fn program_counter(context: &mut libc::ucontext_t) -> &mut u64 {
    &mut context.uc_mcontext.pc
}

/// Orders loads of device memory of this thread before all its later accesses.
pub(crate) fn after_load() {
    // SAFETY: Every arm64 CPU has DMB.
    unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) };
}

/// Orders all earlier writes of this thread before its stores to device memory.
pub(crate) fn before_store() {
    // SAFETY: Every arm64 CPU has DMB.
    unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) };
}

/// Orders write-combining writes of this thread before all its later accesses.
pub(crate) fn store_fence() {
    // SAFETY: Every arm64 CPU has DSB.
    unsafe { asm!("dsb st", options(nostack, preserves_flags)) };
}
