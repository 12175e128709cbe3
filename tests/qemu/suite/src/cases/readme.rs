// SPDX-License-Identifier: GPL-2.0
//! What the README shows works as it stands there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use guest::mm::{self, Mapping};
use guest::pci::EDU;
use guest::readme::{c, slice};
use guest::PAGE;

use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{open_edu, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        "the programs in the README work as they stand there": [
            readme_c_program_exports_and_revokes, readme_rust_program_exports_and_revokes,
        ];
}

type ExportFn = fn(BorrowedFd<'_>, u32, u64, u64) -> io::Result<OwnedFd>;
type RevokeFn = fn(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>;

fn readme_c_program_exports_and_revokes() -> Result<()> {
    export_and_revoke(c::export, c::revoke)
}

fn readme_rust_program_exports_and_revokes() -> Result<()> {
    export_and_revoke(slice::export, slice::revoke)
}

fn export_and_revoke(export: ExportFn, revoke: RevokeFn) -> Result<()> {
    let device = open_edu()?;
    let slice = export(device.as_fd(), 0, 0, PAGE).context("export")?;
    let mapping = check::works("mmap", Mapping::new(&slice, PAGE, mm::RW, 0))?;
    check::value("before", mapping.load(ID_AT), ID)?;
    revoke(device.as_fd(), slice.as_fd()).context("revoke")?;
    check::bus_error("after", mapping.load(ID_AT))?;
    let again = revoke(device.as_fd(), slice.as_fd()).map_err(|err| err.raw_os_error());
    check::equal("the second time", again, Err(Some(libc::EBADFD)))?;
    let past = export(device.as_fd(), 0, 1 << 20, PAGE).map_err(|err| err.raw_os_error());
    check::equal("past the BAR", past.map(drop), Err(Some(libc::EINVAL)))
}
