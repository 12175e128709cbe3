// SPDX-License-Identifier: GPL-2.0
//! INFO and MEMATTR: what they say, what they change, what they refuse.

use guest::buffer::{memattr, set_memattr};

use super::borders::{at_borders, INFO, MEMATTR};
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "INFO: size, number of ranges, status and attribute": [
            info_tells_size_and_ranges, info_counts_touching_ranges_as_they_were_given,
            info_follows_the_life_of_a_buffer,
        ],
        "export while memory is disabled: works when memory is enabled": [
            info_follows_the_life_of_a_buffer,
        ],
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            info_and_memattr_refuse_what_is_no_buffer, memattr_of_a_closed_buffer_is_enodev,
        ],
        "features: PROBE, allowed operations, argsz": [info_and_memattr_obey_the_rules_of_features],
        "MEMATTR: GET, SET and export flags; affects later mappings only": [
            memattr_is_uncached_at_birth_and_can_be_set, memattr_of_export_flags_is_that_at_birth,
            memattr_is_of_one_buffer_only,
        ],
        "MEMATTR: an unknown attribute is EOPNOTSUPP": [memattr_that_does_not_exist_is_eopnotsupp];
    Setup::Bound(&[EDU, EDU]) =>
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            info_and_memattr_through_another_device_are_enodev,
        ];
}

const NC: u32 = uapi::VFIO_DMABUF_MEMATTR_NC;
const WC: u32 = uapi::VFIO_DMABUF_MEMATTR_WC;

fn info(device: &Device, buffer: &Buffer) -> Result<uapi::vfio_dmabuf_feature_info> {
    check::works("INFO", buffer::info(device, buffer.raw()))
}

fn info_tells_size_and_ranges() -> Result<()> {
    let device = open_edu()?;
    for count in [1, 2, 100] {
        let ranges: Vec<Range> = (0..count).map(|at| Range(at * PAGE, 2 * PAGE)).collect();
        let buffer = Export::new(0, &ranges).make(&device)?;
        let info = info(&device, &buffer)?;
        check::equal("nr_ranges", u64::from(info.nr_ranges), count)?;
        check::equal("size", info.size, count * 2 * PAGE)?;
        check::equal("memattr", info.memattr, NC)?;
        check::equal("dmabuf_fd", info.dmabuf_fd, buffer.raw())?;
    }
    Ok(())
}

/// The driver merges ranges that follow each other.
fn info_counts_touching_ranges_as_they_were_given() -> Result<()> {
    let device = open_edu()?;
    for count in [1, 2, 3, 200] {
        let ranges: Vec<Range> = (0..count).map(|at| Range(at * PAGE, PAGE)).collect();
        let buffer = check::works("export", Export::new(0, &ranges).make(&device))?;
        let info = info(&device, &buffer)?;
        check::equal("nr_ranges", u64::from(info.nr_ranges), count)?;
        check::equal("size", info.size, count * PAGE)?;
    }
    let ranges = [Range(0, PAGE), Range(PAGE, PAGE), Range(8 * PAGE, PAGE), Range(9 * PAGE, PAGE)];
    let buffer = check::works("export", Export::new(0, &ranges).make(&device))?;
    check::equal("nr_ranges of two pairs", info(&device, &buffer)?.nr_ranges, 4)
}

fn info_follows_the_life_of_a_buffer() -> Result<()> {
    let device = open_edu()?;
    let status = |device: &Device, buffer: &Buffer| Ok(info(device, buffer)?.status);
    let expect = |when: &str, got: Result<u32>, want: u32| check::equal(when, got?, want);
    let (live, temporary) = (uapi::VFIO_DMABUF_STATUS_LIVE, uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP);
    let (revoked, closed) = (uapi::VFIO_DMABUF_STATUS_REVOKED, uapi::VFIO_DMABUF_STATUS_CLOSED);

    let (first, second) = (export_edu(&device)?, export_edu(&device)?);
    expect("new", status(&device, &first), live)?;
    device.set_memory(false)?;
    expect("memory off", status(&device, &first), temporary)?;
    let third = export_edu(&device)?;
    expect("new, memory off", status(&device, &third), temporary)?;
    check::works("REVOKE", buffer::revoke(&device, &third))?;
    expect("revoked, memory off", status(&device, &third), revoked)?;
    device.set_memory(true)?;
    expect("memory on", status(&device, &first), live)?;
    check::works("reset", device.reset())?;
    expect("reset", status(&device, &first), live)?;
    check::works("REVOKE", buffer::revoke(&device, &first))?;
    expect("revoked", status(&device, &first), revoked)?;
    expect("the other", status(&device, &second), live)?;
    drop(device);
    let device = Device::open(&edu()?, Via::newest())?;
    expect("device opened again", status(&device, &second), closed)?;
    // What was revoked before the device was closed may say either: both are final.
    let old = status(&device, &first)?;
    check::equal("revoked, device opened again", old == revoked || old == closed, true)
}

fn info_and_memattr_refuse_what_is_no_buffer() -> Result<()> {
    let device = open_edu()?;
    let heap = Buffer::from_system_heap(PAGE)?;
    let closed = export_edu(&device)?.raw();
    for (what, fd, want) in [
        ("fd -1", -1, Errno::EBADF),
        ("an fd that was closed", closed, Errno::EBADF),
        ("a large number", i32::MAX, Errno::EBADF),
        ("standard input", 0, Errno::EINVAL),
        ("the device fd", device.raw(), Errno::EINVAL),
        ("a heap's dma-buf", heap.raw(), Errno::ENODEV),
    ] {
        check::errno(&format!("INFO of {what}"), buffer::info(&device, fd).map(drop), want)?;
        check::errno(&format!("MEMATTR GET of {what}"), memattr(&device, fd), want)?;
        check::errno(&format!("MEMATTR SET of {what}"), set_memattr(&device, fd, WC), want)?;
        // The fd comes before the attribute.
        check::errno(&format!("MEMATTR SET 99 of {what}"), set_memattr(&device, fd, 99), want)?;
    }
    Ok(())
}

fn info_and_memattr_obey_the_rules_of_features() -> Result<()> {
    at_borders(open_edu()?, |it| {
        it.sizes(&[INFO, MEMATTR])?;
        it.operations(&[INFO, MEMATTR], |_| true)
    })
}

fn memattr_is_uncached_at_birth_and_can_be_set() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let fd = buffer.raw();
    check::equal("at birth", memattr(&device, fd), Ok(NC))?;
    let before = buffer.map(0, PAGE)?;
    for attribute in [WC, WC, NC, WC] {
        check::works("SET", set_memattr(&device, fd, attribute))?;
        check::equal("GET", memattr(&device, fd), Ok(attribute))?;
        check::equal("INFO", info(&device, &buffer)?.memattr, attribute)?;
        check::value("a mapping from before", before.load(ID_AT), ID)?;
        check::value("a new mapping", buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    }
    Ok(())
}

fn memattr_of_export_flags_is_that_at_birth() -> Result<()> {
    let device = open_edu()?;
    for (flags, want) in [(uapi::VFIO_DMABUF_ATTR_UC, NC), (uapi::VFIO_DMABUF_ATTR_WC, WC)] {
        let export = Export { flags, ..Export::new(0, &[Range(0, PAGE)]) };
        let buffer = check::works("export", export.make(&device))?;
        check::equal("GET", memattr(&device, buffer.raw()), Ok(want))?;
        check::value("mapped", buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    }
    Ok(())
}

fn memattr_that_does_not_exist_is_eopnotsupp() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    check::works("SET", set_memattr(&device, buffer.raw(), WC))?;
    for attribute in [2, 3, 255, 1 << 16, 1 << 28, u32::MAX] {
        let got = set_memattr(&device, buffer.raw(), attribute);
        check::errno(&format!("SET {attribute:#x}"), got, Errno::EOPNOTSUPP)?;
        check::equal("GET after it", memattr(&device, buffer.raw()), Ok(WC))?;
    }
    Ok(())
}

fn memattr_is_of_one_buffer_only() -> Result<()> {
    let device = open_edu()?;
    let (one, other) = (export_edu(&device)?, export_edu(&device)?);
    check::works("SET", set_memattr(&device, one.dup()?.raw(), WC))?;
    check::equal("the one, through another fd", memattr(&device, one.raw()), Ok(WC))?;
    check::equal("the other", memattr(&device, other.raw()), Ok(NC))?;
    check::equal("a new one", memattr(&device, export_edu(&device)?.raw()), Ok(NC))
}

fn memattr_of_a_closed_buffer_is_enodev() -> Result<()> {
    let buffer = export_edu(&open_edu()?)?;
    let device = open_edu()?;
    check::errno("GET", memattr(&device, buffer.raw()), Errno::ENODEV)?;
    check::errno("SET", set_memattr(&device, buffer.raw(), WC), Errno::ENODEV)
}

fn info_and_memattr_through_another_device_are_enodev() -> Result<()> {
    let device = open_edu()?;
    let other = Device::open(&nth(EDU, 1)?, Via::newest())?;
    let buffer = export_edu(&device)?;
    let fd = buffer.raw();
    check::errno("INFO", buffer::info(&other, fd).map(drop), Errno::ENODEV)?;
    check::errno("GET", memattr(&other, fd), Errno::ENODEV)?;
    check::errno("SET", set_memattr(&other, fd, WC), Errno::ENODEV)?;
    check::equal("unchanged", memattr(&device, fd), Ok(NC))
}
