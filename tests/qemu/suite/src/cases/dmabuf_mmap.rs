// SPDX-License-Identifier: GPL-2.0
//! Mappings of an exported buffer, in this process and in others.

use guest::{fault, maps};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "mmap of a buffer: from any process; the offset counts in the concatenated ranges": [
            client_process_reaches_the_registers, mapping_outlives_the_fd,
        ],
        "names: in maps, map_files, fdinfo and bufinfo; can be replaced": [
            exported_buffer_is_named_after_its_bar,
        ],
        "mmap: EINVAL past the end, or not shared": [
            mapping_past_the_end_of_the_buffer_is_refused, mapping_of_a_buffer_must_be_shared,
        ],
        "mmap: PROT_WRITE of a read-only fd is EACCES": [read_only_export_cannot_be_written],
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            forked_child_keeps_the_mapping,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "buffers reach their own device and BAR; several over one range are allowed": [
            buffers_of_two_devices_reach_their_own,
        ];
    Setup::Bound(&[BOCHS]) =>
        "mmap of a buffer: from any process; the offset counts in the concatenated ranges": [
            offset_of_mmap_counts_in_the_buffer, ranges_lie_end_to_end_in_the_order_given,
        ],
        "buffers reach their own device and BAR; several over one range are allowed": [
            buffers_over_the_same_pages_are_aliases, buffer_of_a_second_bar_shows_that_bar,
        ],
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            mapping_of_a_buffer_can_be_cut_to_pieces,
            mapping_of_a_buffer_can_be_moved_but_not_grown,
        ],
        "page table entries: frames, levels and memory types, in any process": [
            buffer_of_blocks_works,
        ];
}

fn client_process_reaches_the_registers() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let fd = client.take(export_edu(&device)?)?;
    let address = check::works("mmap in the client", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("id register", client.load(address)?, ID)?;
    let inverter = address + INVERTER as usize;
    for value in [0, 0xdead_beef, u32::MAX] {
        client.store(inverter, value)??;
        check::value("inverter in the client", client.load(inverter)?, !value)?;
        let bar = device.map_bar_part(0, 0, PAGE)?;
        check::value("inverter in the owner", bar.load(INVERTER), !value)?;
    }
    let past = client.map(fd, 2 * PAGE, mm::RW, 0)?;
    check::errno("mmap beyond the slice in the client", past, Errno::EINVAL)
}

fn exported_buffer_is_named_after_its_bar() -> Result<()> {
    let (_device, buffer, mapping) = mapped_edu()?;
    let name = format!("{}:{}/0", edu()?.vfio_name()?, edu()?);
    let line = maps::line_at(std::process::id() as i32, mapping.address())?;
    check::equal("name in maps", line.name, format!("/dmabuf:{name}"))?;
    check::equal("permissions in maps", line.perms.as_str(), "rw-s")?;
    let info = buffer.fdinfo()?;
    ensure!(info.contains(&format!("name:\t{name}\n")), "fdinfo: {info}");
    check::works("DMA_BUF_SET_NAME", buffer.set_name(c"my slice"))?;
    let line = maps::line_at(std::process::id() as i32, mapping.address())?;
    check::equal("name in maps, renamed", line.name.as_str(), "/dmabuf:my slice")
}

fn mapping_outlives_the_fd() -> Result<()> {
    let (_device, buffer, mapping) = mapped_edu()?;
    drop(buffer);
    check::value("id register", mapping.load(ID_AT), ID)?;
    mapping.store(INVERTER, 3)?;
    check::value("inverter", mapping.load(INVERTER), !3)
}

fn mapping_past_the_end_of_the_buffer_is_refused() -> Result<()> {
    let device = open_edu()?;
    for pages in [1, 3, 256] {
        let size = pages * PAGE;
        let buffer = Buffer::export(&device, 0, 0, size)?;
        check::works("all of it", buffer.map(0, size))?;
        check::works("the last page", buffer.map(size - PAGE, PAGE))?;
        for (offset, len) in [
            (0, size + PAGE),
            (PAGE, size),
            (size - PAGE, 2 * PAGE),
            (size, PAGE),
            (size + PAGE, PAGE),
            (1 << 40, PAGE),
            (1 << 62, PAGE),
        ] {
            let what = format!("mmap of {len:#x} at {offset:#x} in a buffer of {size:#x}");
            check::errno(&what, buffer.map(offset, len), Errno::EINVAL)?;
        }
    }
    Ok(())
}

fn mapping_of_a_buffer_must_be_shared() -> Result<()> {
    let (_device, buffer) = exported_edu()?;
    for prot in [mm::RW, mm::RO] {
        let private = mm::map(buffer.raw(), PAGE, prot, mm::PRIVATE, 0);
        check::errno("MAP_PRIVATE", private, Errno::EINVAL)?;
    }
    Ok(())
}

fn read_only_export_cannot_be_written() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let fd = client.take(export_read_only(&device)?)?;
    let writable = client.map(fd, PAGE, mm::RW, 0)?;
    check::errno("mmap with PROT_WRITE", writable, Errno::EACCES)?;
    let address = check::works("mmap with PROT_READ", client.map(fd, PAGE, mm::RO, 0)?)?;
    check::value("id register", client.load(address)?, ID)?;
    check::segv("store", client.store(address + INVERTER as usize, 1)?)?;
    let writable = client.protect(address, PAGE, mm::RW)?;
    check::errno("mprotect", writable, Errno::EACCES)?;
    check::segv("store after mprotect", client.store(address + INVERTER as usize, 1)?)?;
    check::value("id register", client.load(address)?, ID)
}

fn forked_child_keeps_the_mapping() -> Result<()> {
    let device = open_edu()?;
    let mapping = export_edu(&device)?.map(0, PAGE)?;
    check::value("id register before the fork", mapping.load(ID_AT), ID)?;
    let child = Peer::fork()?;
    let address = mapping.address();
    check::value("id register in the child", child.load(address)?, ID)?;
    drop(mapping);
    check::segv("id register in the parent after munmap", fault::load32(address))?;
    check::value("id register in the child after it", child.load(address)?, ID)?;
    child.store(address + INVERTER as usize, 6)??;
    check::value("inverter", device.map_bar(0)?.load(INVERTER), !6)
}

fn buffers_of_two_devices_reach_their_own() -> Result<()> {
    let devices =
        [Device::open(&nth(EDU, 0)?, Via::Group)?, Device::open(&nth(EDU, 1)?, Via::newest())?];
    let mappings: Vec<Mapping> = devices
        .iter()
        .map(|device| Ok(export_edu(device)?.map(0, PAGE)?))
        .collect::<Result<_>>()?;
    for (value, mapping) in (10..).zip(&mappings) {
        mapping.store(INVERTER, value)?;
    }
    for ((value, mapping), device) in (10..).zip(&mappings).zip(&devices) {
        check::value("inverter through the buffer", mapping.load(INVERTER), !value)?;
        check::value("inverter through the BAR", device.map_bar(0)?.load(INVERTER), !value)?;
    }
    Ok(())
}

fn offset_of_mmap_counts_in_the_buffer() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar_part(0, 0, 16 * PAGE)?;
    paint(&all, 16)?;
    let buffer = Buffer::export(&device, 0, 4 * PAGE, 8 * PAGE)?;
    for page in 0..8 {
        let part = check::works("mmap", buffer.map(page * PAGE, PAGE))?;
        check::value(&format!("page {page}"), part.load(0), colour(4 + page))?;
        part.store(8, page as u32)?;
        let got = all.load((4 + page) * PAGE + 8);
        check::value(&format!("page {page} through the BAR"), got, page as u32)?;
    }
    let middle = check::works("mmap of the middle", buffer.map(2 * PAGE, 4 * PAGE))?;
    (0..4)
        .try_for_each(|page| check::value("the middle", middle.load(page * PAGE), colour(6 + page)))
}

fn ranges_lie_end_to_end_in_the_order_given() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar_part(0, 0, 32 * PAGE)?;
    paint(&all, 32)?;
    let page = |first: u64, count: u64| Range(first * PAGE, count * PAGE);
    for ranges in [
        vec![page(3, 1), page(1, 1), page(2, 1)],
        vec![page(8, 4), page(0, 8)],
        vec![page(5, 3), page(5, 3), page(6, 1)],
        vec![page(31, 1), page(0, 31), page(0, 32)],
        (0..32).rev().map(|at| page(at, 1)).collect(),
    ] {
        let pages: Vec<u64> = ranges.iter().flat_map(|r| r.0 / PAGE..(r.0 + r.1) / PAGE).collect();
        let buffer = check::works("export", Export::new(0, &ranges).make(&device))?;
        let mapping = check::works("mmap", buffer.map(0, pages.len() as u64 * PAGE))?;
        for (at, &page) in (0..).zip(&pages) {
            let what = format!("page {at} of {ranges:x?}");
            check::value(&what, mapping.load(at * PAGE), colour(page))?;
            let single = check::works("mmap of one page", buffer.map(at * PAGE, PAGE))?;
            check::value(&format!("{what}, alone"), single.load(0), colour(page))?;
        }
        let past = buffer.map(0, (pages.len() as u64 + 1) * PAGE);
        check::errno("mmap past the end", past, Errno::EINVAL)?;
    }
    Ok(())
}

fn buffers_over_the_same_pages_are_aliases() -> Result<()> {
    let device = open_bochs()?;
    let one = Buffer::export(&device, 0, 0, 4 * PAGE)?;
    let other = Buffer::export(&device, 0, 2 * PAGE, 4 * PAGE)?;
    let (a, b) = (one.map(0, 4 * PAGE)?, one.map(2 * PAGE, PAGE)?);
    let c = other.map(0, PAGE)?;
    a.store(2 * PAGE, 21)?;
    check::value("the same buffer, mapped twice", b.load(0), 21)?;
    check::value("another buffer", c.load(0), 21)?;
    c.store(0, 22)?;
    check::value("and back", a.load(2 * PAGE), 22)
}

fn mapping_of_a_buffer_can_be_cut_to_pieces() -> Result<()> {
    let device = open_bochs()?;
    paint(&device.map_bar_part(0, 0, 16 * PAGE)?, 16)?;
    let ranges = [Range(8 * PAGE, 4 * PAGE), Range(0, 5 * PAGE)];
    let page_of = |at: u64| if at < 4 { 8 + at } else { at - 4 };
    let mapping = Export::new(0, &ranges).make(&device)?.map(0, 9 * PAGE)?;
    check::works("a hole", mapping.unmap_part(3 * PAGE, PAGE))?;
    check::works("a read-only page", mapping.protect_part(6 * PAGE, PAGE, mm::RO))?;
    for at in 0..9 {
        let what = format!("page {at}");
        match at {
            3 => check::segv(&what, mapping.load(at * PAGE))?,
            _ => check::value(&what, mapping.load(at * PAGE), colour(page_of(at)))?,
        }
    }
    check::segv("store to the read-only page", mapping.store(6 * PAGE, 1))?;
    check::works("writable again", mapping.protect_part(6 * PAGE, PAGE, mm::RW))?;
    mapping.store(6 * PAGE, 1)?;
    check::value("page 6", mapping.load(6 * PAGE), 1)?;
    check::works("the first two pages", mapping.unmap_part(0, 2 * PAGE))?;
    check::value("page 2", mapping.load(2 * PAGE), colour(page_of(2)))
}

fn mapping_of_a_buffer_can_be_moved_but_not_grown() -> Result<()> {
    let device = open_bochs()?;
    paint(&device.map_bar_part(0, 0, 8 * PAGE)?, 8)?;
    let buffer = Buffer::export(&device, 0, 2 * PAGE, 4 * PAGE)?;
    let old = mm::map(buffer.raw(), 3 * PAGE, mm::RW, mm::SHARED, PAGE)?;
    check::value("before any fault but one", fault::load32(old), colour(3))?;
    let moved = check::works("mremap", mm::move_away(old, 3 * PAGE))?;
    check::segv("the old place", fault::load32(old))?;
    let mapping = Mapping::from_raw(moved, 3 * PAGE);
    for at in 0..3 {
        check::value(&format!("page {at}"), mapping.load(at * PAGE), colour(3 + at))?;
    }
    check::errno("growing", mm::remap(moved, 3 * PAGE, 4 * PAGE), Errno::EFAULT)?;
    check::works("shrinking", mm::remap(moved, 3 * PAGE, PAGE))?;
    check::segv("what was cut off", mapping.load(PAGE))?;
    check::value("what is left", mapping.load(0), colour(3))
}

fn buffer_of_a_second_bar_shows_that_bar() -> Result<()> {
    let device = open_bochs()?;
    let client = Peer::fork()?;
    let fd = client.take(check::works("export", Buffer::export(&device, 2, 0, PAGE))?)?;
    let address = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("register", client.load(address + BOCHS_SIZE_AT as usize)?, BOCHS_SIZE)?;
    let past = Buffer::export(&device, 2, 0, 2 * PAGE);
    check::errno("export past the end of BAR2", past, Errno::EINVAL)
}

fn buffer_of_blocks_works() -> Result<()> {
    let device = open_bochs()?;
    let size = 16 << 20;
    // One buffer that can have huge pages, one whose second range cannot: its place in the buffer
    // and in the BAR differ by a page.
    let even = Buffer::export(&device, 0, 0, size)?;
    let odd = Export::new(0, &[Range(0, PAGE), Range(0, size)]).make(&device)?;
    let a = Mapping::aligned(&even, size, 0)?;
    let b = Mapping::aligned(&odd, size + PAGE, 0)?;
    let step = 129 * PAGE as usize;
    for at in (0..size).step_by(step) {
        a.store(at, !at as u32)?;
    }
    for at in (0..size).step_by(step) {
        check::value(&format!("at {at:#x}"), b.load(at + PAGE), !at as u32)?;
        check::value(&format!("at {at:#x} in the BAR"), a.load(at), !at as u32)?;
    }
    check::works("a hole in a huge page", a.unmap_part(PAGE, PAGE))?;
    check::segv("the hole", a.load(PAGE))?;
    check::value("beside the hole", a.load(0), !0)
}
