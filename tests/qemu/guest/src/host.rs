// SPDX-License-Identifier: GPL-2.0
//! What happens to the machine from outside, on request: `scripts/vm/machine.py` does it.

use std::env;
use std::io::Write;

use crate::prelude::*;

/// An error of PCI Express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// "Data Link Protocol Error": the link is to be reset.
    Fatal,
    /// "Completion Timeout": a request was lost, that is all.
    NonFatal,
}

/// Lets the root port above a device have an error; `false` if the host does not listen.
pub fn port_has_error(pci: &Pci, error: LinkError) -> Result<bool> {
    let Some(path) = env::var_os("HOST") else { return Ok(false) };
    let error = match error {
        LinkError::Fatal => "DLP",
        LinkError::NonFatal => "COMP_TIME",
    };
    // QEMU's port 0 is at 00:10.0, port 1 at 00:11.0, and so on.
    let path_of_device = fs::canonicalize(pci.dir())?;
    let mut parts = path_of_device.iter().filter_map(|part| part.to_str());
    let slot = parts.find_map(|part| part.strip_prefix("0000:00:")?.strip_suffix(".0"));
    let slot = u32::from_str_radix(slot.context("no root port")?, 16)?;
    let port = slot.checked_sub(0x10).with_context(|| format!("slot {slot:#x} is no port"))?;
    let mut host = File::options().write(true).open(path)?;
    host.write_all(format!("aer port{port} {error}\n").as_bytes())?;
    Ok(true)
}
