// SPDX-License-Identifier: GPL-2.0
//! Races of faults, `mmap()` and `fork()`, each with a thread stopped in the window.

use guest::uapi::{vfio_dmabuf_ioctl_revoke, VFIO_DMABUF_IOCTL_REVOKE, VFIO_DMABUF_STATUS_CLOSED};
use guest::waiting::is_in_driver;
use guest::windows::Window;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "race: fault against revoke, reset, memory off, close and unbind": [
            fault_half_way_holds_up_a_revoke,
            fault_half_way_holds_up_a_vfio_reset =>
                fault_holds_up_a_reset(|_, device| device.reset()),
            fault_half_way_holds_up_a_sysfs_reset => fault_holds_up_a_reset(|pci, _| pci.reset()),
            fault_half_way_holds_up_memory_off, fault_half_way_holds_up_the_last_close,
            fault_after_the_start_of_a_revoke_is_sigbus,
            fault_after_the_start_of_the_last_close_is_sigbus,
            fault_after_the_start_of_a_reset_waits_for_its_end,
            fault_after_the_start_of_memory_off_waits_and_is_sigbus,
        ],
        "race: mmap, fork, export and revoke against revoke or close": [
            second_revoke_does_not_rely_on_the_first, mapping_that_a_revoke_overtook_is_dead,
            fork_that_a_revoke_overtook_copies_nothing,
            export_that_the_last_close_overtook_is_closed,
        ];
    Setup::Bound(&[BOCHS]) =>
        "race: fault against revoke, reset, memory off, close and unbind": [
            huge_fault_half_way_holds_up_a_revoke,
        ],
        "race: mmap, fork, export and revoke against revoke or close": [
            fork_of_a_huge_mapping_copies_no_entry,
        ];
}

/// A process without VFIO fds that has a buffer mapped.
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) buffer: Buffer,
    pub(super) address: usize,
}

impl Client {
    fn new() -> Result<(Client, Device)> {
        let (peer, device, buffer, address) = edu_with_client()?;
        Ok((Client { peer, buffer, address }, device))
    }

    /// Made by `peer`, which was forked before `device` was opened.
    pub(super) fn of(peer: Peer, device: &Device) -> Result<Client> {
        let buffer = export_edu(device)?;
        let address = map_in(&peer, &buffer)?;
        Ok(Client { peer, buffer, address })
    }

    /// Lets it load, and stops it in `window`.
    pub(super) fn stopped(&self, window: Window) -> Result<Pause> {
        let pause = Pause::of(self.peer.pid(), window)?;
        self.peer.begin_load(self.address)?;
        pause.wait()?;
        Ok(pause)
    }

    /// What became of the load that was stopped half way: it was in time, or too late.
    fn finish(&self) -> Result<()> {
        let got = self.peer.finish_load()?;
        ensure!(is_id_or_bus_error(got), "the load that was stopped: {got:x?}");
        Ok(())
    }

    /// Checks that it has no page table entry.
    pub(super) fn has_nothing(&self, when: &str) -> Result<()> {
        let entry = Ptes::new()?.of(self.peer.pid(), self.address)?;
        check::equal(&format!("entry {when}"), entry, None)
    }
}

/// Stops a fault between its checks and the page table, and checks that `call` waits for it.
///
/// `after` looks at the client when both are over.
fn holds_up(
    device: &Device,
    client: &Client,
    call: impl FnOnce() -> Result<(), Errno>,
    after: impl FnOnce(&Client) -> Result<()>,
) -> Result<()> {
    let call = HeldUp::new(&[], call)?;
    let pause = client.stopped(windows::FAULT_CHECKED)?;
    pause.is_atomic()?;
    call.comes()?;
    pause.end()?;
    check::works("the call", call.call().finish()?)?;
    client.finish()?;
    after(client)?;
    check::value("a buffer exported anew", export_edu(device)?.map(0, PAGE)?.load(ID_AT), ID)
}

fn is_dead(client: &Client) -> Result<()> {
    client.has_nothing("after all")?;
    check::bus_error("after all", client.peer.load(client.address)?)
}

fn heals(client: &Client) -> Result<()> {
    check::value("after all", client.peer.load(client.address)?, ID)
}

fn fault_half_way_holds_up_a_revoke() -> Result<()> {
    let (client, device) = Client::new()?;
    holds_up(&device, &client, || buffer::revoke(&device, &client.buffer), is_dead)
}

fn huge_fault_half_way_holds_up_a_revoke() -> Result<()> {
    const SIZE: u64 = BLOCK;
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
    // The child has a copy of the mapping.
    let load = || mapping.load(0).map(drop).or(Ok(()));
    let revoke = HeldUp::new(&[], || buffer::revoke(&device, &buffer))?;
    let (pause, load) = Pause::call(windows::HUGE_FAULT_CHECKED, load)?;
    pause.is_atomic()?;
    revoke.comes()?;
    check::equal("entry meanwhile", Ptes::new()?.of(load.pid(), mapping.address())?, None)?;
    pause.end()?;
    check::works("REVOKE", revoke.call().finish()?)?;
    check::works("the load that was stopped", load.finish()?)?;
    check::bus_error("after all", mapping.load(0))
}

/// Resets while a fault is half way: it waits, and when it comes to the device no entry is left.
fn fault_holds_up_a_reset(call: impl FnOnce(&Pci, &Device) -> Result<(), Errno>) -> Result<()> {
    let (client, device) = Client::new()?;
    let pci = edu()?;
    let resets = Pause::at(windows::RESET)?;
    let reset = HeldUp::new(&[&resets], || call(&pci, &device))?;
    let pause = client.stopped(windows::FAULT_CHECKED)?;
    reset.comes()?;
    resets.is_ahead()?;
    pause.end()?;
    resets.wait()?;
    client.has_nothing("when the device is being reset")?;
    resets.release()?;
    check::works("the reset", reset.call().finish()?)?;
    client.finish()?;
    heals(&client)
}

fn fault_half_way_holds_up_memory_off() -> Result<()> {
    let (client, device) = Client::new()?;
    let off = || device.set_memory(false).map_err(|_| Errno::EIO);
    holds_up(&device, &client, off, |client| {
        client.has_nothing("with memory off")?;
        device.set_memory(true)?;
        heals(client)
    })
}

/// The core has removed all entries, and not yet disabled memory: nobody may make one now.
fn fault_after_the_start_of_memory_off_waits_and_is_sigbus() -> Result<()> {
    let (client, device) = Client::new()?;
    let off = || device.set_memory(false).map_err(|_| Errno::EIO);
    let (pause, off) = Pause::call(windows::ZAP, off)?;
    client.peer.begin_load(client.address)?;
    wait_for("the load to wait", || Ok(is_in_driver(client.peer.pid())))?;
    client.has_nothing("before memory is off")?;
    pause.end()?;
    check::works("memory off", off.finish()?)?;
    check::bus_error("the load that waited", client.peer.finish_load()?)?;
    client.has_nothing("with memory off")?;
    device.set_memory(true)?;
    heals(&client)
}

fn fault_half_way_holds_up_the_last_close() -> Result<()> {
    let (client, device) = Client::new()?;
    // The child ends at once, and has the last fds of the device.
    let close = HeldUp::new(&[], || Ok(()))?;
    drop(device);
    let pause = client.stopped(windows::FAULT_CHECKED)?;
    close.comes().context("the last close")?;
    pause.end()?;
    check::works("the last close", close.call().finish()?)?;
    client.finish()?;
    is_dead(&client)
}

fn fault_after_the_start_of_a_revoke_is_sigbus() -> Result<()> {
    let device = open_edu()?;
    let buffer = Buffer::export(&device, 0, 0, 2 * PAGE)?;
    let [touched, fresh] = [buffer.map(0, PAGE)?, buffer.map(0, PAGE)?];
    check::value("before", touched.load(ID_AT), ID)?;
    let (pause, revoke) = Pause::call(windows::ZAP, || buffer::revoke(&device, &buffer))?;
    check::bus_error("fault before the zap", fresh.load(ID_AT))?;
    check::errno("mmap before the zap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::value("entry before the zap", touched.load(ID_AT), ID)?;
    pause.end()?;
    check::works("REVOKE", revoke.finish()?)?;
    check::bus_error("touched", touched.load(ID_AT))?;
    check::bus_error("fresh", fresh.load(ID_AT))
}

fn fault_after_the_start_of_the_last_close_is_sigbus() -> Result<()> {
    let (client, device) = Client::new()?;
    let ((), early) = overtaken(
        windows::ZAP,
        || drop(device),
        |pause| {
            let early = client.peer.load(client.address)?;
            pause.holds()?;
            Ok(early)
        },
    )?;
    check::bus_error("before the zap", early)?;
    is_dead(&client)
}

fn fault_after_the_start_of_a_reset_waits_for_its_end() -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let (_buffer, mapping) = map_edu(&device)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    for (_, reset) in resets(&device, &pci) {
        let (pause, reset) = Pause::call(windows::RESET, reset)?;
        check::equal("entry", Ptes::new()?.at(mapping.address())?, None)?;
        let load = waiting(|| match mapping.load(ID_AT) {
            Ok(ID) => Ok(()),
            other => {
                eprintln!("load: {other:x?}");
                Err(Errno::EIO)
            }
        })?;
        pause.end()?;
        check::works("reset", reset.finish()?)?;
        check::works("load", load.finish()?)?;
        check::value("afterwards", mapping.load(ID_AT), ID)?;
    }
    Ok(())
}

fn second_revoke_does_not_rely_on_the_first() -> Result<()> {
    let (device, buffer, mapping) = touched_edu()?;
    let (pause, first) = Pause::call(windows::ZAP, || buffer::revoke(&device, &buffer))?;
    let (second, _) = meanwhile(&pause, "another REVOKE", || buffer::revoke(&device, &buffer))?;
    check::works("another REVOKE", second)?;
    check::bus_error("after it", mapping.load(ID_AT))?;
    pause.end()?;
    check::works("the first REVOKE", first.finish()?)?;
    check::errno("the third", buffer::revoke(&device, &buffer), Errno::EBADFD)
}

fn mapping_that_a_revoke_overtook_is_dead() -> Result<()> {
    let peer = Peer::fork()?;
    let (device, buffer) = exported_edu()?;
    let fd = peer.take(&buffer)?;
    let pause = Pause::of(peer.pid(), windows::MMAP_CHECKED)?;
    peer.begin_map(fd, PAGE, mm::RW, 0)?;
    pause.wait()?;
    let (revoke, _) = meanwhile(&pause, "REVOKE", || buffer::revoke(&device, &buffer))?;
    check::works("REVOKE", revoke)?;
    pause.end()?;
    let address = check::works("mmap that was in time", peer.finish_map()?)?;
    check::bus_error("load", peer.load(address)?)?;
    check::equal("entry", Ptes::new()?.of(peer.pid(), address)?, None)
}

fn fork_that_a_revoke_overtook_copies_nothing() -> Result<()> {
    for copies in [false, true] {
        // A forking process can do nothing else meanwhile, so another one revokes.
        let peer = Peer::fork()?;
        let (device, buffer) = exported_edu()?;
        let [open, copy] = [Pause::at(windows::VMA_OPENED)?, Pause::at(windows::FORK_COPIES)?];
        let old = Worker::start(|| {
            let mapping = buffer.map(0, PAGE)?;
            check::value("before", mapping.load(ID_AT), ID)?;
            open.arm_here()?;
            let load = || {
                check::bus_error("in the new process", mapping.load(ID_AT))?;
                check::equal("its entry", Ptes::new()?.at(mapping.address())?, None)
            };
            Worker::start(load)?.finish(SOON)?;
            check::bus_error("in the old process", mapping.load(ID_AT))
        })?;
        open.wait()?;
        let mut inside = &open;
        if copies {
            copy.arm(old.pid(), SOON)?;
            open.release()?;
            copy.wait()?;
            inside = &copy;
        }
        let revoke = [size_of::<vfio_dmabuf_ioctl_revoke>() as u32, peer.take(&buffer)? as u32];
        let revoke = peer.ioctl(peer.take(&device)?, VFIO_DMABUF_IOCTL_REVOKE, revoke)?;
        check::works("REVOKE", revoke)?;
        inside.release()?;
        old.finish(SOON)?;
    }
    Ok(())
}

/// The kernel writes a large entry that it has read before to the new process, without looking
/// whether it was zapped meanwhile. So there must be none when it begins to copy.
fn fork_of_a_huge_mapping_copies_no_entry() -> Result<()> {
    const SIZE: u64 = BLOCK;
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
    mapping.store(0, 77)?;
    let size = || Ok::<_, anyhow::Error>(Ptes::new()?.at(mapping.address())?.map(|pte| pte.size));
    check::equal("size before", size()?, Some(SIZE))?;
    let child = Worker::start(|| {
        check::equal("size in the new process", size()?, None)?;
        check::value("in the new process", mapping.load(0), 77)
    })?;
    child.finish(SOON)?;
    check::equal("size after it", size()?, None)?;
    check::value("in the old process", mapping.load(0), 77)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    check::bus_error("after REVOKE", mapping.load(0))
}

fn export_that_the_last_close_overtook_is_closed() -> Result<()> {
    let mut device = open_edu()?;
    let holders = std::mem::take(&mut device.holders);
    let raw = device.raw();
    let export = || {
        let buffer = Buffer::export(&device, 0, 0, PAGE);
        // The other thread closes it.
        std::mem::forget(device);
        buffer
    };
    let (buffer, ()) = overtaken(windows::EXPORT_CHECKED, export, |pause| {
        check::works("close", meanwhile(pause, "close", || nix::unistd::close(raw))?.0)
    })?;
    let buffer = check::works("export that was in time", buffer)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    drop(holders);
    let device = open_edu()?;
    has_status(&device, &buffer, "in the end", VFIO_DMABUF_STATUS_CLOSED)?;
    check::errno("REVOKE", buffer::revoke(&device, &buffer), Errno::ENODEV)
}
