// SPDX-License-Identifier: GPL-2.0

//! Reservation objects.
//!
//! Whoever has an fd of a dma-buf can lock its reservation (`poll()`), and can be preempted then.
//! So waiting for the lock ends as any other wait does.
//!
//! C header: [`include/linux/dma-resv.h`](srctree/include/linux/dma-resv.h)

use crate::{
    bindings,
    errno::ETIME,
    wait::Wait, //
};
use core::ptr;
use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How often a wait with a deadline looks whether the lock is free.
const INTERVAL: Delta = Delta::from_millis(1);

/// A reservation object that is locked until this is dropped.
///
/// # Invariants
///
/// The current task has locked it, and it is valid.
pub(crate) struct LockedReservation(*mut bindings::dma_resv);

impl LockedReservation {
    /// Locks it. There is no killable wait for it: [`Wait::Killable`] is as
    /// [`Wait::Uninterruptible`].
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal has ended the wait. `ETIME`: the deadline has passed.
    ///
    /// # Safety
    ///
    /// `resv` is valid as long as the new value lives.
    pub(crate) unsafe fn new(resv: *mut bindings::dma_resv, wait: Wait) -> Result<Self> {
        match wait {
            // SAFETY: By the requirements of this function. Without a context, locking cannot fail.
            Wait::Uninterruptible | Wait::Killable => unsafe {
                bindings::dma_resv_lock(resv, ptr::null_mut());
            },
            // SAFETY: As above.
            Wait::Interruptible => unsafe {
                if bindings::kernel_ext_dma_resv_lock_interruptible(resv) != 0 {
                    return Err(ERESTARTSYS);
                }
            },
            Wait::Deadline(_) => loop {
                // SAFETY: As above.
                if unsafe { bindings::kernel_ext_dma_resv_trylock(resv) } {
                    break;
                }
                if wait.timeout() == 0 {
                    return Err(ETIME);
                }
                fsleep(INTERVAL);
            },
        }
        // INVARIANT: Locked just now.
        Ok(Self(resv))
    }
}

impl Drop for LockedReservation {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::dma_resv_unlock(self.0) };
    }
}
