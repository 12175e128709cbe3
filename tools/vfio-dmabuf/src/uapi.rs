// SPDX-License-Identifier: GPL-2.0
//! `include/uapi/linux/vfio_dmabuf.h` in Rust, with what it needs of mainline's `<linux/vfio.h>`.
//!
//! Numbers and structures of mainline come from `vfio-bindings`. The others are defined here, so
//! that the crate builds without a C compiler. The test `tests/uapi.rs` compares all of them with
//! the header.

#![allow(missing_docs, non_camel_case_types)] // names and docs are the header's

pub use vfio_bindings::bindings::vfio::{
    vfio_device_feature_dma_buf, vfio_region_dma_range, VFIO_DEVICE_FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
};

pub const VFIO_DMABUF_MAX_RANGES: u32 = 262_144;
pub const VFIO_DMABUF_BUFFER: u32 = 1 << 27;
pub const VFIO_DMABUF_ATTR_UC: u32 = 0 << 28;
pub const VFIO_DMABUF_ATTR_WC: u32 = 1 << 28;

pub const VFIO_DMABUF_REVOKE: u32 = 0xff0d;
pub const VFIO_DMABUF_MEMATTR: u32 = 0xff0e;
pub const VFIO_DMABUF_INFO: u32 = 0xff0f;
pub const VFIO_DMABUF_IOMMUFD: u32 = 0xff10;

pub const VFIO_DMABUF_MEMATTR_NC: u32 = 0;
pub const VFIO_DMABUF_MEMATTR_WC: u32 = 1;

pub const VFIO_DMABUF_STATUS_LIVE: u32 = 0;
pub const VFIO_DMABUF_STATUS_REVOKED_TEMP: u32 = 1;
pub const VFIO_DMABUF_STATUS_REVOKED: u32 = 2;
pub const VFIO_DMABUF_STATUS_CLOSED: u32 = 3;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vfio_dmabuf_feature_revoke {
    pub dmabuf_fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vfio_dmabuf_feature_memattr {
    pub dmabuf_fd: i32,
    pub memattr: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct vfio_dmabuf_feature_info {
    pub dmabuf_fd: i32,
    pub status: u32,
    pub memattr: u32,
    pub nr_ranges: u32,
    pub size: u64,
}
