// SPDX-License-Identifier: GPL-2.0
//! Memory of every kind for the arguments of system calls.

use std::sync::atomic::{AtomicBool, Ordering};

use guest::arch::USER_END;
use guest::prelude::*;
use guest::uffd::Userfault;
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::world::Target;

/// The memory that holds the argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Ordinary memory.
    Plain,
    /// Ordinary memory, this many bytes past an aligned address.
    Unaligned(u64),
    /// Memory that another thread changes during the call and passes to its own calls.
    Changing,
    /// The last bytes of a page, this many; the next page is not accessible.
    Edge(u64),
    /// A page that cannot be written.
    ReadOnly,
    /// A mapping of the device's BAR.
    Bar,
    /// A mapping of a dma-buf of the device.
    Buffer,
    /// A mapping of a buffer that was revoked.
    Revoked,
    /// Memory that another thread provides at the page fault (userfaultfd).
    Late,
    /// An address without memory of this process.
    Nowhere(u64),
}

impl Place {
    /// A random one.
    pub fn random(rng: &mut Pcg64Mcg) -> Place {
        const NOWHERE: [u64; 8] =
            [0, 1, 0x1000, USER_END, 1 << 63, 0xffff_8880_0000_0000, u64::MAX - 7, u64::MAX];
        match rng.random_range(0..32) {
            0..16 => Place::Plain,
            16 => Place::Unaligned(rng.random_range(1..8)),
            17..20 => Place::Changing,
            20..23 => Place::Edge(rng.random_range(0..64)),
            23..25 => Place::ReadOnly,
            25 => Place::Bar,
            26 => Place::Buffer,
            27 => Place::Revoked,
            28 => Place::Late,
            _ => Place::Nowhere(*NOWHERE.choose(rng).unwrap_or(&0)),
        }
    }
}

/// Memory of all kinds.
pub struct Memory {
    plain: Mapping,
    changing: Mapping,
    edge: Mapping,
    read_only: Mapping,
    bar: Option<Mapping>,
    buffer: Option<Mapping>,
    revoked: Option<Mapping>,
    late: Userfault,
    over: AtomicBool,
}

impl Memory {
    /// Makes it, with mappings of the device and of the buffers that are given.
    pub fn new(
        target: &Target,
        device: Option<&Device>,
        buffer: Option<&Buffer>,
        revoked: Option<Mapping>,
    ) -> Result<Memory> {
        let edge = Mapping::anonymous(2 * PAGE)?;
        edge.protect_part(PAGE, PAGE, libc::PROT_NONE)?;
        let bar = device.map(|device| device.map_bar_part(target.bar, target.scratch, PAGE));
        Ok(Memory {
            plain: Mapping::anonymous(4 * PAGE)?,
            changing: Mapping::anonymous(PAGE)?,
            edge,
            read_only: Mapping::anonymous(PAGE)?,
            bar: bar.transpose()?,
            buffer: buffer.map(|buffer| buffer.map(0, PAGE)).transpose()?,
            revoked,
            late: Userfault::new(1)?,
            over: AtomicBool::new(false),
        })
    }

    /// Stores `words` up to the first fault; returns the address.
    pub fn put(&self, place: Place, words: &[u32]) -> u64 {
        let bytes = words.len() as u64 * 4;
        let address = match place {
            Place::Plain => self.plain.address() as u64,
            Place::Unaligned(more) => self.plain.address() as u64 + more,
            Place::Changing => self.changing.address() as u64,
            Place::Edge(there) => self.edge.address() as u64 + PAGE - there.min(bytes),
            Place::ReadOnly => {
                let _ = mm::protect(self.read_only.address(), PAGE, mm::RW);
                self.read_only.address() as u64
            }
            Place::Bar => address_of(self.bar.as_ref()),
            Place::Buffer => address_of(self.buffer.as_ref()),
            Place::Revoked => return address_of(self.revoked.as_ref()),
            Place::Late => {
                let _ = self.late.empty(0);
                return self.late.area().address() as u64;
            }
            Place::Nowhere(address) => return address,
        };
        for (at, &word) in (0..).zip(words) {
            if fault::store32(address as usize + at * 4, word).is_err() {
                break;
            }
        }
        if let Place::ReadOnly = place {
            let _ = mm::protect(self.read_only.address(), PAGE, mm::RO);
        }
        address
    }

    /// The userfaultfd of the late memory.
    pub fn fd(&self) -> i32 {
        self.late.raw()
    }

    /// Ends [`Memory::meddle`] and [`Memory::serve`].
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Keeps changing the arguments of other threads' calls, and lets the kernel write there.
    pub fn meddle(&self, device: i32, rng: &mut Pcg64Mcg) {
        while !self.is_over() {
            for _ in 0..64 {
                let at = rng.random_range(0..12) * 4;
                let value = match rng.random_range(0..4) {
                    0 => rng.random_range(0..64),
                    1 => crate::words::flags(rng),
                    _ => crate::words::word(rng),
                };
                let _ = self.changing.store(at, value);
            }
            let address = self.changing.address() as u64 + rng.random_range(0..3) * 4;
            let info = guest::uapi::VFIO_DEVICE_GET_INFO;
            let _ = raw::ioctl(device, info, address);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Provides pages for faults on the late memory; calls `done` before each.
    pub fn serve(&self, mut done: impl FnMut()) -> Result<()> {
        while !self.is_over() {
            if let Some(offset) = self.late.wait(5)? {
                done();
                let _ = self.late.fill(offset);
            }
        }
        // A fault that still waits can end.
        let _ = self.late.fill(0);
        Ok(())
    }
}

fn address_of(mapping: Option<&Mapping>) -> u64 {
    mapping.map_or(8, |mapping| mapping.address() as u64)
}
