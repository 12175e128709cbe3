// SPDX-License-Identifier: GPL-2.0
//! A part of the address space for mappings at addresses of the caller's choice.
//!
//! The kernel gives out addresses from the top and the program is loaded near the top, too. So
//! nothing but what is mapped here is ever here: a hole that munmap() leaves stays a hole, and a
//! store to it is a SIGSEGV.

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::mm::address_or_errno;

/// Its first address: 64 GiB.
pub const START: usize = 0x10_0000_0000;
/// The first address behind it.
pub const END: usize = START + (64 << 30);

fn check(address: usize, len: u64) {
    let end = address.checked_add(len as usize);
    assert!(
        address >= START && end.is_some_and(|end| end <= END),
        "{address:#x} is not in the arena"
    );
}

/// mmap() at `address`, where nothing may be mapped (`EEXIST`).
pub fn map(
    address: usize,
    fd: RawFd,
    len: u64,
    prot: i32,
    flags: i32,
    offset: u64,
) -> Result<(), Errno> {
    check(address, len);
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: never replaces a mapping.
    let got =
        unsafe { libc::mmap(address as *mut _, len as usize, prot, flags, fd, offset as i64) };
    address_or_errno(got).map(|got| assert_eq!(got, address))
}

/// mremap() to `target`; whatever of the arena was there is unmapped.
pub fn move_to(address: usize, len: u64, target: usize) -> Result<(), Errno> {
    check(address, len);
    check(target, len);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let (old, new) = (address as *mut libc::c_void, target as *mut libc::c_void);
    // SAFETY: no Rust object lives in the arena.
    let got = unsafe { libc::mremap(old, len as usize, len as usize, flags, new) };
    address_or_errno(got).map(drop)
}

/// mremap() to another size, without moving.
pub fn resize(address: usize, len: u64, new_len: u64) -> Result<(), Errno> {
    check(address, len);
    check(address, new_len);
    // SAFETY: no Rust object lives in the arena, and nothing outside of it is touched.
    let got = unsafe { libc::mremap(address as *mut _, len as usize, new_len as usize, 0) };
    address_or_errno(got).map(drop)
}

/// munmap(); the part may have holes.
pub fn unmap(address: usize, len: u64) -> Result<(), Errno> {
    check(address, len);
    crate::mm::unmap(address, len)
}

/// mprotect()
pub fn protect(address: usize, len: u64, prot: i32) -> Result<(), Errno> {
    check(address, len);
    crate::mm::protect(address, len, prot)
}
