// SPDX-License-Identifier: GPL-2.0
//! Calls of the owner while somebody keeps the reservation of an imported buffer locked. A holder
//! of an fd can do that: `poll()` locks it, and the scheduler may stop the caller then.

use guest::waiting::is_in_driver;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::importers_reset::clear_command;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "a holder of the reservation of a buffer holds up no call without an end": [
            holder_of_the_reservation_does_not_keep_a_revoke_from_signals,
            holder_of_the_reservation_does_not_keep_a_config_write_from_signals,
            holder_of_the_reservation_holds_up_a_reset_for_a_second_or_two,
            holder_of_the_reservation_who_goes_in_time_is_waited_for,
            holder_of_a_reservation_takes_no_time_from_other_buffers,
        ];
}

/// A buffer that is mapped by an importer, and a client that has stopped in `poll()`.
struct Held {
    rig: Rig,
    importer: Importer,
    pause: Pause,
    client: Call,
}

impl Held {
    fn new() -> Result<Held> {
        let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
        let (pause, client) = Pause::call(windows::POLL_LOCKED, || {
            poll(&mut [PollFd::new(rig.buffer.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
                .map(drop)
        })?;
        Ok(Held { rig, importer, pause, client })
    }

    /// Lets the client go on. The importer was not told anything until then, and a REVOKE works
    /// afterwards.
    fn end(self) -> Result<()> {
        self.pause.end()?;
        check::works("poll()", self.client.finish()?)?;
        rig::still_mapped(&self.importer, 0)?;
        check::works("REVOKE", buffer::revoke(&self.rig.device, &self.rig.buffer))?;
        check::equal("mapped", self.importer.stats()?.mapped, 0)
    }
}

fn holder_of_the_reservation_does_not_keep_a_revoke_from_signals() -> Result<()> {
    let held = Held::new()?;
    let mapping = held.rig.touched()?;
    let revoke = rig::waiting_revoke(&held.rig)?;
    check::bus_error("a load meanwhile", mapping.load(ID_AT))?;
    check::errno("REVOKE", revoke.interrupt()?, Errno::EINTR)?;
    held.end()
}

fn holder_of_the_reservation_does_not_keep_a_config_write_from_signals() -> Result<()> {
    let held = Held::new()?;
    let device = &held.rig.device;
    let mapping = held.rig.touched()?;
    let command = u64::from(uapi::PCI_COMMAND);
    let on = device.config16(command)?;
    let call = waiting(|| clear_command(device))?;
    check::errno("config write", call.interrupt()?, Errno::EINTR)?;
    check::equal("PCI_COMMAND", device.config16(command)?, on)?;
    check::value("CPU", mapping.load(ID_AT), ID)?;
    held.end()
}

fn holder_of_the_reservation_holds_up_a_reset_for_a_second_or_two() -> Result<()> {
    let held = Held::new()?;
    soon("reset through sysfs", || held.rig.pci.reset())?;
    held.pause.holds()?;
    check::value("CPU", held.rig.touched()?.load(ID_AT), ID)?;
    held.end()
}

/// The importer of the other buffer is told at once, and has its second.
fn holder_of_a_reservation_takes_no_time_from_other_buffers() -> Result<()> {
    let held = Held::new()?;
    let other = export_edu(&held.rig.device)?;
    let importer = rig::attach(&other, &held.rig.importing, SLOW)?;
    check::works("map", importer.map().map(drop))?;
    let act = Pause::at(windows::RESET)?;
    let reset = Call::start(|| {
        act.arm_here()?;
        held.rig.pci.reset()
    })?;
    act.wait()?;
    invalidated("when the device is about to be reset", &importer, 1)?;
    act.end()?;
    check::works("reset through sysfs", reset.finish()?)?;
    held.end()
}

fn holder_of_the_reservation_who_goes_in_time_is_waited_for() -> Result<()> {
    let Held { rig, importer, pause, client } = Held::new()?;
    let act = Pause::at(windows::RESET)?;
    let reset = Call::start(|| {
        act.arm_here()?;
        rig.pci.reset()
    })?;
    wait_for("the reset to wait", || Ok(is_in_driver(reset.pid())))?;
    pause.end()?;
    act.wait()?;
    invalidated("when the device is about to be reset", &importer, 1)?;
    act.end()?;
    check::works("reset through sysfs", reset.finish()?)?;
    check::works("poll()", client.finish()?)
}
