// SPDX-License-Identifier: GPL-2.0
//! What becomes of importers when the device's memory goes away for a while.

use guest::kmsg;
use guest::windows::Window;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{kill, Signal};
use nix::sys::uio::pwrite;
use nix::unistd::Pid;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "attach, map: ENODEV while revoked in any way": [no_importer_maps_while_memory_is_off],
        "temporary revocation waits; EINTR undoes it; a reset that cannot fail waits a second": [
            memory_off_waits_for_a_slow_importer, interrupted_memory_off_does_not_happen,
            interrupted_reset_does_not_happen, sysfs_reset_does_not_wait_for_ever,
            sysfs_reset_waits_although_its_caller_has_a_signal,
            siblings_hot_reset_does_not_wait_for_ever, reset_waits_for_a_fence,
            sysfs_reset_does_not_wait_for_a_reset_that_hangs, several_slow_importers_do_not_add_up,
            importers_that_never_unmap_share_a_second, interrupted_hot_reset_does_not_happen,
        ],
        "temporary revocation invalidates importers; they map again afterwards": [
            vfio_reset_takes_importers_mappings =>
                resets(&Rig::new()?, |device| check::works("VFIO_DEVICE_RESET", device.reset())),
            hot_reset_takes_importers_mappings, sysfs_reset_takes_importers_mappings,
            siblings_hot_reset_takes_importers_mappings,
        ],
        "REVOKE interrupted: EINTR, in force, call again; stalls nothing else": [
            siblings_hot_reset_does_not_wait_for_a_revoke,
        ];
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "attach, map: ENODEV while revoked in any way": [
            no_importer_maps_in_low_power, no_importer_maps_in_low_power_with_wakeup,
        ];
    Setup::Bound(&[IGB, EDU, EDU]) =>
        "temporary revocation waits; EINTR undoes it; a reset that cannot fail waits a second": [
            interrupted_express_flr_does_not_happen,
        ],
        "attach, map: ENODEV while revoked in any way": [no_importer_maps_in_d3hot],
        "temporary revocation invalidates importers; they map again afterwards": [
            express_flr_takes_importers_mappings =>
                resets(&Rig::with(nth(IGB, 0)?)?, Device::express_flr),
        ];
}

const TEMPORARILY: u32 = uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP;

/// Disables memory by `off` and enables it by `on`: importers are invalidated, refused, and
/// admitted.
fn away_and_back(
    rig: &Rig,
    off: impl Fn(&Device) -> Result<()>,
    on: impl Fn(&Device) -> Result<()>,
) -> Result<()> {
    let importer = rig.mapped(UNMAPS_AT_ONCE)?;
    for round in 1..4 {
        off(&rig.device)?;
        invalidated(&format!("round {round}"), &importer, round)?;
        rig.refuses(&format!("while it is away, round {round}"), &importer)?;
        rig.has_status("while it is away", TEMPORARILY)?;
        on(&rig.device)?;
        rig.has_status("when it is back", uapi::VFIO_DMABUF_STATUS_LIVE)?;
        check::works("map when it is back", importer.map())?;
        rig.attached(UNMAPS_AT_ONCE)?;
    }
    // A buffer can be revoked for good while it is away.
    off(&rig.device)?;
    rig.revoke()?;
    on(&rig.device)?;
    rig.refuses("when it is back, but revoked", &importer)
}

fn no_importer_maps_while_memory_is_off() -> Result<()> {
    let rig = Rig::new()?;
    away_and_back(&rig, |device| device.set_memory(false), |device| device.set_memory(true))
}

fn no_importer_maps_in_low_power() -> Result<()> {
    let rig = Rig::with(nth(BOCHS, 0)?)?;
    let enter = |device: &Device| check::works("enter", device.enter_low_power());
    let leave = |device: &Device| check::works("leave", device.leave_low_power());
    away_and_back(&rig, enter, leave)
}

/// Any call to the device that wakes it ends this, so the buffer's status cannot be asked for.
fn no_importer_maps_in_low_power_with_wakeup() -> Result<()> {
    let rig = Rig::with(nth(BOCHS, 0)?)?;
    let event = EventFd::new()?;
    let importer = rig.mapped(UNMAPS_AT_ONCE)?;
    for round in 1..4 {
        check::works("ENTRY_WITH_WAKEUP", rig.device.enter_low_power_with(&event))?;
        invalidated(&format!("round {round}"), &importer, round)?;
        rig.refuses(&format!("in low power, round {round}"), &importer)?;
        if round % 2 == 0 {
            check::works("LOW_POWER_EXIT", rig.device.leave_low_power())?;
        } else {
            wait_for("the device to sleep", || Ok(rig.pci.runtime_status()? == "suspended"))?;
            check::works("GET_REGION_INFO", rig.device.region(0))?;
        }
        check::works("map afterwards", importer.map())?;
    }
    Ok(())
}

fn no_importer_maps_in_d3hot() -> Result<()> {
    let rig = Rig::with(nth(IGB, 0)?)?;
    let off = |device: &Device| device.set_power_state(3);
    away_and_back(&rig, off, |device| {
        device.set_power_state(0)?;
        device.set_memory(true)
    })
}

fn memory_off_waits_for_a_slow_importer() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(SLOW)?;
    let start = Instant::now();
    rig.device.set_memory(false)?;
    let took = start.elapsed();
    ensure!(took >= DELAY, "the write took {took:?}");
    invalidated("memory off", &importer, 1)?;
    rig.device.set_memory(true)?;
    check::works("map", importer.map()).map(drop)
}

fn interrupted_memory_off_does_not_happen() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let mapping = rig.buffer.map(0, PAGE)?;
    for round in 1..4 {
        let call = waiting(|| clear_command(&rig.device))?;
        check::errno(&format!("config write, round {round}"), call.interrupt()?, Errno::EINTR)?;
        // When the write came, and when it was given up.
        check::equal("times invalidated", importer.stats()?.hits, 2 * round)?;
        let command = rig.device.config16(uapi::PCI_COMMAND.into())?;
        ensure!(command & uapi::PCI_COMMAND_MEMORY as u16 != 0, "PCI_COMMAND is {command:#x}");
        check::value("CPU", mapping.load(ID_AT), ID)?;
        rig.has_status("after EINTR", uapi::VFIO_DMABUF_STATUS_LIVE)?;
    }
    // Others may map again at once, and so may this one.
    check::works("map by another", rig.attached(UNMAPS_AT_ONCE)?.map())?;
    check::works("unmap", importer.unmap())?;
    check::works("map", importer.map())?;
    check::works("unmap", importer.unmap())?;
    rig.device.set_memory(false)?;
    rig.refuses("with memory off", &importer)
}

/// One write() that clears the command register; [`Device::set_config16`] would start over.
pub(super) fn clear_command(device: &Device) -> Result<(), Errno> {
    let config = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
    let at = config + u64::from(uapi::PCI_COMMAND);
    pwrite(device, &[0, 0], at as i64).map(drop)
}

fn interrupted_reset_does_not_happen() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let mapping = rig.buffer.map(0, PAGE)?;
    mapping.store(INVERTER, 5)?;
    let call = waiting(|| rig.device.reset())?;
    check::errno("VFIO_DEVICE_RESET", call.interrupt()?, Errno::EINTR)?;
    check::value("a register", mapping.load(INVERTER), !5)?;
    check::works("unmap", importer.unmap())?;
    check::works("VFIO_DEVICE_RESET", rig.device.reset())
}

/// Starts `reset` beside an importer that does not unmap, and interrupts it: it must not have
/// come to the device. When the importer has unmapped, it works.
fn reset_can_be_interrupted(
    rig: &Rig,
    acts: Window,
    reset: impl Fn(&Device) -> Result<(), Errno>,
) -> Result<()> {
    let importer = rig.mapped(NEVER_UNMAPS)?;
    let act = Pause::of_any(acts)?;
    for round in 1..3 {
        let mut call = Call::start(|| reset(&rig.device))?;
        call.hangs_for(WHILE)?;
        check::errno(&format!("round {round}"), call.interrupt()?, Errno::EINTR)?;
        act.is_ahead()?;
        rig.has_status("after EINTR", uapi::VFIO_DMABUF_STATUS_LIVE)?;
        // When the call came, and when it was given up.
        let stats = importer.stats()?;
        check::equal("mapped, invalidated", (stats.mapped, stats.hits), (1, 2 * round))?;
        check::works("load", rig.buffer.map(0, PAGE)?.load(ID_AT).or(Err(Errno::EFAULT)))?;
    }
    let mut call = Call::start(|| reset(&rig.device))?;
    call.hangs_for(WHILE)?;
    act.is_ahead()?;
    check::works("unmap", importer.unmap())?;
    act.wait()?;
    check::errno("map when the device is about to be reset", importer.map(), Errno::ENODEV)?;
    act.end()?;
    check::works("the reset", call.finish()?)?;
    check::works("map after the reset", importer.map())?;
    check::works("unmap", importer.unmap())
}

fn interrupted_hot_reset_does_not_happen() -> Result<()> {
    let rig = Rig::new()?;
    reset_can_be_interrupted(&rig, windows::BUS_RESET, |device| {
        device.hot_reset(&[device.holders[0].as_raw_fd()])
    })
}

fn interrupted_express_flr_does_not_happen() -> Result<()> {
    let rig = Rig::with(nth(IGB, 0)?)?;
    let (at, control) = rig.device.express_control()?;
    reset_can_be_interrupted(&rig, windows::FUNCTION_RESET, |device| {
        let flr = control | uapi::PCI_EXP_DEVCTL_BCR_FLR as u16;
        let config = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
        pwrite(device, &flr.to_le_bytes(), (config + at) as i64).map(drop)
    })
}

/// Each `reset` tells importers to unmap; afterwards they may map again.
fn resets(rig: &Rig, reset: impl Fn(&Device) -> Result<()>) -> Result<()> {
    let importer = rig.mapped(UNMAPS_AT_ONCE)?;
    for round in 1..4 {
        reset(&rig.device)?;
        invalidated(&format!("round {round}"), &importer, round)?;
        rig.has_status("after the reset", uapi::VFIO_DMABUF_STATUS_LIVE)?;
        check::works("map after the reset", importer.map())?;
        rig.attached(UNMAPS_AT_ONCE)?;
    }
    Ok(())
}

fn hot_reset_takes_importers_mappings() -> Result<()> {
    let rig = Rig::new()?;
    let groups = rig::groups(&rig.device, Via::Group);
    resets(&rig, |device| check::works("HOT_RESET", device.hot_reset(&groups)))
}

fn sysfs_reset_takes_importers_mappings() -> Result<()> {
    let rig = Rig::new()?;
    resets(&rig, |_| check::works("reset through sysfs", rig.pci.reset()))
}

/// A reset of that kind cannot be refused: it waits for a second, then goes on.
fn bounded(
    what: &str,
    importer: &Importer,
    reset: impl FnOnce() -> Result<(), Errno>,
) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let start = Instant::now();
    check::works(what, reset())?;
    let took = start.elapsed();
    kmsg::mark(&format!("suite: {what} beside an importer that does not unmap took {took:?}"));
    ensure!(
        took >= SECOND * 9 / 10,
        "{what} took {took:?} only, with an importer that had not unmapped"
    );
    ensure!(took < SECOND + scaled(SECOND * 3 / 2), "{what} took {took:?}");
    let stats = importer.stats()?;
    ensure!(stats.mapped == 1 && stats.hits > 0, "{stats:?}");
    Ok(())
}

fn sysfs_reset_does_not_wait_for_ever() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    bounded("reset through sysfs", &importer, || rig.pci.reset())?;
    check::value("CPU", rig.buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    check::works("unmap", importer.unmap())?;
    check::works("map", importer.map()).map(drop)
}

fn sysfs_reset_waits_although_its_caller_has_a_signal() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(SLOW)?;
    let pause = Pause::at(windows::RESET)?;
    let mut reset = Call::start(|| {
        pause.arm_here()?;
        rig.pci.reset()
    })?;
    wait_for("the invalidation", || Ok(importer.stats()?.hits > 0))?;
    check::equal("over", reset.is_over()?, false)?;
    kill(Pid::from_raw(reset.pid()), Signal::SIGUSR1)?;
    pause.wait()?;
    invalidated("when the device is about to be reset", &importer, 1)?;
    pause.end()?;
    check::works("reset through sysfs", reset.finish()?)
}

fn sysfs_reset_does_not_wait_for_a_reset_that_hangs() -> Result<()> {
    let (rig, _importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let fence = add_fence(&rig.buffer)?;
    let mut call = waiting(|| rig.device.reset())?;
    soon("reset through sysfs, beside one that waits", || rig.pci.reset())?;
    call.hangs_for(WHILE)?;
    check::works("signal", fence.signal())?;
    check::works("VFIO_DEVICE_RESET", call.finish()?)
}

fn reset_waits_for_a_fence() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let fence = add_fence(&rig.buffer)?;
    let call = waiting(|| rig.device.reset())?;
    check::errno("VFIO_DEVICE_RESET", call.interrupt()?, Errno::EINTR)?;
    soon("reset through sysfs", || rig.pci.reset())?;
    let call = waiting(|| rig.device.reset())?;
    check::works("signal", fence.signal())?;
    check::works("VFIO_DEVICE_RESET", call.finish()?)?;
    check::works("map", importer.map()).map(drop)
}

/// A reset that cannot be put off waits about a second in all, not for each importer.
fn several_slow_importers_do_not_add_up() -> Result<()> {
    const COUNT: u32 = 8;
    /// Within the second.
    const DELAY: Duration = Duration::from_millis(900);
    rig::peers_reach_each_other()?;
    let rig = Rig::new()?;
    let start = Instant::now();
    check::works("reset through sysfs", rig.pci.reset())?;
    let alone = start.elapsed();
    let mut importers = Vec::new();
    for _ in 0..COUNT {
        let buffer = export_edu(&rig.device)?;
        let importer = rig.attached_to(&buffer, unmaps_after(DELAY.as_millis() as u32))?;
        check::works("map", importer.map())?;
        importers.push((importer, buffer));
    }
    let start = Instant::now();
    check::works("reset through sysfs", rig.pci.reset())?;
    let took = start.elapsed();
    let all = DELAY * COUNT * 2 / 3;
    ensure!(took < alone + all, "the reset took {took:?}, without importers {alone:?}");
    for (importer, _buffer) in &importers {
        // Again when it is over, if that took until then.
        let hits = importer.stats()?.hits;
        ensure!((1..=2).contains(&hits), "invalidated {hits} times");
    }
    Ok(())
}

/// Of one buffer and of several: the deadline is that of the reset.
fn importers_that_never_unmap_share_a_second() -> Result<()> {
    const COUNT: usize = 4;
    let rig = Rig::new()?;
    let mut importers = vec![rig.mapped(NEVER_UNMAPS)?, rig.mapped(NEVER_UNMAPS)?];
    let mut buffers = Vec::new();
    for _ in 0..COUNT {
        let buffer = Buffer::export(&rig.device, 0, 0, PAGE)?;
        let importer = rig.attached_to(&buffer, NEVER_UNMAPS)?;
        check::works("map", importer.map())?;
        importers.push(importer);
        buffers.push(buffer);
    }
    bounded("reset through sysfs, several importers", &importers[0], || rig.pci.reset())?;
    for importer in &importers {
        let stats = importer.stats()?;
        ensure!(stats.mapped == 1 && stats.hits > 0, "{stats:?}");
    }
    Ok(())
}

/// Two edus in one slot: the one is the exporter, the other one is bound to vfio-pci.
struct Pair {
    rig: Rig,
    sibling: Device,
    pci: Pci,
}

impl Pair {
    fn new() -> Result<Pair> {
        let [ours, pci] = rig::siblings()?;
        in_tree()?.load()?;
        ours.bind(&driver())?;
        pci.bind("vfio-pci")?;
        let rig = Rig::with(ours)?;
        let sibling = rig.device.open_sibling(&pci, Via::Group).context("the sibling")?;
        Ok(Pair { rig, sibling, pci })
    }

    fn hot_reset(&self) -> Result<(), Errno> {
        self.sibling.hot_reset(&rig::groups(&self.rig.device, Via::Group))
    }

    fn release(self) -> Result<()> {
        let Pair { rig, sibling, pci } = self;
        drop(sibling);
        drop(rig);
        pci.release()
    }
}

fn siblings_hot_reset_takes_importers_mappings() -> Result<()> {
    let pair = Pair::new()?;
    resets(&pair.rig, |_| check::works("HOT_RESET by the sibling", pair.hot_reset()))?;
    pair.release()
}

fn siblings_hot_reset_does_not_wait_for_ever() -> Result<()> {
    let pair = Pair::new()?;
    let importer = pair.rig.mapped(NEVER_UNMAPS)?;
    bounded("HOT_RESET by the sibling", &importer, || pair.hot_reset())?;
    drop(importer);
    pair.release()
}

fn siblings_hot_reset_does_not_wait_for_a_revoke() -> Result<()> {
    let pair = Pair::new()?;
    let importer = pair.rig.mapped(NEVER_UNMAPS)?;
    let call = waiting_revoke(&pair.rig)?;
    for round in 0..3 {
        soon(&format!("HOT_RESET by the sibling, round {round}"), || pair.hot_reset())?;
    }
    check::equal("times invalidated", importer.stats()?.hits, 1)?;
    check::works("unmap", importer.unmap())?;
    check::works("REVOKE", call.finish()?)?;
    pair.release()
}
