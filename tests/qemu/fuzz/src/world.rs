// SPDX-License-Identifier: GPL-2.0
//! The fds and the memory of a hostile process.

use std::sync::Arc;

use guest::others::{others, Elsewhere};
use guest::prelude::*;
use guest::user;
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::memory::Memory;

/// The most buffers that a process holds.
const POOL: usize = 12;

/// A device under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its kind.
    pub id: Id,
    /// The BAR under attack.
    pub bar: u32,
    /// The offset of a page that may be written.
    pub scratch: u64,
    /// The offset of a page of plain memory that only the witness writes.
    pub witness: Option<u64>,
}

/// The privileges and fds of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Root, with the device.
    Owner,
    /// User nobody, with the device.
    DeviceHolder,
    /// User nobody, with buffers only.
    BufferHolder,
    /// Root, with a device file that is not bound to an iommufd.
    Unbound,
}

/// The file behind an fd.
#[derive(Clone, Copy, Debug)]
pub enum Handle {
    /// One of the live buffers, by number.
    Live(usize),
    /// A buffer that was revoked.
    Revoked,
    /// A buffer whose device was closed after the export.
    Dead,
    /// A buffer of a PCI device that was unbound.
    Orphan,
    /// The device.
    Device,
    /// Another open file, by number.
    Other(usize),
    /// A number that may be no fd.
    Number(i32),
}

impl Handle {
    /// A random one.
    pub fn random(rng: &mut Pcg64Mcg) -> Handle {
        const NUMBERS: [i32; 8] = [-1, -2, -100, i32::MIN, i32::MAX, 255, 4096, 1 << 20];
        match rng.random_range(0..17) {
            0..7 => Handle::live(rng),
            7..9 => Handle::Revoked,
            9..11 => Handle::Dead,
            11 => Handle::Device,
            12..15 => Handle::Other(rng.random_range(0..64)),
            15 => Handle::Orphan,
            _ => Handle::Number(*NUMBERS.choose(rng).unwrap_or(&-1)),
        }
    }

    /// A random one of the live buffers.
    pub fn live(rng: &mut Pcg64Mcg) -> Handle {
        Handle::Live(rng.random_range(0..POOL))
    }
}

/// The files that a process starts with.
pub struct Start<'a> {
    /// The device, open.
    pub device: Device,
    /// A buffer from before the device was closed.
    pub dead: Buffer,
    /// A buffer of a PCI device that was unbound.
    pub orphan: Buffer,
    /// The source of other files.
    pub elsewhere: &'a Elsewhere,
}

/// The state of a process.
pub struct World {
    /// Its role.
    pub role: Role,
    /// The device that it attacks.
    pub target: Target,
    /// The device, if the role has it.
    pub device: Option<Device>,
    /// Its live buffers.
    pub pool: Vec<Buffer>,
    /// Memory for arguments.
    pub memory: Arc<Memory>,
    revoked: Buffer,
    dead: Buffer,
    orphan: Buffer,
    others: Vec<OwnedFd>,
}

impl World {
    /// Opens and maps everything, then drops the privileges that the role lacks.
    pub fn new(role: Role, target: Target, start: Start<'_>) -> Result<World> {
        let Start { device, dead, orphan, elsewhere } = start;
        let opened = role != Role::Unbound;
        let page = || Buffer::export(&device, target.bar, target.scratch, PAGE);
        let (mut pool, mut revoked) = (Vec::new(), dead.dup()?);
        let mut corpse = None;
        if opened {
            for _ in 0..4 {
                pool.push(page().context("export")?);
            }
            revoked = page()?;
            corpse = Some(revoked.map(0, PAGE)?);
            buffer::revoke(&device, &revoked)?;
        }
        let others = others(pool.first().unwrap_or(&dead), elsewhere)?;
        let device = (role != Role::BufferHolder).then_some(device);
        let mapped = device.as_ref().filter(|_| opened);
        let memory = Arc::new(Memory::new(&target, mapped, pool.first(), corpse)?);
        let world = World { role, target, device, pool, memory, revoked, dead, orphan, others };
        world.forget_the_rest()?;
        if matches!(role, Role::DeviceHolder | Role::BufferHolder) {
            user::become_nobody()?;
        }
        Ok(world)
    }

    /// Closes all inherited fds that the role does not have.
    fn forget_the_rest(&self) -> Result<()> {
        let mut keep: Vec<i32> = vec![0, 1, 2];
        keep.extend([&self.revoked, &self.dead, &self.orphan].map(Buffer::raw));
        keep.extend(self.pool.iter().map(Buffer::raw));
        keep.extend(self.others.iter().map(AsRawFd::as_raw_fd));
        keep.extend(self.device.iter().map(Device::raw));
        keep.push(self.memory.fd());
        for fd in open_fds()? {
            if !keep.contains(&fd) {
                let _ = raw::close(fd);
            }
        }
        Ok(())
    }

    /// The number of an fd.
    pub fn fd(&self, handle: Handle) -> i32 {
        match handle {
            Handle::Live(index) if self.pool.is_empty() => -1 - index as i32,
            Handle::Live(index) => self.pool[index % self.pool.len()].raw(),
            Handle::Revoked => self.revoked.raw(),
            Handle::Dead => self.dead.raw(),
            Handle::Orphan => self.orphan.raw(),
            Handle::Device => self.device.as_ref().map_or(-1, Device::raw),
            Handle::Other(index) => self.others[index % self.others.len()].as_raw_fd(),
            Handle::Number(number) => number,
        }
    }

    /// The number of the device's fd.
    pub fn device_fd(&self) -> i32 {
        self.fd(Handle::Device)
    }

    /// Keeps a new buffer; replaces a random one if the pool is full.
    pub fn keep(&mut self, buffer: Buffer, rng: &mut Pcg64Mcg) {
        if self.pool.len() < POOL {
            self.pool.push(buffer);
        } else {
            let at = rng.random_range(0..POOL);
            self.pool[at] = buffer;
        }
    }
}

/// The fds of this process, except the one that reads them.
pub fn open_fds() -> Result<Vec<i32>> {
    let mut fds = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !target.to_string_lossy().ends_with("/fd") {
            fds.push(entry.file_name().to_string_lossy().parse()?);
        }
    }
    Ok(fds)
}
