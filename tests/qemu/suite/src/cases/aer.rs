// SPDX-License-Identifier: GPL-2.0
//! Errors of the link to a device, from which the kernel recovers by a reset that neither the
//! device's user nor the administrator has asked for.
//!
//! That reset leaves the device without addresses, with in-tree vfio-pci too: its user gets an event, and
//! disables and enables the memory of the device, which writes them anew.

use std::os::fd::AsRawFd;
use std::thread::{sleep, ScopedJoinHandle};

use anyhow::{anyhow, ensure, Result};
use guest::call::Call;
use guest::device::{Device, Via};
use guest::host::{self, LinkError};
use guest::mm::Mapping;
use guest::pause::Pause;
use guest::pci::{Pci, EDU};
use guest::ptes::Ptes;
use guest::testmod::{Attach, Importer, NEVER_UNMAPS, UNMAPS_AT_ONCE};
use guest::uapi::{PCI_BASE_ADDRESS_0, PCI_COMMAND};
use guest::uapi::{VFIO_DMA_BUF_STATUS_LIVE, VFIO_DMA_BUF_STATUS_REVOKED_TEMP};
use guest::windows;
use guest::{Errno, PAGE};

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::{driver, edu, wait_for, ID, ID_AT};
use crate::rig::{self, invalidated, Rig, WHILE};

cases! {
    Setup::Bound(&[EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            unbind_ends_the_waits_for_a_recovery,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            link_error_takes_everything_away_until_the_link_is_back,
            link_error_does_not_wait_for_ever,
            harmless_error_takes_everything_away_until_it_is_over,
        ];
    Setup::Bound(&[EDU, EDU, EDU, EDU]) =>
        "link error: as a reset until recovered; if recovery fails, SIGBUS until a reset": [
            device_that_does_not_recover_is_out_of_reach_until_a_reset,
        ];
}

fn error(pci: &Pci, error: LinkError) -> Result<()> {
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
        for mapping in &mappings {
            check::value("before", mapping.load(ID_AT), ID)?;
        }
        let importer = rig.mapped(how)?;
        Ok(Scene { importer, mappings, rig })
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
        self.rig.has_status(when, VFIO_DMA_BUF_STATUS_REVOKED_TEMP)?;
        self.rig.refuses(when, &self.importer)
    }

    /// Checks that all do, once the user has written the addresses anew.
    fn heals(&self) -> Result<()> {
        self.rig.device.set_memory(false)?;
        self.rig.device.set_memory(true)?;
        self.rig.has_status("in the end", VFIO_DMA_BUF_STATUS_LIVE)?;
        for mapping in &self.mappings {
            check::value("in the end", mapping.load(ID_AT), ID)?;
        }
        check::works("map in the end", self.importer.map()).map(drop)
    }
}

fn link_error_takes_everything_away_until_the_link_is_back() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    for round in [1, 3] {
        let [reset, end] =
            [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::RECOVERY_ENDS)?];
        error(&scene.rig.pci, LinkError::Fatal)?;
        reset.wait()?;
        invalidated("link error", &scene.importer, round)?;
        scene.is_out_of_reach("when the link is being reset")?;
        let mut load = scene.begin_load()?;
        load.hangs_for(WHILE)?;
        reset.end()?;
        end.wait()?;
        end.end()?;
        check::works("the load that waited", load.finish()?)?;
        check::works("map when the link is back", scene.importer.map())?;
        // The second invalidation in this round.
        scene.heals()?;
    }
    Ok(())
}

fn link_error_does_not_wait_for_ever() -> Result<()> {
    let scene = Scene::new(Rig::new()?, NEVER_UNMAPS)?;
    let end = Pause::of_any(windows::RECOVERY_ENDS)?;
    error(&scene.rig.pci, LinkError::Fatal)?;
    end.wait()?;
    end.end()?;
    let stats = scene.importer.stats()?;
    ensure!(stats.mapped == 1 && stats.hits > 0, "{stats:?}");
    check::works("unmap", scene.importer.unmap())?;
    scene.heals()
}

/// The kernel may reset the link then, too: when another driver below the port asks for it, which
/// it does after ours was notified.
fn harmless_error_takes_everything_away_until_it_is_over() -> Result<()> {
    let scene = Scene::new(Rig::new()?, UNMAPS_AT_ONCE)?;
    let [event, end] =
        [Pause::of_any(windows::ERROR_EVENT)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    error(&scene.rig.pci, LinkError::NonFatal)?;
    event.wait()?;
    invalidated("harmless error", &scene.importer, 1)?;
    scene.is_out_of_reach("when its user is about to get an event")?;
    let mut load = scene.begin_load()?;
    load.hangs_for(WHILE)?;
    event.end()?;
    end.wait()?;
    end.end()?;
    check::works("the load that waited", load.finish()?)?;
    // No reset was asked for: the user has nothing to do.
    scene.rig.has_status("in the end", VFIO_DMA_BUF_STATUS_LIVE)?;
    for mapping in &scene.mappings {
        check::value("in the end", mapping.load(ID_AT), ID)?;
    }
    check::works("map in the end", scene.importer.map()).map(drop)
}

/// The kernel gives up where some function has no driver that knows of errors.
fn device_that_does_not_recover_is_out_of_reach_until_a_reset() -> Result<()> {
    let [ours, sibling] = rig::siblings()?;
    sibling.release()?;
    ours.bind(&driver())?;
    let config = Config::of(&sibling)?;
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
    scene.is_out_of_reach("when the kernel has given up")?;
    for mapping in &scene.mappings {
        check::bus_error("when the kernel has given up", mapping.load(ID_AT))?;
    }

    config.restore(&sibling)?;
    sibling.bind(&driver())?;
    let other = scene.rig.device.open_sibling(&sibling, Via::Group)?;
    let group = scene.rig.device.holders[0].as_raw_fd();
    check::works("HOT_RESET", scene.rig.device.hot_reset(&[group]))?;
    drop(other);
    scene.heals()?;
    drop(scene);
    sibling.release()
}

/// The process that waits may be the one that has the device open, and unbinding waits for its close.
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
        let load = scope.spawn(|| mapping.load(ID_AT));
        sleep(WHILE);
        ensure!(!load.is_finished(), "the load did not wait");
        let unbind = scope.spawn(|| pci.unbind());
        unregisters.wait()?;
        unregisters.end()?;
        wait_for("the load to end", || Ok(load.is_finished()))?;
        reset.holds()?;
        check::bus_error("the load that waited", join(load)?)?;
        check::works("munmap", mapping.unmap_part(0, mapping.size()))?;
        reset.end()?;
        ensure!(!unbind.is_finished(), "unbind did not wait for the device fd");
        drop(device);
        join(unbind)?
    })?;
    over.wait()?;
    over.end()?;
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
