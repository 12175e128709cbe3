// SPDX-License-Identifier: GPL-2.0

//! Copying arrays from user memory.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use core::{
    mem::size_of,
    slice, //
};
use kernel::{
    prelude::*,
    transmute::FromBytes,
    uaccess::UserSliceReader, //
};

/// Reads the next `count` values. `memdup_array_user()`
///
/// `count` is to be bounded by the caller: that many are allocated, at the expense of its memory
/// cgroup. A caller can make reading take as long as it likes (`userfaultfd`), and hold them.
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
    // CAST: Uninitialised values are uninitialised bytes.
    // SAFETY: The capacity is at least `count` values, which have `size` bytes.
    let bytes = unsafe { slice::from_raw_parts_mut(spare.cast(), size) };
    reader.read_raw(bytes)?;
    // SAFETY: The bytes of `count` values were written, and any bytes make a value.
    unsafe { values.inc_len(count) };
    Ok(values)
}
