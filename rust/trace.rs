// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, `dmabuf_vfio_pci:*`. A disabled one costs a nop and the code that loads its
//! arguments stays out of line; `make bench` compares with a driver built without tracepoints
//! (`--cfg untraced`).
//!
//! `kernel::tracepoint::declare_trace!` looks for the tracepoint in the bindings of the `kernel`
//! crate, so it serves the kernel's own events only. The macros here do the same for ours.
//!
//! C header: `trace.h`

use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;

/// Whether a tracepoint is enabled. `trace_NAME_enabled()`
macro_rules! enabled {
    ($name:ident) => {{
        #[cfg(all(CONFIG_TRACEPOINTS, not(untraced)))]
        kernel::macros::paste! {
            // SAFETY: `trace.h` defines the tracepoint, and `key` is its static key.
            unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    crate::bindings::[<__tracepoint_ $name>],
                    crate::bindings::tracepoint,
                    key
                )
            }
        }
        #[cfg(any(not(CONFIG_TRACEPOINTS), untraced))]
        false
    }};
}

/// Calls the probes of an enabled tracepoint for a device. `CREATE_RUST_TRACE_POINTS` makes the
/// function.
macro_rules! emit {
    ($name:ident, $device:expr, $($arg:expr),* $(,)?) => {{
        let device = $device.as_char_ptr();
        #[cfg(CONFIG_TRACEPOINTS)]
        kernel::macros::paste! {
            // SAFETY: The event copies the name, a NUL-terminated string; the other arguments are
            // numbers.
            unsafe { crate::bindings::[<rust_do_trace_ $name>](device, $($arg),*) };
        }
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = (device, $($arg),*);
    }};
}

macro_rules! tracepoints {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty = $raw:expr);* $(;)?);)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<'a>(arguments: impl FnOnce() -> (&'a CStr, $($ty),*)) {
            /// Out of line: the caller keeps only the test whether the tracepoint is enabled.
            #[cold]
            #[inline(never)]
            fn emit<'a>(arguments: impl FnOnce() -> (&'a CStr, $($ty),*)) {
                let (device, $($arg),*) = arguments();
                emit!($name, device, $($raw),*);
            }
            if enabled!($name) {
                emit(arguments);
            }
        }
    )*};
}

// CAST: A function has few BARs; pages and orders of a mapping fit.
tracepoints! {
    /// The driver invalidates the importers of all buffers and refuses new mappings. In a reset,
    /// faults wait, too.
    fn memory_suspend();
    /// Importers may map again, and faults proceed.
    fn memory_resume();
    /// A buffer of `pages` pages was exported at page `window` of the offset space.
    fn buffer_export(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
    /// A process maps a buffer of `pages` pages, from page `page` of the offset space.
    fn buffer_mmap(
        bar: usize = bar as u32;
        page: usize = bytes(page);
        pages: usize = bytes(pages);
    );
    /// A buffer was revoked for good.
    fn buffer_revoke(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
    /// The last reference to the file of a buffer is gone.
    fn buffer_release(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
    /// A device attaches to a buffer.
    fn importer_attach(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
    /// The importers of a buffer are invalidated.
    fn importer_invalidate(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
}

/// Whether [`buffer_fault`] is enabled.
#[inline(always)]
pub(crate) fn buffer_fault_enabled() -> bool {
    enabled!(buffer_fault)
}

/// A fault of an order was handled; `page` is where it was in the offset space, and `outcome` a
/// number that `trace.h` knows. The caller has asked [`buffer_fault_enabled`].
pub(crate) fn buffer_fault(device: &CStr, page: Option<usize>, order: u32, outcome: u32) {
    emit!(
        buffer_fault,
        device,
        page.map_or(u64::MAX, bytes),
        order,
        outcome
    );
}

fn bytes(pages: usize) -> u64 {
    // CAST: The target is 64 bit.
    (pages as u64) << PAGE_SHIFT
}
