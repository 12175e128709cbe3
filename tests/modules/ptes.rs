// SPDX-License-Identifier: GPL-2.0

//! The reader of page table entries.

use crate::{
    sys::ptes::entry_at,
    uapi, //
};
use core::mem::size_of;
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// An open file.
pub(crate) struct Reader;

#[vtable]
impl MiscDevice for Reader {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn ioctl(_reader: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != uapi::READ_PTE {
            return Err(ENOTTY);
        }
        let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<uapi::Pte>());
        let (mut reader, mut writer) = user.reader_writer();
        let asked: uapi::Pte = reader.read()?;
        // CAST: Addresses fit the machine word.
        let entry = entry_at(asked.pid, asked.address as usize)?;
        let answer = uapi::Pte {
            address: asked.address,
            pid: asked.pid,
            ..entry
        };
        writer.write(&answer)?;
        Ok(0)
    }
}
