// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, `dmabuf_vfio_pci:*`. One that is off costs an instruction that does nothing and a
//! few around it, as `make bench` shows beside a driver built without them (`--cfg untraced`).
//!
//! C header: `trace.h`

use crate::{
    bindings,
    fault::{
        Fault,
        Outcome, //
    }, //
};
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;

/// Whether somebody listens to a tracepoint.
macro_rules! wanted {
    ($name:ident) => {{
        #[cfg(all(CONFIG_TRACEPOINTS, not(untraced)))]
        kernel::macros::paste! {
            // SAFETY: The static key of a tracepoint.
            unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    bindings::[<__tracepoint_ $name>],
                    bindings::tracepoint,
                    key
                )
            }
        }
        #[cfg(any(not(CONFIG_TRACEPOINTS), untraced))]
        false
    }};
}

macro_rules! tracepoints {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty = $raw:expr);* $(;)?);)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(device: &CStr, $($arg: $ty),*) {
            /// Out of the way of who does not trace.
            #[cold]
            #[inline(never)]
            fn tell(device: &CStr, $($arg: $ty),*) {
                let device = device.as_char_ptr();
                kernel::macros::paste! {
                    // SAFETY: A string, which is copied.
                    unsafe { bindings::[<kernel_ext_trace_ $name>](device, $($raw),*) };
                }
            }
            if wanted!($name) {
                tell(device, $($arg),*);
            }
        }
    )*};
}

// CAST: A function has few BARs; pages and orders of a mapping fit.
tracepoints! {
    /// Importers are kept out of all buffers, and faults, too, if it is a reset.
    fn memory_suspend();
    /// They are let in again.
    fn memory_resume();
    /// A buffer of so many pages was made at page `window` of the offset space.
    fn buffer_export(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
    /// A process maps a buffer of so many pages, from page `page` of the offset space.
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
    /// The last file of a buffer is gone.
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
    /// The importers of a buffer are told to look again.
    fn importer_invalidate(
        bar: usize = bar as u32;
        window: usize = bytes(window);
        pages: usize = bytes(pages);
    );
}

/// Whether somebody listens to what becomes of faults.
#[inline(always)]
pub(crate) fn wants_faults() -> bool {
    wanted!(buffer_fault)
}

/// What became of a fault.
pub(crate) fn buffer_fault(device: &CStr, fault: &Fault<'_>, outcome: Outcome) {
    let device = device.as_char_ptr();
    let offset = fault.block().map_or(u64::MAX, |block| bytes(block.page_offset()));
    // CAST: There are few outcomes.
    let outcome = outcome as u32;
    // SAFETY: A string, which is copied.
    unsafe { bindings::kernel_ext_trace_buffer_fault(device, offset, fault.order(), outcome) };
}

fn bytes(pages: usize) -> u64 {
    // CAST: The target is 64 bit.
    (pages as u64) << PAGE_SHIFT
}
