// SPDX-License-Identifier: GPL-2.0
//! The devices under attack, and the witness, which must not change.

use guest::others::Elsewhere;
use guest::prelude::*;

use crate::feedback::Round;
use crate::player::{play, Part};
use crate::tally::Tally;
use crate::world::{open_fds, Role, Start, Target};

/// The time limit of a round.
const LIMIT: Duration = Duration::from_secs(100);
/// The calls of a process in a round.
pub const CALLS: u64 = 2000;
const PATTERN: u32 = 0x5afe_0000;

const TARGETS: [Target; 2] = [
    // BAR0 is video memory: writes have no side effects.
    Target { id: pci::BOCHS, bar: 0, scratch: 0, witness: Some(0xff_0000) },
    // Can be reset. Writes where it has no registers are ignored.
    Target { id: pci::IGB, bar: 0, scratch: 0x1_f000, witness: None },
];

/// A device, open, with a witness.
struct Scene {
    target: Target,
    device: Device,
    /// A buffer from before the device was closed.
    dead: Buffer,
    buffer: Buffer,
    mapping: Mapping,
    bar: Mapping,
}

/// A buffer, mapped, of a PCI device that has no driver any more.
struct Orphan {
    buffer: Buffer,
    mapping: Mapping,
}

/// All devices and buffers of a run.
pub struct Stage {
    /// The counts so far.
    pub tally: Tally,
    scenes: Vec<Scene>,
    orphan: Orphan,
    elsewhere: Elsewhere,
    unbound: Pci,
    /// Whether the kernel has cdevs: only their files can be unbound.
    cdevs: bool,
    fds: usize,
}

/// Loads the driver and binds the devices.
pub fn bind() -> Result<()> {
    Module::driver().load()?;
    let needed = [pci::EDU, pci::BOCHS, pci::IGB, pci::TESTDEV];
    needed.iter().try_for_each(|&id| Pci::nth(id, 0)?.bind(&driver()))
}

fn driver() -> String {
    Module::driver().name().replace('_', "-")
}

impl Orphan {
    fn new() -> Result<Orphan> {
        let pci = Pci::nth(pci::EDU, 1)?;
        pci.bind(&driver())?;
        let device = Device::open(&pci, Via::Group)?;
        let buffer = Buffer::export(&device, 0, 0, PAGE)?;
        let mapping = buffer.map(0, PAGE)?;
        mapping.load(0).context("load")?;
        drop(device);
        pci.release()?;
        Ok(Orphan { buffer, mapping })
    }

    fn check(&self) -> Result<()> {
        let load = self.mapping.load(0);
        ensure!(load.is_err_and(Fault::is_bus_error), "load of an orphan: {load:x?}");
        let got = self.buffer.map(0, PAGE).err();
        ensure!(got == Some(Errno::ENODEV), "mmap of an orphan: {got:?}");
        Ok(())
    }
}

impl Scene {
    fn new(target: Target) -> Result<Scene> {
        let pci = Pci::nth(target.id, 0)?;
        let device = Device::open(&pci, Via::Group)?;
        let dead = Buffer::export(&device, target.bar, target.scratch, PAGE)?;
        device.close();
        let device = reopen(&pci)?;
        let at = target.witness.unwrap_or(0);
        let buffer = Buffer::export(&device, target.bar, at, PAGE)?;
        let mapping = buffer.map(0, PAGE)?;
        let bar = device.map_bar_part(target.bar, at, PAGE)?;
        if target.witness.is_some() {
            for word in 0..PAGE / 4 {
                mapping.store(word * 4, PATTERN + word as u32)?;
            }
        }
        Ok(Scene { target, device, dead, buffer, mapping, bar })
    }

    /// Restores the device, as its owner can, and checks that the witness is unchanged.
    fn check(&self) -> Result<()> {
        let power = self.device.capability(uapi::PCI_CAP_ID_PM)?;
        if power.is_some() {
            self.device.set_power_state(0).context("D0")?;
        }
        self.device.set_memory(true).context("memory on")?;
        let info = buffer::info(&self.device, self.buffer.raw()).context("INFO of the witness")?;
        let got = (info.status, info.memattr, info.nr_ranges, info.size);
        let want = (uapi::VFIO_DMABUF_STATUS_LIVE, uapi::VFIO_DMABUF_MEMATTR_NC, 1, PAGE);
        ensure!(got == want, "the witness has status, attribute, ranges, size {got:?}");
        let info = buffer::info(&self.device, self.dead.raw()).context("INFO of a dead buffer")?;
        ensure!(info.status == uapi::VFIO_DMABUF_STATUS_CLOSED, "a dead buffer: {info:?}");
        let dead = self.dead.map(0, PAGE).err();
        ensure!(dead == Some(Errno::ENODEV), "mmap of a dead buffer: {dead:?}");
        for word in 0..PAGE / 4 {
            let (through, past) = (self.mapping.load(word * 4)?, self.bar.load(word * 4)?);
            if self.target.witness.is_some() {
                let want = PATTERN + word as u32;
                ensure!((through, past) == (want, want), "word {word}: {through:#x}, {past:#x}");
            }
        }
        Ok(())
    }
}

/// Opens a device that was just closed.
fn reopen(pci: &Pci) -> Result<Device> {
    let mut opened = Device::open(pci, Via::Group);
    wait_until(Duration::from_secs(10), "the device to be closed", || {
        if opened.is_err() {
            opened = Device::open(pci, Via::Group);
        }
        Ok(opened.is_ok())
    })?;
    opened
}

impl Stage {
    /// Opens the devices.
    pub fn new() -> Result<Stage> {
        let scenes = TARGETS.into_iter().map(Scene::new).collect::<Result<Vec<_>>>()?;
        let unbound = Pci::nth(pci::EDU, 0)?;
        let cdevs = Via::all().contains(&Via::Cdev);
        let orphan = Orphan::new().context("an orphan")?;
        let elsewhere = Elsewhere::new(pci::TESTDEV)?;
        let (tally, fds) = (Tally::new()?, open_fds()?.len());
        Ok(Stage { tally, scenes, orphan, elsewhere, unbound, cdevs, fds })
    }

    /// Runs one round.
    pub fn round(&self, seed: u64, round: Round) -> Result<()> {
        let scene = &self.scenes[if round.number % 4 == 3 { 1 } else { 0 }];
        let roles = [Role::Owner, Role::DeviceHolder, Role::BufferHolder];
        let mut players = Vec::new();
        for (slot, role) in (0..).zip(roles) {
            players.push(self.start(scene, role, seed, round, slot)?);
        }
        if round.number % 16 == 0 && self.cdevs {
            players.push(self.start(scene, Role::Unbound, seed, round, 3)?);
        }
        for player in players {
            player.finish(LIMIT)?;
        }
        scene.check().with_context(|| format!("after it, {:?}", scene.target))?;
        self.orphan.check()?;
        let fds = open_fds()?.len();
        ensure!(fds == self.fds, "{fds} fds are open, {} were", self.fds);
        Ok(())
    }

    fn start(
        &self,
        scene: &Scene,
        role: Role,
        seed: u64,
        round: Round,
        slot: u64,
    ) -> Result<Worker> {
        let mixed = |round: u64| (seed << 32) ^ (round << 3) ^ slot;
        let beginning = round.beginning.map(|it| (mixed(it.round), it.calls));
        let seed = mixed(round.number);
        let part = Part { role, target: scene.target, seed, beginning, slot, calls: CALLS };
        Worker::start(|| {
            let device = match role {
                Role::Unbound => self.open_unbound()?,
                _ => scene.device.dup()?,
            };
            self.unmap_witnesses();
            let (dead, orphan) = (scene.dead.dup()?, self.orphan.buffer.dup()?);
            play(part, Start { device, dead, orphan, elsewhere: &self.elsewhere }, &self.tally)
        })
    }

    fn open_unbound(&self) -> Result<Device> {
        let path = format!("/dev/vfio/devices/{}", self.unbound.vfio_name()?);
        let file = File::options().read(true).write(true).open(&path).context(path)?;
        Ok(Device::from_fd(file.into()))
    }

    /// Unmaps the witnesses in a child, so that it does not hold the device open.
    fn unmap_witnesses(&self) {
        for scene in &self.scenes {
            let _ = scene.mapping.unmap_part(0, PAGE);
            let _ = scene.bar.unmap_part(0, PAGE);
        }
    }

    /// Closes everything. After that, nothing may hold a reference to the module.
    pub fn end(self) -> Result<Tally> {
        drop((self.scenes, self.orphan, self.elsewhere));
        let module = Module::driver();
        let gone = || Ok(module.references()? == 0);
        wait_until(Duration::from_secs(10), "the last reference to the module", gone)?;
        Ok(self.tally)
    }
}
