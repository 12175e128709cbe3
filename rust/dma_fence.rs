// SPDX-License-Identifier: GPL-2.0

//! Fences: what devices have not finished yet.
//!
//! C headers: [`include/linux/dma-resv.h`](srctree/include/linux/dma-resv.h),
//! [`include/linux/dma-fence.h`](srctree/include/linux/dma-fence.h)

use crate::{
    bindings,
    dma_resv::LockedReservation,
    errno::ETIME,
    wait::Wait, //
};
use core::ptr;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The fences of a reservation object at one moment.
///
/// # Invariants
///
/// `array` has `count` valid pointers, to a reference each, and was allocated by the kernel; it is
/// null if there are none.
struct Fences {
    array: *mut *mut bindings::dma_fence,
    count: c_uint,
}

impl Fences {
    /// Takes the reservation lock: without it, fences that are added meanwhile could keep the
    /// caller busy.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or as [`LockedReservation::new`].
    ///
    /// # Safety
    ///
    /// `resv` is valid.
    unsafe fn of(resv: *mut bindings::dma_resv, wait: Wait) -> Result<Self> {
        let mut array = ptr::null_mut();
        let mut count = 0;
        // SAFETY: By the requirements of this function.
        let _locked = unsafe { LockedReservation::new(resv, wait) }?;
        // SAFETY: As above.
        to_result(unsafe {
            bindings::dma_resv_get_fences(
                resv,
                bindings::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
                &mut count,
                &mut array,
            )
        })?;
        // INVARIANT: What the function gives.
        Ok(Self { array, count })
    }

    /// Waits for each. A driver may end a wait for its fence early, even an uninterruptible one.
    /// Then the wait goes on without it.
    fn wait(&self, wait: Wait) -> Result {
        let interruptible = is_interruptible(wait);
        for number in 0..self.count as usize {
            // SAFETY: By the type invariants.
            let fence = unsafe { *self.array.add(number) };
            // CAST: `MAX_SCHEDULE_TIMEOUT` is the largest.
            let timeout = wait.timeout() as c_long;
            // SAFETY: As above. The function also enables signaling.
            let mut left =
                unsafe { bindings::dma_fence_wait_timeout(fence, interruptible, timeout) };
            if is_refused(left) {
                // SAFETY: As above.
                left = unsafe { bindings::dma_fence_default_wait(fence, interruptible, timeout) };
            }
            check(left)?;
        }
        Ok(())
    }
}

impl Drop for Fences {
    fn drop(&mut self) {
        for number in 0..self.count as usize {
            // SAFETY: By the type invariants; this gives the reference back.
            unsafe { bindings::kernel_ext_dma_fence_put(*self.array.add(number)) };
        }
        // SAFETY: By the type invariants.
        unsafe { bindings::kfree(self.array.cast()) };
    }
}

/// Waits for the fences that a reservation object has now, not for any that are added later. If
/// there is no memory to note which these are, those count, too, and a driver that refuses the wait
/// for its fence ends all of it.
///
/// Fences have no killable wait: [`Wait::Killable`] is as [`Wait::Uninterruptible`].
///
/// # Errors
///
/// `ERESTARTSYS`: a signal has ended the wait. `ETIME`: the deadline has passed.
///
/// # Safety
///
/// `resv` is valid.
pub(crate) unsafe fn wait_for_all(resv: *mut bindings::dma_resv, wait: Wait) -> Result {
    // SAFETY: By the requirements of this function.
    match unsafe { Fences::of(resv, wait) } {
        Ok(fences) => fences.wait(wait),
        // SAFETY: As above.
        Err(ENOMEM) => check(unsafe {
            bindings::dma_resv_wait_timeout(
                resv,
                bindings::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
                is_interruptible(wait),
                wait.timeout(),
            )
        }),
        Err(error) => Err(error),
    }
}

fn is_interruptible(wait: Wait) -> bool {
    matches!(wait, Wait::Interruptible)
}

/// What the waits return: the time that is left, 0, or an error.
fn check(left: c_long) -> Result {
    match left {
        0 => Err(ETIME),
        ..0 if !is_refused(left) => Err(ERESTARTSYS),
        _ => Ok(()),
    }
}

/// Whether neither time nor a signal has ended the wait, nor that the fence was signalled.
fn is_refused(left: c_long) -> bool {
    // CAST: `c_long` is the larger type.
    left < 0 && left != ERESTARTSYS.to_errno() as c_long
}
