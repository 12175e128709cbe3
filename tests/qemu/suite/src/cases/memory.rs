// SPDX-License-Identifier: GPL-2.0
//! Temporary revocation: memory switched off and on, resets. The same mappings die and heal.

use guest::peer::Loads;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "memory bit: SIGBUS while off; the same mappings work when it is on": [
            memory_off_is_sigbus_and_memory_on_heals, memory_off_reaches_other_processes,
            memory_off_reaches_a_stopped_process,
            memory_off_reaches_mappings_never_touched => untouched_mappings_heal(false),
            no_load_sees_a_device_that_is_off,
            no_load_through_a_bar_mapping_sees_a_device_that_is_off,
        ],
        "mmap of a buffer: works while temporarily revoked": [
            mmap_works_while_memory_is_off_and_heals => untouched_mappings_heal(true),
        ],
        "export while memory is disabled: works when memory is enabled": [
            export_while_memory_is_off_heals,
        ],
        "REVOKE: for good, in all processes": [revoke_while_memory_is_off_is_for_good],
        "VFIO_DEVICE_RESET, sysfs reset: faults wait; the same mappings work afterwards": [
            vfio_reset_heals_mappings => resets_heal(Device::reset),
            sysfs_reset_heals_mappings,
            loads_during_a_vfio_reset_wait_for_its_end => loads_wait_for_the_end_of(Device::reset),
            loads_during_a_sysfs_reset_wait_for_its_end,
        ];
    Setup::Bound(&[BOCHS]) =>
        "memory bit: SIGBUS while off; the same mappings work when it is on": [
            memory_off_reaches_every_bar_and_every_offset, memory_off_reaches_every_range,
            memory_off_reaches_huge_mappings,
        ];
}

/// Checks that every mapping is dead while memory is off and works again afterwards.
fn off_and_on(device: &Device, mappings: &[(&str, &Mapping, u64, u32)]) -> Result<()> {
    for round in 0..3 {
        for (what, mapping, at, want) in mappings {
            check::value(&format!("{what}, on, round {round}"), mapping.load(*at), *want)?;
        }
        device.set_memory(false)?;
        for (what, mapping, at, want) in mappings {
            check::bus_error(&format!("{what}, off, round {round}"), mapping.load(*at))?;
            let stored = mapping.store(*at, !want);
            check::bus_error(&format!("{what}, store while off, round {round}"), stored)?;
        }
        device.set_memory(true)?;
    }
    for (what, mapping, at, want) in mappings {
        check::value(&format!("{what}, at the end"), mapping.load(*at), *want)?;
    }
    Ok(())
}

fn memory_off_is_sigbus_and_memory_on_heals() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let bar = device.map_bar(0)?;
        let mapping = export_edu(&device)?.map(0, PAGE)?;
        off_and_on(&device, &[("BAR", &bar, ID_AT, ID), ("buffer", &mapping, ID_AT, ID)])?;
    }
    Ok(())
}

fn memory_off_reaches_every_bar_and_every_offset() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar(0)?;
    paint(&all, 16)?;
    let part = device.map_bar_part(0, 7 * PAGE, PAGE)?;
    let registers = device.map_bar(2)?;
    let buffer = Buffer::export(&device, 0, 4 * PAGE, 8 * PAGE)?;
    let (whole, middle) = (buffer.map(0, 8 * PAGE)?, buffer.map(5 * PAGE, PAGE)?);
    let second = Buffer::export(&device, 2, 0, PAGE)?.map(0, PAGE)?;
    off_and_on(
        &device,
        &[
            ("BAR0", &all, 0, colour(0)),
            ("BAR0, far in", &all, 15 * PAGE, colour(15)),
            ("BAR0 at an offset", &part, 0, colour(7)),
            ("BAR2", &registers, BOCHS_SIZE_AT, BOCHS_SIZE),
            ("buffer", &whole, 0, colour(4)),
            ("buffer, far in", &whole, 7 * PAGE, colour(11)),
            ("buffer at an offset", &middle, 0, colour(9)),
            ("buffer over BAR2", &second, BOCHS_SIZE_AT, BOCHS_SIZE),
        ],
    )
}

fn memory_off_reaches_every_range() -> Result<()> {
    let device = open_bochs()?;
    paint(&device.map_bar_part(0, 0, 16 * PAGE)?, 16)?;
    let ranges = [Range(12 * PAGE, PAGE), Range(3 * PAGE, 2 * PAGE), Range(12 * PAGE, PAGE)];
    let mapping = Export::new(0, &ranges).make(&device)?.map(0, 4 * PAGE)?;
    off_and_on(
        &device,
        &[
            ("range 0", &mapping, 0, colour(12)),
            ("range 1", &mapping, PAGE, colour(3)),
            ("range 1, second page", &mapping, 2 * PAGE, colour(4)),
            ("range 2", &mapping, 3 * PAGE, colour(12)),
        ],
    )
}

fn memory_off_reaches_huge_mappings() -> Result<()> {
    const SIZE: u64 = 8 << 20;
    const LAST: u64 = SIZE - PAGE;
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let bar = Mapping::aligned(&device, SIZE, 0)?;
    let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
    bar.store(0, 1)?;
    bar.store(LAST, 2)?;
    off_and_on(
        &device,
        &[
            ("BAR", &bar, 0, 1),
            ("end of the BAR", &bar, LAST, 2),
            ("buffer", &mapping, 0, 1),
            ("end of the buffer", &mapping, LAST, 2),
        ],
    )
}

fn memory_off_reaches_other_processes() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let buffer = export_edu(&device)?;
    let address = map_in(&client, &buffer)?;
    let child = Peer::fork()?;
    for round in 0..3 {
        check::value("client, on", client.load(address)?, ID)?;
        check::value("child, on", child.load(bar.address())?, ID)?;
        device.set_memory(false)?;
        check::bus_error(&format!("client, off, round {round}"), client.load(address)?)?;
        check::bus_error(&format!("child, off, round {round}"), child.load(bar.address())?)?;
        device.set_memory(true)?;
    }
    check::value("client, at the end", client.load(address)?, ID)?;
    check::value("child, at the end", child.load(bar.address())?, ID)
}

fn memory_off_reaches_a_stopped_process() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let fd = client.take(export_edu(&device)?)?;
    let address = check::works("mmap in the client", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("on", client.load(address)?, ID)?;
    client.stop()?;
    device.set_memory(false)?;
    client.begin_load(address)?;
    client.resume()?;
    check::bus_error("the first load after SIGCONT", client.finish_load()?)?;
    client.stop()?;
    device.set_memory(true)?;
    client.begin_load(address)?;
    client.resume()?;
    check::value("on again", client.finish_load()?, ID)
}

/// Checks that a mapping of the BAR and one of a buffer, made with memory off or before, work when
/// memory is on.
fn untouched_mappings_heal(made_while_off: bool) -> Result<()> {
    let (device, buffer) = exported_edu()?;
    if made_while_off {
        device.set_memory(false)?;
    }
    let bar = check::works("mmap of the BAR", device.map_bar(0))?;
    let mapping = check::works("mmap of the buffer", buffer.map(0, PAGE))?;
    device.set_memory(false)?;
    check::bus_error("BAR", bar.load(ID_AT))?;
    check::bus_error("buffer", mapping.load(ID_AT))?;
    device.set_memory(true)?;
    check::value("BAR, on", bar.load(ID_AT), ID)?;
    check::value("buffer, on", mapping.load(ID_AT), ID)
}

fn export_while_memory_is_off_heals() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    device.set_memory(false)?;
    let buffer = export_edu(&device)?;
    let address = map_in(&client, &buffer)?;
    check::bus_error("off", client.load(address)?)?;
    device.set_memory(true)?;
    check::value("on", client.load(address)?, ID)?;
    device.set_memory(false)?;
    check::bus_error("off again", client.load(address)?)
}

fn revoke_while_memory_is_off_is_for_good() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let bar = device.map_bar(0)?;
    let mapping = buffer.map(0, PAGE)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    device.set_memory(false)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    device.set_memory(true)?;
    check::bus_error("buffer, on", mapping.load(ID_AT))?;
    check::errno("mmap, on", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("REVOKE again", buffer::revoke(&device, &buffer), Errno::EBADFD)?;
    check::value("BAR, on", bar.load(ID_AT), ID)
}

/// Checks that mappings here and in a client work after each of a few resets.
fn resets_heal(reset: impl Fn(&Device) -> Result<(), Errno>) -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let buffer = export_edu(&device)?;
    let address = map_in(&client, &buffer)?;
    check::value("client, before", client.load(address)?, ID)?;
    check::value("BAR, before", bar.load(ID_AT), ID)?;
    let untouched = buffer.map(0, PAGE)?;
    for round in 0..3 {
        check::works("reset", reset(&device))?;
        check::value(&format!("client, round {round}"), client.load(address)?, ID)?;
        check::value(&format!("BAR, round {round}"), bar.load(ID_AT), ID)?;
        bar.store(INVERTER, round)?;
        let inverter = client.load(address + INVERTER as usize)?;
        check::value("inverter in the client", inverter, !round)?;
    }
    check::value("a mapping never touched before", untouched.load(ID_AT), ID)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    check::works("reset", reset(&device))?;
    check::bus_error("a reset does not undo REVOKE", client.load(address)?)
}

fn sysfs_reset_heals_mappings() -> Result<()> {
    let pci = edu()?;
    resets_heal(|_| pci.reset())
}

/// Clients read the id register all the time while `disturb` does its worst; returns what they
/// saw. With its memory off, edu reads as all ones: a load that sees that came through a stale
/// page table entry.
fn hammer(disturb: impl Fn(&Device) -> Result<()>) -> Result<Vec<Loads>> {
    let clients = [Peer::fork()?, Peer::fork()?];
    let (device, buffer) = exported_edu()?;
    for client in &clients {
        let address = map_in(client, &buffer)?;
        client.begin_loads(address, ID)?;
    }
    for _ in 0..60 {
        disturb(&device)?;
    }
    let loads: Vec<Loads> = clients.iter().map(Peer::end_loads).collect::<Result<_>>()?;
    for loads in &loads {
        check::equal(&format!("wrong values among {loads:?}"), loads.wrong, 0)?;
        ensure!(loads.good > 0, "no load came through: {loads:?}");
    }
    Ok(loads)
}

/// Switches memory off and on, and gives clients the time to run into both.
fn flicker(device: &Device) -> Result<()> {
    const WHILE: Duration = Duration::from_millis(5);
    device.set_memory(false)?;
    sleep(WHILE);
    device.set_memory(true)?;
    sleep(WHILE);
    Ok(())
}

fn no_load_through_a_bar_mapping_sees_a_device_that_is_off() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let client = Peer::fork()?;
    client.begin_loads(bar.address(), ID)?;
    for _ in 0..60 {
        flicker(&device)?;
    }
    let loads = client.end_loads()?;
    check::equal(&format!("wrong values among {loads:?}"), loads.wrong, 0)?;
    ensure!(loads.good > 0 && loads.faults > 0, "it saw only one of on and off: {loads:?}");
    Ok(())
}

fn no_load_sees_a_device_that_is_off() -> Result<()> {
    let loads = hammer(flicker)?;
    ensure!(loads.iter().all(|loads| loads.faults > 0), "no load saw it off: {loads:?}");
    Ok(())
}

fn loads_wait_for_the_end_of(reset: impl Fn(&Device) -> Result<(), Errno>) -> Result<()> {
    let loads = hammer(|device| check::works("reset", reset(device)))?;
    ensure!(loads.iter().all(|loads| loads.faults == 0), "a load did not wait: {loads:?}");
    Ok(())
}

fn loads_during_a_sysfs_reset_wait_for_its_end() -> Result<()> {
    let pci = edu()?;
    loads_wait_for_the_end_of(|_| pci.reset())
}
