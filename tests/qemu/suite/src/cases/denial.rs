// SPDX-License-Identifier: GPL-2.0
//! Clients that do nothing but fault have no power over the owner's resets, and the owner's own
//! faults none over its calls.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use guest::kmsg;
use guest::waiting::Waiter;
use guest::windows::{
    CHANGE_LETS_FAULTS_IN, CONFIG_WRITE, FAULT, FAULT_CHECKED, LAST_CLOSE, RESET,
};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "clients that fault do not make resets or power changes of the owner fail": [
            hot_reset_waits_for_a_client_in_a_fault,
            resets_work_beside_eight_clients_that_fault,
        ];
    Setup::Bound(&[EDU, EDU, EDU, EDU]) =>
        "clients that fault do not make resets or power changes of the owner fail": [
            hot_reset_by_a_sibling_waits_for_a_client_in_a_fault,
        ],
        "a hot reset that waits for a sibling's close does not keep faults out": [
            faults_go_on_while_a_hot_reset_waits_for_a_close,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "config writes of the owner do not starve accesses": [
            access_beside_config_writers_takes_no_longer_than_in_tree,
        ];
    Setup::Bound(&[EDU]) =>
        "config writes of the owner do not starve accesses": [
            config_write_lets_an_access_in_that_has_lost_repeatedly,
        ];
    Setup::Bound(&[IGB]) =>
        "clients that fault do not make resets or power changes of the owner fail": [
            function_resets_work_beside_eight_clients_that_fault,
        ];
    Setup::Bound(&[BOCHS]) =>
        "the arguments of the owner's calls may lie in its own mapping of the device": [
            config_write_reads_its_bytes_from_a_mapping_of_the_device,
            config_write_goes_on_when_a_reset_comes_before_it_reads_its_bytes,
            hot_reset_reads_its_arguments_from_a_mapping_of_the_device,
        ];
}

/// How often each reset is tried beside clients that fault.
const ROUNDS: usize = 25;

/// Checks that `reset` waits for a client that stands between its check and its entry, and works.
fn waits_for_a_fault(device: &Device, reset: impl FnOnce() -> Result<(), Errno>) -> Result<()> {
    let (_buffer, mapping) = map_edu(device)?;
    let call = HeldUp::new(&[], reset)?;
    let (fault, load) =
        Pause::call(FAULT_CHECKED, || mapping.load(ID_AT).map(drop).or(Err(Errno::EIO)))?;
    call.comes()?;
    fault.end()?;
    check::works("the reset", call.call().finish()?)?;
    check::works("the load", load.finish()?)?;
    check::value("afterwards", mapping.load(ID_AT), ID)
}

fn hot_reset_waits_for_a_client_in_a_fault() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let groups = groups(&device, via);
        waits_for_a_fault(&device, || device.hot_reset(&groups))
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

fn hot_reset_by_a_sibling_waits_for_a_client_in_a_fault() -> Result<()> {
    let pair = siblings()?;
    for &via in Via::all() {
        let device = Device::open(&pair[0], via)?;
        let sibling = device.open_sibling(&pair[1], via)?;
        let groups = groups(&device, via);
        waits_for_a_fault(&device, || sibling.hot_reset(&groups))
            .with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

/// VFIO closes a device with the lock of all devices of the slot held, and that may last.
fn faults_go_on_while_a_hot_reset_waits_for_a_close() -> Result<()> {
    let pair = siblings()?;
    for &via in Via::all() {
        let device = Device::open(&pair[0], via)?;
        let sibling = device.open_sibling(&pair[1], via)?;
        let buffer = export_edu(&device)?;
        let groups = groups(&device, via);
        let pause = Pause::at(LAST_CLOSE)?;
        thread::scope(|scope| {
            let closer = scope.spawn(|| {
                let armed = pause.arm_here();
                sibling.close();
                armed
            });
            pause.wait()?;
            let resetter = Waiter::start(scope, || device.hot_reset(&groups))?;
            resetter.waits_in_kernel().with_context(|| format!("HOT_RESET, {via:?}"))?;
            check::value("a load meanwhile", buffer.map(0, PAGE)?.load(ID_AT), ID)?;
            pause.release().context("the load waited for the close")?;
            check::works("close", closer.join().map_err(|_| anyhow!("close: panic"))?)?;
            check::works("HOT_RESET", resetter.finish()?)
        })?;
        check::value("afterwards", buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    }
    Ok(())
}

/// Eight clients that load from a page of the device as fast as they can.
struct Clients(Vec<(Peer, usize)>);

impl Clients {
    fn fork() -> Result<Vec<Peer>> {
        (0..8).map(|_| Peer::fork()).collect()
    }

    fn start(peers: Vec<Peer>, device: &Device, bar: u32, offset: u64) -> Result<Clients> {
        let buffer = guest::buffer::Buffer::export(device, bar, 0, PAGE)?;
        let mut clients = Vec::new();
        for peer in peers {
            let fd = peer.take(&buffer)?;
            let address = check::works("mmap", peer.map(fd, PAGE, mm::RW, 0)?)? + offset as usize;
            let want = peer.load(address)?.context("load")?;
            peer.begin_loads(address, want)?;
            clients.push((peer, address));
        }
        Ok(Clients(clients))
    }

    fn end(self) -> Result<()> {
        for (peer, _) in self.0 {
            peer.end_loads()?;
        }
        Ok(())
    }
}

fn resets_work_beside_eight_clients_that_fault() -> Result<()> {
    for &via in Via::all() {
        let peers = Clients::fork()?;
        let pci = edu()?;
        let device = Device::open(&pci, via)?;
        let clients = Clients::start(peers, &device, 0, ID_AT)?;
        for round in 0..ROUNDS {
            let what = |call: &str| format!("{call}, round {round}, {via:?}");
            check::works(&what("HOT_RESET"), device.hot_reset(&groups(&device, via)))?;
            check::works(&what("VFIO_DEVICE_RESET"), device.reset())?;
            check::works(&what("reset through sysfs"), pci.reset())?;
            device.renew_memory()?;
        }
        clients.end()?;
    }
    Ok(())
}

/// A register of igb that does not change by itself.
const STATUS: u64 = 0x08;

fn function_resets_work_beside_eight_clients_that_fault() -> Result<()> {
    for &via in Via::all() {
        let peers = Clients::fork()?;
        let device = Device::open(&nth(IGB, 0)?, via)?;
        let clients = Clients::start(peers, &device, 0, STATUS)?;
        for round in 0..ROUNDS / 5 {
            let what = |call: &str| format!("{call}, round {round}, {via:?}");
            check::works(&what("VFIO_DEVICE_RESET"), device.reset())?;
            device.express_flr().with_context(|| what("FLR"))?;
            device.set_power_state(3).with_context(|| what("D3hot"))?;
            device.set_power_state(0).with_context(|| what("D0"))?;
            check::works(&what("LOW_POWER_ENTRY"), device.enter_low_power())?;
            check::works(&what("LOW_POWER_EXIT"), device.leave_low_power())?;
        }
        clients.end()?;
    }
    Ok(())
}

/// The video memory of a bochs-display, with words at its start and no entry in the page table.
fn memory_with(device: &Device, words: &[u32]) -> Result<Mapping> {
    let memory = device.map_bar(0)?;
    for (at, &word) in words.iter().enumerate() {
        memory.store(4 * at as u64, word).context("store")?;
    }
    device.renew_memory()?;
    Ok(memory)
}

fn config_write_reads_its_bytes_from_a_mapping_of_the_device() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&nth(BOCHS, 0)?, via)?;
        let command = u64::from(uapi::PCI_COMMAND);
        let on = device.config16(command)?;
        let off = on & !(uapi::PCI_COMMAND_MEMORY as u16);
        let memory = memory_with(&device, &[u32::from(off)])?;
        let at = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?.offset + command;
        let written = mm::write_at(device.raw(), memory.address(), 2, at as i64);
        check::equal("pwrite() from the BAR", written, Ok(2))?;
        check::equal("PCI_COMMAND", device.config16(command)?, off)?;
        check::bus_error("with memory off", memory.load(0))?;
        device.set_memory(true)?;
        check::value("with memory on", memory.load(0), u32::from(off))?;
    }
    Ok(())
}

/// The reset removes the entry that was brought in for the arguments.
fn config_write_goes_on_when_a_reset_comes_before_it_reads_its_bytes() -> Result<()> {
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let command = u64::from(uapi::PCI_COMMAND);
    let on = device.config16(command)?;
    let memory = memory_with(&device, &[u32::from(on)])?;
    let at = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?.offset + command;
    let [write, reset] = [CONFIG_WRITE, RESET].map(Pause::at);
    let (write, reset) = (write?, reset?);
    std::thread::scope(|scope| {
        let writer = Waiter::start(scope, || {
            write.arm_here()?;
            mm::write_at(device.raw(), memory.address(), 2, at as i64)
        })?;
        write.wait()?;
        let resetter = scope.spawn(|| {
            reset.arm_here()?;
            pci.reset()
        });
        reset.wait()?;
        // The writer now waits for the reset, in its own change.
        write.release()?;
        writer.waits_in_driver().context("the write")?;
        reset.release()?;
        let reset = resetter.join().map_err(|_| anyhow!("reset: panic"))?;
        check::works("reset", reset)?;
        check::equal("pwrite() from the BAR", writer.finish()?, Ok(2))
    })?;
    check::value("afterwards", memory.load(0), u32::from(on))
}

fn hot_reset_reads_its_arguments_from_a_mapping_of_the_device() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&nth(BOCHS, 0)?, via)?;
        let groups = groups(&device, via);
        let mut words = vec![12 + 4 * groups.len() as u32, 0, groups.len() as u32];
        words.extend(groups.iter().map(|&fd| fd as u32));
        let memory = memory_with(&device, &words)?;
        let done = device.ioctl(uapi::VFIO_DEVICE_PCI_HOT_RESET, memory.address());
        check::works("HOT_RESET with arguments in the BAR", done)?;
        check::value("afterwards", memory.load(0), words[0])?;
    }
    Ok(())
}

/// Enables and disables memory, or writes the command register as it is, from eight threads;
/// returns how long the longest of some accesses takes meanwhile.
fn longest_access(device: &Device, off: u16) -> Result<Duration> {
    const ACCESSES: usize = 40;
    let command = u64::from(uapi::PCI_COMMAND);
    let on = device.config16(command)?;
    let mapping = device.map_bar(0)?;
    let over = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| -> Result<Duration> {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let _ = device.set_config16(command, on & !off);
                    let _ = device.set_config16(command, on);
                }
            });
        }
        let mut longest = Duration::ZERO;
        for _ in 0..ACCESSES {
            let start = Instant::now();
            // A value, or SIGBUS while memory is disabled.
            let _ = mapping.load(ID_AT);
            longest = longest.max(start.elapsed());
        }
        over.store(true, Relaxed);
        Ok(longest)
    })?;
    device.set_memory(true)?;
    check::value("afterwards", mapping.load(ID_AT), ID)?;
    Ok(longest)
}

/// The shortest of the longest, for the host may stop the guest in any one of them.
fn longest_access_at_best(device: &Device, off: u16) -> Result<Duration> {
    let tries = (0..3).map(|_| longest_access(device, off)).collect::<Result<Vec<_>>>()?;
    tries.into_iter().min().context("no try")
}

fn access_beside_config_writers_takes_no_longer_than_in_tree() -> Result<()> {
    const NOISE: Duration = Duration::from_secs(1);
    let [ours, theirs] = [nth(EDU, 0)?, nth(EDU, 1)?];
    theirs.bind("vfio-pci")?;
    for (what, off) in [("memory off and on", uapi::PCI_COMMAND_MEMORY as u16), ("no change", 0)] {
        let in_tree = longest_access_at_best(&Device::open(&theirs, Via::Group)?, off)?;
        let took = longest_access_at_best(&Device::open(&ours, Via::Group)?, off)?;
        kmsg::mark(&format!("beside 8 writers, {what}: {took:?}, in-tree {in_tree:?}"));
        ensure!(took <= in_tree * 2 + scaled(NOISE), "{what}: {took:?}, in-tree {in_tree:?}");
    }
    theirs.release()
}

/// A client that is slow to run finds each config write under way, unless one lets it in first. The
/// kernel tells the driver that a fault is a retry from its third try on: the first one holds the
/// lock of the VMA.
fn config_write_lets_an_access_in_that_has_lost_repeatedly() -> Result<()> {
    let device = Device::open(&edu()?, Via::Group)?;
    let mapping = export_edu(&device)?.map(0, PAGE)?;
    let command = u64::from(uapi::PCI_COMMAND);
    let on = device.config16(command)?;
    let write_command = || device.set_config16(command, on).or(Err(Errno::EIO));
    device.set_memory(false)?;
    device.set_memory(true)?;

    let (mut write, mut writer) = Pause::call(CONFIG_WRITE, write_command)?;
    let mut load = Call::start(|| mapping.load(ID_AT).map(drop).or(Err(Errno::EIO)))?;
    for window in [CONFIG_WRITE, CONFIG_WRITE, CHANGE_LETS_FAULTS_IN] {
        load.hangs_for(WHILE).context("the load beside a write")?;
        // The end of the write wakes the client, which does not run before the next one.
        let client = Pause::of(load.pid(), FAULT)?;
        write.end()?;
        client.wait()?;
        check::works("a write", writer.finish()?)?;
        (write, writer) = Pause::call(window, write_command)?;
        client.end()?;
    }
    check::works("the load", load.finish()?)?;
    write.end().context("the load waited for the last write")?;
    check::works("the last write", writer.finish()?)
}
