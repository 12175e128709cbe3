// SPDX-License-Identifier: GPL-2.0

//! The features of a device: export, revoke, attribute, info.

use crate::{
    buffer::{
        Buffer,
        Spec, //
    },
    device::Device,
    parameters,
    pure::{
        memattr::Memattr,
        range::Layout,
        request::{
            Export,
            Request, //
        }, //
    }, //
};
use core::mem::size_of;
use kernel::{
    fs::file::FileDescriptorReservation,
    prelude::*,
    transmute::FromBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use kernel_ext::{
    errno::EOPNOTSUPP,
    mm,
    uaccess,
    uapi,
    vfio::FeatureCall,
    vfio_pci_core::{
        Bar,
        OpenCore, //
    }, //
};

/// `VFIO_DEVICE_FEATURE_DMA_BUF`: a new buffer. Returns the fd, or `None` if the call is to have a
/// dma-buf of the core.
pub(crate) fn export(device: &Device, open: &OpenCore, call: FeatureCall) -> Result<Option<c_int>> {
    let fixed = size_of::<uapi::FeatureDmaBuf>();
    if Request::check(call.flags, call.argsz, uapi::FEATURE_GET, fixed)? == Request::Probe {
        return Ok(Some(0));
    }
    let mut reader = call.payload().reader();
    let raw: uapi::FeatureDmaBuf = reader.read()?;
    if raw.flags == 0 && parameters::core_dmabuf.value() {
        return Ok(None);
    }
    let request = Export::decode(&raw, call.argsz)?;
    // CAST: 32 bit fit.
    let bar = Bar::new(request.region as usize).ok_or(ENODEV)?;
    let resource = open.bar(bar)?;
    check_supported(request.memattr)?;

    let layout = |ranges: &[_]| Layout::new(resource.start, resource.len, ranges);
    let layout = match request.nr_ranges {
        1 => layout(&[reader.read()?])?,
        many => layout(&uaccess::read_array(&mut reader, many)?)?,
    };

    let fd = FileDescriptorReservation::get_unused_fd_flags(request.open_flags)?;
    let spec = Spec {
        bar,
        layout,
        // CAST: Bounded by `MAX_RANGES`.
        nr_ranges: request.nr_ranges as u32,
        memattr: request.memattr,
        followers: request.followers,
        open_flags: request.open_flags,
    };
    let dma_buf = Buffer::export(&device.memory, spec)?;
    Ok(Some(dma_buf.install(fd)))
}

/// `VFIO_DMABUF_REVOKE`
pub(crate) fn revoke(device: &Device, call: FeatureCall) -> Result<c_int> {
    let Some((_, payload)) = read_payload::<uapi::FeatureRevoke>(&call, uapi::FEATURE_SET)? else {
        return Ok(0);
    };
    revoke_fd(device, payload.dmabuf_fd)?;
    Ok(0)
}

/// `VFIO_DMABUF_IOCTL_REVOKE`: the same as an ioctl of its own.
pub(crate) fn revoke_by_ioctl(device: &Device, arg: UserPtr) -> Result<isize> {
    let size = size_of::<uapi::IoctlRevoke>();
    let payload: uapi::IoctlRevoke = UserSlice::new(arg, size).reader().read()?;
    if (payload.argsz as usize) < size {
        return Err(EINVAL);
    }
    revoke_fd(device, payload.dmabuf_fd)?;
    Ok(0)
}

fn revoke_fd(device: &Device, fd: i32) -> Result {
    let dma_buf = Buffer::from_fd(&device.memory, fd)?;
    Buffer::revoke(&dma_buf)
}

/// `VFIO_DMABUF_MEMATTR`
pub(crate) fn memattr(device: &Device, call: FeatureCall) -> Result<c_int> {
    let ops = uapi::FEATURE_GET | uapi::FEATURE_SET;
    let Some((request, mut payload)) = read_payload::<uapi::FeatureMemattr>(&call, ops)? else {
        return Ok(0);
    };
    let dma_buf = Buffer::from_fd(&device.memory, payload.dmabuf_fd)?;
    let buffer = &dma_buf;
    if buffer.life().is_closed() {
        return Err(ENODEV);
    }
    if request == Request::Set {
        let memattr = Memattr::from_raw(payload.memattr)?;
        check_supported(memattr)?;
        buffer.set_memattr(memattr);
    } else {
        payload.memattr = buffer.memattr().as_raw();
        call.payload().writer().write(&payload)?;
    }
    Ok(0)
}

/// `VFIO_DMABUF_INFO`
pub(crate) fn info(device: &Device, call: FeatureCall) -> Result<c_int> {
    let Some((_, payload)) = read_payload::<uapi::FeatureInfo>(&call, uapi::FEATURE_GET)? else {
        return Ok(0);
    };
    let dma_buf = Buffer::from_fd(&device.memory, payload.dmabuf_fd)?;
    let buffer = &dma_buf;
    let info = uapi::FeatureInfo {
        dmabuf_fd: payload.dmabuf_fd,
        status: Buffer::status(buffer) as u32,
        memattr: buffer.memattr().as_raw(),
        nr_ranges: buffer.nr_ranges(),
        size: buffer.size(),
    };
    call.payload().writer().write(&info)?;
    Ok(0)
}

/// Checks the call of a feature that has the operations `ops`, and reads its payload.
///
/// `None` for a probe.
fn read_payload<T: FromBytes>(call: &FeatureCall, ops: u32) -> Result<Option<(Request, T)>> {
    match Request::check(call.flags, call.argsz, ops, size_of::<T>())? {
        Request::Probe => Ok(None),
        request => Ok(Some((request, call.payload().reader().read()?))),
    }
}

/// `EOPNOTSUPP` for an attribute that this machine does not have.
fn check_supported(memattr: Memattr) -> Result {
    if memattr == Memattr::WriteCombining && !mm::has_write_combining() {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}
