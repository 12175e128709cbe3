// SPDX-License-Identifier: GPL-2.0
//! The system calls that Rust cannot check: ioctls and mmap().
//!
//! An ioctl is safe if the kernel accesses no memory but its argument. This module therefore lists
//! the argument types, each with the one request that takes it, and fills in their sizes. The
//! caller must pass an fd of VFIO (or a dma-buf, for the ioctl of dma-bufs): another driver may
//! give the same number another meaning. The module is private to the crate, which keeps such fds
//! in types of their own.

use std::ffi::{c_void, CStr};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::{self, NonNull};

use rustix::io::{Errno, Result};
use rustix::ioctl::{ioctl, opcode, Ioctl, IoctlOutput, Opcode};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vfio_bindings::bindings::vfio::{
    vfio_device_bind_iommufd, vfio_group_status, vfio_region_info, VFIO_BASE, VFIO_TYPE,
};

use crate::uapi;

/// The opcode of ioctl `number` of VFIO.
const fn vfio(number: u32) -> Opcode {
    opcode::none(VFIO_TYPE, (VFIO_BASE + number) as u8)
}

const VFIO_GET_API_VERSION: Opcode = vfio(0);
const VFIO_SET_IOMMU: Opcode = vfio(2);
const VFIO_GROUP_GET_STATUS: Opcode = vfio(3);
const VFIO_GROUP_SET_CONTAINER: Opcode = vfio(4);
const VFIO_GROUP_GET_DEVICE_FD: Opcode = vfio(6);
const VFIO_DEVICE_GET_REGION_INFO: Opcode = vfio(8);
const VFIO_DEVICE_RESET: Opcode = vfio(11);
const VFIO_DEVICE_FEATURE: Opcode = vfio(17);
const VFIO_DEVICE_BIND_IOMMUFD: Opcode = vfio(18);

/// `_IOW(DMA_BUF_BASE, 1, __u64)`, the form that does not depend on the word size.
const DMA_BUF_SET_NAME: Opcode = opcode::write::<u64>(b'b', 1);

/// An ioctl with an untyped argument. The output is its return value.
struct Call<'a> {
    request: Opcode,
    arg: *mut c_void,
    borrowed: PhantomData<&'a mut ()>,
}

// SAFETY: The opcode is the field, and the output is the return value. The functions below, which
// construct a `Call`, justify that the argument suits the opcode.
unsafe impl Ioctl for Call<'_> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.arg
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

/// A request whose argument is a number, or unused.
fn with_number(fd: impl AsFd, request: Opcode, arg: usize) -> Result<i32> {
    let arg = ptr::without_provenance_mut(arg);
    let call = Call { request, arg, borrowed: PhantomData };
    // SAFETY: Called with requests that take no pointer, see below.
    unsafe { ioctl(fd, call) }
}

/// A request with an argument of type `T`, which the kernel may change.
///
/// # Safety
///
/// The kernel accesses no memory but `arg` for this request.
unsafe fn with<T: ?Sized>(fd: impl AsFd, request: Opcode, arg: &mut T) -> Result<i32> {
    let call = Call { request, arg: ptr::from_mut(arg).cast(), borrowed: PhantomData };
    // SAFETY: As the caller promises.
    unsafe { ioctl(fd, call) }
}

/// The VFIO API version of a container.
pub(crate) fn api_version(container: impl AsFd) -> Result<i32> {
    with_number(container, VFIO_GET_API_VERSION, 0)
}

/// Sets the IOMMU model of a container.
pub(crate) fn set_iommu(container: impl AsFd, model: u32) -> Result<()> {
    with_number(container, VFIO_SET_IOMMU, model as usize).map(drop)
}

/// The `VFIO_GROUP_FLAGS_*` of a group.
pub(crate) fn group_flags(group: impl AsFd) -> Result<u32> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
    // SAFETY: The kernel writes argsz bytes, which are those of `status`.
    unsafe { with(group, VFIO_GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags)
}

/// Adds a group to a container.
pub(crate) fn set_container(group: impl AsFd, container: impl AsFd) -> Result<()> {
    let mut number: i32 = container.as_fd().as_raw_fd();
    // SAFETY: The kernel reads one int.
    unsafe { with(group, VFIO_GROUP_SET_CONTAINER, &mut number) }.map(drop)
}

/// The device `name` of a group.
pub(crate) fn device_of_group(group: impl AsFd, name: &str) -> Result<OwnedFd> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    // SAFETY: The kernel reads up to the terminating NUL.
    let fd = unsafe { with(group, VFIO_GROUP_GET_DEVICE_FD, bytes.as_mut_slice()) }?;
    // SAFETY: The kernel has just returned this fd, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the fd of a device's character device to an iommufd.
pub(crate) fn bind_iommufd(device: impl AsFd, iommufd: impl AsFd) -> Result<()> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size_of::<vfio_device_bind_iommufd>() as u32,
        flags: 0,
        iommufd: iommufd.as_fd().as_raw_fd(),
        out_devid: 0,
        token_uuid_ptr: 0,
    };
    // SAFETY: The kernel accesses argsz bytes, which are those of `bind`. The flags say that there
    // is no pointer to follow.
    unsafe { with(device, VFIO_DEVICE_BIND_IOMMUFD, &mut bind) }.map(drop)
}

/// The place of region `index` in a device fd.
pub(crate) fn region(device: impl AsFd, index: u32) -> Result<vfio_region_info> {
    let mut info = vfio_region_info {
        argsz: size_of::<vfio_region_info>() as u32,
        flags: 0,
        index,
        cap_offset: 0,
        size: 0,
        offset: 0,
    };
    // SAFETY: The kernel writes at most argsz bytes, which are those of `info`.
    unsafe { with(device, VFIO_DEVICE_GET_REGION_INFO, &mut info) }?;
    Ok(info)
}

/// Resets a device.
pub(crate) fn reset(device: impl AsFd) -> Result<()> {
    with_number(device, VFIO_DEVICE_RESET, 0).map(drop)
}

/// Replaces the name of a dma-buf.
pub(crate) fn set_name(buffer: impl AsFd, name: &CStr) -> Result<()> {
    let mut bytes = name.to_bytes_with_nul().to_vec();
    // SAFETY: The kernel reads up to the terminating NUL.
    unsafe { with(buffer, DMA_BUF_SET_NAME, bytes.as_mut_slice()) }.map(drop)
}

/// A payload of `VFIO_DEVICE_FEATURE`.
///
/// # Safety
///
/// The type is `repr(C)` and consists of numbers, without padding or pointers. Its alignment is at
/// most 8 bytes, and its size is that of the feature's payload.
pub(crate) unsafe trait Payload {}

// SAFETY: As in the header, see tests/uapi.rs.
unsafe impl Payload for uapi::vfio_dmabuf_feature_revoke {}
// SAFETY: Likewise.
unsafe impl Payload for uapi::vfio_dmabuf_feature_memattr {}
// SAFETY: Likewise.
unsafe impl Payload for uapi::vfio_dmabuf_feature_info {}

/// `struct vfio_device_feature` with its payload.
#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    payload: T,
}

/// Calls `VFIO_DEVICE_FEATURE`; `flags` has the operation and the feature number.
pub(crate) fn feature<T: Payload>(device: impl AsFd, flags: u32, payload: T) -> Result<T> {
    let mut call = Feature { argsz: size_of::<Feature<T>>() as u32, flags, payload };
    // SAFETY: The kernel accesses at most argsz bytes, which are those of `call`.
    unsafe { with(device, VFIO_DEVICE_FEATURE, &mut call) }?;
    Ok(call.payload)
}

/// Probes whether a device has a feature with these operations.
pub(crate) fn probe(device: impl AsFd, flags: u32) -> Result<()> {
    let mut call = Feature {
        argsz: size_of::<Feature<()>>() as u32,
        flags: flags | uapi::VFIO_DEVICE_FEATURE_PROBE,
        payload: (),
    };
    // SAFETY: As for feature(); a probe reads the header only.
    unsafe { with(device, VFIO_DEVICE_FEATURE, &mut call) }.map(drop)
}

/// The parameters of an export.
pub(crate) struct Export<'a> {
    /// `VFIO_DEVICE_FEATURE_DMA_BUF`, or one with the same payload.
    pub(crate) feature: u32,
    pub(crate) bar: u32,
    pub(crate) open_flags: u32,
    pub(crate) flags: u32,
    /// Offsets and lengths, bytes.
    pub(crate) ranges: &'a [(u64, u64)],
}

/// Exports ranges of a BAR.
pub(crate) fn export(device: impl AsFd, export: &Export<'_>) -> Result<OwnedFd> {
    const FIXED: usize = 6;
    let words = FIXED + export.ranges.len() * 4;
    // u64s align the ranges; each pair of u32s shares one.
    let mut call: Vec<u64> = Vec::with_capacity(words / 2);
    let pair = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    let flags = uapi::VFIO_DEVICE_FEATURE_GET | export.feature;
    let argsz = u32::try_from(words * 4).map_err(|_| Errno::TOOBIG)?;
    call.push(pair(argsz, flags));
    call.push(pair(export.bar, export.open_flags));
    call.push(pair(export.flags, export.ranges.len() as u32));
    call.extend(export.ranges.iter().flat_map(|&(offset, length)| [offset, length]));
    debug_assert_eq!(call.len() * 2, words);
    // SAFETY: The kernel reads at most argsz bytes, and `call` has that many.
    let fd = unsafe { with(device, VFIO_DEVICE_FEATURE, call.as_mut_slice()) }?;
    // SAFETY: The kernel has just returned this fd, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// pair() puts the first word first.
const _: () = assert!(cfg!(target_endian = "little"));

/// A mapped area, unmapped when dropped. No Rust reference to it is ever made.
#[derive(Debug)]
pub(crate) struct Area {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: An address and a length; the memory belongs to no thread.
unsafe impl Send for Area {}
// SAFETY: Likewise.
unsafe impl Sync for Area {}

impl Area {
    /// Maps `length` bytes of `fd` from `offset`, shared, at an address that the kernel chooses.
    pub(crate) fn map(fd: impl AsFd, offset: u64, length: u64, write: bool) -> Result<Area> {
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, write);
        let length = usize::try_from(length).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: Without MAP_FIXED the kernel picks unused addresses.
        let start = unsafe { mmap(ptr::null_mut(), length, prot, MapFlags::SHARED, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Area { start, length })
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length, bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: This object owns the area, and every access borrows the object.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Duplicates the fd of an object.
#[cfg(feature = "vfio-ioctls")]
pub(crate) fn duplicate(owner: &impl AsRawFd) -> Result<OwnedFd> {
    // SAFETY: `owner` has the fd open, and stays borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

/// Lets the program that `command` starts inherit `fd` under its number, standard input, output and
/// error, and no other fd.
pub(crate) fn inherit_only(command: &mut Command, fd: OwnedFd) {
    let in_child = move || {
        // SAFETY: Marks fds and closes none: the standard library may need its own until exec.
        let all =
            unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
        if all != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?)
    };
    // SAFETY: The closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

/// Duplicates fd `number`, which need not be open.
pub(crate) fn duplicate_number(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: The kernel checks the number; a dup neither closes nor changes anything.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    match fd {
        ..0 => {
            let error = io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::BADF))
        }
        // SAFETY: The kernel has just returned this fd, which nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
