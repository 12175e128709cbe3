// SPDX-License-Identifier: GPL-2.0
//! Makes the calls.

use guest::buffer::Buffer;
use guest::{fault, raw, uapi, PAGE};

use crate::memory::Place;
use crate::op::{Op, Then, Word};
use crate::world::{open_fds, World};

/// The result of a call: its return value or its errno.
pub type Answer = Result<u64, i32>;

impl World {
    /// Makes a call. Also returns the buffer that an export made.
    pub fn run(&self, op: &Op) -> (Answer, Option<Buffer>) {
        match *op {
            Op::Device { request, ref words, place } => {
                let address = self.memory.put(place, &self.words(words));
                let answer = raw::ioctl(self.device_fd(), request, address);
                let feature = request == uapi::VFIO_DEVICE_FEATURE;
                let made = answer.ok().filter(|&fd| fd > 0 && feature);
                (answer, made.map(|fd| raw::own(fd as i32).into()))
            }
            Op::File { file, request, ref words, place } => {
                let address = self.memory.put(place, &self.words(words));
                let answer = raw::ioctl(self.fd(file), request, address);
                if answer == Ok(0) && request == uapi::DMA_BUF_IOCTL_EXPORT_SYNC_FILE {
                    close_sync_file(place, address);
                }
                (answer, None)
            }
            Op::Mmap { file, len, prot, flags, offset, then } => {
                let args = [0, len, prot as u64, flags as u64, self.fd(file) as u64, offset];
                let answer = raw::call(libc::SYS_mmap, args);
                if let Ok(address) = answer {
                    leave(address, len, then);
                }
                (answer, None)
            }
            Op::Region { write, region, offset, len, place } => {
                (self.region(write, region, offset, len, place), None)
            }
            Op::Call { number, file, args: [a, b, c, d] } => {
                (raw::call(number, [self.fd(file) as u64, a, b, c, d, 0]), None)
            }
        }
    }

    /// The values of `words` in this process.
    fn words(&self, words: &[Word]) -> Vec<u32> {
        let number = |word: &Word| match *word {
            Word::Is(number) => number,
            Word::Fd(handle) => self.fd(handle) as u32,
        };
        words.iter().map(number).collect()
    }

    fn region(&self, write: bool, region: u64, offset: u64, len: u64, place: Place) -> Answer {
        let config = u64::from(uapi::VFIO_PCI_CONFIG_REGION_INDEX);
        let room = match place {
            // The kernel stops at the end of these.
            Place::Edge(_) | Place::Nowhere(_) => u64::MAX,
            _ => PAGE / 2,
        };
        let (mut at, mut len) = ((region << 40).wrapping_add(offset), len.min(room));
        if write && region < config {
            at = (u64::from(self.target.bar) << 40) + self.target.scratch + offset % (PAGE / 2);
            len = len.min(PAGE / 2);
        }
        let address = self.memory.put(place, &[0x0006_0107, 0, u32::MAX, 0x0010_0406]);
        let number = if write { libc::SYS_pwrite64 } else { libc::SYS_pread64 };
        raw::call(number, [self.device_fd() as u64, address, len, at, 0, 0])
    }
}

/// Performs `then` on a mapping and unmaps it.
fn leave(address: u64, len: u64, then: Then) {
    let (mut start, mut size) = (address, len);
    match then {
        Then::Nothing => {}
        Then::Load(at) => drop(fault::load32((address + at) as usize)),
        Then::Remap(page) => {
            let _ = raw::call(libc::SYS_remap_file_pages, [address, PAGE, 0, page, 0, 0]);
        }
        Then::Grow(new) => {
            let args = [address, len, new, libc::MREMAP_MAYMOVE as u64, 0, 0];
            if let Ok(moved) = raw::call(libc::SYS_mremap, args) {
                (start, size) = (moved, new);
            }
        }
        Then::Call(number, third) => {
            let _ = raw::call(number, [address, len, third, 0, 0, 0]);
        }
    }
    let _ = fault::load32(start as usize);
    let _ = raw::call(libc::SYS_munmap, [start, size, 0, 0, 0, 0]);
}

/// Closes the sync file that a dma-buf has made. Its fd is in the argument, unless other threads
/// change that memory.
fn close_sync_file(place: Place, address: u64) {
    if let (Place::Plain, Ok(fd)) = (place, fault::load32(address as usize + 4)) {
        let _ = raw::close(fd as i32);
        return;
    }
    for fd in open_fds().unwrap_or_default() {
        let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        if target.to_string_lossy().contains("sync_file") {
            let _ = raw::close(fd);
        }
    }
}
