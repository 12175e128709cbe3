// SPDX-License-Identifier: GPL-2.0
//! Page faults that are stopped before the gate. Nothing waits for them, and what has happened
//! meanwhile they must find out at the gate.

use anyhow::Result;
use guest::buffer::{self, Buffer};
use guest::device::Device;
use guest::fault::Fault;
use guest::mm::{self, Mapping};
use guest::pause::{meanwhile, Pause};
use guest::pci::{BOCHS, EDU};
use guest::peer::Peer;
use guest::ptes::Ptes;
use guest::windows;
use guest::{Errno, BLOCK, PAGE};

use super::race_faults::Client;
use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{edu, export_edu, open_bochs, open_edu, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        "race: fault against revoke, reset, memory off, close and unbind": [
            fault_that_a_revoke_overtook_is_sigbus, fault_that_memory_off_overtook_is_sigbus,
            fault_that_the_last_close_overtook_is_sigbus, fault_that_a_reset_overtook_works,
        ];
    Setup::Bound(&[BOCHS]) =>
        "race: fault against revoke, reset, memory off, close and unbind": [
            huge_fault_that_a_revoke_overtook_is_sigbus,
        ];
}

/// Lets a thread that is stopped at the start of a fault go on up to the gate.
fn go_on_to_the_gate(pause: Pause, thread: i32) -> Result<Pause> {
    let gate = Pause::of(thread, windows::ENTER)?;
    pause.end()?;
    gate.wait()?;
    Ok(gate)
}

/// Stops a client's fault at its start and, in a second round, at the gate. `event` happens
/// meanwhile; `after` looks at the client when the fault has gone on, and its result.
fn overtaken(
    event: impl Fn(Device, &Client, &Pause) -> Result<Option<Device>>,
    after: impl Fn(&Client, Result<u32, Fault>) -> Result<()>,
) -> Result<()> {
    for at_gate in [false, true] {
        let peer = Peer::fork()?;
        let device = open_edu()?;
        let client = Client::of(peer, &device)?;
        let mut pause = client.stopped(windows::FAULT)?;
        if at_gate {
            pause = go_on_to_the_gate(pause, client.peer.pid())?;
        }
        let device = event(device, &client, &pause)?;
        client.has_nothing("before it goes on")?;
        pause.end()?;
        after(&client, client.peer.finish_load()?)?;
        drop(device);
    }
    Ok(())
}

fn is_dead(client: &Client, load: Result<u32, Fault>) -> Result<()> {
    check::bus_error("the load that was stopped", load)?;
    client.has_nothing("after it")?;
    check::bus_error("another load", client.peer.load(client.address)?)
}

fn fault_that_a_revoke_overtook_is_sigbus() -> Result<()> {
    let revoke = |device: Device, client: &Client, pause: &Pause| {
        let revoke = || buffer::revoke(&device, &client.buffer);
        check::works("REVOKE", meanwhile(pause, "REVOKE", revoke)?.0)?;
        let other = export_edu(&device)?.map(0, PAGE)?;
        check::value("another buffer", other.load(ID_AT), ID)?;
        Ok(Some(device))
    };
    overtaken(revoke, is_dead)
}

fn fault_that_memory_off_overtook_is_sigbus() -> Result<()> {
    let off = |device: Device, _: &Client, pause: &Pause| {
        meanwhile(pause, "memory off", || device.set_memory(false))?.0?;
        Ok(Some(device))
    };
    overtaken(off, is_dead)
}

fn fault_that_the_last_close_overtook_is_sigbus() -> Result<()> {
    let close = |device: Device, client: &Client, pause: &Pause| {
        meanwhile(pause, "the last close", || drop(device))?;
        check::errno("mmap", client.buffer.map(0, PAGE), Errno::ENODEV)?;
        Ok(None)
    };
    overtaken(close, is_dead)?;
    // Open again, the device is another one to old buffers.
    let close_and_open = |device: Device, _: &Client, pause: &Pause| {
        meanwhile(pause, "the last close", || drop(device))?;
        let device = open_edu()?;
        check::value("opened anew", device.map_bar(0)?.load(ID_AT), ID)?;
        Ok(Some(device))
    };
    overtaken(close_and_open, is_dead)
}

fn fault_that_a_reset_overtook_works() -> Result<()> {
    let pci = edu()?;
    let reset = |device: Device, _: &Client, pause: &Pause| {
        check::works("reset", meanwhile(pause, "VFIO_DEVICE_RESET", || device.reset())?.0)?;
        check::works("reset", meanwhile(pause, "reset through sysfs", || pci.reset())?.0)?;
        let off_and_on = || device.set_memory(false).and_then(|()| device.set_memory(true));
        meanwhile(pause, "memory off and on", off_and_on)?.0?;
        Ok(Some(device))
    };
    overtaken(reset, |_, load| check::value("the load that was stopped", load, ID))
}

fn huge_fault_that_a_revoke_overtook_is_sigbus() -> Result<()> {
    const SIZE: u64 = BLOCK;
    let device = open_bochs()?;
    for at_gate in [false, true] {
        let buffer = Buffer::export(&device, 0, 0, SIZE)?;
        let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), SIZE, mm::RW, 0)?, SIZE);
        // The child has a copy of the mapping.
        let load = || mapping.load(0).map(drop).or(Err(Errno::EIO));
        let (mut pause, load) = Pause::call(windows::HUGE_FAULT, load)?;
        if at_gate {
            pause = go_on_to_the_gate(pause, load.pid())?;
        }
        let revoke = meanwhile(&pause, "REVOKE", || buffer::revoke(&device, &buffer))?.0;
        check::works("REVOKE", revoke)?;
        pause.end()?;
        check::errno("the load that was stopped", load.finish()?, Errno::EIO)?;
        check::equal("entry", Ptes::new()?.at(mapping.address())?, None)?;
    }
    Ok(())
}
