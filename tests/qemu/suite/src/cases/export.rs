// SPDX-License-Identifier: GPL-2.0
//! Export: what comes out of it, and everything that is refused.

use std::fmt::Display;

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::unistd::{lseek64, Whence};

use super::borders::at_borders;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "export: gives a dma-buf of the sum of the lengths": [
            export_gives_a_dma_buf_of_the_sum_of_the_lengths, export_works_through_group_and_cdev,
        ],
        "export: unknown flags are EINVAL": [
            export_obeys_open_flags, export_with_unknown_flags_is_einval,
            export_with_unknown_open_flags_is_einval,
        ],
        "export: nr_ranges 0 is EINVAL, too many are E2BIG": [
            export_without_ranges_is_einval, export_of_too_many_ranges_is_e2big,
        ],
        "export: ENODEV without such a BAR": [export_of_no_bar_is_enodev],
        "export: EINVAL if a length is 0, not aligned, past the BAR, or the sum overflows": [
            export_of_length_zero_is_einval => borders(Errno::EINVAL, |_, length| length == 0),
            export_of_parts_of_pages_is_einval =>
                borders(Errno::EINVAL, |offset, length| (offset | length) % PAGE != 0),
            export_past_the_end_of_the_bar_is_einval => borders(Errno::EINVAL, is_past_the_end),
            export_whose_sum_overflows_is_einval,
            export_with_one_bad_range_among_good_ones_is_refused,
        ],
        "export: EOVERFLOW if an address overflows": [
            export_whose_addresses_overflow_is_eoverflow =>
                borders(Errno::EOVERFLOW, has_no_address),
        ],
        "export, REVOKE: EFAULT if the arguments cannot be read": [
            export_from_unreadable_memory_is_efault,
        ],
        "export: EMFILE without a free fd": [export_without_a_free_fd_is_emfile];
    Setup::Bound(&[BOCHS]) =>
        "export: nr_ranges 0 is EINVAL, too many are E2BIG": [export_of_the_most_ranges_works];
}

const MAX: u32 = uapi::VFIO_DMABUF_MAX_RANGES;

/// Checks that each export fails with `want`, and that none left an fd behind.
fn refused<W: Display>(want: Errno, exports: impl IntoIterator<Item = (W, Export)>) -> Result<()> {
    let device = open_edu()?;
    let before = fds()?;
    for (what, export) in exports {
        check::errno(&what.to_string(), export.make(&device), want)?;
    }
    check::equal("open fds", fds()?, before)?;
    // The other side: the device is in a state in which an export works.
    export_edu(&device).map(drop)
}

/// Checks that exports of the `wanted` ranges at the borders of BAR0 fail with `error`.
fn borders(error: Errno, wanted: fn(u64, u64) -> bool) -> Result<()> {
    at_borders(open_edu()?, |it| it.single_ranges(edu()?.bar_start(0)?, wanted, Some(error)))
}

/// edu's BAR0 is 1 MiB.
fn is_past_the_end(offset: u64, length: u64) -> bool {
    let fits_into_a_bar = |number: u64| number % PAGE == 0 && number < 1 << 52;
    let end = offset.saturating_add(length);
    length > 0 && end > 1 << 20 && [offset, length].into_iter().all(fits_into_a_bar)
}

fn has_no_address(offset: u64, length: u64) -> bool {
    let is_length = length > 0 && length < 1 << 63;
    is_length && (offset | length) % PAGE == 0 && offset.checked_add(length).is_none()
}

fn one_page() -> Export {
    Export::new(0, &[Range(0, PAGE)])
}

fn size_of_bar() -> Result<u64> {
    edu()?.bar_size(0)
}

fn size_of_buffer(buffer: &Buffer) -> Result<i64> {
    let size = lseek64(buffer.as_fd(), 0, Whence::SeekEnd)?;
    lseek64(buffer.as_fd(), 0, Whence::SeekSet)?;
    Ok(size)
}

fn export_gives_a_dma_buf_of_the_sum_of_the_lengths() -> Result<()> {
    let device = open_edu()?;
    let size = size_of_bar()?;
    let lists: &[(&[Range], u64)] = &[
        (&[Range(0, PAGE)], 1),
        (&[Range(size - PAGE, PAGE)], 1),
        (&[Range(0, size)], size / PAGE),
        (&[Range(5 * PAGE, 2 * PAGE), Range(0, 3 * PAGE)], 5),
        (&[Range(0, size), Range(0, size), Range(0, PAGE)], 2 * size / PAGE + 1),
    ];
    for (ranges, pages) in lists {
        let what = format!("{ranges:x?}");
        let buffer = check::works(&what, Export::new(0, ranges).make(&device))?;
        check::equal(&what, size_of_buffer(&buffer)?, (pages * PAGE) as i64)?;
        let info = buffer.fdinfo()?;
        ensure!(info.contains("exp_name:"), "not a dma-buf's fdinfo: {info}");
    }
    Ok(())
}

fn export_obeys_open_flags() -> Result<()> {
    let device = open_edu()?;
    for (flags, close_on_exec, mode) in [
        (libc::O_RDONLY, false, libc::O_RDONLY),
        (libc::O_RDWR, false, libc::O_RDWR),
        (libc::O_RDONLY | libc::O_CLOEXEC, true, libc::O_RDONLY),
        (libc::O_RDWR | libc::O_CLOEXEC, true, libc::O_RDWR),
    ] {
        let export = Export { open_flags: flags as u32, ..one_page() };
        let buffer = check::works(&format!("open_flags {flags:#o}"), export.make(&device))?;
        let fd_flags = fcntl(buffer.as_fd(), FcntlArg::F_GETFD)?;
        check::equal("FD_CLOEXEC", fd_flags & FdFlag::FD_CLOEXEC.bits() != 0, close_on_exec)?;
        let file_flags = fcntl(buffer.as_fd(), FcntlArg::F_GETFL)?;
        check::equal("access mode", file_flags & libc::O_ACCMODE, mode)?;
    }
    Ok(())
}

fn export_works_through_group_and_cdev() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let mapping = check::works("mmap", export_edu(&device)?.map(0, PAGE))?;
        check::value(&format!("id register via {via:?}"), mapping.load(ID_AT), ID)?;
    }
    Ok(())
}

fn export_without_ranges_is_einval() -> Result<()> {
    let export = Export { count: Some(0), ..one_page() };
    refused(Errno::EINVAL, [("nr_ranges 0", export), ("no ranges", Export::new(0, &[]))])
}

fn export_of_too_many_ranges_is_e2big() -> Result<()> {
    let claim = |count| Export { count: Some(count), ..one_page() };
    let full = Export::new(0, &vec![Range(0, PAGE); MAX as usize + 1]);
    refused(
        Errno::E2BIG,
        [
            ("one too many", full),
            ("one too many, claimed", claim(MAX + 1)),
            ("2^28", claim(1 << 28)),
            ("2^32 - 1", claim(u32::MAX)),
        ],
    )
}

fn export_of_the_most_ranges_works() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar_part(0, 0, 3 * PAGE)?;
    paint(&all, 3)?;
    let ranges: Vec<Range> = (0..u64::from(MAX)).map(|at| Range(at % 3 * PAGE, PAGE)).collect();
    let buffer = check::works("the most ranges", Export::new(0, &ranges).make(&device))?;
    check::equal("size", size_of_buffer(&buffer)?, i64::from(MAX) * PAGE as i64)?;
    let mapping = check::works("mmap", buffer.map(0, u64::from(MAX) * PAGE))?;
    for at in [0, 1, 2, 3, 4, 511, 512, 513, 32_767, 32_768, 65_535, 65_536, u64::from(MAX) - 1] {
        check::value(&format!("range {at}"), mapping.load(at * PAGE), colour(at % 3))?;
    }
    Ok(())
}

fn export_with_unknown_flags_is_einval() -> Result<()> {
    let with = |flags| Export { flags, ..one_page() };
    // The bits above are VFIO_DMABUF_TYPE1, VFIO_DMABUF_BUFFER and the attribute.
    let bits = (0..26).map(|bit| (format!("flags bit {bit}"), with(1 << bit)));
    let attributes = (2..16_u32).map(|attr| (format!("attribute {attr}"), with(attr << 28)));
    refused(Errno::EINVAL, bits.chain(attributes))
}

fn export_with_unknown_open_flags_is_einval() -> Result<()> {
    let with = |flags: i32| Export { open_flags: flags as u32, ..one_page() };
    refused(
        Errno::EINVAL,
        [
            ("O_WRONLY", with(libc::O_WRONLY)),
            ("access mode 3", with(3)),
            ("O_CREAT", with(libc::O_RDWR | libc::O_CREAT)),
            ("O_APPEND", with(libc::O_RDWR | libc::O_APPEND)),
            ("O_TRUNC", with(libc::O_RDWR | libc::O_TRUNC)),
            ("O_PATH", with(libc::O_RDWR | libc::O_PATH)),
            ("O_DIRECT", with(libc::O_RDWR | libc::O_DIRECT)),
            ("bit 30", with(libc::O_RDWR | (1 << 30))),
            ("bit 31", with(libc::O_RDWR | i32::MIN)),
        ],
    )
}

fn export_of_no_bar_is_enodev() -> Result<()> {
    let of = |region| Export::new(region, &[Range(0, PAGE)]);
    let regions = (1..16).chain([1 << 16, 1 << 24, u32::MAX - 1, u32::MAX]);
    refused(Errno::ENODEV, regions.map(|region| (format!("region {region:#x}"), of(region))))
}

fn export_whose_sum_overflows_is_einval() -> Result<()> {
    const HALF: u64 = 1 << 63;
    let lists: [&[Range]; 5] = [
        &[Range(0, HALF)],
        &[Range(0, HALF), Range(0, HALF)],
        &[Range(0, HALF - PAGE), Range(0, PAGE)],
        &[Range(0, u64::MAX - PAGE + 1), Range(0, PAGE)],
        &[Range(0, PAGE), Range(0, u64::MAX - PAGE + 1)],
    ];
    refused(Errno::EINVAL, lists.map(|ranges| (format!("{ranges:x?}"), Export::new(0, ranges))))
}

fn export_from_unreadable_memory_is_efault() -> Result<()> {
    let device = open_edu()?;
    let before = fds()?;
    // The memory ends behind the first, the second range; nr_ranges says there is one more.
    for there in [0, 1, 2] {
        let mut export = Export::new(0, &vec![Range(0, PAGE); there]);
        export.count = Some(there as u32 + 1);
        let mut call = export.call();
        call.argsz += 16;
        let what = format!("{there} of {} ranges", there + 1);
        check::errno(&what, call.make_at_edge(&device), Errno::EFAULT)?;
    }
    let mut call = one_page().call();
    call.payload.truncate(2);
    check::errno("half of the structure", call.make_at_edge(&device), Errno::EFAULT)?;
    check::equal("open fds", fds()?, before)?;
    let fd = check::works("all of it", one_page().call().make_at_edge(&device))?;
    nix::unistd::close(fd).map_err(Into::into)
}

fn export_without_a_free_fd_is_emfile() -> Result<()> {
    let device = open_edu()?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let next = export_edu(&device)?.as_fd().as_raw_fd() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, next, hard)?;
    check::errno("export", one_page().make(&device), Errno::EMFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    check::works("export", one_page().make(&device)).map(drop)
}

fn export_with_one_bad_range_among_good_ones_is_refused() -> Result<()> {
    let size = size_of_bar()?;
    let device = open_edu()?;
    for bad in [Range(0, 0), Range(1, PAGE), Range(size, PAGE)] {
        for at in [0, 1, 255, 256] {
            let mut ranges = vec![Range(0, PAGE); 257];
            ranges[at] = bad;
            let what = format!("{bad:x?} at {at} of 257");
            check::errno(&what, Export::new(0, &ranges).make(&device), Errno::EINVAL)?;
        }
    }
    Ok(())
}
