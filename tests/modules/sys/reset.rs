// SPDX-License-Identifier: GPL-2.0

//! A PCI driver that asks for a reset of the link after every error. It takes only devices that
//! `driver_override` gives it.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use kernel::{
    error::to_result,
    prelude::*, //
};

extern "C" {
    fn dmabuf_test_reset_register(name: *const c_char) -> c_int;
    fn dmabuf_test_reset_unregister();
}

/// The driver; unregistered when dropped. There can be one.
///
/// # Invariants
///
/// It is registered.
pub(crate) struct Driver(());

impl Driver {
    /// Registers it.
    pub(crate) fn register(name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is static; a second driver of that name is refused.
        to_result(unsafe { dmabuf_test_reset_register(name.as_char_ptr()) })?;
        // INVARIANT: Registered just now.
        Ok(Self(()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { dmabuf_test_reset_unregister() };
    }
}
