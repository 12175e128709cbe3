// SPDX-License-Identifier: GPL-2.0

//! The reader of page table entries.

use crate::{
    sys::pfnmap::{
        self,
        Entry, //
    },
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
        let mut answer = uapi::Pte {
            address: asked.address,
            pid: asked.pid,
            ..uapi::Pte::default()
        };
        // CAST: Addresses fit the machine word.
        if let Some(entry) = pfnmap::entry_at(asked.pid, asked.address as usize)? {
            answer.present = 1;
            answer.pfn = entry.pfn;
            answer.size = entry.size;
            answer.writable = entry.writable.into();
            answer.memory_type = memory_type(&entry);
        }
        writer.write(&answer)?;
        Ok(0)
    }
}

/// What the page attribute table of the CPU says to the bits of an entry.
fn memory_type(entry: &Entry) -> u32 {
    const PWT: u64 = 1 << 3;
    const PCD: u64 = 1 << 4;
    const PAT: u64 = 1 << 7;
    // In an entry of a higher level bit 7 says that it is a leaf.
    const PAT_LARGE: u64 = 1 << 12;

    let pat = if entry.size == 4096 { PAT } else { PAT_LARGE };
    let mut index = 0;
    for (bit, value) in [(PWT, 1), (PCD, 2), (pat, 4)] {
        if entry.protection & bit != 0 {
            index += value;
        }
    }
    // CAST: A byte.
    ((pfnmap::page_attribute_table() >> (8 * index)) & 0xff) as u32
}
