// SPDX-License-Identifier: GPL-2.0

//! What the misc devices share: their imports, and the arguments of their ioctls.

use core::mem::size_of;
pub(crate) use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*, //
};
use kernel::{
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Reads the argument at an address of user memory.
pub(crate) fn read<T: FromBytes>(arg: usize) -> Result<T> {
    let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<T>());
    user.reader().read()
}

/// Writes the argument at an address of user memory.
pub(crate) fn write<T: AsBytes>(arg: usize, value: &T) -> Result {
    let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<T>());
    user.writer().write(value)
}
