// SPDX-License-Identifier: GPL-2.0

//! The driver as VFIO sees it: which calls are ours, and where they go.

use crate::{
    buffer::Buffer,
    device::{
        self,
        Device,
        DeviceData, //
    }, //
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
        FeatureCall, //
    },
    vfio_pci_core::Core, //
};

impl Driver for DeviceData {
    const NAME: &'static CStr = c"dmabuf-vfio-pci";

    fn new(_core: &Core) -> impl PinInit<Self, Error> {
        DeviceData::new()
    }

    fn close_device(device: &Device) {
        device.registry.close(device.core());
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

    fn ioctl(device: &Device, cmd: u32, arg: UserPtr) -> Option<Result<isize>> {
        match cmd {
            uapi::IOCTL_REVOKE => Some(device::ioctl_revoke(device, arg)),
            _ => None,
        }
    }
}
