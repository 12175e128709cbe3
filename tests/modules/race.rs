// SPDX-License-Identifier: GPL-2.0

//! The data race.

use crate::{
    ioctl::*,
    sys::unlocked::Unlocked,
    uapi, //
};

static NUMBER: Unlocked = Unlocked::new();

/// An open file.
pub(crate) struct Racer;

#[vtable]
impl MiscDevice for Racer {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn ioctl(_racer: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != uapi::CHANGE {
            return Err(ENOTTY);
        }
        for _ in 0..arg {
            NUMBER.race_on_purpose();
        }
        Ok(0)
    }
}
