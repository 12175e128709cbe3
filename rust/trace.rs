// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, `dmabuf_vfio_pci:*`. One that is off costs an instruction that does nothing.
//!
//! C header: `trace.h`

#[cfg(CONFIG_TRACEPOINTS)]
use crate::bindings;
use crate::{
    mm::{
        Fault,
        Outcome, //
    },
    vfio_pci_core::Core, //
};
use kernel::page::PAGE_SHIFT;
#[cfg(CONFIG_TRACEPOINTS)]
use kernel::prelude::*;

macro_rules! tracepoints {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty = $($raw:expr),+);* $(;)?);)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(core: &Core, $($arg: $ty),*) {
            #[cfg(CONFIG_TRACEPOINTS)]
            kernel::macros::paste! {
                // SAFETY: The static key of a tracepoint.
                let wanted = unsafe {
                    kernel::jump_label::static_branch_unlikely!(
                        bindings::[<__tracepoint_ $name>],
                        bindings::tracepoint,
                        key
                    )
                };
                if wanted {
                    let device = core.pci_name().as_char_ptr();
                    // SAFETY: The name is a string that lives as long as the device.
                    unsafe { bindings::[<kernel_ext_trace_ $name>](device, $($($raw),+),*) };
                }
            }
            #[cfg(not(CONFIG_TRACEPOINTS))]
            let _ = (core, $($($raw),+),*);
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
    /// What became of a fault.
    fn buffer_fault(
        fault: &Fault<'_> = fault.page_offset().map_or(u64::MAX, bytes), fault.order();
        outcome: Outcome = outcome as u32;
    );
}

fn bytes(pages: usize) -> u64 {
    // CAST: The target is 64 bit.
    (pages as u64) << PAGE_SHIFT
}
