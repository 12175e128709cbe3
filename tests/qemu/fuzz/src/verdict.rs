// SPDX-License-Identifier: GPL-2.0
//! The permitted answers of each call.

use guest::arch::USER_END;
use guest::prelude::*;
use libc::*;

use crate::memory::Place;
use crate::op::{Op, Word};
use crate::run::Answer;
use crate::world::{Handle, Role, World};

const EXPORT: &[i32] =
    &[EINVAL, EOVERFLOW, E2BIG, ENODEV, EFAULT, ENOSPC, EOPNOTSUPP, EMFILE, ENFILE, ENOMEM];
const REVOKE: &[i32] = &[EINVAL, EFAULT, EBADF, ENODEV, EBADFD];
const MEMATTR: &[i32] = &[EINVAL, EFAULT, EBADF, ENODEV, EOPNOTSUPP];
const INFO: &[i32] = &[EINVAL, EFAULT, EBADF, ENODEV];
const NO_FEATURE: &[i32] = &[EINVAL, EFAULT, ENOTTY];
const MMAP: &[i32] = &[EINVAL, ENODEV, EACCES, EBADF, ENOMEM, EOVERFLOW, EPERM, EOPNOTSUPP, EAGAIN];
const REGION: &[i32] = &[EINVAL, EFAULT, EIO, EBADF, ENOMEM, ENODEV, EPERM, EBUSY];
const SYNC: &[i32] = &[EINVAL, EFAULT];
const SYNC_FILE: &[i32] = &[EINVAL, EFAULT, EMFILE, ENOMEM];
const SET_NAME: &[i32] = &[EINVAL, EFAULT, ENOMEM];
/// The file has no such ioctl.
const NO_IOCTL: &[i32] = &[ENOTTY];
/// The device file is not bound.
const UNBOUND: &[i32] = &[EINVAL];
const NO_FILE: &[i32] = &[EBADF];

/// The highest errno of user space (EHWPOISON). Higher ones are internal to the kernel.
const LAST: i32 = 133;

/// The errors that `op` may return, or `None` for any.
fn allowed(op: &Op, world: &World) -> Option<&'static [i32]> {
    match *op {
        Op::Device { .. } if world.device.is_none() => Some(NO_FILE),
        // The VFS handles some other ioctls before the file does.
        Op::Device { request, .. } if world.role == Role::Unbound => {
            (request >> 8 == u32::from(b';')).then_some(UNBOUND)
        }
        Op::Device { request: uapi::VFIO_DEVICE_FEATURE, ref words, place } => {
            is_exact(place).then(|| of_feature(words)).flatten()
        }
        Op::Device { request: uapi::VFIO_DMABUF_IOCTL_REVOKE, .. } => Some(REVOKE),
        Op::File { file: Handle::Live(_), .. } if world.pool.is_empty() => Some(NO_FILE),
        Op::File { request, .. } => match request {
            uapi::DMA_BUF_IOCTL_SYNC => Some(SYNC),
            uapi::DMA_BUF_IOCTL_EXPORT_SYNC_FILE => Some(SYNC_FILE),
            uapi::DMA_BUF_IOCTL_IMPORT_SYNC_FILE => Some(SYNC_FILE),
            uapi::DMA_BUF_SET_NAME_A | uapi::DMA_BUF_SET_NAME_B => Some(SET_NAME),
            uapi::VFIO_DEVICE_FEATURE => Some(NO_IOCTL),
            _ => None,
        },
        Op::Mmap { .. } => Some(MMAP),
        Op::Region { .. } if world.device.is_none() => Some(NO_FILE),
        Op::Region { .. } => Some(REGION),
        Op::Device { .. } | Op::Call { .. } => None,
    }
}

/// Whether the bytes that the kernel can read are those that were stored.
fn is_exact(place: Place) -> bool {
    matches!(place, Place::Plain | Place::Unaligned(_) | Place::Edge(_) | Place::ReadOnly)
}

fn of_feature(words: &[Word]) -> Option<&'static [i32]> {
    let &Word::Is(flags) = words.get(1)? else { return None };
    match flags & uapi::VFIO_DEVICE_FEATURE_MASK {
        uapi::VFIO_DEVICE_FEATURE_DMA_BUF | uapi::VFIO_DMABUF_IOMMUFD => Some(EXPORT),
        uapi::VFIO_DMABUF_REVOKE => Some(REVOKE),
        uapi::VFIO_DMABUF_MEMATTR => Some(MEMATTR),
        uapi::VFIO_DMABUF_INFO => Some(INFO),
        0xff00.. => Some(NO_FEATURE),
        _ => None,
    }
}

/// Checks that `op` may return this answer and make this buffer.
pub fn judge(op: &Op, world: &World, answer: Answer, made: Option<&Buffer>) -> Result<()> {
    match answer {
        Ok(value) => good(op, world, value, made),
        Err(errno) => {
            ensure!((1..=LAST).contains(&errno), "error {errno} is no user's");
            let allowed = allowed(op, world);
            let fine = allowed.is_none_or(|allowed| allowed.contains(&errno));
            ensure!(fine, "{}", std::io::Error::from_raw_os_error(errno));
            Ok(())
        }
    }
}

fn good(op: &Op, world: &World, value: u64, made: Option<&Buffer>) -> Result<()> {
    match *op {
        Op::Device { request: uapi::VFIO_DEVICE_FEATURE, ref words, place } => {
            ensure!(world.role != Role::Unbound, "the device is not bound");
            if is_exact(place) {
                has_a_buffer(words)?;
            }
            match made {
                Some(buffer) if is_exact(place) => size_is_right(world, words, buffer)?,
                Some(_) => {}
                None => ensure!(value == 0, "{value:#x}"),
            }
        }
        Op::Device { request: uapi::VFIO_DMABUF_IOCTL_REVOKE, ref words, place } => {
            ensure!(value == 0, "{value:#x}");
            if let (true, Some(&Word::Fd(handle))) = (is_exact(place), words.get(1)) {
                ensure!(can_be_revoked(handle), "{handle:?} was revoked");
            }
        }
        Op::Device { .. } => ensure!(value <= 1, "{value:#x}"),
        Op::Mmap { file, len, offset, .. } => {
            ensure!(value % PAGE == 0 && value > 0 && value.checked_add(len).is_some_and(user));
            let end = offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE));
            let size = mappable(world, file, offset)?;
            ensure!(end.is_some_and(|end| end <= size), "{size:#x} bytes can be mapped");
        }
        Op::Region { len, .. } => ensure!(value <= len, "{value:#x} of {len:#x} bytes"),
        Op::File { .. } | Op::Call { .. } => {}
    }
    Ok(())
}

/// Checks that a feature that succeeded was given a buffer on which it works.
fn has_a_buffer(words: &[Word]) -> Result<()> {
    let (Some(&Word::Is(flags)), Some(&Word::Fd(handle))) = (words.get(1), words.get(2)) else {
        return Ok(());
    };
    let fine = match flags & uapi::VFIO_DEVICE_FEATURE_MASK {
        _ if flags & feature::PROBE != 0 => true,
        uapi::VFIO_DMABUF_REVOKE => can_be_revoked(handle),
        uapi::VFIO_DMABUF_MEMATTR => matches!(handle, Handle::Live(_) | Handle::Revoked),
        uapi::VFIO_DMABUF_INFO => {
            matches!(handle, Handle::Live(_) | Handle::Revoked | Handle::Dead)
        }
        _ => true,
    };
    ensure!(fine, "it worked on {handle:?}");
    Ok(())
}

/// Whether REVOKE of it may succeed.
fn can_be_revoked(handle: Handle) -> bool {
    matches!(handle, Handle::Live(_))
}

/// The end of the mappable part of a file around `offset`.
fn mappable(world: &World, file: Handle, offset: u64) -> Result<u64> {
    match file {
        Handle::Live(_) => Ok(raw::call(libc::SYS_lseek, [world.fd(file) as u64, 0, 2, 0, 0, 0])
            .map_err(std::io::Error::from_raw_os_error)?),
        Handle::Device => {
            let device = world.device.as_ref().context("without the device")?;
            let region = device.region((offset >> 40) as u32)?;
            ensure!(offset >> 40 < uapi::VFIO_PCI_ROM_REGION_INDEX.into(), "it is no BAR");
            Ok(region.offset + region.size.next_multiple_of(PAGE))
        }
        _ => bail!("{file:?} was mapped"),
    }
}

/// Whether an address can belong to user space.
fn user(address: u64) -> bool {
    address < USER_END
}

/// Checks that only GET of DMA_BUF made a buffer, and that its size is the sum of the lengths.
fn size_is_right(world: &World, words: &[Word], buffer: &Buffer) -> Result<()> {
    let number = |at: usize| match words.get(at) {
        Some(&Word::Is(number)) => u64::from(number),
        _ => 0,
    };
    if number(1) == u64::from(feature::GET | uapi::VFIO_DMABUF_IOMMUFD) {
        ensure!(!is_ours(buffer), "the core did not make the dma-buf");
        return Ok(());
    }
    let wanted = feature::GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    ensure!(number(1) == wanted.into() && is_ours(buffer), "it made a buffer");
    let ranges = number(5) as usize;
    let sum: u64 = (0..ranges).map(|at| number(8 + 4 * at) + (number(9 + 4 * at) << 32)).sum();
    // Ranges past those that were stored hold earlier contents of the memory.
    let Some(device) = world.device.as_ref().filter(|_| words.len() as u64 >= 6 + 4 * number(5))
    else {
        return Ok(());
    };
    let info = buffer::info(device, buffer.raw())?;
    let got = (info.size, u64::from(info.nr_ranges));
    ensure!(got == (sum, number(5)), "size and ranges are {got:x?}");
    Ok(())
}

/// Whether it is a buffer of this driver, not a dma-buf that the core made for iommufd.
pub fn is_ours(buffer: &Buffer) -> bool {
    buffer.fdinfo().is_ok_and(|text| text.contains("exp_name:\tdmabuf-vfio-pci\n"))
}
