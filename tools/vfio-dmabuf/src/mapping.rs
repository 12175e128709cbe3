// SPDX-License-Identifier: GPL-2.0
//! Device memory in this process.

use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::arch;
use crate::error::{AccessError, Error, Tried};
use crate::guard;
use crate::sys::Area;

/// The access mode of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read-only.
    Read,
    /// Readable and writable.
    ReadWrite,
}

/// The element types of accesses: `u8`, `u16`, `u32`, `u64`.
pub trait Word: Copy + Default + sealed::Sealed {}

mod sealed {
    /// The widths that [`guard`](crate::guard) supports.
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// Mapped device memory, of a [`Buffer`](crate::Buffer) or of a BAR.
///
/// Only these methods access it. Each element is one access of exactly its width, in the order of
/// the calls; accesses are not split, merged or omitted. They are ordered against other memory as
/// those of the kernel's `readl()` and `writel()`: what the thread has written before a write is
/// there when the device sees that write, and what it reads after a read is read after it. Offsets
/// are bytes from the start of the mapping and must be multiples of the width. Values have the byte
/// order of the CPU, little-endian as on PCI.
///
/// An access after a revoke returns [`AccessError::Lost`]; [`guard`] explains its cost and limits.
/// Several threads may use one mapping; their accesses reach the device in any order.
///
/// ```
/// # use vfio_dmabuf::{Access, AccessError, Mapping};
/// # fn demo() -> Result<(), vfio_dmabuf::Error> {
/// # let file = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
/// # rustix::fs::ftruncate(&file, 4096).unwrap();
/// # let mapping = Mapping::of_file(&file, 0, 4096, Access::ReadWrite)?;
/// mapping.write(4, 0x1234_5678_u32)?;
/// assert_eq!(mapping.read::<u16>(4)?, 0x5678);
/// assert_eq!(
///     mapping.read::<u32>(2),
///     Err(AccessError::Alignment { offset: 2, width: 4 })
/// );
/// # Ok(())
/// # }
/// # demo().unwrap();
/// ```
#[derive(Debug)]
pub struct Mapping {
    area: Area,
    access: Access,
}

impl Mapping {
    /// Maps `length` bytes of any file from `offset`, shared.
    ///
    /// Programs use [`Buffer::map`](crate::Buffer::map) and
    /// [`Device::map_bar`](crate::Device::map_bar). This function is for device memory from other
    /// sources, and for tests.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], as for mmap().
    pub fn of_file(
        file: impl AsFd,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Mapping, Error> {
        Mapping::new(file, offset, length, access)
            .tried(format_args!("mmap of {length:#x} bytes at {offset:#x}"))
    }

    pub(crate) fn new(
        file: impl AsFd,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Mapping, Errno> {
        guard::install();
        let area = Area::map(file, offset, length, access == Access::ReadWrite)?;
        Ok(Mapping { area, access })
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.area.length() as u64
    }

    /// Its access mode.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Reads one element.
    ///
    /// # Errors
    ///
    /// [`AccessError::Bounds`], [`AccessError::Alignment`], [`AccessError::Lost`].
    pub fn read<T: Word>(&self, offset: u64) -> Result<T, AccessError> {
        let mut value = [T::default()];
        self.read_slice(offset, &mut value)?;
        Ok(value[0])
    }

    /// Writes one element.
    ///
    /// A write to the bus is posted: the device may not have seen it when this returns. A write
    /// after a revoke returns an error and never reaches the device.
    ///
    /// # Errors
    ///
    /// [`AccessError::ReadOnly`], [`AccessError::Bounds`], [`AccessError::Alignment`],
    /// [`AccessError::Lost`].
    pub fn write<T: Word>(&self, offset: u64, value: T) -> Result<(), AccessError> {
        self.write_slice(offset, &[value])
    }

    /// Reads `values.len()` consecutive elements, one access each, in ascending order.
    ///
    /// # Errors
    ///
    /// As [`Mapping::read`]. The elements before the lost one were read.
    pub fn read_slice<T: Word>(&self, offset: u64, values: &mut [T]) -> Result<(), AccessError> {
        self.check::<T>(offset, values.len())?;
        let left = guard::load(&self.area, offset as usize, values);
        arch::after_load();
        lost::<T>(offset, values.len(), left)
    }

    /// Writes consecutive elements, one access each, in ascending order.
    ///
    /// # Errors
    ///
    /// As [`Mapping::write`]. The elements before the lost one were written.
    pub fn write_slice<T: Word>(&self, offset: u64, values: &[T]) -> Result<(), AccessError> {
        if self.access == Access::Read {
            return Err(AccessError::ReadOnly);
        }
        self.check::<T>(offset, values.len())?;
        arch::before_store();
        let left = guard::store(&self.area, offset as usize, values);
        lost::<T>(offset, values.len(), left)
    }

    /// Orders write-combining writes of this thread: all earlier ones reach the bus before any
    /// later access. On x86-64, uncached mappings do not need it. On arm64 they need it between a
    /// store to memory and the write that tells the device to read that memory.
    pub fn write_barrier(&self) {
        arch::store_fence();
    }

    /// The address of the first byte, for unguarded accesses. After a revoke such an access raises
    /// SIGBUS. Valid while the mapping lives. Never make a reference from it: device memory changes
    /// by itself.
    pub fn as_ptr(&self) -> *mut u8 {
        self.area.start().as_ptr()
    }

    fn check<T>(&self, offset: u64, count: usize) -> Result<(), AccessError> {
        let (width, size) = (size_of::<T>() as u64, self.size());
        let length = (count as u64).saturating_mul(width);
        if offset % width != 0 {
            return Err(AccessError::Alignment { offset, width });
        }
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(AccessError::Bounds { offset, length, size }),
        }
    }
}

fn lost<T>(offset: u64, count: usize, left: usize) -> Result<(), AccessError> {
    if left == 0 {
        return Ok(());
    }
    let done = (count - left) * size_of::<T>();
    Err(AccessError::Lost { offset: offset + done as u64 })
}
