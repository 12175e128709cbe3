// SPDX-License-Identifier: GPL-2.0
//! Assertions. Each says what was checked, what came and what was expected.

use std::fmt::{Debug, LowerHex};

use anyhow::{bail, ensure, Result};
use guest::fault::Fault;
use guest::Errno;

/// `got` is `want`.
pub fn equal<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<()> {
    ensure!(got == want, "{what}: {got:?}, expected {want:?}");
    Ok(())
}

/// The access gave `want`.
pub fn value<T: PartialEq + LowerHex>(what: &str, got: Result<T, Fault>, want: T) -> Result<()> {
    match got {
        Ok(got) => ensure!(got == want, "{what}: {got:#x}, expected {want:#x}"),
        Err(fault) => bail!("{what}: {fault}, expected {want:#x}"),
    }
    Ok(())
}

/// The access was SIGBUS.
pub fn bus_error<T: Debug>(what: &str, got: Result<T, Fault>) -> Result<()> {
    signal(what, got, libc::SIGBUS)
}

/// The access was SIGSEGV.
pub fn segv<T: Debug>(what: &str, got: Result<T, Fault>) -> Result<()> {
    signal(what, got, libc::SIGSEGV)
}

fn signal<T: Debug>(what: &str, got: Result<T, Fault>, want: i32) -> Result<()> {
    let name = if want == libc::SIGBUS { "SIGBUS" } else { "SIGSEGV" };
    match got {
        Ok(value) => bail!("{what}: {value:x?}, expected {name}"),
        Err(fault) => ensure!(fault.signal == want, "{what}: {fault}, expected {name}"),
    }
    Ok(())
}

/// The call failed with `want`.
pub fn errno<T: Debug>(what: &str, got: Result<T, Errno>, want: Errno) -> Result<()> {
    match got {
        Ok(value) => bail!("{what}: {value:?}, expected {want:?}"),
        Err(got) => ensure!(got == want, "{what}: {got:?}, expected {want:?}"),
    }
    Ok(())
}

/// The call worked.
pub fn works<T>(what: &str, got: Result<T, Errno>) -> Result<T> {
    match got {
        Ok(value) => Ok(value),
        Err(errno) => bail!("{what}: {errno}, expected success"),
    }
}
