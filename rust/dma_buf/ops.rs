// SPDX-License-Identifier: GPL-2.0

//! `dma_buf_ops` of an exporter.
//!
//! C header: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h)

use super::{
    Attachment,
    DmaBuf,
    Exported,
    Exporter, //
};
use crate::{
    bindings,
    dma_buf_mapping::{
        DeviceMapping,
        MapRequest, //
    },
    mm::NewMapping, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};
use kernel::{
    error::from_result,
    prelude::*,
    sync::Arc, //
};

/// The `dma_buf_ops` of exporter `T`. For a `static`: its address tells the exporter's dma-bufs
/// from those of others.
pub struct Ops<T> {
    pub(super) table: bindings::dma_buf_ops,
    pub(super) name: &'static CStr,
    _exporter: PhantomData<T>,
}

// SAFETY: The table is never written, and its functions may be called on any thread. There is no
// `T` in it.
unsafe impl<T> Sync for Ops<T> {}

impl<T: Exporter> Ops<T> {
    /// Makes the table; `name` is the exporter's in bufinfo and fdinfo.
    pub const fn build(name: &'static CStr) -> Self {
        let mut ops: bindings::dma_buf_ops = pin_init::zeroed();
        ops.attach = Some(attach::<T>);
        ops.detach = Some(detach::<T>);
        ops.map_dma_buf = Some(map::<T>);
        ops.unmap_dma_buf = Some(unmap::<T>);
        ops.mmap = Some(mmap::<T>);
        ops.release = Some(release::<T>);
        Self {
            table: ops,
            name,
            _exporter: PhantomData,
        }
    }
}

/// `dma_buf_ops.attach`
///
/// # Safety
///
/// Called by the dma-buf core for a dma-buf of exporter `T`.
unsafe extern "C" fn attach<T: Exporter>(
    dma_buf: *mut bindings::dma_buf,
    attachment: *mut bindings::dma_buf_attachment,
) -> c_int {
    from_result(|| {
        // SAFETY: The dma-buf is one of `T`; the importer holds a reference, which stays its own.
        let dma_buf = ManuallyDrop::new(unsafe { DmaBuf::<T>::from_raw(dma_buf) });
        // SAFETY: The attachment is being made.
        T::attach(&dma_buf, unsafe { &*attachment.cast::<Attachment>() })?;
        Ok(0)
    })
}

/// `dma_buf_ops.detach`
///
/// # Safety
///
/// Called by the dma-buf core for a dma-buf of exporter `T`.
unsafe extern "C" fn detach<T: Exporter>(
    dma_buf: *mut bindings::dma_buf,
    _attachment: *mut bindings::dma_buf_attachment,
) {
    // SAFETY: The dma-buf is one of `T`, and the importer holds a reference.
    T::detach(unsafe { Exported::<T>::from_dma_buf(dma_buf) });
}

/// `dma_buf_ops.map_dma_buf`
///
/// # Safety
///
/// Called by the dma-buf core for an attachment to a dma-buf of exporter `T`.
unsafe extern "C" fn map<T: Exporter>(
    attachment: *mut bindings::dma_buf_attachment,
    dir: bindings::dma_data_direction,
) -> *mut bindings::sg_table {
    // SAFETY: The dma-buf is one of `T`, and the importer holds a reference.
    let exported = unsafe { Exported::<T>::from_dma_buf((*attachment).dmabuf) };
    // SAFETY: The reservation lock is held, here and when the importer unmaps, which it does first.
    let request = unsafe { MapRequest::from_raw(attachment, dir) };
    match T::map(exported, request) {
        Ok(mapping) => mapping.into_raw(),
        Err(err) => err.to_ptr(),
    }
}

/// `dma_buf_ops.unmap_dma_buf`
///
/// # Safety
///
/// Called by the dma-buf core with what [`map`] gave for the attachment.
unsafe extern "C" fn unmap<T: Exporter>(
    attachment: *mut bindings::dma_buf_attachment,
    sgt: *mut bindings::sg_table,
    _dir: bindings::dma_data_direction,
) {
    // SAFETY: `sgt` is what `map` gave for the attachment; the reservation lock is held.
    drop(unsafe { DeviceMapping::from_raw(sgt) });
    // SAFETY: The dma-buf is one of `T`, and the importer holds a reference.
    T::unmapped(unsafe { Exported::<T>::from_dma_buf((*attachment).dmabuf) });
}

/// `dma_buf_ops.mmap`
///
/// # Safety
///
/// Called by the dma-buf core for a dma-buf of exporter `T` and a VMA that is being set up.
unsafe extern "C" fn mmap<T: Exporter>(
    dma_buf: *mut bindings::dma_buf,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    from_result(|| {
        // SAFETY: The dma-buf is one of `T` and open; the VMA is being set up with its file.
        let exported = unsafe { Exported::<T>::from_dma_buf(dma_buf) };
        // SAFETY: As above.
        T::mmap(exported, unsafe { NewMapping::from_raw(vma) })?;
        Ok(0)
    })
}

/// `dma_buf_ops.release`
///
/// # Safety
///
/// Called by the dma-buf core once for a dma-buf of exporter `T`.
unsafe extern "C" fn release<T: Exporter>(dma_buf: *mut bindings::dma_buf) {
    // SAFETY: `DmaBuf::export` put the reference there, and this is called once.
    let exported = unsafe { Arc::from_raw((*dma_buf).priv_.cast::<Exported<T>>()) };
    T::release(exported.as_arc_borrow());
}
