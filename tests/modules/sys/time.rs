// SPDX-License-Identifier: GPL-2.0

//! The clock, as a number that user space can compare with its own.
//!
//! C header: [`include/linux/ktime.h`](srctree/include/linux/ktime.h)

use kernel::bindings;

/// `CLOCK_MONOTONIC`, nanoseconds. `ktime_get()`
pub(crate) fn now() -> u64 {
    // SAFETY: May be called from anywhere but an NMI.
    let nanoseconds = unsafe { bindings::ktime_get() };
    // CAST: Not negative.
    nanoseconds as u64
}
