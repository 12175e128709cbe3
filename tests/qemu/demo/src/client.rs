// SPDX-License-Identifier: GPL-2.0
//! The process that gets one page, for a while.

use std::process;

use guest::link::Link;
use guest::prelude::*;

use crate::owner::{ID, INVERTER};
use crate::say::{say, say_maps};
use crate::{socket, Turn, LIMIT};

/// The client's life.
pub fn run() -> Result<()> {
    let owner = Link::call(socket(), LIMIT)?;
    owner.set_limit(LIMIT)?;
    let fd = owner.expect(Turn::Take).context("waiting for the fd")?;
    let page = Buffer::from(fd.context("the owner's message has no fd")?);
    owner.expect(Turn::Use).context("waiting for the owner")?;
    say("client", &format!("process {}, has these files: {}", process::id(), files()?));

    let mapping = page.map(0, PAGE).context("mmap of the dma-buf")?;
    say("client", "maps the dma-buf, one page");
    say_maps("client", mapping.address())?;

    let id = mapping.load(ID.0)?;
    ensure!(id == ID.1, "the id register is {id:#010x}, not {:#010x}", ID.1);
    say("client", &format!("reads the id register:  {id:#010x}"));
    let value = 0x1234_5678;
    mapping.store(INVERTER, value)?;
    let inverse = mapping.load(INVERTER)?;
    ensure!(inverse == !value, "the inverter register is {inverse:#010x} after {value:#010x}");
    say("client", &format!("writes the inverter:    {value:#010x}, reads {inverse:#010x}"));

    refused("mmap of two pages", page.map(0, 2 * PAGE).map(drop), Errno::EINVAL)?;
    refused("mmap of the page behind it", page.map(PAGE, PAGE).map(drop), Errno::EINVAL)?;
    let grown = mm::remap(mapping.address(), PAGE, 2 * PAGE).map(drop);
    refused("mremap to two pages", grown, Errno::EFAULT)?;
    owner.send(&Turn::Done, None)?;

    owner.expect(Turn::Revoked).context("waiting for the revoke")?;
    match mapping.load(ID.0) {
        Ok(value) => bail!("read {value:#010x} after the revoke"),
        Err(fault) if fault.is_bus_error() => say("client", "reads the id register:  SIGBUS"),
        Err(fault) => bail!("{fault} after the revoke, not SIGBUS"),
    }
    refused("mmap of the dma-buf", page.map(0, PAGE).map(drop), Errno::ENODEV)?;
    owner.send(&Turn::Done, None)
}

/// Checks that something was refused with `errno`.
fn refused(what: &str, result: Result<(), Errno>, errno: Errno) -> Result<()> {
    match result {
        Ok(()) => bail!("{what} was not refused"),
        Err(got) => ensure!(got == errno, "{what}: {got}, where {errno} was expected"),
    }
    say("client", &format!("tries {what}: refused, {errno:?}"));
    Ok(())
}

/// Where this process's fds lead; none of them may be VFIO's.
fn files() -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let name = target.to_string_lossy();
        ensure!(!name.contains("vfio/") && !name.contains("iommu"), "the client has {name}");
        let name = name.split(":[").next().unwrap_or_default().to_string();
        if !name.starts_with("/proc/") && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names.join(", "))
}
