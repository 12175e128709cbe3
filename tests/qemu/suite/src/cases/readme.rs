// SPDX-License-Identifier: GPL-2.0
//! The programs in the READMEs work as they stand there.

use guest::readme::{c, slice};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "the programs in the README work as they stand there": [
            readme_c_program_exports_and_revokes, readme_rust_program_exports_and_revokes,
        ];
}

/// The program itself checks that SIGBUS ends its client.
fn readme_c_program_exports_and_revokes() -> Result<()> {
    let edu = edu()?;
    let group = format!("/dev/vfio/{}", edu.group()?);
    check::equal("exit status", c::main(&["slice", &group, edu.address()])?, 0)
}

fn readme_rust_program_exports_and_revokes() -> Result<()> {
    let device = open_edu()?;
    let slice = slice::export(device.as_fd(), 0, 0, PAGE).context("export")?;
    let mapping = check::works("mmap", Mapping::new(&slice, PAGE, mm::RW, 0))?;
    check::value("before", mapping.load(ID_AT), ID)?;
    slice::revoke(device.as_fd(), slice.as_fd()).context("revoke")?;
    check::bus_error("after", mapping.load(ID_AT))?;
    let again = slice::revoke(device.as_fd(), slice.as_fd()).map_err(|err| err.raw_os_error());
    check::equal("the second time", again, Err(Some(libc::EBADFD)))?;
    let past = slice::export(device.as_fd(), 0, 1 << 20, PAGE).map_err(|err| err.raw_os_error());
    check::equal("past the BAR", past.map(drop), Err(Some(libc::EINVAL)))
}
