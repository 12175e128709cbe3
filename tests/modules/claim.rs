// SPDX-License-Identifier: GPL-2.0

//! The owner of a BAR's region: while it has that, no driver can claim it.

use crate::{
    sys::pci,
    uapi, //
};
use core::mem::size_of;
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*,
    sync::Mutex,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// An open file, and the region that it has.
#[pin_data]
pub(crate) struct Owner {
    #[pin]
    region: Mutex<Option<pci::Region>>,
}

#[vtable]
impl MiscDevice for Owner {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        let new = pin_init!(Self { region <- new_mutex!(None, "Owner::region") });
        KBox::pin_init(new, GFP_KERNEL)
    }

    fn ioctl(this: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != uapi::CLAIM {
            return Err(ENOTTY);
        }
        let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<uapi::Claim>());
        let arg: uapi::Claim = user.reader().read()?;
        let device = pci::find(arg.domain, arg.bus, arg.devfn).ok_or(ENXIO)?;
        let mut region = this.region.lock();
        if region.is_some() {
            return Err(EBUSY);
        }
        *region = Some(pci::Region::claim(device, arg.bar)?);
        Ok(0)
    }
}
