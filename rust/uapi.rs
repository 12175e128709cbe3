// SPDX-License-Identifier: GPL-2.0

//! The interface with user space: [`include/uapi/linux/vfio_dmabuf.h`] and what it builds on.
//!
//! [`include/uapi/linux/vfio_dmabuf.h`]: ../include/uapi/linux/vfio_dmabuf.h

use crate::bindings;
use core::mem::{
    offset_of,
    size_of, //
};
use kernel::transmute::{
    AsBytes,
    FromBytes, //
};

pub use bindings::{
    vfio_device_feature_dma_buf as FeatureDmaBuf,
    vfio_dmabuf_feature_info as FeatureInfo,
    vfio_dmabuf_feature_memattr as FeatureMemattr,
    vfio_dmabuf_feature_revoke as FeatureRevoke,
    vfio_dmabuf_ioctl_revoke as IoctlRevoke,
    vfio_dmabuf_memattr_VFIO_DMABUF_MEMATTR_NC as MEMATTR_NC,
    vfio_dmabuf_memattr_VFIO_DMABUF_MEMATTR_WC as MEMATTR_WC,
    vfio_dmabuf_status_VFIO_DMABUF_STATUS_CLOSED as STATUS_CLOSED,
    vfio_dmabuf_status_VFIO_DMABUF_STATUS_LIVE as STATUS_LIVE,
    vfio_dmabuf_status_VFIO_DMABUF_STATUS_REVOKED as STATUS_REVOKED,
    vfio_dmabuf_status_VFIO_DMABUF_STATUS_REVOKED_TEMP as STATUS_REVOKED_TEMP,
    VFIO_DEVICE_FEATURE_DMA_BUF as FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_GET as FEATURE_GET,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY as FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP as FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT as FEATURE_LOW_POWER_EXIT,
    VFIO_DEVICE_FEATURE_MASK as FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PROBE as FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET as FEATURE_SET,
    VFIO_DMABUF_INFO as FEATURE_INFO,
    VFIO_DMABUF_IOMMUFD as FEATURE_DMA_BUF_IOMMUFD,
    VFIO_DMABUF_MAX_RANGES as MAX_RANGES,
    VFIO_DMABUF_MEMATTR as FEATURE_MEMATTR,
    VFIO_DMABUF_REVOKE as FEATURE_REVOKE, //
};

/// The operation bits of a call: `VFIO_DEVICE_FEATURE_GET`, `_SET` and `_PROBE`.
pub const FEATURE_OPERATIONS: u32 = FEATURE_GET | FEATURE_SET | FEATURE_PROBE;

/// `VFIO_DMABUF_BUFFER`
pub const FLAG_BUFFER: u32 = bindings::VFIO_DMABUF_BUFFER;
/// `VFIO_DMABUF_TYPE1`
pub const FLAG_TYPE1: u32 = bindings::VFIO_DMABUF_TYPE1;
/// `VFIO_DMABUF_ATTR_MASK`; bindgen does not evaluate casts and shifts of `U`.
pub const ATTR_MASK: u32 = bindings::VFIO_DMABUF_ATTR_MASK;
/// `VFIO_DMABUF_ATTR_UC`
pub const ATTR_UC: u32 = bindings::VFIO_DMABUF_ATTR_UC;
/// `VFIO_DMABUF_ATTR_WC`
pub const ATTR_WC: u32 = bindings::VFIO_DMABUF_ATTR_WC;
/// `VFIO_DMABUF_IOCTL_REVOKE`, an `_IO()`.
pub const IOCTL_REVOKE: u32 = vfio_io(22);
/// `VFIO_DEVICE_RESET`
pub const IOCTL_RESET: u32 = vfio_io(11);
/// `VFIO_DEVICE_PCI_HOT_RESET`
pub const IOCTL_HOT_RESET: u32 = vfio_io(13);

/// `_IO(VFIO_TYPE, VFIO_BASE + nr)`, which bindgen does not evaluate.
const fn vfio_io(nr: u32) -> u32 {
    kernel::ioctl::_IO(bindings::VFIO_TYPE as u32, bindings::VFIO_BASE + nr)
}

/// `struct vfio_region_dma_range`, which bindgen makes without `Copy` and `Debug`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaRange {
    /// From the start of the BAR, bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

const _: () = {
    type Raw = bindings::vfio_region_dma_range;
    assert!(size_of::<DmaRange>() == size_of::<Raw>());
    assert!(offset_of!(DmaRange, offset) == offset_of!(Raw, offset));
    assert!(offset_of!(DmaRange, length) == offset_of!(Raw, length));
};

macro_rules! plain {
    ($($ty:ty),* $(,)?) => {$(
        // SAFETY: A C struct of integers without padding: every bit pattern is a value.
        unsafe impl FromBytes for $ty {}
        // SAFETY: A C struct of integers without padding: every byte is initialised.
        unsafe impl AsBytes for $ty {}
    )*};
}
plain!(
    FeatureDmaBuf,
    FeatureInfo,
    FeatureMemattr,
    FeatureRevoke,
    IoctlRevoke,
    DmaRange
);
