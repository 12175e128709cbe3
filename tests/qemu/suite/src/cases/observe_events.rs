// SPDX-License-Identifier: GPL-2.0
//! Tracepoints of what happens to all memory of a device, and of faults.

use anyhow::{ensure, Result};
use guest::buffer::Buffer;
use guest::call::Call;
use guest::host::{self, LinkError};
use guest::mm::{self, Mapping};
use guest::pause::Pause;
use guest::pci::{BOCHS, EDU};
use guest::testmod::{NEVER_UNMAPS, UNMAPS_AT_ONCE};
use guest::{windows, Errno, BLOCK, PAGE};

use super::importers_reset::clear_command;
use super::observe::objects;
use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::{edu, nth, open_bochs, open_edu, ID, ID_AT};
use crate::rig::{Rig, WHILE};
use crate::trace::Trace;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            tracepoints_tell_of_each_reset, tracepoints_tell_of_a_link_error,
            tracepoints_tell_of_an_interrupted_write,
        ];
    Setup::Bound(&[EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            tracepoints_tell_of_mappings_of_a_bar, tracepoints_tell_of_a_fault_that_waits,
        ];
    Setup::Bound(&[BOCHS]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            tracepoints_tell_the_orders_of_faults,
        ];
}

/// Checks the names of the events since the last call. The arguments are those of the device, and
/// of its only imported buffer.
fn happened(what: &str, trace: &Trace, rig: &Rig, want: &[&str]) -> Result<()> {
    let name = rig.pci.address();
    let listed = objects(&rig.pci)?;
    let offset = listed.iter().find_map(|object| object["offset"].as_u64()).unwrap_or(0);
    let arguments = |event: &&str| match *event {
        "importer_invalidate" => format!("{event}: {name} bar=0 offset={offset:#x} size={PAGE:#x}"),
        _ => format!("{event}: {name}"),
    };
    check::equal(what, trace.take()?, want.iter().map(arguments).collect())
}

const SUSPEND: &str = "memory_suspend";
const RESUME: &str = "memory_resume";
const INVALIDATE: &str = "importer_invalidate";

fn tracepoints_tell_of_each_reset() -> Result<()> {
    let rig = Rig::new()?;
    let _importer = rig.attached(UNMAPS_AT_ONCE)?;
    let trace = Trace::on()?;
    check::works("sysfs reset", rig.pci.reset())?;
    happened("sysfs reset", &trace, &rig, &[SUSPEND, INVALIDATE, INVALIDATE, RESUME])?;
    check::works("VFIO_DEVICE_RESET", rig.device.reset())?;
    // The ioctl, and in it the reset of the function.
    let want = [SUSPEND, INVALIDATE, SUSPEND, INVALIDATE, RESUME, RESUME, INVALIDATE];
    happened("VFIO_DEVICE_RESET", &trace, &rig, &want)
}

fn tracepoints_tell_of_a_link_error() -> Result<()> {
    let rig = Rig::new()?;
    let _importer = rig.attached(UNMAPS_AT_ONCE)?;
    let trace = Trace::on()?;
    let end = Pause::of_any(windows::RECOVERY_ENDS)?;
    if !host::port_has_error(&rig.pci, LinkError::Fatal)? {
        return Err(Skip("the host injects no errors".into()).into());
    }
    end.wait()?;
    end.end()?;
    happened("link error", &trace, &rig, &[SUSPEND, INVALIDATE])?;
    rig.device.set_memory(false)?;
    happened("memory off", &trace, &rig, &[SUSPEND, INVALIDATE, RESUME])?;
    rig.device.set_memory(true)?;
    // The link works again, then the write is over.
    let want = [SUSPEND, INVALIDATE, RESUME, RESUME, INVALIDATE];
    happened("memory on", &trace, &rig, &want)
}

fn tracepoints_tell_of_an_interrupted_write() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(NEVER_UNMAPS)?;
    let trace = Trace::on()?;
    let mut write = Call::start(|| clear_command(&rig.device))?;
    write.hangs_for(WHILE)?;
    happened("while it waits", &trace, &rig, &[SUSPEND, INVALIDATE])?;
    check::errno("write", write.interrupt()?, Errno::EINTR)?;
    happened("interrupted", &trace, &rig, &[INVALIDATE, RESUME])?;
    check::works("unmap", importer.unmap())
}

fn tracepoints_tell_of_mappings_of_a_bar() -> Result<()> {
    let name = edu()?.address().to_string();
    let device = open_edu()?;
    let trace = Trace::on()?;
    let whole = device.map_bar(0)?;
    let part = device.map_bar_part(0, 3 * PAGE, PAGE)?;
    let event = |what, offset| format!("{what}: {name} bar=0 offset={offset} size=0x100000");
    let want = vec![event("buffer_mmap", "0x0"), event("buffer_mmap", "0x3000")];
    check::equal("mmap", trace.take()?, want)?;
    drop((whole, part, device));
    check::equal("close", trace.take()?, vec![event("buffer_release", "0x0")])
}

fn tracepoints_tell_of_a_fault_that_waits() -> Result<()> {
    let name = edu()?.address().to_string();
    let device = open_edu()?;
    let mapping = device.map_bar_part(0, 0, PAGE)?;
    let trace = Trace::on()?;
    let (pause, reset) = Pause::call(windows::RESET, || device.reset())?;
    let mut load = Call::start(|| mapping.load(ID_AT).map(drop).or(Err(Errno::EIO)))?;
    load.hangs_for(WHILE)?;
    let fault = |outcome| format!("buffer_fault: {name} offset=0x0 order=0 {outcome}");
    let faults = |events: Vec<String>| -> Vec<String> {
        events.into_iter().filter(|event| event.starts_with("buffer_fault")).collect()
    };
    let waiting = faults(trace.take()?);
    ensure!(!waiting.is_empty(), "no fault");
    ensure!(waiting.iter().all(|event| *event == fault("away")), "{waiting:#?}");
    pause.end()?;
    check::works("reset", reset.finish()?)?;
    check::works("load", load.finish()?)?;
    check::equal("the last one", faults(trace.take()?).last(), Some(&fault("mapped")))?;
    check::value("load", mapping.load(ID_AT), ID)
}

fn tracepoints_tell_the_orders_of_faults() -> Result<()> {
    let name = nth(BOCHS, 0)?.address().to_string();
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, 2 * BLOCK)?;
    let offset = objects(&nth(BOCHS, 0)?)?[0]["offset"].as_u64().unwrap_or(0);
    let address = mm::map_aligned(buffer.raw(), 2 * BLOCK, mm::RW, 0)?;
    let mapping = Mapping::from_raw(address, 2 * BLOCK);
    let trace = Trace::on()?;
    let order = (BLOCK / PAGE).trailing_zeros();
    let fault = |at, outcome| {
        format!("buffer_fault: {name} offset={:#x} order={order} {outcome}", offset + at)
    };
    mapping.store(BLOCK + 8 * PAGE, 1)?;
    check::equal("a block", trace.take()?, vec![fault(BLOCK, "mapped")])?;
    device.set_memory(false)?;
    trace.take()?;
    check::bus_error("store", mapping.store(5 * PAGE, 1))?;
    check::equal("no memory", trace.take()?, vec![fault(0, "sigbus")])
}
