// SPDX-License-Identifier: GPL-2.0
//! Errors of the link to a device, from which the kernel recovers by a reset that neither the
//! device's user nor the administrator has asked for.
//!
//! That reset leaves the device without addresses, with in-tree vfio-pci too: its user gets an
//! event, and disables and enables the memory of the device, which writes them anew.

use std::thread::ScopedJoinHandle;

use guest::host::{self, LinkError};
use guest::testmod;
use guest::uapi::{PCI_BASE_ADDRESS_0, PCI_COMMAND, PCI_PRIMARY_BUS};
use guest::uapi::{VFIO_DMABUF_STATUS_LIVE, VFIO_DMABUF_STATUS_REVOKED_TEMP};
use guest::waiting::Waiter;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            unbind_ends_the_waits_for_a_recovery,
        ];
    Setup::Bound(&[IGB]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            link_error_of_a_sleeping_device_is_over_in_d0,
            lost_device_is_not_back_before_it_has_addresses,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            link_error_takes_everything_away_until_the_owner_enables_memory,
            memory_enabled_amid_a_recovery_is_in_reach_after_it,
            link_error_does_not_wait_for_ever, reset_amid_a_recovery_lets_nobody_in,
        ],
        "link error that is not fatal: nothing changes": [
            harmless_error_leaves_everything_as_it_is,
        ];
    Setup::Bound(&[EDU, EDU, EDU, EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            device_that_does_not_recover_is_out_of_reach_until_a_reset,
            reset_that_another_driver_asks_for_takes_everything_away,
        ],
        "link error that is not fatal: nothing changes": [
            harmless_error_without_recovery_leaves_everything_as_it_is,
        ],
        "link error that is not fatal: a device that no longer answers is lost": [
            device_that_answers_no_more_is_lost_at_once,
        ],
        "lost device: restored by the next open, by enabling memory, by the owner's reset": [
            lost_device_is_back_when_it_is_opened_anew,
            lost_device_is_back_when_its_owner_enables_memory,
            reset_through_a_sibling_does_not_bring_a_lost_device_back,
        ];
}

pub(super) fn error(pci: &Pci, error: LinkError) -> Result<()> {
    if host::port_has_error(pci, error)? {
        return Ok(());
    }
    Err(Skip("the host injects no errors".into()).into())
}

/// An edu with everything that reaches it: mappings of both kinds, and an importer.
struct Scene {
    /// Goes first: the last close waits for it.
    importer: Importer,
    mappings: [Mapping; 2],
    rig: Rig,
}

impl Scene {
    fn new(rig: Rig, how: Attach) -> Result<Scene> {
        let mappings = [rig.buffer.map(0, PAGE)?, rig.device.map_bar(0)?];
        let importer = rig.mapped(how)?;
        let scene = Scene { importer, mappings, rig };
        scene.is_in_reach("before")?;
        Ok(scene)
    }

    /// Checks that all mappings reach the device.
    fn is_in_reach(&self, when: &str) -> Result<()> {
        self.rig.has_status(when, VFIO_DMABUF_STATUS_LIVE)?;
        self.mappings.iter().try_for_each(|mapping| check::value(when, mapping.load(ID_AT), ID))
    }

    /// Starts a load that fails with EIO when it is SIGBUS.
    fn begin_load(&self) -> Result<Call> {
        Call::start(|| self.mappings[0].load(ID_AT).map(drop).or(Err(Errno::EIO)))
    }

    /// Checks that no mapping and no importer reaches the device.
    fn is_out_of_reach(&self, when: &str) -> Result<()> {
        let ptes = Ptes::new()?;
        for mapping in &self.mappings {
            check::equal(&format!("entry {when}"), ptes.at(mapping.address())?, None)?;
        }
        self.rig.has_status(when, VFIO_DMABUF_STATUS_REVOKED_TEMP)?;
        self.rig.refuses(when, &self.importer)
    }

    /// Checks that all do, once the user has written the addresses anew.
    fn heals(&self) -> Result<()> {
        self.rig.device.renew_memory()?;
        self.is_in_reach("in the end")?;
        check::works("map in the end", self.importer.map()).map(drop)
    }
}

/// The reset leaves the device without addresses: accesses would reach nothing.
fn link_error_takes_everything_away_until_the_owner_enables_memory() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    for round in [1, 2] {
        let reset = Pause::of_any(windows::LINK_RESET)?;
        let end = Pause::of_any(windows::RECOVERY_ENDS)?;
        error(&scene.rig.pci, LinkError::Fatal)?;
        reset.wait()?;
        invalidated("link error", &scene.importer, round)?;
        scene.is_out_of_reach("when the link is being reset")?;
        let mut load = scene.begin_load()?;
        load.hangs_for(WHILE)?;
        reset.end()?;
        end.pass()?;
        check::errno("the load that waited", load.finish()?, Errno::EIO)?;
        scene.is_out_of_reach("when the link is back")?;
        scene.heals()?;
    }
    Ok(())
}

/// The user does not wait for the end of the recovery to write the addresses anew.
fn memory_enabled_amid_a_recovery_is_in_reach_after_it() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    let [back, end] = [Pause::of_any(windows::LINK_BACK)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    error(&scene.rig.pci, LinkError::Fatal)?;
    back.wait()?;
    scene.rig.device.renew_memory()?;
    scene.is_out_of_reach("amid the recovery")?;
    let mut load = scene.begin_load()?;
    load.hangs_for(WHILE)?;
    back.end()?;
    end.pass()?;
    check::works("the load that waited", load.finish()?)?;
    scene.is_in_reach("after the recovery")?;
    check::works("map", scene.importer.map()).map(drop)
}

fn link_error_does_not_wait_for_ever() -> Result<()> {
    let scene = Scene::new(Rig::new()?, NEVER_UNMAPS)?;
    let end = Pause::of_any(windows::RECOVERY_ENDS)?;
    error(&scene.rig.pci, LinkError::Fatal)?;
    end.pass()?;
    let stats = scene.importer.stats()?;
    ensure!(stats.mapped == 1 && stats.hits > 0, "{stats:?}");
    check::works("unmap", scene.importer.unmap())?;
    scene.heals()
}

/// Checks that everybody reaches the device, and that the importer was never invalidated.
fn is_untouched(scene: &Scene, when: &str) -> Result<()> {
    scene.is_in_reach(when)?;
    still_mapped(&scene.importer, 0).with_context(|| when.to_string())
}

fn harmless_error_leaves_everything_as_it_is() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    let [event, end] =
        [Pause::of_any(windows::ERROR_EVENT)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    error(&scene.rig.pci, LinkError::NonFatal)?;
    event.wait()?;
    is_untouched(&scene, "when its user is about to get an event")?;
    event.end()?;
    end.wait()?;
    is_untouched(&scene, "when the recovery is over")?;
    end.end()
}

/// A device with an error that was not fatal, beside a function whose driver does not handle
/// errors: the kernel gives up, and has stopped when it is about to tell. Nothing has happened
/// until then.
fn given_up() -> Result<(Scene, Pci, Pause)> {
    let [ours, sibling] = rig::pair()?;
    let scene = Scene::new(Rig::with(ours)?, UNMAPS_AT_ONCE)?;
    let gives_up = Pause::of_any(windows::RECOVERY_FAILS)?;
    error(&scene.rig.pci, LinkError::NonFatal)?;
    gives_up.wait()?;
    is_untouched(&scene, "when the kernel is about to tell that it has given up")?;
    Ok((scene, sibling, gives_up))
}

fn harmless_error_without_recovery_leaves_everything_as_it_is() -> Result<()> {
    let (scene, _sibling, gives_up) = given_up()?;
    // The owner is notified after the driver has dealt with it.
    let event = Pause::of_any(windows::ERROR_EVENT)?;
    gives_up.end()?;
    event.wait()?;
    is_untouched(&scene, "when the kernel has told")?;
    event.end()
}

/// The bus below the port of a device, where nothing answers until this is dropped.
struct Silence {
    port: Pci,
    buses: u16,
}

impl Silence {
    /// The port does not pass accesses to configuration space on.
    fn around(pci: &Pci) -> Result<Silence> {
        let dir = fs::canonicalize(pci.dir())?;
        let port = dir.parent().and_then(Path::file_name).context("its port")?;
        let port = Pci::at(&port.to_string_lossy())?;
        let buses = port.config16(PCI_PRIMARY_BUS.into())?;
        // The first bus below it is after the last one below it: there is none.
        port.set_config16(PCI_PRIMARY_BUS.into(), buses | 0xff00)?;
        Ok(Silence { port, buses })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = self.port.set_config16(PCI_PRIMARY_BUS.into(), self.buses);
    }
}

/// As above, but nothing answers when the kernel tells that it has given up. There is no reset.
fn device_that_answers_no_more_is_lost_at_once() -> Result<()> {
    let (scene, sibling, gives_up) = given_up()?;
    let [own, config] = [Config::of(&scene.rig.pci)?, Config::of(&sibling)?];
    let event = Pause::of_any(windows::ERROR_EVENT)?;
    let silence = Silence::around(&scene.rig.pci)?;
    gives_up.end()?;
    event.wait()?;
    drop(silence);
    invalidated("when the kernel has told", &scene.importer, 1)?;
    let lost = Lost { scene, sibling, config, own };
    lost.is_lost("when the kernel has told")?;
    event.end()?;
    lost.end()
}

/// The error is not fatal, but the driver of a sibling wants a reset of the link for it.
fn reset_that_another_driver_asks_for_takes_everything_away() -> Result<()> {
    let [ours, sibling] = rig::pair()?;
    let config = Config::of(&sibling)?;
    testmod::module().load()?;
    sibling.bind(testmod::uapi::RESETTER.to_str()?)?;
    let scene = Scene::new(Rig::with(ours)?, UNMAPS_AT_ONCE)?;
    let [reset, end] =
        [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    error(&scene.rig.pci, LinkError::NonFatal)?;
    reset.pass()?;
    end.pass()?;
    invalidated("reset of the link", &scene.importer, 1)?;
    scene.is_out_of_reach("after the reset")?;
    scene.heals()?;
    drop(scene);
    sibling.release()?;
    config.restore(&sibling)
}

/// igb's device status register.
const STATUS: u64 = 0x8;

/// The reset of the link does not wake the device, as far as the kernel knows. When its owner does,
/// the core restores what the device had before it slept, addresses too.
fn link_error_of_a_sleeping_device_is_over_in_d0() -> Result<()> {
    let pci = nth(IGB, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let buffer = Buffer::export(&device, 0, 0, PAGE)?;
    let mapping = buffer.map(0, PAGE)?;
    let status = mapping.load(STATUS)?;
    device.set_power_state(3)?;
    check::bus_error("in D3hot", mapping.load(STATUS))?;
    let end = Pause::of_any(windows::RECOVERY_ENDS)?;
    error(&pci, LinkError::Fatal)?;
    end.pass()?;
    has_status(&device, &buffer, "after the recovery", VFIO_DMABUF_STATUS_REVOKED_TEMP)?;
    check::bus_error("after the recovery", mapping.load(STATUS))?;
    device.set_power_state(0)?;
    has_status(&device, &buffer, "in D0", VFIO_DMABUF_STATUS_LIVE)?;
    check::value("in D0", mapping.load(STATUS), status)
}

/// The owner still sees memory enabled, but the device has lost its configuration. What the core
/// restores after a reset was read from the device before it, and is lost, too.
fn lost_device_is_not_back_before_it_has_addresses() -> Result<()> {
    let pci = nth(IGB, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let buffer = Buffer::export(&device, 0, 0, PAGE)?;
    let mapping = buffer.map(0, PAGE)?;
    let status = mapping.load(STATUS)?;
    let end = Pause::of_any(windows::RECOVERY_ENDS)?;
    error(&pci, LinkError::Fatal)?;
    end.pass()?;
    let is_lost = |when: &str| {
        has_status(&device, &buffer, when, VFIO_DMABUF_STATUS_REVOKED_TEMP)?;
        check::bus_error(when, mapping.load(STATUS))
    };
    is_lost("after the recovery")?;
    device.set_power_state(0)?;
    is_lost("after a write of D0")?;
    check::works("reset", device.reset())?;
    is_lost("after a reset")?;
    device.renew_memory()?;
    check::value("after memory off and on", mapping.load(STATUS), status)
}

/// The kernel resets the link for one of them, and its recovery goes on after the owner's reset.
fn reset_amid_a_recovery_lets_nobody_in() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    let [reset, end] =
        [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    error(&scene.rig.pci, LinkError::Fatal)?;
    reset.wait()?;
    check::works("VFIO_DEVICE_RESET", scene.rig.device.reset())?;
    scene.is_out_of_reach("after a reset amid a recovery")?;
    scene.rig.device.renew_memory()?;
    scene.is_out_of_reach("after memory off and on amid a recovery")?;
    let mut load = scene.begin_load()?;
    load.hangs_for(WHILE)?;
    reset.end()?;
    end.pass()?;
    check::errno("the load that waited", load.finish()?, Errno::EIO)?;
    scene.heals()
}

/// A device whose link is lost: the kernel gives up where some function has no driver that
/// handles errors.
struct Lost {
    scene: Scene,
    sibling: Pci,
    /// Of the sibling, which has no driver.
    config: Config,
    /// Of the lost device.
    own: Config,
}

impl Lost {
    fn new() -> Result<Lost> {
        let [ours, sibling] = rig::pair()?;
        let [own, config] = [Config::of(&ours)?, Config::of(&sibling)?];
        let scene = Scene::new(Rig::with(ours)?, UNMAPS_AT_ONCE)?;
        let [reset, gives_up] =
            [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::RECOVERY_FAILS)?];
        error(&scene.rig.pci, LinkError::Fatal)?;
        reset.wait()?;
        let mut load = scene.begin_load()?;
        load.hangs_for(WHILE)?;
        reset.end()?;
        gives_up.wait()?;
        load.hangs_for(WHILE)?;
        gives_up.end()?;
        check::errno("the load that waited", load.finish()?, Errno::EIO)?;
        invalidated("link error", &scene.importer, 1)?;
        let lost = Lost { scene, sibling, config, own };
        lost.is_lost("when the kernel has given up")?;
        Ok(lost)
    }

    fn is_lost(&self, when: &str) -> Result<()> {
        self.scene.is_out_of_reach(when)?;
        let mut mappings = self.scene.mappings.iter();
        mappings.try_for_each(|mapping| check::bus_error(when, mapping.load(ID_AT)))
    }

    /// Opens the sibling, bound anew, beside the lost device.
    fn open_sibling(&self) -> Result<Device> {
        self.config.restore(&self.sibling)?;
        self.sibling.bind(&driver())?;
        self.scene.rig.device.open_sibling(&self.sibling, Via::Group)
    }

    /// Resets both functions, through the sibling or the lost one itself.
    fn hot_reset(&self, through_sibling: bool) -> Result<()> {
        let ours = &self.scene.rig.device;
        let sibling = self.open_sibling()?;
        let device = if through_sibling { &sibling } else { ours };
        check::works("HOT_RESET", device.hot_reset(&rig::groups(ours, Via::Group)))
    }

    /// Heals the device and gives the sibling back.
    fn end(self) -> Result<()> {
        self.scene.heals()?;
        drop(self.scene);
        self.sibling.release()
    }
}

/// What the core restores after a reset it has read from the device before, so root gives the
/// device its addresses.
fn device_that_does_not_recover_is_out_of_reach_until_a_reset() -> Result<()> {
    let lost = Lost::new()?;
    lost.own.restore(&lost.scene.rig.pci)?;
    lost.is_lost("with its addresses")?;
    lost.hot_reset(false)?;
    lost.scene.rig.has_status("after HOT_RESET", VFIO_DMABUF_STATUS_LIVE)?;
    check::value("after HOT_RESET", lost.scene.rig.buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    lost.end()
}

/// `reset_done` comes for resets that fail, too, so the driver does not go by it.
fn reset_through_a_sibling_does_not_bring_a_lost_device_back() -> Result<()> {
    let lost = Lost::new()?;
    lost.hot_reset(true)?;
    lost.is_lost("after HOT_RESET of the sibling")?;
    lost.end()
}

/// These functions have no reset of their own, so nothing else brings the device back.
fn lost_device_is_back_when_its_owner_enables_memory() -> Result<()> {
    let lost = Lost::new()?;
    lost.scene.rig.device.set_memory(false)?;
    lost.is_lost("with memory off")?;
    lost.scene.heals()?;
    drop(lost.scene);
    lost.config.restore(&lost.sibling)
}

fn lost_device_is_back_when_it_is_opened_anew() -> Result<()> {
    let Lost { scene, sibling, config, .. } = Lost::new()?;
    let pci = scene.rig.pci.clone();
    drop(scene);
    let device = Device::open(&pci, Via::Group)?;
    for mapping in [device.map_bar(0)?, export_edu(&device)?.map(0, PAGE)?] {
        check::value("opened anew", mapping.load(ID_AT), ID)?;
    }
    config.restore(&sibling)
}

/// The process that waits may be the one that has the device open, and unbinding waits for its
/// close.
fn unbind_ends_the_waits_for_a_recovery() -> Result<()> {
    let pci = edu()?;
    let config = Config::of(&pci)?;
    let device = Device::open(&pci, Via::Group)?;
    let mapping = device.map_bar(0)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    let [reset, unregisters] =
        [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::UNREGISTER)?];
    let over = Pause::of_any(windows::RECOVERY_ENDS)?;
    error(&pci, LinkError::Fatal)?;
    reset.wait()?;
    std::thread::scope(|scope| {
        let load = Waiter::start(scope, || mapping.load(ID_AT))?;
        load.waits_in_driver().context("the load")?;
        let unbind = scope.spawn(|| pci.unbind());
        unregisters.pass()?;
        wait_for("the load to end", || Ok(load.is_finished()))?;
        reset.holds()?;
        check::bus_error("the load that waited", load.finish()?)?;
        check::works("munmap", mapping.unmap_part(0, mapping.size()))?;
        reset.end()?;
        ensure!(!unbind.is_finished(), "unbind did not wait for the device fd");
        drop(device);
        join(unbind)?
    })?;
    over.pass()?;
    config.restore(&pci)?;
    pci.bind(&driver())?;
    check::value("afterwards", Device::open(&pci, Via::Group)?.map_bar(0)?.load(ID_AT), ID)
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread: panic"))
}

/// What of a function's configuration space a reset loses, and the kernel does not restore.
struct Config(Vec<(u64, u16)>);

impl Config {
    fn of(pci: &Pci) -> Result<Config> {
        let bar = u64::from(PCI_BASE_ADDRESS_0);
        let words = [bar, bar + 2, PCI_COMMAND.into()].map(|at| Ok((at, pci.config16(at)?)));
        Ok(Config(words.into_iter().collect::<Result<_>>()?))
    }

    fn restore(&self, pci: &Pci) -> Result<()> {
        self.0.iter().try_for_each(|&(at, word)| pci.set_config16(at, word))
    }
}
