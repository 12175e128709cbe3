// SPDX-License-Identifier: GPL-2.0
//! How page table entries let the CPU treat device memory: uncached or write-combining.

use guest::ptes::MemoryType::{Uncached, WriteCombining};
use guest::ptes::{entry, touched, Pte};
use guest::{arch, maps};

use crate::prelude::*;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "memory type: entries are write-combining if asked for, else uncached": [
            prefetchable_bar_stays_uncached, attribute_of_the_export_is_in_the_entries,
            write_combining_in_use_leaves_other_mappings_uncached,
            write_combining_buffer_takes_the_place_of_a_part_of_a_bar_mapping,
            mprotect_keeps_the_memory_type,
        ],
        "mappings: VM_IO, and PFNMAP or MIXEDMAP; no expansion, no core dump": [
            smaps_has_the_flags_of_each_kind_of_mapping,
        ],
        "memory type: write-combining is EOPNOTSUPP on a CPU without it": [
            write_combining_is_refused_without_a_page_attribute_table,
        ],
        "MEMATTR: GET, SET and export flags; affects later mappings only": [
            memattr_is_that_of_later_mappings_only,
        ];
}

const NC_AND_WC: [(u32, guest::ptes::MemoryType); 2] =
    [(uapi::VFIO_DMABUF_MEMATTR_NC, Uncached), (uapi::VFIO_DMABUF_MEMATTR_WC, WriteCombining)];

fn set_memattr(device: &Device, buffer: &Buffer, memattr: u32) -> Result<()> {
    check::works("MEMATTR SET", buffer::set_memattr(device, buffer.raw(), memattr))
}

fn prefetchable_bar_stays_uncached() -> Result<()> {
    let device = open_bochs()?;
    for mapping in [device.map_bar(0)?, Buffer::export(&device, 0, 0, PAGE)?.map(0, PAGE)?] {
        check::equal("memory type", touched(&mapping, 0)?.memory, Uncached)?;
    }
    Ok(())
}

fn attribute_of_the_export_is_in_the_entries() -> Result<()> {
    const LEN: u64 = 2 * BLOCK;
    let device = open_bochs()?;
    let of_combining = if arch::HAS_BLOCKS_OF_EACH_TYPE { BLOCK } else { PAGE };
    for ((flags, memory), size) in WITH_EACH_TYPE.into_iter().zip([BLOCK, of_combining]) {
        let buffer = export_with(&device, flags, &[Range(0, LEN)])?;
        let mapping = Mapping::aligned(&buffer, LEN, 0)?;
        for at in [0, PAGE, BLOCK, LEN - PAGE] {
            mapping.store(at, at as u32)?;
            let pte = touched(&mapping, at)?;
            check::equal(&format!("at {at:#x}"), (pte.memory, pte.size), (memory, size))?;
            check::value("what was written", mapping.load(at), at as u32)?;
        }
        device.set_memory(false)?;
        check::equal("memory off", entry(&mapping, 0)?, None)?;
        device.set_memory(true)?;
        check::value("memory on", mapping.load(BLOCK), BLOCK as u32)?;
        check::equal("memory on", touched(&mapping, BLOCK)?.memory, memory)?;
        check::works("REVOKE", buffer::revoke(&device, &buffer))?;
        check::equal("revoked", entry(&mapping, 0)?, None)?;
        check::bus_error("revoked", mapping.load(0))?;
    }
    Ok(())
}

fn memattr_is_that_of_later_mappings_only() -> Result<()> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, 2 * PAGE)?;
    let mut mappings = Vec::new();
    for (memattr, memory) in NC_AND_WC.repeat(2) {
        set_memattr(&device, &buffer, memattr)?;
        mappings.push((buffer.map(0, 2 * PAGE)?, memory));
        set_memattr(&device, &buffer, uapi::VFIO_DMABUF_MEMATTR_WC)?;
        for (number, (mapping, memory)) in mappings.iter().enumerate() {
            // Page 1 is touched for the first time after the attribute has changed once more.
            for page in 0..mappings.len().min(2) as u64 {
                let what = format!("page {page} of mapping {number}");
                check::equal(&what, touched(mapping, page * PAGE)?.memory, *memory)?;
            }
        }
        device.renew_memory()?;
        for (number, (mapping, memory)) in mappings.iter().enumerate() {
            let what = format!("mapping {number}, memory off and on");
            check::equal(&what, touched(mapping, 0)?.memory, *memory)?;
        }
    }
    Ok(())
}

fn write_combining_in_use_leaves_other_mappings_uncached() -> Result<()> {
    let device = open_bochs()?;
    let plain = Buffer::export(&device, 0, 0, PAGE)?;
    let others = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
    let uncached = |when: &str| -> Result<()> {
        let fresh = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
        for mapping in others.iter().chain(&fresh) {
            check::equal(when, touched(mapping, 0)?.memory, Uncached)?;
        }
        Ok(())
    };
    uncached("before")?;
    for round in 0..2 {
        let buffer = Buffer::export(&device, 0, 0, PAGE)?;
        set_memattr(&device, &buffer, uapi::VFIO_DMABUF_MEMATTR_WC)?;
        let mapping = buffer.map(0, PAGE)?;
        mapping.store(0, 1)?;
        check::equal("the buffer's", touched(&mapping, 0)?.memory, WriteCombining)?;
        uncached(&format!("during, round {round}"))?;
        check::equal("the buffer's, later", touched(&mapping, 0)?.memory, WriteCombining)?;
        device.renew_memory()?;
        uncached(&format!("memory off and on, round {round}"))?;
        drop(mapping);
        uncached(&format!("after, round {round}"))?;
    }
    Ok(())
}

/// How a driver in user space gets write-combining for a part of a BAR that is mapped as a whole.
fn write_combining_buffer_takes_the_place_of_a_part_of_a_bar_mapping() -> Result<()> {
    let device = open_bochs()?;
    let bar = device.map_bar_part(0, 0, 4 * PAGE)?;
    (0..4).try_for_each(|page| bar.load(page * PAGE).map(drop))?;
    let flags = uapi::VFIO_DMABUF_ATTR_WC;
    let buffer = export_with(&device, flags, &[Range(PAGE, 2 * PAGE)])?;
    check::works("mmap", bar.replace_part(PAGE, 2 * PAGE, &buffer))?;
    let start = nth(BOCHS, 0)?.bar_start(0)? / PAGE;
    let types = [Uncached, WriteCombining, WriteCombining, Uncached];
    for (page, memory) in (0..4).zip(types) {
        bar.store(page * PAGE, 0x1000 + page as u32)?;
        let want = Pte { pfn: start + page, size: PAGE, writable: true, memory };
        check::equal(&format!("page {page}"), touched(&bar, page * PAGE)?, want)?;
    }
    let again = device.map_bar_part(0, 0, 4 * PAGE)?;
    for page in 0..4 {
        check::value("stored", again.load(page * PAGE), 0x1000 + page as u32)?;
    }
    Ok(())
}

fn mprotect_keeps_the_memory_type() -> Result<()> {
    let device = open_bochs()?;
    for (memattr, memory) in NC_AND_WC {
        let buffer = Buffer::export(&device, 0, 0, 4 * PAGE)?;
        set_memattr(&device, &buffer, memattr)?;
        let mapping = buffer.map(0, 4 * PAGE)?;
        check::equal("at first", touched(&mapping, PAGE)?.memory, memory)?;
        for (prot, writable) in [(mm::RO, false), (mm::RW, true)] {
            mapping.protect_part(PAGE, 2 * PAGE, prot)?;
            // Page 1 has an entry, page 2 gets one now.
            for page in [1, 2] {
                if writable {
                    mapping.store(page * PAGE, 1)?;
                }
                let pte = touched(&mapping, page * PAGE)?;
                let what = format!("page {page}, memory type and writability");
                check::equal(&what, (pte.memory, pte.writable), (memory, writable))?;
            }
        }
    }
    Ok(())
}

/// Who may follow the page frames of a mapping depends on these.
fn smaps_has_the_flags_of_each_kind_of_mapping() -> Result<()> {
    /// smaps has no name for `VM_ALLOW_ANY_UNCACHED`.
    const OF_ALL: [&str; 8] = ["??", "dd", "de", "io", "mr", "ms", "mw", "sh"];
    const FOR_ALL: &[&str] = &["pf"];
    const FOR_NOTIFIED: &[&str] = &["hg", "mm"];
    let device = open_bochs()?;
    let has = |what: &str, fd, prot, followers: &[&str]| -> Result<()> {
        let address = check::works("mmap", mm::map(fd, PAGE, prot, mm::SHARED, 0))?;
        let mapping = Mapping::from_raw(address, PAGE);
        let access: &[&str] = if prot == mm::RW { &["rd", "wr"] } else { &["rd"] };
        let mut want = [&OF_ALL, access, followers].concat();
        want.sort_unstable();
        let flags = maps::flags_at(mapping.address())?;
        check::equal(what, flags.iter().map(String::as_str).collect(), want)
    };
    has("BAR, writable", device.raw(), mm::RW, FOR_ALL)?;
    has("BAR, read only", device.raw(), mm::RO, FOR_ALL)?;
    for attribute in [uapi::VFIO_DMABUF_ATTR_UC, uapi::VFIO_DMABUF_ATTR_WC] {
        let plain = export_with(&device, attribute, &[Range(0, PAGE)])?;
        has("buffer, writable", plain.raw(), mm::RW, FOR_NOTIFIED)?;
        has("buffer, read only", plain.raw(), mm::RO, FOR_NOTIFIED)?;
        let flags = attribute | uapi::VFIO_DMABUF_TYPE1;
        let followed = export_with(&device, flags, &[Range(0, PAGE)])?;
        has("buffer for type1", followed.raw(), mm::RW, FOR_ALL)?;
    }
    Ok(())
}

/// The command line of the kernel says that it is not to use the table (`nopat`).
fn write_combining_is_refused_without_a_page_attribute_table() -> Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    if !line.split_whitespace().any(|word| word == "nopat") {
        return Err(Skip("the kernel was not booted with nopat".into()).into());
    }
    let device = open_bochs()?;
    let export = |flags| Export { flags, ..Export::new(0, &[Range(0, PAGE)]) }.make(&device);
    check::errno("export", export(uapi::VFIO_DMABUF_ATTR_WC), Errno::EOPNOTSUPP)?;
    let buffer = check::works("export, uncached", export(uapi::VFIO_DMABUF_ATTR_UC))?;
    let mut payload = uapi::vfio_dmabuf_feature_memattr {
        dmabuf_fd: buffer.raw(),
        memattr: uapi::VFIO_DMABUF_MEMATTR_WC,
    };
    let number = uapi::VFIO_DMABUF_MEMATTR;
    check::works("PROBE", feature::probe(&device, number, feature::SET))?;
    check::errno("SET", feature::set(&device, number, &payload), Errno::EOPNOTSUPP)?;
    check::works("GET", feature::get(&device, number, &mut payload))?;
    check::equal("attribute", payload.memattr, uapi::VFIO_DMABUF_MEMATTR_NC)?;
    let pte = touched(&buffer.map(0, PAGE)?, 0)?;
    check::equal("memory type", pte.memory, Uncached)
}
