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
    vfio_device_feature_dma_buf_info as FeatureInfo,
    vfio_device_feature_dma_buf_memattr as FeatureMemattr,
    vfio_device_feature_dma_buf_revoke as FeatureRevoke,
    vfio_dma_buf_memattr_VFIO_DMA_BUF_MEMATTR_NC as MEMATTR_NC,
    vfio_dma_buf_memattr_VFIO_DMA_BUF_MEMATTR_WC as MEMATTR_WC,
    vfio_dma_buf_status_VFIO_DMA_BUF_STATUS_CLOSED as STATUS_CLOSED,
    vfio_dma_buf_status_VFIO_DMA_BUF_STATUS_LIVE as STATUS_LIVE,
    vfio_dma_buf_status_VFIO_DMA_BUF_STATUS_REVOKED as STATUS_REVOKED,
    vfio_dma_buf_status_VFIO_DMA_BUF_STATUS_REVOKED_TEMP as STATUS_REVOKED_TEMP,
    vfio_pci_dmabuf_revoke as IoctlRevoke,
    VFIO_DEVICE_FEATURE_DMA_BUF as FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_DMA_BUF_INFO as FEATURE_INFO,
    VFIO_DEVICE_FEATURE_DMA_BUF_IOMMUFD as FEATURE_DMA_BUF_IOMMUFD,
    VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES as MAX_RANGES,
    VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR as FEATURE_MEMATTR,
    VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE as FEATURE_REVOKE,
    VFIO_DEVICE_FEATURE_GET as FEATURE_GET,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY as FEATURE_LOW_POWER_ENTRY,
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP as FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    VFIO_DEVICE_FEATURE_MASK as FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PROBE as FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET as FEATURE_SET, //
};

/// `VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK`; bindgen does not evaluate casts and shifts of `U`.
pub const ATTR_MASK: u32 = bindings::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_MASK;
/// `VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC`
pub const ATTR_UC: u32 = bindings::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC;
/// `VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC`
pub const ATTR_WC: u32 = bindings::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC;
/// `VFIO_DEVICE_PCI_DMABUF_REVOKE`, an `_IO()`.
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
