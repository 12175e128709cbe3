// SPDX-License-Identifier: GPL-2.0
//! Mappings, as addresses that are touched through [`crate::fault`] only.

use std::ptr;

use crate::prelude::*;

/// PROT_READ.
pub const RO: i32 = libc::PROT_READ;
/// PROT_READ | PROT_WRITE.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// MAP_SHARED.
pub const SHARED: i32 = libc::MAP_SHARED;
/// MAP_PRIVATE.
pub const PRIVATE: i32 = libc::MAP_PRIVATE;

/// mmap() at an address of the kernel's choice, which is returned.
pub fn map(fd: RawFd, len: u64, prot: i32, flags: i32, offset: u64) -> Result<usize, Errno> {
    assert_eq!(flags & libc::MAP_FIXED, 0, "a fixed mapping could hit Rust's own memory");
    // SAFETY: without MAP_FIXED the kernel picks unused addresses.
    let address =
        unsafe { libc::mmap(ptr::null_mut(), len as usize, prot, flags, fd, offset as i64) };
    address_or_errno(address)
}

/// mmap() at the start of a block, so that the kernel may use one entry for it.
pub fn map_aligned(fd: RawFd, len: u64, prot: i32, offset: u64) -> Result<usize, Errno> {
    map_at_multiple_of(BLOCK as usize, len, fd, len, prot, offset)
}

/// mmap() at the start of a 1 GiB boundary.
pub fn map_gigabyte_aligned(fd: RawFd, len: u64, prot: i32, offset: u64) -> Result<usize, Errno> {
    map_at_multiple_of(1 << 30, len, fd, len, prot, offset)
}

/// mmap() at the start of a GiB that has nothing else in it: there is no page table for it yet.
pub fn map_alone(fd: RawFd, len: u64, prot: i32, offset: u64) -> Result<usize, Errno> {
    map_at_multiple_of(1 << 30, 1 << 30, fd, len, prot, offset)
}

/// With nothing else in the first `room` bytes from its start.
fn map_at_multiple_of(
    align: usize,
    room: u64,
    fd: RawFd,
    len: u64,
    prot: i32,
    offset: u64,
) -> Result<usize, Errno> {
    let (len, room) = (len as usize, room as usize);
    let reserved = map(
        -1,
        (room + align) as u64,
        libc::PROT_NONE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        0,
    )?;
    let address = reserved.next_multiple_of(align);
    unmap(reserved, (address - reserved) as u64)?;
    unmap(address + len, (reserved + room + align - address - len) as u64)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: [address, address + len) is the rest of the reservation made above.
    let got = unsafe { libc::mmap(address as *mut _, len, prot, flags, fd, offset as i64) };
    address_or_errno(got).inspect_err(|_| {
        let _ = unmap(address, len as u64);
    })
}

/// The result of a system call that returns an address or `MAP_FAILED`.
pub(crate) fn address_or_errno(returned: *mut libc::c_void) -> Result<usize, Errno> {
    if returned == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(returned as usize)
}

/// munmap(). Only for addresses that came from this module.
pub fn unmap(address: usize, len: u64) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    // SAFETY: no Rust object lives in memory that this module mapped.
    Errno::result(unsafe { libc::munmap(address as *mut _, len as usize) }).map(drop)
}

/// mprotect(). Only for addresses that came from this module.
pub fn protect(address: usize, len: u64, prot: i32) -> Result<(), Errno> {
    // SAFETY: as for unmap().
    Errno::result(unsafe { libc::mprotect(address as *mut _, len as usize, prot) }).map(drop)
}

/// mremap(), which may move the mapping (`MREMAP_MAYMOVE`). Only for addresses of this module.
pub fn remap(address: usize, len: u64, new_len: u64) -> Result<usize, Errno> {
    let (address, len, new_len) = (address as *mut _, len as usize, new_len as usize);
    // SAFETY: as for unmap(); the new place is of the kernel's choice.
    let address = unsafe { libc::mremap(address, len, new_len, libc::MREMAP_MAYMOVE) };
    address_or_errno(address)
}

/// mremap() that certainly moves the mapping, to a place that was unused.
pub fn move_away(address: usize, len: u64) -> Result<usize, Errno> {
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let target = map(-1, len, libc::PROT_NONE, anonymous, 0)?;
    move_to(address, len, target)
}

/// mremap() to a place that is part of a mapping of this module, which it replaces there.
pub fn move_to(address: usize, len: u64, target: usize) -> Result<usize, Errno> {
    let (old, len) = (address as *mut _, len as usize);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both places are mappings of this module, in which no Rust object lives.
    let got = unsafe { libc::mremap(old, len, len, flags, target as *mut libc::c_void) };
    address_or_errno(got)
}

/// remap_file_pages(): lets part of a mapping show the file from page `page` on. Only for addresses
/// of this module.
pub fn remap_file_pages(address: usize, len: u64, page: u64) -> Result<(), Errno> {
    // SAFETY: as for unmap().
    let done = unsafe { libc::remap_file_pages(address as *mut _, len as usize, 0, page as _, 0) };
    Errno::result(done).map(drop)
}

/// vmsplice(): puts the pages of a mapping into a pipe, as O_DIRECT puts them into a request.
pub fn vmsplice(pipe: RawFd, address: usize, len: u64) -> Result<usize, Errno> {
    let part = libc::iovec { iov_base: address as *mut _, iov_len: len as usize };
    // SAFETY: the kernel only reads `part`, and checks the memory that it names.
    let done = unsafe { libc::vmsplice(pipe, &part, 1, libc::SPLICE_F_NONBLOCK) };
    Errno::result(done).map(|done| done as usize)
}

/// pread() into a mapping of this module, by its address.
pub fn read_at(fd: RawFd, address: usize, len: u64, offset: i64) -> Result<usize, Errno> {
    // SAFETY: as for unmap(); holders of a mapping expect its contents to change.
    let done = unsafe { libc::pread(fd, address as *mut _, len as usize, offset) };
    Errno::result(done).map(|done| done as usize)
}

/// pwrite() from a mapping of this module, by its address.
pub fn write_at(fd: RawFd, address: usize, len: u64, offset: i64) -> Result<usize, Errno> {
    // SAFETY: the kernel only reads the memory, and checks it.
    let done = unsafe { libc::pwrite(fd, address as *const _, len as usize, offset) };
    Errno::result(done).map(|done| done as usize)
}

/// Lets the kernel read four bytes at `address`: a fault there that fails is an EFAULT.
pub fn load_by_kernel(address: usize) -> Result<(), Errno> {
    // FIONBIO reads a number and sets or clears a flag of an open file, which may be any.
    crate::sys::ioctl(libc::STDIN_FILENO, libc::FIONBIO as u32, address).map(drop)
}

/// Lets the kernel write `value`, of 11 bits, to `address` in one go (`FUTEX_OP_SET`).
///
/// A fault there is resolved with `mmap_lock` held all the time (`fault_in_user_writeable()`).
pub fn futex_set(address: usize, value: u32) -> Result<(), Errno> {
    assert!(value < 1 << 11, "the kernel would take it for a negative number");
    let nobody_waits_here = 0u32;
    let operation = libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG;
    let set = (libc::FUTEX_OP_SET << 28) as u32 | (value << 12);
    // SAFETY: as for unmap(): the kernel writes to memory of this module, or fails.
    let done = unsafe {
        libc::syscall(
            libc::SYS_futex,
            &raw const nobody_waits_here,
            operation,
            0,
            0usize,
            address,
            set,
        )
    };
    Errno::result(done).map(drop)
}

/// mlock().
pub fn lock(address: usize, len: u64) -> Result<(), Errno> {
    // SAFETY: changes nothing that a program can see.
    Errno::result(unsafe { libc::mlock(address as *const _, len as usize) }).map(drop)
}

/// madvise(). Only for addresses that came from this module.
pub fn advise(address: usize, len: u64, advice: i32) -> Result<(), Errno> {
    // SAFETY: as for unmap().
    Errno::result(unsafe { libc::madvise(address as *mut _, len as usize, advice) }).map(drop)
}

/// A mapping that ends with its owner.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    len: u64,
}

impl Mapping {
    /// Maps `len` bytes from `offset` of `fd`, shared.
    pub fn new(fd: impl AsFd, len: u64, prot: i32, offset: u64) -> Result<Mapping, Errno> {
        let address = map(fd.as_fd().as_raw_fd(), len, prot, SHARED, offset)?;
        Ok(Mapping { address, len })
    }

    /// Maps `len` bytes from `offset` of `fd`, readable and writable, at a multiple of 2 MiB.
    pub fn aligned(fd: impl AsFd, len: u64, offset: u64) -> Result<Mapping, Errno> {
        let address = map_aligned(fd.as_fd().as_raw_fd(), len, RW, offset)?;
        Ok(Mapping { address, len })
    }

    /// Private memory that belongs to no file.
    pub fn anonymous(len: u64) -> Result<Mapping, Errno> {
        let address = map(-1, len, RW, PRIVATE | libc::MAP_ANONYMOUS, 0)?;
        Ok(Mapping { address, len })
    }

    /// Memory that belongs to no file, which later children share.
    pub fn anonymous_shared(len: u64) -> Result<Mapping, Errno> {
        let address = map(-1, len, RW, SHARED | libc::MAP_ANONYMOUS, 0)?;
        Ok(Mapping { address, len })
    }

    /// Takes over a mapping that was made by [`map`] or its kin.
    pub fn from_raw(address: usize, len: u64) -> Mapping {
        Mapping { address, len }
    }

    /// Where it is.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Its length, bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Reads four bytes at `offset` of the mapping.
    pub fn load(&self, offset: u64) -> Result<u32, Fault> {
        fault::load32(self.address + offset as usize)
    }

    /// Writes four bytes at `offset` of the mapping.
    pub fn store(&self, offset: u64, value: u32) -> Result<(), Fault> {
        assert!(offset + 4 <= self.len, "a store outside of the mapping could hit Rust's memory");
        fault::store32(self.address + offset as usize, value)
    }

    /// munmap() of a part, which leaves a hole.
    pub fn unmap_part(&self, offset: u64, len: u64) -> Result<(), Errno> {
        unmap(self.address + offset as usize, len)
    }

    /// Maps `fd` in the place of a part.
    pub fn replace_part(&self, offset: u64, len: u64, fd: impl AsFd) -> Result<(), Errno> {
        assert!(offset + len <= self.len, "there is Rust's memory");
        let (at, fd) = ((self.address + offset as usize) as *mut _, fd.as_fd().as_raw_fd());
        // SAFETY: in memory that this module mapped there is no Rust object.
        let got = unsafe { libc::mmap(at, len as usize, RW, SHARED | libc::MAP_FIXED, fd, 0) };
        address_or_errno(got).map(drop)
    }

    /// mprotect() of a part.
    pub fn protect_part(&self, offset: u64, len: u64, prot: i32) -> Result<(), Errno> {
        protect(self.address + offset as usize, len, prot)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = unmap(self.address, self.len);
    }
}
