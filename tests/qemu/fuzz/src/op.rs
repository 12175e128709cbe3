// SPDX-License-Identifier: GPL-2.0
//! One hostile call, picked at random.

use guest::{feature, uapi, PAGE};
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::memory::Place;
use crate::words::{flags, long, word};
use crate::world::{Handle, Role};

/// One call.
#[derive(Clone, Debug)]
pub enum Op {
    /// An ioctl of the device.
    Device { request: u32, words: Vec<Word>, place: Place },
    /// An ioctl of any file.
    File { file: Handle, request: u32, words: Vec<Word>, place: Place },
    /// mmap() of any file, then one operation on the mapping.
    Mmap { file: Handle, len: u64, prot: i32, flags: i32, offset: u64, then: Then },
    /// pread() or pwrite() of the device.
    Region { write: bool, region: u64, offset: u64, len: u64, place: Place },
    /// Any other system call on any file.
    Call { number: i64, file: Handle, args: [u64; 4] },
}

/// Part of an argument.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// A number.
    Is(u32),
    /// The number of an fd.
    Fd(Handle),
}

/// The operation on a mapping before it is unmapped.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// A load at this offset.
    Load(u64),
    /// remap_file_pages() of its first page to another page.
    Remap(u64),
    /// mremap() to another length.
    Grow(u64),
    /// A system call on its address and length.
    Call(i64, u64),
}

const FIXED: i32 = libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE;
const FEATURE: u32 = uapi::VFIO_DEVICE_FEATURE;
const MAX: u32 = uapi::VFIO_DMABUF_MAX_RANGES;
const RANGE_COUNTS: [u32; 7] = [0, 2, 3, MAX, MAX + 1, 0x1000_0000, u32::MAX];

impl Op {
    /// A random call of a process of this role.
    pub fn random(rng: &mut Pcg64Mcg, role: Role) -> Op {
        let most = if role == Role::BufferHolder { 8..16 } else { 0..16 };
        match rng.random_range(most) {
            0..3 => export(rng),
            3..6 => by_fd(rng),
            6 => ioctl_revoke(rng),
            7 => core(rng),
            8..11 => mmap(rng),
            11..13 => file_ioctl(rng),
            13 if role != Role::BufferHolder => region(rng),
            _ => call(rng),
        }
    }
}

/// An export that is mostly valid, except for up to two words.
fn export(rng: &mut Pcg64Mcg) -> Op {
    let count = rng.random_range(1..6u32);
    let open_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let mut words = vec![0, feature::GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF, 0, open_flags, 0];
    words.push(count);
    for _ in 0..count {
        let (offset, length) = match rng.random_range(0..12) {
            0 => (long(rng), long(rng)),
            _ => (rng.random_range(0..16) << 12, rng.random_range(1..8) << 12),
        };
        words.extend([offset as u32, (offset >> 32) as u32, length as u32, (length >> 32) as u32]);
    }
    words[0] = words.len() as u32 * 4;
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..7);
        words[at] = match at {
            1 => flags(rng),
            3 => open_flags ^ (word(rng) & (libc::O_CLOEXEC | libc::O_NONBLOCK | 7) as u32),
            5 => *RANGE_COUNTS.choose(rng).unwrap_or(&0),
            _ => word(rng),
        };
    }
    device(rng, FEATURE, words.into_iter().map(Word::Is).collect())
}

/// REVOKE, MEMATTR, INFO, or an unknown feature.
fn by_fd(rng: &mut Pcg64Mcg) -> Op {
    let argsz = if rng.random_bool(0.8) { 40 } else { word(rng) };
    let mut words = vec![Word::Is(argsz), Word::Is(flags(rng)), Word::Fd(Handle::random(rng))];
    words.push(Word::Is(rng.random_range(0..3)));
    words.extend([Word::Is(0); 6]);
    device(rng, FEATURE, words)
}

fn ioctl_revoke(rng: &mut Pcg64Mcg) -> Op {
    let argsz = if rng.random_bool(0.8) { 8 } else { word(rng) };
    let words = vec![Word::Is(argsz), Word::Fd(Handle::random(rng))];
    device(rng, uapi::VFIO_DMABUF_IOCTL_REVOKE, words)
}

/// An ioctl that the core handles.
fn core(rng: &mut Pcg64Mcg) -> Op {
    const REQUESTS: [u32; 8] = [
        uapi::VFIO_DEVICE_GET_INFO,
        uapi::VFIO_DEVICE_GET_REGION_INFO,
        uapi::VFIO_DEVICE_GET_IRQ_INFO,
        uapi::VFIO_DEVICE_SET_IRQS,
        uapi::VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
        uapi::VFIO_DEVICE_PCI_HOT_RESET,
        uapi::VFIO_DEVICE_QUERY_GFX_PLANE,
        uapi::VFIO_DEVICE_RESET,
    ];
    // A reset takes as long as a thousand other calls.
    let request = match rng.random_range(0..100) {
        0..5 => word(rng),
        5 => uapi::VFIO_DEVICE_RESET,
        6..10 => uapi::VFIO_DMABUF_IOCTL_REVOKE + rng.random_range(1..4),
        _ => REQUESTS[rng.random_range(0..7)],
    };
    let argsz = if rng.random_bool(0.7) { 32 } else { word(rng) };
    let mut words = vec![Word::Is(argsz)];
    for _ in 0..8 {
        words.push(match rng.random_range(0..8) {
            0 => Word::Fd(Handle::random(rng)),
            1 => Word::Is(word(rng)),
            _ => Word::Is(rng.random_range(0..8)),
        });
    }
    device(rng, request, words)
}

fn device(rng: &mut Pcg64Mcg, request: u32, words: Vec<Word>) -> Op {
    Op::Device { request, words, place: Place::random(rng) }
}

/// An ioctl that a dma-buf handles, or that no file does.
fn file_ioctl(rng: &mut Pcg64Mcg) -> Op {
    const REQUESTS: [u32; 7] = [
        uapi::DMA_BUF_IOCTL_SYNC,
        uapi::DMA_BUF_IOCTL_EXPORT_SYNC_FILE,
        uapi::DMA_BUF_IOCTL_IMPORT_SYNC_FILE,
        uapi::DMA_BUF_SET_NAME_A,
        uapi::DMA_BUF_SET_NAME_B,
        uapi::VFIO_DEVICE_FEATURE,
        0,
    ];
    let request = match *REQUESTS.choose(rng).unwrap_or(&0) {
        0 => word(rng),
        request => request,
    };
    let words = match rng.random_range(0..3) {
        0 => vec![Word::Is(word(rng)), Word::Is(word(rng)), Word::Is(0)],
        1 => vec![Word::Is(rng.random_range(0..9)), Word::Fd(Handle::random(rng)), Word::Is(0)],
        _ => vec![Word::Is(0x4141_4141); 16],
    };
    let file = buffer(rng);
    Op::File { file, request, words, place: Place::random(rng) }
}

fn buffer(rng: &mut Pcg64Mcg) -> Handle {
    match rng.random_range(0..8) {
        0 => Handle::Revoked,
        1 if rng.random() => Handle::Dead,
        1 => Handle::Orphan,
        _ => Handle::live(rng),
    }
}

fn mmap(rng: &mut Pcg64Mcg) -> Op {
    let file = if rng.random_bool(0.4) { Handle::Device } else { buffer(rng) };
    let len = match rng.random_range(0..8) {
        0 => long(rng),
        1 => word(rng).into(),
        // The size of the revoked, closed and orphaned buffers.
        2..5 => PAGE,
        _ => rng.random_range(1..9) << 12,
    };
    let offset = match (file, rng.random_range(0..4)) {
        (_, 0) => long(rng),
        (Handle::Device, _) => (rng.random_range(0..10) << 40) + (rng.random_range(0..20) << 12),
        (_, 1) => rng.random_range(0..8) << 12,
        _ => 0,
    };
    let flags = match rng.random_range(0..6) {
        0 => libc::MAP_PRIVATE,
        1 => libc::MAP_SHARED_VALIDATE,
        // The removed flags would replace this program's memory, or fill the machine's.
        2 => word(rng) as i32 & !(FIXED | libc::MAP_ANONYMOUS),
        3 => libc::MAP_SHARED | libc::MAP_POPULATE,
        _ => libc::MAP_SHARED,
    };
    let prot = if rng.random_bool(0.8) { 3 } else { rng.random_range(0..16) };
    Op::Mmap { file, len, prot, flags, offset, then: then(rng) }
}

fn then(rng: &mut Pcg64Mcg) -> Then {
    const CALLS: [i64; 4] =
        [libc::SYS_mlock, libc::SYS_msync, libc::SYS_mincore, libc::SYS_munlock];
    match rng.random_range(0..16) {
        0..6 => Then::Load(rng.random_range(0..9) << 12),
        6..9 => Then::Remap(long(rng) >> 12),
        9 => Then::Call(libc::SYS_madvise, rng.random_range(0..26)),
        10 => Then::Call(libc::SYS_mprotect, rng.random_range(0..8)),
        11..13 => Then::Grow(rng.random_range(0..12) << 12),
        13 => Then::Call(CALLS[rng.random_range(0..4)], rng.random_range(0..8)),
        _ => Then::Nothing,
    }
}

/// A read or write, mostly of configuration space near the bytes that the driver checks.
fn region(rng: &mut Pcg64Mcg) -> Op {
    let region = match rng.random_range(0..8) {
        0 => rng.random_range(0..12),
        1 => long(rng) >> 40,
        _ => uapi::VFIO_PCI_CONFIG_REGION_INDEX.into(),
    };
    let offset = match rng.random_range(0..6) {
        0 => long(rng) & ((1 << 40) - 1),
        1..3 => rng.random_range(0..8),
        3 => rng.random_range(0..0x110),
        _ => rng.random_range(0x34..0xff),
    };
    let len = match rng.random_range(0..8) {
        0 => word(rng).into(),
        1 => rng.random_range(0..64),
        _ => rng.random_range(0..9),
    };
    Op::Region { write: rng.random_bool(0.5), region, offset, len, place: Place::random(rng) }
}

/// A system call whose first argument is an fd. None closes it or makes another one.
fn call(rng: &mut Pcg64Mcg) -> Op {
    const NUMBERS: [i64; 18] = [
        libc::SYS_lseek,
        libc::SYS_lseek,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fadvise64,
        libc::SYS_readahead,
        libc::SYS_sync_file_range,
        libc::SYS_flock,
        libc::SYS_fchmod,
        libc::SYS_fchown,
        libc::SYS_fchdir,
        libc::SYS_fgetxattr,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
    ];
    let number = *NUMBERS.choose(rng).unwrap_or(&libc::SYS_lseek);
    let args = [long(rng), long(rng), rng.random_range(0..5), 0];
    Op::Call { number, file: buffer(rng), args }
}
