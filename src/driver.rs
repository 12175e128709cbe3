// SPDX-License-Identifier: GPL-2.0

//! The driver as VFIO sees it: which calls are ours, and where they go.

use crate::{
    buffer::Buffer,
    device::{
        self,
        Device,
        DeviceData, //
    },
    importers::Suspension,
    windows::BAR_SPACE, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    uaccess::UserPtr, //
};
use kernel_ext::{
    debugfs::Dir,
    mm::BarMapping,
    module::NameReservation,
    trace,
    uapi,
    vfio::{
        Driver,
        FeatureCall,
        LinkError,
        MemoryChange,
        Ops, //
    },
    vfio_pci_core::{
        Core,
        Opened, //
    }, //
};

/// How long a reset that cannot be put off waits for importers to unmap, milliseconds.
const RESET_PATIENCE_MS: u32 = 1000;

static OPS: Ops<DeviceData> = Ops::build(DeviceData::NAME);
static OPS_AS_VFIO_PCI: Ops<DeviceData> = Ops::build(c"vfio-pci");

/// What to register with. `as_vfio_pci` is the module parameter.
pub(crate) fn ops(as_vfio_pci: u8) -> &'static Ops<DeviceData> {
    match as_vfio_pci {
        0 => &OPS,
        _ => &OPS_AS_VFIO_PCI,
    }
}

/// Keeps the in-tree vfio-pci out while we have its name. Programs that insist on the name of the
/// driver (DPDK) look for the directory of its module, too.
///
/// # Errors
///
/// `EBUSY`: the in-tree one is loaded, or built in. `EINVAL`: the parameter is neither 0 nor 1.
pub(crate) fn reserve_module_name(
    module: &'static ThisModule,
    as_vfio_pci: u8,
) -> Result<Option<NameReservation>> {
    match as_vfio_pci {
        0 => Ok(None),
        1 => NameReservation::new(module, c"vfio_pci")
            .map(Some)
            .inspect_err(|error| {
                if *error == EBUSY {
                    pr_err!("as_vfio_pci=1: vfio-pci is loaded, unload it first: rmmod vfio-pci\n");
                }
            }),
        _ => Err(EINVAL),
    }
}

/// Around a function of the core that may switch memory off.
pub(crate) struct Bracket<'a> {
    /// Ends after `drop`.
    _suspension: Suspension<'a>,
    device: &'a Device,
}

impl Drop for Bracket<'_> {
    fn drop(&mut self) {
        trace::memory_resume(self.device.core());
    }
}

impl Driver for DeviceData {
    const NAME: &'static CStr = crate::NAME;

    type Bracket<'a> = Bracket<'a>;

    fn new(core: &Core) -> impl PinInit<Self, Error> {
        DeviceData::new(core)
    }

    fn bound(device: &Device, debugfs: &Arc<Dir>) {
        device.listing.show(device, debugfs);
    }

    fn unbinding(device: &Device) {
        device.gate.recovery_is_abandoned();
    }

    fn unbound(device: &Device) {
        device.listing.hide();
    }

    fn bracket(device: &Device, change: MemoryChange) -> Result<Option<Bracket<'_>>> {
        let may_change = match change {
            MemoryChange::ConfigWrite { offset, count } => {
                device.capabilities.memory_may_change(offset, count)
            }
            MemoryChange::Reset | MemoryChange::LowPower => true,
        };
        if !may_change {
            return Ok(None);
        }
        trace::memory_suspend(device.core());
        Ok(Some(Bracket {
            _suspension: device.importers.suspend()?,
            device,
        }))
    }

    fn reset_prepare(device: &Device) {
        trace::memory_suspend(device.core());
        device.gate.reset_begins();
        device.core().zap(0, BAR_SPACE);
        device.importers.suspend_for_reset(RESET_PATIENCE_MS);
    }

    fn reset_done(device: &Device) {
        device.gate.reset_ends();
        // With the gate open, so that who maps on being told is let in.
        device.importers.resume();
        trace::memory_resume(device.core());
        // Who resets a lost device has it back.
        if device.gate.loss_ends() {
            device.importers.resume();
            trace::memory_resume(device.core());
        }
    }

    fn link_error(device: &Device, error: LinkError) {
        if device.gate.recovery_begins() {
            trace::memory_suspend(device.core());
            device.core().zap(0, BAR_SPACE);
            device.importers.suspend_for_reset(RESET_PATIENCE_MS);
        }
        if error == LinkError::Lost {
            device.gate.recovery_fails();
        }
    }

    fn link_back(device: &Device) {
        if device.gate.recovery_ends() {
            device.importers.resume();
            trace::memory_resume(device.core());
        }
    }

    fn open_device(device: &Device, opened: Opened) {
        device.gate.shut().set_opened(opened);
    }

    fn close_device(device: &Device) -> Option<Opened> {
        device::close(device)
    }

    fn mmap_bar(device: &Device, index: usize, mapping: BarMapping<'_>) -> Result {
        device.registry.with_bar(
            index,
            || Buffer::hidden(device, index),
            |dma_buf| Buffer::adopt(dma_buf, mapping),
        )
    }

    fn feature(device: &Device, call: FeatureCall) -> Option<Result<c_int>> {
        match call.flags & uapi::FEATURE_MASK {
            uapi::FEATURE_DMA_BUF => Some(device::export(device, call)),
            uapi::FEATURE_REVOKE => Some(device::feature_revoke(device, call)),
            uapi::FEATURE_MEMATTR => Some(device::feature_memattr(device, call)),
            uapi::FEATURE_INFO => Some(device::feature_info(device, call)),
            _ => None,
        }
    }

    fn core_feature(number: u32) -> u32 {
        match number {
            // iommufd maps the dma-bufs of the core, and those only.
            uapi::FEATURE_DMA_BUF_IOMMUFD => uapi::FEATURE_DMA_BUF,
            other => other,
        }
    }

    fn ioctl(device: &Device, cmd: u32, arg: UserPtr) -> Option<Result<isize>> {
        match cmd {
            uapi::IOCTL_REVOKE => Some(device::ioctl_revoke(device, arg)),
            _ => None,
        }
    }
}
