// SPDX-License-Identifier: GPL-2.0

//! A disguise: a PCI device that a driver takes for one of another kind.

use crate::{
    ioctl::{
        self,
        *, //
    },
    sys::pci,
    uapi, //
};
use kernel::{
    device::Device,
    sync::{
        aref::ARef,
        Mutex, //
    }, //
};

/// An open file: the device that wears it, and what that was before.
#[pin_data]
pub(crate) struct Disguise {
    #[pin]
    worn: Mutex<Option<(ARef<Device>, pci::Ids)>>,
}

#[vtable]
impl MiscDevice for Disguise {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        let new = pin_init!(Self { worn <- new_mutex!(None, "Disguise::worn") });
        KBox::pin_init(new, GFP_KERNEL)
    }

    fn release(this: Pin<KBox<Self>>, _file: &File) {
        let worn = this.worn.lock().take();
        if let Some((device, ids)) = worn {
            pci::set_ids(&device, ids);
        }
    }

    fn ioctl(this: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != uapi::DISGUISE {
            return Err(ENOTTY);
        }
        let arg: uapi::Disguise = ioctl::read(arg)?;
        let device = pci::find(arg.domain, arg.bus, arg.devfn).ok_or(ENXIO)?;
        let mut worn = this.worn.lock();
        if worn.is_some() {
            return Err(EBUSY);
        }
        let ids = pci::Ids {
            vendor: u16::try_from(arg.vendor)?,
            device: u16::try_from(arg.device)?,
        };
        let before = pci::set_ids(&device, ids);
        *worn = Some((device, before));
        Ok(0)
    }
}
