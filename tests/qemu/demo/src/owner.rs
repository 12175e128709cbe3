// SPDX-License-Identifier: GPL-2.0
//! The process that has the device open.

use std::env;
use std::process;

use guest::link::Link;
use guest::prelude::*;

use crate::say::{say, say_maps};
use crate::{socket, Turn, LIMIT};

/// The id register of edu, and what is in it.
pub const ID: (u64, u32) = (0x00, 0x0100_00ed);
/// The register that reads as the inverse of what was written.
pub const INVERTER: u64 = 0x04;

/// The owner's life.
pub fn run() -> Result<()> {
    let pci = Pci::at(&env::var("BDF0")?)?;
    let device = Device::open(&pci, Via::Group)?;
    let what = format!("process {}, opens {pci} through /dev/vfio/{}", process::id(), pci.group()?);
    say("owner", &what);

    let bar = device.map_bar(0).context("mmap of BAR0")?;
    let id = bar.load(ID.0)?;
    say("owner", &format!("maps BAR0, {} KiB; id register: {id:#010x}", bar.size() >> 10));
    say_maps("owner", bar.address())?;
    ensure!(id == ID.1, "the id register is {id:#010x}, not {:#010x}", ID.1);

    let page = Buffer::export(&device, 0, 0, PAGE).context("export of one page of BAR0")?;
    say("owner", "exports the first page of BAR0: a dma-buf fd");
    let client = Link::serve(socket(), LIMIT)?;
    client.set_limit(LIMIT)?;
    client.send(&Turn::Take, Some(page.raw()))?;
    say("owner", "sends the fd to the client over a UNIX socket");
    client.send(&Turn::Use, None)?;
    client.expect(Turn::Done).context("waiting for the client")?;

    buffer::revoke(&device, &page).context("revoke")?;
    say("owner", "revokes the buffer");
    client.send(&Turn::Revoked, None)?;
    client.expect(Turn::Done).context("waiting for the client")?;

    let id = bar.load(ID.0)?;
    ensure!(id == ID.1, "after the revoke the owner's id register is {id:#010x}");
    say("owner", &format!("its own mapping still works; id register: {id:#010x}"));
    Ok(())
}
