// SPDX-License-Identifier: GPL-2.0
//! Which page frames the page tables have, and with which memory type, as the test module reads
//! them with `follow_pfnmap_start()`: in any process, also a stopped one.

use anyhow::{Context, Result};
use guest::buffer::{self, Buffer, Export, Range};
use guest::device::Device;
use guest::feature;
use guest::mm::{self, Mapping};
use guest::pci::{Pci, BOCHS, EDU, TESTDEV};
use guest::peer::Peer;
use guest::testmod::{MemoryType, Pte, Ptes};
use guest::{uapi, PAGE};

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::{edu, export_edu, nth, open_bochs, open_edu, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        "page table entries: frames, levels and memory types, in any process": [
            no_process_has_an_entry_after_a_revoke, no_process_has_an_entry_while_memory_is_off,
            no_entry_survives_a_reset, read_only_export_has_read_only_entries,
        ];
    Setup::Bound(&[BOCHS]) =>
        "page table entries: frames, levels and memory types, in any process": [
            entries_have_the_page_frames_of_the_ranges,
            huge_entries_have_the_page_frames_of_the_bar, mappings_out_of_phase_have_small_entries,
            attribute_of_the_export_is_in_the_entries,
            attribute_that_was_set_is_in_later_mappings_only,
            write_combining_in_use_leaves_bar_mappings_uncached,
            write_combining_buffer_takes_the_place_of_a_part_of_a_bar_mapping,
            mprotect_keeps_the_memory_type,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "page table entries: frames, levels and memory types, in any process": [
            gigabyte_entries_have_the_page_frames_of_the_bar,
        ];
}

const NC: MemoryType = MemoryType::UncachedMinus;
const WC: MemoryType = MemoryType::WriteCombining;
const MIB2: u64 = 2 << 20;

/// Touches an address of a mapping, and reads its entry.
fn touched(ptes: &Ptes, mapping: &Mapping, at: u64) -> Result<Pte> {
    mapping.load(at)?;
    let pte = check::works("READ_PTE", ptes.at(mapping.address() + at as usize))?;
    pte.with_context(|| format!("no entry at {at:#x} after an access"))
}

fn absent(ptes: &Ptes, what: &str, pid: i32, address: usize) -> Result<()> {
    check::equal(what, check::works("READ_PTE", ptes.of(pid, address))?, None)
}

/// Mappings of edu's first page in this process and in another one, all of them touched.
struct Everywhere {
    ptes: Ptes,
    device: Device,
    buffer: Buffer,
    client: Peer,
    places: Vec<(i32, usize)>,
    _mappings: [Mapping; 2],
}

impl Everywhere {
    fn new() -> Result<Everywhere> {
        let (ptes, client, device) = (Ptes::new()?, Peer::fork()?, open_edu()?);
        let buffer = export_edu(&device)?;
        let fd = client.take(&buffer)?;
        let there = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
        check::value("client", client.load(there)?, ID)?;
        let mappings = [buffer.map(0, PAGE)?, device.map_bar(0)?];
        let pfn = edu()?.bar_start(0)? / PAGE;
        for mapping in &mappings {
            let want = Pte { pfn, size: PAGE, writable: true, memory: NC };
            check::equal("entry", touched(&ptes, mapping, ID_AT)?, want)?;
        }
        let here = std::process::id() as i32;
        let places = vec![
            (client.pid(), there),
            (here, mappings[0].address()),
            (here, mappings[1].address()),
        ];
        let all = Everywhere { ptes, device, buffer, client, places, _mappings: mappings };
        all.present("at first", 3)?;
        Ok(all)
    }

    /// Checks that of all places these many, counted from the end, have an entry.
    fn present(&self, when: &str, count: usize) -> Result<()> {
        for (number, &(pid, address)) in self.places.iter().enumerate() {
            let there = check::works("READ_PTE", self.ptes.of(pid, address))?.is_some();
            let want = number + count >= self.places.len();
            check::equal(&format!("{when}: place {number} has an entry"), there, want)?;
        }
        Ok(())
    }
}

fn no_process_has_an_entry_after_a_revoke() -> Result<()> {
    let all = Everywhere::new()?;
    all.client.stop()?;
    check::works("REVOKE", buffer::revoke(&all.device, &all.buffer))?;
    // The mapping of the BAR keeps its own.
    all.present("revoked", 1)?;
    all.client.resume()?;
    check::bus_error("client", all.client.load(all.places[0].1)?)?;
    all.present("after a fault", 1)
}

fn no_process_has_an_entry_while_memory_is_off() -> Result<()> {
    let all = Everywhere::new()?;
    all.client.stop()?;
    all.device.set_memory(false)?;
    all.present("memory off", 0)?;
    all.client.resume()?;
    check::bus_error("client", all.client.load(all.places[0].1)?)?;
    all.present("after a fault", 0)?;
    all.device.set_memory(true)?;
    all.present("memory on, untouched", 0)
}

fn no_entry_survives_a_reset() -> Result<()> {
    for through_sysfs in [false, true] {
        let all = Everywhere::new()?;
        all.client.stop()?;
        if through_sysfs {
            check::works("reset through sysfs", edu()?.reset())?;
        } else {
            check::works("VFIO_DEVICE_RESET", all.device.reset())?;
        }
        all.present("after the reset", 0)?;
        all.client.resume()?;
        check::value("client", all.client.load(all.places[0].1)?, ID)?;
    }
    Ok(())
}

fn read_only_export_has_read_only_entries() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_edu()?);
    for flags in
        [uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC]
    {
        let open_flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
        let export = Export { open_flags, flags, ..Export::new(0, &[Range(0, PAGE)]) };
        let buffer = check::works("export", export.make(&device))?;
        let mapping = check::works("mmap", Mapping::new(&buffer, PAGE, mm::RO, 0))?;
        check::equal("writable", touched(&ptes, &mapping, 0)?.writable, false)?;
    }
    Ok(())
}

fn entries_have_the_page_frames_of_the_ranges() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    let bar = nth(BOCHS, 0)?.bar_start(0)? / PAGE;
    for flags in
        [uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC]
    {
        let runs = [(12, 2), (3, 1), (700, 600), (12, 1)];
        let ranges = runs.map(|(first, count)| Range(first * PAGE, count * PAGE));
        let buffer =
            check::works("export", Export { flags, ..Export::new(0, &ranges) }.make(&device))?;
        let want: Vec<u64> = runs
            .iter()
            .flat_map(|&(first, count)| first..first + count)
            .map(|page| bar + page)
            .collect();
        // Forwards all of it, then single pages of a mapping in the middle.
        let mapping = buffer.map(0, want.len() as u64 * PAGE)?;
        for (page, pfn) in want.iter().enumerate() {
            let pte = touched(&ptes, &mapping, page as u64 * PAGE)?;
            check::equal(
                &format!("page {page}: frame and size"),
                (pte.pfn, pte.size),
                (*pfn, PAGE),
            )?;
        }
        let mapping = buffer.map(2 * PAGE, 300 * PAGE)?;
        for page in [299, 0, 150, 1] {
            let pte = touched(&ptes, &mapping, page * PAGE)?;
            check::equal(&format!("page 2 + {page}"), pte.pfn, want[2 + page as usize])?;
        }
    }
    Ok(())
}

/// Checks frames and sizes of a huge mapping that starts at byte `start` of BAR `bar` of `pci`.
fn frames(
    ptes: &Ptes,
    mapping: &Mapping,
    pci: &Pci,
    bar: u32,
    start: u64,
    size: u64,
) -> Result<()> {
    let first = (pci.bar_start(bar)? + start) / PAGE;
    for at in [0, PAGE, size / 2, mapping.size() - PAGE] {
        let want = Pte { pfn: first + at / PAGE, size, writable: true, memory: NC };
        check::equal(&format!("entry at {at:#x}"), touched(ptes, mapping, at)?, want)?;
    }
    Ok(())
}

fn huge_entries_have_the_page_frames_of_the_bar() -> Result<()> {
    let (ptes, device, pci) = (Ptes::new()?, open_bochs()?, nth(BOCHS, 0)?);
    let len = 2 * MIB2;
    let buffer = Buffer::export(&device, 0, MIB2, len)?;
    let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), len, mm::RW, 0)?, len);
    frames(&ptes, &mapping, &pci, 0, MIB2, MIB2)?;
    let bar = Mapping::from_raw(mm::map_aligned(device.raw(), len, mm::RW, 0)?, len);
    frames(&ptes, &bar, &pci, 0, 0, MIB2)
}

fn gigabyte_entries_have_the_page_frames_of_the_bar() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let (ptes, pci) = (Ptes::new()?, nth(TESTDEV, 0)?);
    if pci.bar_size(2)? < 4 * GIB {
        return Err(Skip("pci-testdev has no membar=4G".into()).into());
    }
    let device = Device::open(&pci, guest::device::Via::Group)?;
    let buffer = Buffer::export(&device, 2, GIB, 2 * GIB)?;
    let address = mm::map_gigabyte_aligned(buffer.raw(), 2 * GIB, mm::RW, 0)?;
    let mapping = Mapping::from_raw(address, 2 * GIB);
    frames(&ptes, &mapping, &pci, 2, GIB, GIB)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    absent(&ptes, "after REVOKE", 0, address + GIB as usize)
}

fn mappings_out_of_phase_have_small_entries() -> Result<()> {
    let (ptes, device, pci) = (Ptes::new()?, open_bochs()?, nth(BOCHS, 0)?);
    // Page 1 of the BAR at an address where only page 0 could be part of a huge page.
    let buffer = Buffer::export(&device, 0, PAGE, 2 * MIB2)?;
    let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), MIB2, mm::RW, 0)?, MIB2);
    frames(&ptes, &mapping, &pci, 0, PAGE, PAGE)?;
    // The ends of a huge mapping, of which a part was unmapped.
    let buffer = Buffer::export(&device, 0, 0, MIB2)?;
    let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), MIB2, mm::RW, 0)?, MIB2);
    check::equal("size, whole", touched(&ptes, &mapping, 0)?.size, MIB2)?;
    mapping.unmap_part(4 * PAGE, PAGE)?;
    let pte = touched(&ptes, &mapping, 5 * PAGE)?;
    check::equal(
        "frame and size, with a hole",
        (pte.pfn, pte.size),
        (pci.bar_start(0)? / PAGE + 5, PAGE),
    )
}

fn set_memattr(device: &Device, buffer: &Buffer, memattr: u32) -> Result<()> {
    let dmabuf_fd = buffer.raw();
    let payload = uapi::vfio_device_feature_dma_buf_memattr { dmabuf_fd, memattr };
    let done = feature::set(device, uapi::VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR, &payload);
    check::works("MEMATTR SET", done)
}

fn attribute_of_the_export_is_in_the_entries() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    for (flags, memory, size) in [
        (uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, WC, PAGE),
        (uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, NC, MIB2),
    ] {
        let export = Export { flags, ..Export::new(0, &[Range(0, MIB2)]) };
        let buffer = check::works("export", export.make(&device))?;
        let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), MIB2, mm::RW, 0)?, MIB2);
        for at in [0, PAGE, MIB2 - PAGE] {
            let pte = touched(&ptes, &mapping, at)?;
            check::equal(&format!("at {at:#x}"), (pte.memory, pte.size), (memory, size))?;
        }
    }
    Ok(())
}

fn attribute_that_was_set_is_in_later_mappings_only() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    let buffer = Buffer::export(&device, 0, 0, 2 * PAGE)?;
    let mut mappings = Vec::new();
    for (memattr, memory) in [
        (uapi::VFIO_DMA_BUF_MEMATTR_NC, NC),
        (uapi::VFIO_DMA_BUF_MEMATTR_WC, WC),
        (uapi::VFIO_DMA_BUF_MEMATTR_NC, NC),
        (uapi::VFIO_DMA_BUF_MEMATTR_WC, WC),
    ] {
        set_memattr(&device, &buffer, memattr)?;
        mappings.push((buffer.map(0, 2 * PAGE)?, memory));
        for (number, (mapping, memory)) in mappings.iter().enumerate() {
            // A page of each is touched for the first time after the attribute has changed.
            for at in [0, PAGE] {
                let pte = touched(&ptes, mapping, at * (mappings.len() as u64 - 1).min(1))?;
                check::equal(&format!("mapping {number} at {at:#x}"), pte.memory, *memory)?;
            }
        }
        // Nor do they change when they heal.
        device.set_memory(false)?;
        device.set_memory(true)?;
        for (mapping, memory) in &mappings {
            check::equal("healed", touched(&ptes, mapping, 0)?.memory, *memory)?;
        }
    }
    Ok(())
}

fn write_combining_in_use_leaves_bar_mappings_uncached() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    let plain = Buffer::export(&device, 0, 0, PAGE)?;
    let others = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
    let uncached = |when: &str| -> Result<()> {
        let fresh = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
        for mapping in others.iter().chain(&fresh) {
            check::equal(when, touched(&ptes, mapping, 0)?.memory, NC)?;
        }
        Ok(())
    };
    uncached("before")?;
    for round in 0..2 {
        let buffer = Buffer::export(&device, 0, 0, PAGE)?;
        set_memattr(&device, &buffer, uapi::VFIO_DMA_BUF_MEMATTR_WC)?;
        let mapping = buffer.map(0, PAGE)?;
        check::equal("the buffer's", touched(&ptes, &mapping, 0)?.memory, WC)?;
        uncached(&format!("during, round {round}"))?;
        check::equal("the buffer's", touched(&ptes, &mapping, 0)?.memory, WC)?;
        device.set_memory(false)?;
        device.set_memory(true)?;
        uncached(&format!("healed, round {round}"))?;
        drop(mapping);
        uncached(&format!("after, round {round}"))?;
    }
    Ok(())
}

/// How a driver in user space gets write-combining for a part of a BAR that is mapped as a whole.
fn write_combining_buffer_takes_the_place_of_a_part_of_a_bar_mapping() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    let bar = device.map_bar_part(0, 0, 4 * PAGE)?;
    (0..4).try_for_each(|page| bar.load(page * PAGE).map(drop))?;
    let flags = uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC;
    let export = Export { flags, ..Export::new(0, &[Range(PAGE, 2 * PAGE)]) };
    let buffer = check::works("export", export.make(&device))?;
    check::works("mmap", bar.replace_part(PAGE, 2 * PAGE, &buffer))?;
    let start = nth(BOCHS, 0)?.bar_start(0)? / PAGE;
    for (page, memory) in (0..4).zip([NC, WC, WC, NC]) {
        bar.store(page * PAGE, 0x1000 + page as u32)?;
        let want = Pte { pfn: start + page, size: PAGE, writable: true, memory };
        check::equal(&format!("page {page}"), touched(&ptes, &bar, page * PAGE)?, want)?;
    }
    let again = device.map_bar_part(0, 0, 4 * PAGE)?;
    for page in 0..4 {
        check::value("stored", again.load(page * PAGE), 0x1000 + page as u32)?;
    }
    Ok(())
}

fn mprotect_keeps_the_memory_type() -> Result<()> {
    let (ptes, device) = (Ptes::new()?, open_bochs()?);
    for (memattr, memory) in
        [(uapi::VFIO_DMA_BUF_MEMATTR_WC, WC), (uapi::VFIO_DMA_BUF_MEMATTR_NC, NC)]
    {
        let buffer = Buffer::export(&device, 0, 0, 4 * PAGE)?;
        set_memattr(&device, &buffer, memattr)?;
        let mapping = buffer.map(0, 4 * PAGE)?;
        check::equal("at first", touched(&ptes, &mapping, PAGE)?.memory, memory)?;
        for (prot, writable) in [(mm::RO, false), (mm::RW, true)] {
            mapping.protect_part(PAGE, 2 * PAGE, prot)?;
            // Page 1 has an entry, page 2 gets one now.
            for page in [1, 2] {
                if writable {
                    mapping.store(page * PAGE, 1)?;
                }
                let pte = touched(&ptes, &mapping, page * PAGE)?;
                let what = format!("page {page}, memory type and writability");
                check::equal(&what, (pte.memory, pte.writable), (memory, writable))?;
            }
        }
    }
    Ok(())
}
