// SPDX-License-Identifier: GPL-2.0
//! What lives how long: device fds, containers, mappings and buffers, closed in every order.

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "mmap: ENODEV if the buffer is revoked or closed": [last_close_kills_exported_mappings],
        "last close: buffers are closed for good": [
            last_close_kills_exported_mappings, opening_again_does_not_revive_a_buffer,
            buffers_live_while_any_device_fd_is_open, bar_mapping_keeps_buffers_alive,
            last_munmap_in_another_process_closes_the_device,
        ],
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            opening_again_does_not_revive_a_buffer,
        ],
        "export: does not keep the device open": [exported_fds_do_not_keep_the_device_open],
        "every order of closing, death of owner or client": [
            group_container_and_device_close_in_every_order,
            iommufd_and_device_close_in_either_order, death_of_the_owner_kills_the_clients_mapping,
            death_of_a_client_leaves_the_others_alone,
        ],
        "release when fd and mappings are gone; unloading the module": [
            buffers_leave_when_fd_and_mappings_are_gone, a_thousand_exports_come_and_go,
        ];
}

/// Waits until the device can be opened through its group, that is, until it is closed.
fn closed() -> Result<()> {
    let path = format!("/dev/vfio/{}", edu()?.group()?);
    wait_for("the device closes", || Ok(File::options().read(true).write(true).open(&path).is_ok()))
}

/// Checks that a buffer is dead for good.
fn dead(buffer: &Buffer) -> Result<()> {
    check::errno("mmap of a buffer whose device was closed", buffer.map(0, PAGE), Errno::ENODEV)
}

fn last_close_kills_exported_mappings() -> Result<()> {
    for &via in Via::all() {
        let client = Peer::fork()?;
        let device = Device::open(&edu()?, via)?;
        let (buffer, mapping) = map_edu(&device)?;
        let fd = client.take(&buffer)?;
        let address = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        check::value("before, in the client", client.load(address)?, ID)?;
        drop(device);
        closed()?;
        check::bus_error("after", mapping.load(ID_AT))?;
        check::bus_error("after, in the client", client.load(address)?)?;
        dead(&buffer)?;
        check::errno("mmap there", client.map(fd, PAGE, mm::RW, 0)?, Errno::ENODEV)?;
    }
    Ok(())
}

fn opening_again_does_not_revive_a_buffer() -> Result<()> {
    let device = open_edu()?;
    let (old, mapping) = map_edu(&device)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    drop(device);
    closed()?;
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        check::value("the BAR", device.map_bar(0)?.load(ID_AT), ID)?;
        check::bus_error("the old mapping", mapping.load(ID_AT))?;
        dead(&old)?;
        check::errno("REVOKE of the old buffer", buffer::revoke(&device, &old), Errno::ENODEV)?;
        device.renew_memory()?;
        check::works("reset", device.reset())?;
        check::bus_error("the old mapping after a reset", mapping.load(ID_AT))?;
        let new = export_edu(&device)?;
        check::value("a new buffer", new.map(0, PAGE)?.load(ID_AT), ID)?;
        check::bus_error("the old mapping beside a new one", mapping.load(ID_AT))?;
    }
    Ok(())
}

fn buffers_live_while_any_device_fd_is_open() -> Result<()> {
    let device = open_edu()?;
    let copy = device.dup()?;
    let (buffer, mapping) = map_edu(&device)?;
    drop(device);
    check::value("with a copy of the fd open", mapping.load(ID_AT), ID)?;
    check::works("mmap", buffer.map(0, PAGE))?;
    drop(copy);
    closed()?;
    check::bus_error("with no fd open", mapping.load(ID_AT))
}

fn bar_mapping_keeps_buffers_alive() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let (buffer, mapping) = map_edu(&device)?;
    drop(device);
    check::value("with a BAR mapping", mapping.load(ID_AT), ID)?;
    bar.unmap_part(0, bar.size() - PAGE)?;
    check::value("with one page of a BAR mapping", mapping.load(ID_AT), ID)?;
    drop(bar);
    closed()?;
    check::bus_error("with none", mapping.load(ID_AT))?;
    dead(&buffer)
}

fn last_munmap_in_another_process_closes_the_device() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let size = bar.size();
    let (_buffer, mapping) = map_edu(&device)?;
    let child = Peer::fork()?;
    for fd in [device.raw(), device.holders[0].as_raw_fd(), device.holders[1].as_raw_fd()] {
        child.close(fd)?;
    }
    drop(device);
    let address = bar.address();
    drop(bar);
    check::value("while the child has the BAR", mapping.load(ID_AT), ID)?;
    child.unmap(address, size)?;
    closed()?;
    check::bus_error("after its munmap", mapping.load(ID_AT))?;
    check::bus_error("in the child", child.load(mapping.address())?)
}

fn exported_fds_do_not_keep_the_device_open() -> Result<()> {
    let device = open_edu()?;
    let buffers: Vec<Buffer> = (0..8).map(|_| export_edu(&device)).collect::<Result<_>>()?;
    let _mapping = buffers[0].map(0, PAGE)?;
    drop(device);
    closed()?;
    buffers.iter().try_for_each(dead)
}

fn group_container_and_device_close_in_every_order() -> Result<()> {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut device = open_edu()?;
        let (buffer, mapping) = map_edu(&device)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        let mut others: Vec<Option<OwnedFd>> = device.holders.drain(..).map(Some).collect();
        let mut device = Some(device);
        for step in order {
            match step {
                2 => device = None,
                other => others[other] = None,
            }
            let what = format!("order {order:?}, after {step}");
            match device {
                Some(_) => check::value(&what, mapping.load(ID_AT), ID)?,
                None => check::bus_error(&what, mapping.load(ID_AT))?,
            }
        }
        closed()?;
        dead(&buffer)?;
    }
    Ok(())
}

fn iommufd_and_device_close_in_either_order() -> Result<()> {
    for device_first in [true, false] {
        let mut device = Device::open(&edu()?, Via::Cdev)?;
        let (buffer, mapping) = map_edu(&device)?;
        let iommufd = device.holders.pop();
        if device_first {
            drop(device);
            check::bus_error("without the device", mapping.load(ID_AT))?;
            drop(iommufd);
        } else {
            drop(iommufd);
            check::value("without the iommufd", mapping.load(ID_AT), ID)?;
            drop(device);
        }
        check::bus_error("without either", mapping.load(ID_AT))?;
        dead(&buffer)?;
    }
    Ok(())
}

fn death_of_the_owner_kills_the_clients_mapping() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let bar = device.map_bar(0)?;
    // From here on the child is the owner, with all fds and mappings; this process is a client.
    let owner = Peer::fork()?;
    let mapping = buffer.map(0, PAGE)?;
    drop(bar);
    drop(device);
    check::value("while the owner lives", mapping.load(ID_AT), ID)?;
    owner.kill()?;
    closed()?;
    check::bus_error("when it is dead", mapping.load(ID_AT))?;
    dead(&buffer)
}

fn death_of_a_client_leaves_the_others_alone() -> Result<()> {
    let clients = [Peer::fork()?, Peer::fork()?, Peer::fork()?];
    let (device, buffer) = exported_edu()?;
    let mut places = Vec::new();
    for client in &clients {
        places.push(map_in(client, &buffer)?);
    }
    drop(buffer);
    let [first, second, third] = clients;
    first.kill()?;
    check::value("the second", second.load(places[1])?, ID)?;
    // Stopped, it is killed all the same.
    third.stop()?;
    third.kill()?;
    check::value("the second, alone", second.load(places[1])?, ID)?;
    check::value("the owner", device.map_bar(0)?.load(ID_AT), ID)
}

fn buffers_leave_when_fd_and_mappings_are_gone() -> Result<()> {
    let module = Module::driver();
    let device = open_edu()?;
    let idle = module.references()?;
    let buffer = export_edu(&device)?;
    let one = module.references()?;
    check::equal("a buffer holds the module", one > idle, true)?;
    let mapping = buffer.map(0, PAGE)?;
    drop(buffer);
    check::value("mapped, with the fd closed", mapping.load(ID_AT), ID)?;
    check::equal("references", module.references()?, one)?;
    drop(mapping);
    wait_for("the buffer leaves", || Ok(module.references()? == idle))?;
    drop(device);
    wait_for("the device closes", || Ok(module.references()? == 0))
}

fn a_thousand_exports_come_and_go() -> Result<()> {
    let device = open_edu()?;
    for _ in 0..4 {
        let buffers: Vec<Buffer> = (0..250_u64)
            .map(|at| Buffer::export(&device, 0, at * PAGE, PAGE))
            .collect::<Result<_, _>>()?;
        let first = buffers[0].map(0, PAGE)?;
        let last = buffers[249].map(0, PAGE)?;
        check::value("the first", first.load(ID_AT), ID)?;
        last.load(0)?;
        for buffer in buffers.iter().step_by(3) {
            check::works("REVOKE", buffer::revoke(&device, buffer))?;
        }
        check::bus_error("the first, revoked", first.load(ID_AT))?;
        check::bus_error("the last, revoked", last.load(0))?;
    }
    check::value("a new one", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)
}
