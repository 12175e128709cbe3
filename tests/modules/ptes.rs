// SPDX-License-Identifier: GPL-2.0

//! The reader of page table entries.

use crate::{
    ioctl::{
        self,
        *, //
    },
    sys::ptes::entry_at,
    uapi, //
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
        let asked: uapi::Pte = ioctl::read(arg)?;
        // CAST: Addresses fit the machine word.
        let entry = entry_at(asked.pid, asked.address as usize)?;
        let answer = uapi::Pte {
            address: asked.address,
            pid: asked.pid,
            ..entry
        };
        ioctl::write(arg, &answer)?;
        Ok(0)
    }
}
