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
    uaccess::UserPtr, //
};
use kernel_ext::{
    mm::BarMapping,
    uapi,
    vfio::{
        Driver,
        FeatureCall,
        MemoryChange, //
    },
    vfio_pci_core::{
        Core,
        Opened, //
    }, //
};

/// How long a reset that cannot be put off waits for importers to unmap, milliseconds.
const RESET_PATIENCE_MS: u32 = 1000;

impl Driver for DeviceData {
    const NAME: &'static CStr = c"dmabuf-vfio-pci";

    type Bracket<'a> = Suspension<'a>;

    fn new(core: &Core) -> impl PinInit<Self, Error> {
        DeviceData::new(core)
    }

    fn bracket(device: &Device, change: MemoryChange) -> Result<Option<Suspension<'_>>> {
        let may_change = match change {
            MemoryChange::ConfigWrite { offset, count } => {
                device.capabilities.memory_may_change(offset, count)
            }
            MemoryChange::Reset | MemoryChange::LowPower => true,
        };
        if !may_change {
            return Ok(None);
        }
        device.importers.suspend().map(Some)
    }

    fn reset_prepare(device: &Device) {
        device.gate.reset_begins();
        device.core().zap(0, BAR_SPACE);
        device.importers.suspend_for_reset(RESET_PATIENCE_MS);
    }

    fn reset_done(device: &Device) {
        device.gate.reset_ends();
        // With the gate open, so that who maps on being told is let in.
        device.importers.resume();
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
