// SPDX-License-Identifier: GPL-2.0

//! Waiting for a moment in which something is not so, any number of times.
//!
//! C header: [`include/linux/wait_bit.h`](srctree/include/linux/wait_bit.h)

use crate::bindings;
use core::cell::UnsafeCell;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// What ends a wait before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Any signal that the task does not block.
    AtSignal,
    /// A signal that kills the task.
    AtDeath,
}

/// Whether something is so, for those who wait until it is not. `wait_var_event()`
pub struct Flag(UnsafeCell<c_int>);

// SAFETY: A number that is accessed with the kernel's atomic accessors only.
unsafe impl Send for Flag {}
// SAFETY: As above.
unsafe impl Sync for Flag {}

impl Flag {
    /// Not so.
    pub const fn unset() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// Says whether it is so, and wakes who waits. Who calls this at the same time agrees with
    /// others on an order.
    pub fn set(&self, is_so: bool) {
        // SAFETY: A valid number, accessed as the type says.
        unsafe { bindings::kernel_ext_store_and_wake(self.0.get(), is_so.into()) };
    }

    /// Waits until it is not so. That may have changed again when this returns.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: something else has ended the wait.
    pub fn wait(&self, ends: Ends) -> Result {
        let flag = self.0.get();
        to_result(match ends {
            // SAFETY: A valid number, accessed as the type says.
            Ends::AtSignal => unsafe { bindings::kernel_ext_wait_for_zero_interruptible(flag) },
            // SAFETY: As above.
            Ends::AtDeath => unsafe { bindings::kernel_ext_wait_for_zero_killable(flag) },
        })
    }
}
