// SPDX-License-Identifier: GPL-2.0
//! The system calls that Rust cannot check: ioctls and mmap().
//!
//! An ioctl is safe when the kernel touches no memory but the argument that it was given. So the
//! argument types are listed here, each with the one request that takes it, and their sizes are
//! filled in here. Who calls must have made sure that the fd is one of VFIO's (or a dma-buf, for
//! its own ioctl): another driver may know the same number for something else. Everything in this
//! module is for the crate alone, and the crate holds such fds in types of their own.

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

/// VFIO's `number`th ioctl.
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

/// `_IOW(DMA_BUF_BASE, 1, __u64)`: the form whose number does not depend on the word size.
const DMA_BUF_SET_NAME: Opcode = opcode::write::<u64>(b'b', 1);

/// Any ioctl: `arg` goes to the kernel as it is, and its return value comes back.
struct Call<'a> {
    request: Opcode,
    arg: *mut c_void,
    borrowed: PhantomData<&'a mut ()>,
}

// SAFETY: The opcode is the call's own, and the output is the return value itself. That the
// argument suits the opcode is up to those who make a Call: each function below says why it does.
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

/// A request whose argument is a number, or nothing.
fn with_number(fd: impl AsFd, request: Opcode, arg: usize) -> Result<i32> {
    let arg = ptr::without_provenance_mut(arg);
    let call = Call { request, arg, borrowed: PhantomData };
    // SAFETY: Called with requests that take no pointer, see below.
    unsafe { ioctl(fd, call) }
}

/// A request whose argument is a `T`, which the kernel may change.
///
/// # Safety
///
/// The kernel must access nothing but `arg` for this request.
unsafe fn with<T: ?Sized>(fd: impl AsFd, request: Opcode, arg: &mut T) -> Result<i32> {
    let call = Call { request, arg: ptr::from_mut(arg).cast(), borrowed: PhantomData };
    // SAFETY: As the caller promises.
    unsafe { ioctl(fd, call) }
}

/// The version of the VFIO API that a container speaks.
pub(crate) fn api_version(container: impl AsFd) -> Result<i32> {
    with_number(container, VFIO_GET_API_VERSION, 0)
}

/// Gives a container the IOMMU model `model`.
pub(crate) fn set_iommu(container: impl AsFd, model: u32) -> Result<()> {
    with_number(container, VFIO_SET_IOMMU, model as usize).map(drop)
}

/// `VFIO_GROUP_FLAGS_*` of a group.
pub(crate) fn group_flags(group: impl AsFd) -> Result<u32> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
    // SAFETY: The kernel writes argsz bytes, which are those of `status`.
    unsafe { with(group, VFIO_GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags)
}

/// Puts a group into a container.
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
    // SAFETY: The kernel made this fd for us.
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
    // SAFETY: The kernel accesses argsz bytes, which are those of `bind`; it follows no pointer, as
    // flags do not say that there is one.
    unsafe { with(device, VFIO_DEVICE_BIND_IOMMUFD, &mut bind) }.map(drop)
}

/// Where region `index` of a device is in its fd.
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
/// The type is `repr(C)` and made of numbers, without padding and pointers, at most 8 bytes
/// aligned, and of the size that the feature has.
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

/// One call of `VFIO_DEVICE_FEATURE`; `flags` are the operation and the feature.
pub(crate) fn feature<T: Payload>(device: impl AsFd, flags: u32, payload: T) -> Result<T> {
    let mut call = Feature { argsz: size_of::<Feature<T>>() as u32, flags, payload };
    // SAFETY: The kernel accesses at most argsz bytes, which are those of `call`.
    unsafe { with(device, VFIO_DEVICE_FEATURE, &mut call) }?;
    Ok(call.payload)
}

/// Asks whether a device has a feature with these operations.
pub(crate) fn probe(device: impl AsFd, flags: u32) -> Result<()> {
    let mut call = Feature {
        argsz: size_of::<Feature<()>>() as u32,
        flags: flags | uapi::VFIO_DEVICE_FEATURE_PROBE,
        payload: (),
    };
    // SAFETY: As for feature(); a probe reads the header only.
    unsafe { with(device, VFIO_DEVICE_FEATURE, &mut call) }.map(drop)
}

/// What an export is made of.
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
    // u64s, for the alignment of the ranges; each word pair is two u32s.
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
    // SAFETY: The kernel made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// pair() puts the first word first.
const _: () = assert!(cfg!(target_endian = "little"));

/// Memory that mmap() gave us, until it is dropped. No Rust reference to it is ever made.
#[derive(Debug)]
pub(crate) struct Area {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: An address and a length; what is behind them belongs to no thread.
unsafe impl Send for Area {}
// SAFETY: Likewise.
unsafe impl Sync for Area {}

impl Area {
    /// Maps `length` bytes of `fd` from `offset`, shared, where the kernel likes.
    pub(crate) fn map(fd: impl AsFd, offset: u64, length: u64, write: bool) -> Result<Area> {
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, write);
        let length = usize::try_from(length).map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: Without MAP_FIXED the kernel picks addresses that nobody uses.
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
        // SAFETY: The area is ours, and whoever accesses it borrows us meanwhile.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Puts write-combining writes of this thread in order before all of its later accesses.
pub(crate) fn store_fence() {
    // SAFETY: SFENCE is there on every x86-64 CPU.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

/// Another fd of what an object has open.
#[cfg(feature = "vfio-ioctls")]
pub(crate) fn duplicate(owner: &impl AsRawFd) -> Result<OwnedFd> {
    // SAFETY: `owner` has it open, and is borrowed meanwhile.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(owner.as_raw_fd()) };
    rustix::io::fcntl_dupfd_cloexec(fd, 0)
}

/// Lets the program that `command` starts inherit `fd`, with its number, and no other fd but
/// standard input, output and error.
pub(crate) fn inherit_only(command: &mut Command, fd: OwnedFd) {
    let in_child = move || {
        // SAFETY: Marks fds, closes none: the standard library may need its own until exec.
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

/// Another fd of whatever is open under `number`, which may be nothing.
pub(crate) fn duplicate_number(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: The kernel looks whether it is open; a dup closes nothing and changes nothing.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    match fd {
        ..0 => {
            let error = io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::BADF))
        }
        // SAFETY: The kernel made this fd for us.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}
