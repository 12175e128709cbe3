// SPDX-License-Identifier: GPL-2.0

//! User memory: arrays in it, and bringing it in.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use crate::bindings;
use core::{
    mem::size_of,
    slice, //
};
use kernel::{
    prelude::*,
    transmute::FromBytes,
    uaccess::{
        UserPtr,
        UserSliceReader, //
    }, //
};

/// Reads the next `count` values. `memdup_array_user()`
///
/// The caller bounds `count`: the values are charged to the memory cgroup of the current task,
/// which can make the copy last as long as it likes (`userfaultfd`).
///
/// # Errors
///
/// `EFAULT` when the memory cannot be read or `reader` has fewer bytes left; `ENOMEM`.
pub fn read_array<T: FromBytes + Copy>(
    reader: &mut UserSliceReader,
    count: usize,
) -> Result<KVVec<T>> {
    let size = count.checked_mul(size_of::<T>()).ok_or(ENOMEM)?;
    let mut values = KVVec::<T>::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    let spare = values.spare_capacity_mut().as_mut_ptr();
    // CAST: `MaybeUninit<u8>` has no alignment, and every byte is one.
    // SAFETY: `spare` begins at least `count` values of spare capacity, that is `size` bytes, which
    // nothing else refers to while `bytes` is used.
    let bytes = unsafe { slice::from_raw_parts_mut(spare.cast(), size) };
    reader.read_raw(bytes)?;
    // SAFETY: `read_raw()` has written all `size` bytes, and by `FromBytes` any bytes are a value.
    // The length was 0, so it does not exceed the capacity.
    unsafe { values.inc_len(count) };
    Ok(values)
}

/// Brings `len` bytes of user memory in that are about to be read, as far as they are there.
/// `fault_in_readable()`
pub(crate) fn prefault(at: UserPtr, len: usize) {
    if len != 0 {
        // SAFETY: Any address may be asked for.
        unsafe { bindings::fault_in_readable(at.as_const_ptr().cast(), len) };
    }
}
