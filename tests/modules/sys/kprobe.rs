// SPDX-License-Identifier: GPL-2.0

//! Kernel probes whose hook may sleep, if the function that is probed may.
//!
//! The handler of a kernel probe may not sleep. So ours lets the task return into a trampoline
//! instead, as if it had called that before the function that is probed; there the hook is called
//! in the task's own context. The trampoline returns to the probe, which is hit once more.
//!
//! C header: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h)

use crate::pause::Window;
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// `struct dmabuf_test_probe`, with contents for the C side only.
#[repr(C)]
struct RawProbe(Opaque<u8>);

extern "C" {
    fn dmabuf_test_probe_register(
        out: *mut *mut RawProbe,
        function: *const c_char,
        hook: *const c_void,
    ) -> c_int;
    fn dmabuf_test_probe_unregister(probe: *mut RawProbe);
    fn dmabuf_test_synchronize_tasks();
    fn dmabuf_test_is_atomic() -> bool;
}

/// Whether the current task holds a lock under which it may not sleep. `preempt_count()`
pub(crate) fn is_atomic() -> bool {
    // SAFETY: The function reads a counter of the current task.
    unsafe { dmabuf_test_is_atomic() }
}

/// A function was entered; says whether the task is to go through the trampoline.
///
/// # Safety
///
/// Called by the probe of `window`.
#[no_mangle]
unsafe extern "C" fn dmabuf_test_probe_hit(window: *const c_void) -> bool {
    // SAFETY: A `Probe` keeps its window.
    unsafe { &*window.cast::<Window>() }.hit()
}

/// # Safety
///
/// Called by the trampoline, in a task that hit the probe of `window`.
#[no_mangle]
unsafe extern "C" fn dmabuf_test_probe_pause(window: *const c_void) {
    // SAFETY: A `Probe` keeps its window, and does not go before the task has left it.
    unsafe { &*window.cast::<Window>() }.pause();
}

/// A probe at the entry of a function.
///
/// # Invariants
///
/// `raw` is registered, with `window` as its hook.
pub(crate) struct Probe {
    raw: NonNull<RawProbe>,
    window: Arc<Window>,
}

// SAFETY: Probes belong to no thread.
unsafe impl Send for Probe {}
// SAFETY: As above.
unsafe impl Sync for Probe {}

impl Probe {
    /// Puts a probe on a function of the kernel or of a module. `register_kprobe()`
    pub(crate) fn new(function: &CStr, window: Arc<Window>) -> Result<Self> {
        let mut raw = core::ptr::null_mut();
        let hook = Arc::as_ptr(&window).cast();
        // SAFETY: The name is only needed during the call; the window lives as long as the probe.
        to_result(unsafe { dmabuf_test_probe_register(&mut raw, function.as_char_ptr(), hook) })?;
        // INVARIANT: Registered just now.
        Ok(Self {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
            window,
        })
    }

    /// What it is for.
    pub(crate) fn window(&self) -> &Window {
        &self.window
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.window.close();
        // SAFETY: By the type invariant. No handler runs after this, and no task is in the window.
        unsafe { dmabuf_test_probe_unregister(self.raw.as_ptr()) };
    }
}

/// The trampoline. A task that was let go may still be in it when the last probe is gone: the
/// module must have this until it is unloaded.
pub(crate) struct Trampoline;

impl Drop for Trampoline {
    fn drop(&mut self) {
        // SAFETY: A module that is unloaded may sleep.
        unsafe { dmabuf_test_synchronize_tasks() };
    }
}
