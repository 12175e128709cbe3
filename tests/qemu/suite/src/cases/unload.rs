// SPDX-License-Identifier: GPL-2.0
//! Loading, binding, unbinding and unloading, with something still in use or nothing.

use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};

use super::observe::listing;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "unbind waits until the device is closed; binding anew": [
            unbind_waits_for_the_device_fd, unbind_waits_for_the_last_bar_mapping,
            old_fds_stay_dead_after_rebinding, in_tree_driver_takes_over_and_back,
        ],
        "export: does not keep the device open": [unbind_does_not_wait_for_buffers],
        "release when fd and mappings are gone; unloading the module": [
            rmmod_is_refused_while_a_buffer_lives, rmmod_is_refused_while_the_device_is_open,
            rmmod_is_refused_while_a_listing_is_open, rmmod_takes_bound_devices_along,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "unbind waits until the device is closed; binding anew": [
            owner_goes_on_while_unbind_waits, unbind_of_one_device_leaves_the_other_alone,
        ];
    Setup::Unloaded(&[EDU]) =>
        "binding: loading the module binds no device": [loading_binds_no_device],
        "release when fd and mappings are gone; unloading the module": [
            load_use_and_unload_ten_times,
        ];
}

/// Starts something in a thread; the channel says when that is over.
pub(super) fn start(work: impl FnOnce() -> Result<()> + Send + 'static) -> Receiver<Result<()>> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(work()));
    receiver
}

/// Starts to take the device from its driver.
fn start_unbind(pci: &Pci) -> Receiver<Result<()>> {
    let pci = pci.clone();
    start(move || pci.unbind())
}

/// Checks that it is not over, nor will be soon.
pub(super) fn still_waits(event: &Receiver<Result<()>>) -> Result<()> {
    match event.recv_timeout(Duration::from_millis(700)) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        other => anyhow::bail!("it did not wait: {other:?}"),
    }
}

/// Checks that it is over soon.
pub(super) fn comes_to_an_end(event: &Receiver<Result<()>>) -> Result<()> {
    event.recv_timeout(scaled(Duration::from_secs(30))).context("it did not end")?
}

fn unbind_waits_for_the_device_fd() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    let mapping = export_edu(&device)?.map(0, PAGE)?;
    let unbind = start_unbind(&pci);
    still_waits(&unbind)?;
    check::value("while unbind waits", mapping.load(ID_AT), ID)?;
    drop(device);
    comes_to_an_end(&unbind)?;
    check::bus_error("after it", mapping.load(ID_AT))?;
    check::equal("driver", pci.driver(), None)
}

/// Until the device is closed, its owner can use it as before.
fn owner_goes_on_while_unbind_waits() -> Result<()> {
    let Rig { device, buffer, importing, pci } = Rig::new()?;
    let importer = rig::attach(&buffer, &importing, UNMAPS_AT_ONCE)?;
    let mapping = buffer.map(0, PAGE)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    let can_map = guest::arch::host_bridge_is_trusted()?;
    let unbind = start_unbind(&pci);
    still_waits(&unbind)?;

    let new = check::works("export", Buffer::export(&device, 0, 0, PAGE))?;
    let its_mapping = check::works("mmap of a buffer", new.map(0, PAGE))?;
    let bar = check::works("mmap of the BAR", device.map_bar(0))?;
    check::value("a new buffer", its_mapping.load(ID_AT), ID)?;
    check::value("the BAR", bar.load(ID_AT), ID)?;
    if can_map {
        check::works("map for a device", importer.map())?;
    }
    device.set_memory(false)?;
    check::equal("mapped for a device, memory off", importer.stats()?.mapped, 0)?;
    check::bus_error("a new buffer, memory off", its_mapping.load(ID_AT))?;
    device.set_memory(true)?;
    check::value("a new buffer, memory on", its_mapping.load(ID_AT), ID)?;
    // unbind has the device locked, and a reset does not wait for that.
    check::errno("VFIO_DEVICE_RESET", device.reset(), Errno::EAGAIN)?;
    check::value("after it", bar.load(ID_AT), ID)?;
    if can_map {
        check::works("map for a device again", importer.map())?;
    }
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    check::bus_error("after REVOKE", mapping.load(ID_AT))?;
    check::equal("mapped for a device after REVOKE", importer.stats()?.mapped, 0)?;
    check::works("detach", importer.detach())?;
    check::works("attach to another", importer.attach(&new, &importing, UNMAPS_AT_ONCE))?;

    still_waits(&unbind)?;
    drop((device, bar));
    comes_to_an_end(&unbind)?;
    check::bus_error("the new buffer in the end", its_mapping.load(ID_AT))?;
    check::errno("map for a device in the end", importer.map(), Errno::ENODEV)?;
    check::equal("driver", pci.driver(), None)
}

fn unbind_waits_for_the_last_bar_mapping() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    drop(device);
    let unbind = start_unbind(&pci);
    still_waits(&unbind)?;
    check::value("while unbind waits", bar.load(ID_AT), ID)?;
    drop(bar);
    comes_to_an_end(&unbind)?;
    check::equal("driver", pci.driver(), None)
}

fn unbind_does_not_wait_for_buffers() -> Result<()> {
    let client = Peer::fork()?;
    let pci = edu()?;
    let (device, buffer, mapping) = mapped_edu()?;
    let fd = client.take(&buffer)?;
    let address = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("before", client.load(address)?, ID)?;
    drop(device);
    comes_to_an_end(&start_unbind(&pci))?;
    check::bus_error("here", mapping.load(ID_AT))?;
    check::bus_error("in the client", client.load(address)?)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("mmap there", client.map(fd, PAGE, mm::RW, 0)?, Errno::ENODEV)?;
    let child = Peer::fork()?;
    check::bus_error("in a child of now", child.load(mapping.address())?)
}

fn old_fds_stay_dead_after_rebinding() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    let (old, dead) = map_edu(&device)?;
    check::value("before", dead.load(ID_AT), ID)?;
    drop(device);
    for &via in Via::all() {
        pci.unbind()?;
        check::bus_error("unbound", dead.load(ID_AT))?;
        pci.bind(&driver())?;
        let device = Device::open(&pci, via)?;
        check::value("the BAR", device.map_bar(0)?.load(ID_AT), ID)?;
        let new = export_edu(&device)?;
        check::value("a new buffer", new.map(0, PAGE)?.load(ID_AT), ID)?;
        check::bus_error("bound again", dead.load(ID_AT))?;
        check::errno("mmap", old.map(0, PAGE), Errno::ENODEV)?;
        check::errno("REVOKE", buffer::revoke(&device, &old), Errno::ENODEV)?;
    }
    Ok(())
}

fn unbind_of_one_device_leaves_the_other_alone() -> Result<()> {
    let (first, second) = (nth(EDU, 0)?, nth(EDU, 1)?);
    let device = Device::open(&first, Via::Group)?;
    let (buffer, mapping) = map_edu(&device)?;
    let gone = export_edu(&Device::open(&second, Via::Group)?)?;
    comes_to_an_end(&start_unbind(&second))?;
    check::errno("the second's buffer", gone.map(0, PAGE), Errno::ENODEV)?;
    check::value("the first's mapping", mapping.load(ID_AT), ID)?;
    check::works("the first's buffer", buffer.map(0, PAGE)).map(drop)
}

/// Checks that the module cannot be unloaded now.
fn rmmod_is_refused(module: &Module) -> Result<()> {
    check::errno("rmmod", module.unload(), Errno::EWOULDBLOCK)?;
    ensure!(module.is_loaded(), "it is gone");
    Ok(())
}

fn rmmod_is_refused_while_a_buffer_lives() -> Result<()> {
    let module = Module::driver();
    let pci = edu()?;
    let (device, buffer, mapping) = mapped_edu()?;
    rmmod_is_refused(&module)?;
    drop(device);
    rmmod_is_refused(&module)?;
    pci.release()?;
    rmmod_is_refused(&module)?;
    drop(buffer);
    rmmod_is_refused(&module)?;
    check::bus_error("the mapping", mapping.load(ID_AT))?;
    drop(mapping);
    module.unload_soon()
}

fn rmmod_is_refused_while_the_device_is_open() -> Result<()> {
    let module = Module::driver();
    let device = open_edu()?;
    rmmod_is_refused(&module)?;
    let bar = device.map_bar(0)?;
    drop(device);
    rmmod_is_refused(&module)?;
    check::value("the BAR", bar.load(ID_AT), ID)?;
    drop(bar);
    module.unload_soon()
}

fn rmmod_is_refused_while_a_listing_is_open() -> Result<()> {
    let module = Module::driver();
    let pci = edu()?;
    for name in ["buffers", "buffers.jsonl"] {
        module.load()?;
        pci.bind(&driver())?;
        let file = File::open(listing(&pci).join(name)).with_context(|| name.to_string())?;
        rmmod_is_refused(&module)?;
        pci.release()?;
        rmmod_is_refused(&module)?;
        drop(file);
        module.unload_soon()?;
    }
    Ok(())
}

fn rmmod_takes_bound_devices_along() -> Result<()> {
    let module = Module::driver();
    let pci = edu()?;
    check::equal("driver", pci.driver(), Some(driver()))?;
    module.unload_soon()?;
    check::equal("driver after rmmod", pci.driver(), None)?;
    module.load()?;
    pci.bind(&driver())?;
    check::value("after insmod", open_edu()?.map_bar(0)?.load(ID_AT), ID)
}

fn in_tree_driver_takes_over_and_back() -> Result<()> {
    in_tree()?.load()?;
    let pci = edu()?;
    for name in ["vfio-pci".to_string(), driver(), "vfio-pci".to_string(), driver()] {
        pci.bind(&name)?;
        check::equal("driver", pci.driver(), Some(name.clone()))?;
        let device = open_edu()?;
        check::value(&format!("the BAR under {name}"), device.map_bar(0)?.load(ID_AT), ID)?;
    }
    Ok(())
}

fn loading_binds_no_device() -> Result<()> {
    let module = Module::driver();
    module.load()?;
    for pci in Pci::all()? {
        ensure!(pci.driver() != Some(driver()), "{pci} was taken");
    }
    let path = format!("/sys/bus/pci/drivers/{}/bind", driver());
    let got = std::fs::write(path, edu()?.address()).map_err(|error| error.raw_os_error());
    check::equal("bind without driver_override", got, Err(Some(libc::ENODEV)))?;
    edu()?.bind(&driver())?;
    check::equal("driver", edu()?.driver(), Some(driver()))?;
    edu()?.release()?;
    module.unload_soon()
}

fn load_use_and_unload_ten_times() -> Result<()> {
    let module = Module::driver();
    let pci = edu()?;
    for round in 0..10 {
        module.load()?;
        pci.bind(&driver())?;
        let device = Device::open(&pci, Via::in_turn(round))?;
        let bar = device.map_bar(0)?;
        let buffer = Buffer::export(&device, 0, 0, PAGE)?;
        let mapping = mm::Mapping::new(&buffer, PAGE, mm::RW, 0)?;
        check::value("BAR", bar.load(ID_AT), ID)?;
        check::value("buffer", mapping.load(ID_AT), ID)?;
        check::errno("rmmod while all is open", module.unload(), Errno::EWOULDBLOCK)?;
        drop((device, bar, buffer, mapping));
        pci.release()?;
        module.unload_soon().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
