// SPDX-License-Identifier: GPL-2.0
//! Mappings of a BAR through the device fd.

use guest::maps;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "mmap of a BAR: works, keeps the device open, has VFIO's offsets": [
            bar_mapping_reaches_the_registers, bar_mapping_keeps_the_device_open,
            bar_mapping_in_a_forked_child_keeps_the_device_open,
            read_only_bar_mapping_cannot_be_written, five_hundred_bar_mappings_work_and_leave,
        ],
        "names: in maps, map_files, fdinfo and bufinfo; can be replaced": [
            bar_mapping_is_named_after_its_bar,
        ],
        "mmap: EINVAL past the end, or not shared": [
            bar_mapping_past_the_end_is_refused, bar_mapping_must_be_shared,
            bar_mapping_of_what_is_no_bar_is_refused,
        ],
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            bar_mapping_can_be_moved_but_not_grown,
        ];
    Setup::Bound(&[BOCHS]) =>
        "mmap of a BAR: works, keeps the device open, has VFIO's offsets": [
            bar_mapping_at_an_offset_shows_that_offset,
            bar_mappings_of_several_bars_have_their_own_names,
        ],
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            bar_mapping_can_be_cut_to_pieces,
        ],
        "page table entries: frames, levels and memory types, in any process": [
            bar_mapping_of_blocks_works,
        ];
}

fn bar_mapping_reaches_the_registers() -> Result<()> {
    let device = open_edu()?;
    let bar = check::works("mmap", device.map_bar(0))?;
    check::value("id register", bar.load(ID_AT), ID)?;
    for value in [0, 1, 0x1234_5678, u32::MAX] {
        bar.store(INVERTER, value)?;
        check::value("inverter", bar.load(INVERTER), !value)?;
        let mut bytes = [0; 4];
        device.read(0, INVERTER, &mut bytes)?;
        check::equal("inverter through read()", u32::from_le_bytes(bytes), !value)?;
    }
    Ok(())
}

fn bar_mapping_is_named_after_its_bar() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let line = maps::line_at(std::process::id() as i32, bar.address())?;
    let want = format!("/dmabuf:{}:{}/0", edu()?.vfio_name()?, edu()?);
    check::equal("name in maps", line.name, want)?;
    check::equal("permissions in maps", line.perms.as_str(), "rw-s")?;
    check::equal("offset in maps", line.offset, 0)
}

fn bar_mappings_of_several_bars_have_their_own_names() -> Result<()> {
    let device = open_bochs()?;
    let pci = nth(BOCHS, 0)?;
    for (index, offset) in [(0, 0), (0, 3 * PAGE), (2, 0)] {
        let part = device.map_bar_part(index, offset, PAGE)?;
        let line = maps::line_at(std::process::id() as i32, part.address())?;
        let want = format!("/dmabuf:{}:{pci}/{index}", pci.vfio_name()?);
        check::equal("name in maps", line.name, want)?;
        let want = device.region(index)?.offset + offset;
        check::equal("offset in maps, as VFIO counts", line.offset, want)?;
    }
    Ok(())
}

/// Whether somebody has the device open through its group: a group opens once only.
fn group_is_busy() -> Result<bool> {
    let path = format!("/dev/vfio/{}", edu()?.group()?);
    match File::options().read(true).write(true).open(&path) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn bar_mapping_keeps_the_device_open() -> Result<()> {
    let device = open_edu()?;
    let first = device.map_bar(0)?;
    let second = device.map_bar_part(0, 0, PAGE)?;
    drop(device);
    check::value("id register after the last close()", first.load(ID_AT), ID)?;
    second.store(INVERTER, 7)?;
    check::value("inverter after the last close()", first.load(INVERTER), !7)?;
    check::equal("the group is busy", group_is_busy()?, true)?;
    drop(first);
    check::value("id register with one mapping gone", second.load(ID_AT), ID)?;
    check::equal("the group is still busy", group_is_busy()?, true)?;
    drop(second);
    wait_for("the device closes with its last mapping", || Ok(!group_is_busy()?))?;
    check::value("id register when opened again", open_edu()?.map_bar(0)?.load(ID_AT), ID)
}

fn bar_mapping_in_a_forked_child_keeps_the_device_open() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    let child = Peer::fork()?;
    // The child has the fds of its parent too: leave it the mapping only.
    for fd in [device.raw()].into_iter().chain(device.holders.iter().map(raw)) {
        child.close(fd)?;
    }
    drop(device);
    let address = bar.address();
    drop(bar);
    check::value("id register in the child", child.load(address + ID_AT as usize)?, ID)?;
    check::equal("the group is busy", group_is_busy()?, true)?;
    child.kill()?;
    wait_for("the device closes with the child", || Ok(!group_is_busy()?))
}

fn raw(fd: &std::os::fd::OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn bar_mapping_past_the_end_is_refused() -> Result<()> {
    let device = open_edu()?;
    let size = device.region(0)?.size;
    check::works("the last page", device.map_bar_part(0, size - PAGE, PAGE))?;
    for (offset, len) in [(0, size + PAGE), (size - PAGE, 2 * PAGE), (size, PAGE), (1 << 39, PAGE)]
    {
        let what = format!("mmap of {len:#x} at {offset:#x}");
        check::errno(&what, device.map_bar_part(0, offset, len), Errno::EINVAL)?;
    }
    Ok(())
}

fn bar_mapping_must_be_shared() -> Result<()> {
    let device = open_edu()?;
    let private = mm::map(device.raw(), PAGE, mm::RW, mm::PRIVATE, 0);
    check::errno("MAP_PRIVATE", private, Errno::EINVAL)?;
    let private = mm::map(device.raw(), PAGE, mm::RO, mm::PRIVATE, 0);
    check::errno("MAP_PRIVATE, PROT_READ", private, Errno::EINVAL)
}

fn bar_mapping_of_what_is_no_bar_is_refused() -> Result<()> {
    let device = open_edu()?;
    for index in 1..12_u64 {
        let got = mm::map(device.raw(), PAGE, mm::RO, mm::SHARED, index << 40);
        check::errno(&format!("mmap of region {index}"), got, Errno::EINVAL)?;
    }
    Ok(())
}

fn read_only_bar_mapping_cannot_be_written() -> Result<()> {
    let device = open_edu()?;
    let bar = Mapping::new(&device, PAGE, mm::RO, 0)?;
    check::value("id register", bar.load(ID_AT), ID)?;
    check::segv("store", bar.store(INVERTER, 1))?;
    check::works("mprotect", bar.protect_part(0, PAGE, mm::RW))?;
    bar.store(INVERTER, 1)?;
    check::value("inverter", bar.load(INVERTER), !1)?;
    check::works("mprotect", bar.protect_part(0, PAGE, mm::RO))?;
    check::segv("store after the second mprotect", bar.store(INVERTER, 2))?;
    check::value("inverter", bar.load(INVERTER), !1)
}

fn bar_mapping_can_be_moved_but_not_grown() -> Result<()> {
    let device = open_edu()?;
    let address = mm::map(device.raw(), 4 * PAGE, mm::RW, mm::SHARED, 0)?;
    let moved = check::works("mremap", mm::move_away(address, 4 * PAGE))?;
    check::segv("the old place", guest::fault::load32(address))?;
    let bar = Mapping::from_raw(moved, 4 * PAGE);
    check::value("id register at the new place", bar.load(ID_AT), ID)?;
    check::errno("growing", mm::remap(moved, 4 * PAGE, 8 * PAGE), Errno::EFAULT)?;
    check::works("shrinking", mm::remap(moved, 4 * PAGE, PAGE))?;
    check::value("id register", bar.load(ID_AT), ID)?;
    check::segv("what was cut off", bar.load(PAGE))
}

fn five_hundred_bar_mappings_work_and_leave() -> Result<()> {
    let device = Device::open(&edu()?, Via::newest())?;
    let mappings: Vec<Mapping> =
        (0..500).map(|_| device.map_bar_part(0, 0, PAGE)).collect::<Result<_, _>>()?;
    for (value, mapping) in (0..).zip(&mappings) {
        check::value("id register", mapping.load(ID_AT), ID)?;
        mapping.store(INVERTER, value)?;
        check::value("inverter", mapping.load(INVERTER), !value)?;
    }
    Ok(())
}

fn bar_mapping_at_an_offset_shows_that_offset() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar(0)?;
    paint(&all, 16)?;
    for page in [0, 1, 7, 15] {
        let part = device.map_bar_part(0, page * PAGE, PAGE)?;
        check::value(&format!("page {page}"), part.load(0), colour(page))?;
        part.store(4, page as u32)?;
        check::value(&format!("page {page} in BAR0"), all.load(page * PAGE + 4), page as u32)?;
    }
    let registers = device.map_bar(2)?;
    check::value("register of BAR2", registers.load(BOCHS_SIZE_AT), BOCHS_SIZE)
}

fn bar_mapping_can_be_cut_to_pieces() -> Result<()> {
    let device = open_bochs()?;
    let all = device.map_bar_part(0, 0, 9 * PAGE)?;
    paint(&all, 9)?;
    check::works("a hole", all.unmap_part(3 * PAGE, PAGE))?;
    check::works("a read-only page", all.protect_part(6 * PAGE, PAGE, mm::RO))?;
    for page in 0..9 {
        let what = format!("page {page}");
        match page {
            3 => check::segv(&what, all.load(page * PAGE))?,
            _ => check::value(&what, all.load(page * PAGE), colour(page))?,
        }
    }
    check::segv("store to the read-only page", all.store(6 * PAGE, 1))?;
    all.store(7 * PAGE, 1)?;
    check::value("page 7", all.load(7 * PAGE), 1)?;
    check::works("the first two pages", all.unmap_part(0, 2 * PAGE))?;
    drop(device);
    check::value("page 2 with the fd closed", all.load(2 * PAGE), colour(2))
}

fn bar_mapping_of_blocks_works() -> Result<()> {
    let device = open_bochs()?;
    let size = device.region(0)?.size;
    let all = Mapping::aligned(&device, size, 0)?;
    let step = 257 * PAGE;
    for at in (0..size).step_by(step as usize) {
        all.store(at, at as u32)?;
    }
    for at in (0..size).step_by(step as usize) {
        check::value(&format!("at {at:#x}"), all.load(at), at as u32)?;
        let page = device.map_bar_part(0, at, PAGE)?;
        check::value(&format!("{at:#x} through a page"), page.load(0), at as u32)?;
    }
    Ok(())
}
