// SPDX-License-Identifier: GPL-2.0
//! x86-64.

/// The two functions of one width. RDI and RSI advance and RAX counts down. The handler leaves RAX
/// as the return value.
macro_rules! functions {
    ($load:ident $load_at:ident $store:ident $store_at:ident:
        $size:literal $part:literal $step:literal) => {
        function!($load $load_at:
            "mov rax, rdx; test rax, rax; jz 3f",
            "",
            concat!("mov ", $part, ", ", $size, " ptr [rdi]"),
            concat!("mov ", $size, " ptr [rsi], ", $part),
            concat!("add rdi, ", $step, "; add rsi, ", $step, "; dec rax; jnz 2b"));
        function!($store $store_at:
            "mov rax, rdx; test rax, rax; jz 3f",
            concat!("mov ", $part, ", ", $size, " ptr [rsi]"),
            concat!("mov ", $size, " ptr [rdi], ", $part),
            "",
            concat!("add rdi, ", $step, "; add rsi, ", $step, "; dec rax; jnz 2b"));
    };
}

functions!(vfio_dmabuf_load8 vfio_dmabuf_load8_at
    vfio_dmabuf_store8 vfio_dmabuf_store8_at: "byte" "cl" "1");
functions!(vfio_dmabuf_load16 vfio_dmabuf_load16_at
    vfio_dmabuf_store16 vfio_dmabuf_store16_at: "word" "cx" "2");
functions!(vfio_dmabuf_load32 vfio_dmabuf_load32_at
    vfio_dmabuf_store32 vfio_dmabuf_store32_at: "dword" "ecx" "4");
functions!(vfio_dmabuf_load64 vfio_dmabuf_load64_at
    vfio_dmabuf_store64 vfio_dmabuf_store64_at: "qword" "rcx" "8");

/// Where the signal has interrupted the thread, and where it resumes.
pub(crate) fn program_counter(context: &mut libc::ucontext_t) -> &mut i64 {
    &mut context.uc_mcontext.gregs[libc::REG_RIP as usize]
}

/// Orders loads of device memory of this thread before all its later accesses: the CPU does.
pub(crate) fn after_load() {}

/// Orders all earlier writes of this thread before its stores to device memory: the CPU does.
pub(crate) fn before_store() {}

/// Orders write-combining writes of this thread before all its later accesses.
pub(crate) fn store_fence() {
    // SAFETY: Every x86-64 CPU has SFENCE.
    unsafe { std::arch::x86_64::_mm_sfence() };
}
