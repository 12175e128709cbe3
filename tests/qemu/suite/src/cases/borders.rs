// SPDX-License-Identifier: GPL-2.0
//! Arguments at every border: each has one right answer, and a buffer that they are not about stays
//! as it is.

use guest::feature::{Call, GET, HEADER, PROBE, SET};
use guest::others::{others, Elsewhere, DMA_BUFS};

use crate::prelude::*;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "features: PROBE, allowed operations, argsz": [
            every_argsz_and_length_of_arguments_has_its_answer =>
                at_borders(open_bochs()?, |it| it.sizes(ALL)),
            every_combination_of_operations_has_its_answer =>
                at_borders(open_bochs()?, |it| it.operations(ALL, |_| true)),
        ],
        "export: EINVAL if a length is 0, not aligned, past the BAR, or the sum overflows": [
            ranges_at_every_border_have_their_answers => at_borders(open_bochs()?, Borders::ranges),
        ],
        "mmap: EINVAL past the end, or not shared": [
            mmap_at_every_border_has_its_answer => at_borders(open_bochs()?, Borders::mmaps),
        ];
    Setup::Bound(&[BOCHS, EDU]) =>
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            files_of_every_other_kind_are_refused => at_borders(open_bochs()?, Borders::files),
        ];
    Setup::Bound(&[TESTDEV]) =>
        "export: ENOSPC if the offset space of the BAR is full": [
            full_offset_space_is_enospc_until_a_buffer_is_closed,
        ];
}

pub const DMA_BUF: u32 = uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
const IOMMUFD: u32 = uapi::VFIO_DMABUF_IOMMUFD;
pub const REVOKE: u32 = uapi::VFIO_DMABUF_REVOKE;
pub const MEMATTR: u32 = uapi::VFIO_DMABUF_MEMATTR;
pub const INFO: u32 = uapi::VFIO_DMABUF_INFO;

/// A feature: its number, its operations, the bytes of its payload, and of these how many argsz
/// has to have. The core does not look whether it has the ranges, too.
type Feature = (u32, u32, usize, usize);
const FEATURES: [Feature; 5] = [
    (DMA_BUF, GET, 32, 32),
    (IOMMUFD, GET, 32, 16),
    (REVOKE, SET, 4, 4),
    (MEMATTR, GET | SET, 8, 8),
    (INFO, GET, 24, 24),
];
const ALL: &[u32] = &[DMA_BUF, IOMMUFD, REVOKE, MEMATTR, INFO];

/// A device, and a buffer of it that no call is about.
pub struct Borders {
    device: Device,
    size: u64,
    witness: Buffer,
    mapping: Mapping,
    value: u32,
}

/// Runs checks on a device that leave no fd open.
pub fn at_borders(device: Device, checks: impl FnOnce(&Borders) -> Result<()>) -> Result<()> {
    let (witness, mapping) = map_edu(&device)?;
    mapping.store(0, 0x600d)?;
    let value = mapping.load(0)?;
    let size = device.region(0)?.size;
    let before = fds()?;
    let borders = Borders { device, size, witness, mapping, value };
    checks(&borders)?;
    check::equal("open fds", fds()?, before)
}

impl Borders {
    /// Checks the answer of a call.
    fn answer<T>(&self, what: &str, got: Result<T, Errno>, want: Option<Errno>) -> Result<()> {
        check::equal(what, got.err(), want)?;
        let info = buffer::info(&self.device, self.witness.raw())?;
        let live = info.status == uapi::VFIO_DMABUF_STATUS_LIVE && info.size == PAGE;
        ensure!(live, "{what}: the witness is {info:?}");
        check::value(&format!("the witness after {what}"), self.mapping.load(0), self.value)
    }

    /// A good payload of a feature, for a buffer that may be lost.
    fn payload(&self, feature: u32) -> Result<(Vec<u32>, Option<Buffer>)> {
        if [DMA_BUF, IOMMUFD].contains(&feature) {
            return Ok((Export::new(0, &[Range(0, PAGE)]).call().payload, None));
        }
        let buffer = Buffer::export(&self.device, 0, PAGE, PAGE)?;
        let words = vec![buffer.raw() as u32, 0, 0, 0, 0, 0];
        Ok((words, Some(buffer)))
    }

    /// Makes a call; what it exports is closed.
    fn make(&self, call: &mut Call, at_edge: bool) -> Result<i32, Errno> {
        let export = [GET | DMA_BUF, GET | IOMMUFD].contains(&call.flags);
        let made = if at_edge { call.make_at_edge(&self.device) } else { call.make(&self.device) };
        if let (Ok(fd), true) = (made, export) {
            drop(raw::own(fd));
        }
        made
    }

    /// argsz, and how much of the payload there is, for some features.
    pub fn sizes(&self, of: &[u32]) -> Result<()> {
        for (feature, ops, bytes, least) in features(of) {
            for op in [GET, SET].into_iter().filter(|op| ops & op != 0) {
                let full = HEADER + bytes;
                let small = [0, 1, 4, 7, 8, 9, full - 4, full - 1, full, full + 1, HEADER + 15];
                let large = [0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff];
                for argsz in small.into_iter().chain(large) {
                    let (payload, _buffer) = self.payload(feature)?;
                    let mut call = Call { flags: op | feature, argsz: argsz as u32, payload };
                    let want = (argsz < HEADER + least).then_some(Errno::EINVAL);
                    let got = self.make(&mut call, false);
                    self.answer(&format!("{feature:#x} {op:#x} argsz {argsz:#x}"), got, want)?;
                }
                for there in 0..=bytes / 4 {
                    let (mut payload, _buffer) = self.payload(feature)?;
                    payload.truncate(there);
                    let flags = op | feature;
                    let mut call = Call { flags, argsz: full as u32, payload };
                    let want = (there * 4 < bytes).then_some(Errno::EFAULT);
                    let got = self.make(&mut call, true);
                    self.answer(&format!("{feature:#x} {op:#x}, {there} words"), got, want)?;
                }
            }
        }
        Ok(())
    }

    /// Every combination of the operation bits, and each unknown bit, as far as `wanted`, for some
    /// features. A PROBE needs no payload.
    pub fn operations(&self, of: &[u32], wanted: fn(u32) -> bool) -> Result<()> {
        let unknown = (19..32).map(|bit| 1 << bit);
        let known = (0..8).map(|bits| bits << 16);
        let all = known.chain(unknown.flat_map(|bit| [bit, bit | GET, bit | SET, bit | PROBE]));
        for ops in all.filter(|&ops| wanted(ops)) {
            for (feature, has, ..) in features(of) {
                let (payload, buffer) = self.payload(feature)?;
                let mut call = Call::new(ops | feature, payload);
                let asked = ops & (GET | SET);
                let probe = ops == PROBE | asked;
                let good =
                    asked & !has == 0 && ops >> 19 == 0 && (probe || asked == GET || asked == SET);
                let got = self.make(&mut call, false);
                let want = (!good).then_some(Errno::EINVAL);
                let what = format!("{feature:#x}, operations {ops:#x}");
                self.answer(&what, got, want)?;
                if probe {
                    let bare = Call::new(ops | feature, Vec::new()).make_at_edge(&self.device);
                    self.answer(&format!("{what}, no payload"), bare, want)?;
                }
                if let (Some(buffer), false) = (buffer, good && ops == SET) {
                    check::works(&format!("mmap after {what}"), buffer.map(0, PAGE))?;
                }
            }
        }
        Ok(())
    }

    /// Counts, offsets and lengths.
    fn ranges(&self) -> Result<()> {
        let most = uapi::VFIO_DMABUF_MAX_RANGES;
        for (nr, argsz, want) in [
            (0, u32::MAX, Errno::EINVAL),
            (2, 40, Errno::EINVAL),
            (most, 40, Errno::EINVAL),
            (most, u32::MAX, Errno::EFAULT),
            (most + 1, 40, Errno::E2BIG),
            (most + 1, u32::MAX, Errno::E2BIG),
            (1 << 28, u32::MAX, Errno::E2BIG),
            ((1 << 28) + 1, u32::MAX, Errno::E2BIG),
            (1 << 31, u32::MAX, Errno::E2BIG),
            (u32::MAX, u32::MAX, Errno::E2BIG),
        ] {
            let mut call = Export::new(0, &[Range(0, PAGE)]).call();
            call.payload[3] = nr;
            call.argsz = argsz;
            let got = self.make(&mut call, true);
            self.answer(&format!("nr_ranges {nr:#x} argsz {argsz:#x}"), got, Some(want))?;
        }
        self.single_ranges(nth(BOCHS, 0)?.bar_start(0)?, |_, _| true, None)?;
        for region in [1, 5, 6, 7, 8, 9, 255, 256, 1 << 31, u32::MAX] {
            let got = Export::new(region, &[Range(0, PAGE)]).make(&self.device);
            self.answer(&format!("region {region:#x}"), got, Some(Errno::ENODEV))?;
        }
        Ok(())
    }

    /// The `wanted` offsets and lengths at every border of a BAR at bus address `start`: each
    /// range alone and, if it is wrong, beside a good one. All must have the error `every`, if any.
    pub fn single_ranges(
        &self,
        start: u64,
        wanted: fn(u64, u64) -> bool,
        every: Option<Errno>,
    ) -> Result<()> {
        let size = self.size;
        let small = [0, 1, PAGE / 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE];
        let large = [size - PAGE, size, size + PAGE, 1 << 31, 1 << 32, 1 << 40, 1 << 52, 1 << 63];
        let top = [2 * PAGE, PAGE, 2, 1].map(|less| (u64::MAX - less).wrapping_add(1));
        let numbers: Vec<u64> = [&small[..], &large, &top].concat();
        let pairs = numbers.iter().flat_map(|&a| numbers.iter().map(move |&b| (a, b)));
        for (offset, length) in pairs.filter(|&(offset, length)| wanted(offset, length)) {
            let (range, good) = (Range(offset, length), Range(0, PAGE));
            let want = range_error(start, size, offset, length);
            ensure!(every.is_none() || want == every, "{range:x?}: {want:?}, not {every:?}");
            let lists = [vec![range], vec![range, good], vec![good, range]];
            for ranges in lists.iter().take(if want.is_some() { 3 } else { 1 }) {
                let got = Export::new(0, ranges).make(&self.device);
                self.answer(&format!("{ranges:x?}"), got, want)?;
            }
        }
        Ok(())
    }

    /// REVOKE, MEMATTR and INFO of what is no buffer.
    fn files(&self) -> Result<()> {
        let elsewhere = Elsewhere::new(EDU)?;
        let others = others(&self.witness, &elsewhere)?;
        let o_path = |fd: &OwnedFd| {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL);
            flags.is_ok_and(|flags| flags & libc::O_PATH != 0)
        };
        let mut cases = vec![(self.device.raw(), Errno::EINVAL)];
        for (at, fd) in others.iter().enumerate() {
            let errno = match at {
                ..DMA_BUFS => Errno::ENODEV,
                _ if o_path(fd) => Errno::EBADF,
                _ => Errno::EINVAL,
            };
            cases.push((fd.as_raw_fd(), errno));
        }
        for fd in [-1, -2, -100, i32::MIN, i32::MAX, 1 << 20, 9999] {
            cases.push((fd, Errno::EBADF));
        }
        for (fd, want) in cases {
            for (feature, ops, ..) in features(&[REVOKE, MEMATTR, INFO]) {
                for op in [GET, SET].into_iter().filter(|op| ops & op != 0) {
                    let got = self.make(&mut Call::new(op | feature, fd_payload(fd)), false);
                    self.answer(&format!("{feature:#x} {op:#x} of fd {fd}"), got, Some(want))?;
                }
            }
            for argsz in [0, 7, 8, u32::MAX] {
                let want = if argsz < 8 { Errno::EINVAL } else { want };
                let got = buffer::revoke_by_ioctl(&self.device, fd, argsz);
                self.answer(&format!("ioctl REVOKE of fd {fd}, argsz {argsz}"), got, Some(want))?;
            }
        }
        Ok(())
    }

    /// mmap() of the device and of a buffer.
    fn mmaps(&self) -> Result<()> {
        let device = (self.device.raw(), self.size);
        let buffer = (self.witness.raw(), PAGE);
        for (fd, size) in [device, buffer] {
            for offset in [0, PAGE, size - PAGE, size, 6 << 40, 7 << 40, 9 << 40, 1 << 62] {
                for len in [PAGE, size, size + PAGE, 1 << 46] {
                    for flags in [libc::MAP_SHARED, libc::MAP_SHARED_VALIDATE, libc::MAP_PRIVATE] {
                        let private = flags == libc::MAP_PRIVATE;
                        let fits = offset + len <= size;
                        let want = (private || !fits).then_some(Errno::EINVAL);
                        let got = mm::map(fd, len, mm::RO, flags, offset);
                        if let Ok(address) = got {
                            mm::unmap(address, len)?;
                        }
                        let what = format!("fd {fd}: {len:#x} at {offset:#x}, {flags:#x}");
                        self.answer(&what, got, want)?;
                    }
                }
            }
            for offset in [1, PAGE - 1, u64::MAX, (1 << 63) | 1] {
                let got = mm::map(fd, PAGE, mm::RO, libc::MAP_SHARED, offset);
                self.answer(&format!("fd {fd} at {offset:#x}"), got, Some(Errno::EINVAL))?;
            }
            for offset in [1 << 63, u64::MAX - PAGE + 1] {
                let got = mm::map(fd, PAGE, mm::RO, libc::MAP_SHARED, offset);
                let fine = matches!(got, Err(Errno::EOVERFLOW | Errno::EINVAL));
                ensure!(fine, "fd {fd} at {offset:#x}: {got:?}");
            }
        }
        Ok(())
    }
}

fn features(of: &[u32]) -> impl Iterator<Item = Feature> + '_ {
    FEATURES.into_iter().filter(|feature| of.contains(&feature.0))
}

fn fd_payload(fd: i32) -> Vec<u32> {
    vec![fd as u32, 0, 0, 0, 0, 0]
}

/// What is wrong with a range of a BAR of `size` bytes at bus address `start`.
fn range_error(start: u64, size: u64, offset: u64, length: u64) -> Option<Errno> {
    if length == 0 || (offset | length) % PAGE != 0 || length >= 1 << 63 {
        return Some(Errno::EINVAL);
    }
    match offset.checked_add(length) {
        Some(end) if end <= size => None,
        _ => {
            let end = start.checked_add(offset).and_then(|at| at.checked_add(length));
            Some(if end.is_some() { Errno::EINVAL } else { Errno::EOVERFLOW })
        }
    }
}

/// Fills the offset space of a device: exports say so, what was made works, and room comes back.
fn full_offset_space_is_enospc_until_a_buffer_is_closed() -> Result<()> {
    const BAR: u32 = 2;
    let device = Device::open(&nth(TESTDEV, 0)?, Via::Group)?;
    let size = device.region(BAR)?.size;
    let region = (1 << 40) / size;
    let whole = |times: u64| Export::new(BAR, &vec![Range(0, size); times as usize]).make(&device);
    let full = |what: &str, got| check::errno(what, got, Errno::ENOSPC);

    // More than a BAR's part of the offset space, up to the most ranges that there can be.
    for times in [region + 1, u64::from(uapi::VFIO_DMABUF_MAX_RANGES)] {
        full(&format!("{times} times the BAR"), whole(times))?;
    }
    let fill = |buffers: &mut Vec<Buffer>| loop {
        match whole(region / 4) {
            Ok(buffer) => buffers.push(buffer),
            failed => break full("one too many", failed),
        }
    };
    let mut buffers = Vec::new();
    fill(&mut buffers)?;
    let count = buffers.len();
    ensure!((18..6 * 4).contains(&count), "{count} buffers of a quarter of a region fit");
    for buffer in &buffers {
        let last = buffer.map(region / 4 * size - PAGE, PAGE)?;
        last.load(0).context("load in the last page")?;
        buffer::info(&device, buffer.raw())?;
    }
    Buffer::export(&device, BAR, 0, PAGE).context("a page")?;
    buffer::revoke(&device, &buffers[count / 2])?;
    full("in the place of a revoked one", whole(region / 4))?;
    drop(buffers.remove(count / 2));
    let again = check::works("in the place of a closed one", whole(region / 4))?;
    again.map(0, PAGE)?.load(0)?;
    drop((buffers, again));
    let mut buffers = Vec::new();
    fill(&mut buffers)?;
    check::equal("buffers that fit once more", buffers.len(), count)
}
