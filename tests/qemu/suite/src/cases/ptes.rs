// SPDX-License-Identifier: GPL-2.0
//! What is really in the page tables: present or not, of which size, cached how.

use anyhow::{Context, Result};
use guest::buffer::{self, Buffer, Export, Range};
use guest::device::Device;
use guest::feature;
use guest::mm::{self, Mapping};
use guest::pci::{BOCHS, EDU, TESTDEV};
use guest::ptes::{entry, Dump, Entry};
use guest::testmod::MemoryType::{self, UncachedMinus, WriteCombining};
use guest::{uapi, PAGE};

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::{export_edu, nth, open_bochs, open_edu, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        "page table entries: frames, levels and memory types, in any process": [
            mapping_has_no_entry_before_the_first_access,
        ],
        "memory type: entries are write-combining if asked for, else uncached": [
            entries_are_uncached_pages,
        ],
        "REVOKE: for good, in all processes": [revoke_leaves_no_entry],
        "memory bit: SIGBUS while off; the same mappings work when it is on": [
            memory_off_leaves_no_entry,
        ],
        "last close: buffers are closed for good": [last_close_leaves_no_entry],
        "mmap: PROT_WRITE of a read-only fd is EACCES": [read_only_mapping_has_read_only_entries];
    Setup::Bound(&[BOCHS]) =>
        "page table entries: frames, levels and memory types, in any process": [
            aligned_mappings_get_two_megabyte_entries,
        ],
        "REVOKE: for good, in all processes": [revoke_of_huge_mappings_leaves_no_entry],
        "memory type: entries are write-combining if asked for, else uncached": [
            write_combining_is_in_the_entries,
            write_combining_buffer_leaves_other_mappings_uncached, prefetchable_bar_stays_uncached,
        ],
        "MEMATTR: GET, SET and export flags; affects later mappings only": [
            memattr_is_that_of_later_mappings_only,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "page table entries: frames, levels and memory types, in any process": [
            aligned_mappings_of_a_huge_bar_get_gigabyte_entries,
        ];
    Setup::Bound(&[EDU, BOCHS, TESTDEV]) =>
        "page table entries: frames, levels and memory types, in any process": [
            kernels_own_dump_has_the_same_entries,
        ];
}

fn absent(what: &str, mapping: &Mapping, at: u64) -> Result<()> {
    check::equal(what, entry(mapping, at)?, None)
}

fn memory(mapping: &Mapping, at: u64) -> Result<MemoryType> {
    Ok(entry(mapping, at)?.context("no entry")?.memory)
}

/// A touched mapping of each kind: through the device fd and through a buffer.
fn pair(device: &Device, buffer: &Buffer) -> Result<[Mapping; 2]> {
    let mappings = [device.map_bar_part(0, 0, PAGE)?, buffer.map(0, PAGE)?];
    for mapping in &mappings {
        check::value("id register", mapping.load(ID_AT), ID)?;
    }
    Ok(mappings)
}

fn mapping_has_no_entry_before_the_first_access() -> Result<()> {
    let device = open_edu()?;
    for mapping in [device.map_bar(0)?, export_edu(&device)?.map(0, PAGE)?] {
        absent("before", &mapping, 0)?;
        mapping.load(0)?;
        check::equal("after", entry(&mapping, 0)?.is_some(), true)?;
    }
    Ok(())
}

fn entries_are_uncached_pages() -> Result<()> {
    let device = open_edu()?;
    for mapping in pair(&device, &export_edu(&device)?)? {
        let want = Entry { size: PAGE, writable: true, memory: UncachedMinus };
        check::equal("entry", entry(&mapping, 0)?, Some(want))?;
    }
    Ok(())
}

fn revoke_leaves_no_entry() -> Result<()> {
    let device = open_edu()?;
    let buffer = export_edu(&device)?;
    let [bar, mapping] = pair(&device, &buffer)?;
    let other = export_edu(&device)?.map(0, PAGE)?;
    other.load(ID_AT)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    absent("the buffer's", &mapping, 0)?;
    // And nobody else had to fault again for it.
    check::equal("the BAR mapping's is there", entry(&bar, 0)?.is_some(), true)?;
    check::equal("another buffer's is there", entry(&other, 0)?.is_some(), true)
}

fn memory_off_leaves_no_entry() -> Result<()> {
    let device = open_edu()?;
    let mappings = pair(&device, &export_edu(&device)?)?;
    device.set_memory(false)?;
    for mapping in &mappings {
        absent("memory off", mapping, 0)?;
        check::bus_error("memory off", mapping.load(0))?;
        absent("after a fault", mapping, 0)?;
    }
    Ok(())
}

fn last_close_leaves_no_entry() -> Result<()> {
    let device = open_edu()?;
    let mapping = export_edu(&device)?.map(0, PAGE)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    drop(device);
    absent("after", &mapping, 0)
}

fn read_only_mapping_has_read_only_entries() -> Result<()> {
    let device = open_edu()?;
    let buffer = export_edu(&device)?;
    let mapping = Mapping::new(&buffer, PAGE, mm::RO, 0)?;
    mapping.load(0)?;
    check::equal("writable", entry(&mapping, 0)?.map(|entry| entry.writable), Some(false))
}

const SIZE: u64 = 4 << 20;

fn huge(device: &Device, buffer: &Buffer) -> Result<[Mapping; 2]> {
    let mappings = [
        Mapping::from_raw(mm::map_aligned(device.raw(), SIZE, mm::RW, 0)?, SIZE),
        Mapping::from_raw(mm::map_aligned(buffer.raw(), SIZE, mm::RW, 0)?, SIZE),
    ];
    for mapping in &mappings {
        for at in [0, SIZE / 2, SIZE - PAGE] {
            mapping.load(at)?;
        }
    }
    Ok(mappings)
}

fn aligned_mappings_get_two_megabyte_entries() -> Result<()> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    for mapping in huge(&device, &buffer)? {
        let want = Entry { size: 2 << 20, writable: true, memory: UncachedMinus };
        check::equal("entry", entry(&mapping, 0)?, Some(want))?;
        check::equal("the last entry", entry(&mapping, SIZE - PAGE)?, Some(want))?;
    }
    Ok(())
}

fn revoke_of_huge_mappings_leaves_no_entry() -> Result<()> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let [bar, mapping] = huge(&device, &buffer)?;
    mapping.unmap_part(PAGE, PAGE)?;
    mapping.load(0)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    for at in [0, SIZE / 2, SIZE - PAGE] {
        absent("the buffer's", &mapping, at)?;
        check::equal("the BAR mapping's is there", entry(&bar, at)?.is_some(), true)?;
    }
    device.set_memory(false)?;
    absent("the BAR mapping's, memory off", &bar, 0)
}

/// A buffer that is born with write-combining.
fn combining(device: &Device, len: u64) -> Result<Buffer> {
    let flags = uapi::VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC;
    let export = Export { flags, ..Export::new(0, &[Range(0, len)]) };
    check::works("export with ATTR_WC", export.make(device))
}

fn write_combining_is_in_the_entries() -> Result<()> {
    let device = open_bochs()?;
    let buffer = combining(&device, SIZE)?;
    let mapping = Mapping::from_raw(mm::map_aligned(buffer.raw(), SIZE, mm::RW, 0)?, SIZE);
    for at in [0, PAGE, SIZE / 2, SIZE - PAGE] {
        mapping.store(at, at as u32)?;
        check::equal("memory type", memory(&mapping, at)?, WriteCombining)?;
        check::value("what was written", mapping.load(at), at as u32)?;
    }
    device.set_memory(false)?;
    absent("memory off", &mapping, 0)?;
    device.set_memory(true)?;
    check::value("memory on", mapping.load(SIZE / 2), (SIZE / 2) as u32)?;
    check::equal("healed", memory(&mapping, SIZE / 2)?, WriteCombining)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    absent("revoked", &mapping, 0)?;
    check::bus_error("revoked", mapping.load(0))
}

fn write_combining_buffer_leaves_other_mappings_uncached() -> Result<()> {
    let device = open_bochs()?;
    let plain = Buffer::export(&device, 0, 0, PAGE)?;
    let before = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
    before.iter().try_for_each(|mapping| mapping.load(0).map(drop))?;
    let mapping = combining(&device, PAGE)?.map(0, PAGE)?;
    mapping.store(0, 1)?;
    check::equal("the buffer's", memory(&mapping, 0)?, WriteCombining)?;
    let after = [device.map_bar_part(0, 0, PAGE)?, plain.map(0, PAGE)?];
    for other in before.iter().chain(&after) {
        other.load(0)?;
        check::equal("another's", memory(other, 0)?, UncachedMinus)?;
    }
    check::equal("the buffer's, at the end", memory(&mapping, 0)?, WriteCombining)
}

fn memattr_is_that_of_later_mappings_only() -> Result<()> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, 2 * PAGE)?;
    let set = |memattr| {
        let payload =
            uapi::vfio_device_feature_dma_buf_memattr { dmabuf_fd: buffer.raw(), memattr };
        let feature = uapi::VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR;
        check::works("MEMATTR", feature::set(&device, feature, &payload))
    };
    let mut mappings = Vec::new();
    for (memattr, want) in [
        (uapi::VFIO_DMA_BUF_MEMATTR_NC, UncachedMinus),
        (uapi::VFIO_DMA_BUF_MEMATTR_WC, WriteCombining),
        (uapi::VFIO_DMA_BUF_MEMATTR_NC, UncachedMinus),
    ] {
        set(memattr)?;
        mappings.push((buffer.map(0, 2 * PAGE)?, want));
        set(uapi::VFIO_DMA_BUF_MEMATTR_WC)?;
        // Also a page that is touched for the first time after the change.
        for (number, (mapping, want)) in mappings.iter().enumerate() {
            for page in 0..mappings.len().min(2) as u64 {
                mapping.load(page * PAGE)?;
                let what = format!("page {page} of mapping {number}");
                check::equal(&what, memory(mapping, page * PAGE)?, *want)?;
            }
        }
    }
    device.set_memory(false)?;
    device.set_memory(true)?;
    for (number, (mapping, want)) in mappings.iter().enumerate() {
        mapping.load(PAGE)?;
        let what = format!("mapping {number}, memory off and on");
        check::equal(&what, memory(mapping, PAGE)?, *want)?;
    }
    Ok(())
}

fn prefetchable_bar_stays_uncached() -> Result<()> {
    let device = open_bochs()?;
    let bar = device.map_bar(0)?;
    let mapping = Buffer::export(&device, 0, 0, PAGE)?.map(0, PAGE)?;
    for mapping in [&bar, &mapping] {
        mapping.load(0)?;
        check::equal("memory type", memory(mapping, 0)?, UncachedMinus)?;
    }
    Ok(())
}

/// pci-testdev, whose BAR2 is of some GiB.
fn open_testdev() -> Result<Device> {
    let pci = nth(TESTDEV, 0)?;
    if pci.bar_size(2)? < 4 << 30 {
        return Err(Skip("pci-testdev has no membar=4G".into()).into());
    }
    Device::open(&pci, guest::device::Via::Group)
}

fn aligned_mappings_of_a_huge_bar_get_gigabyte_entries() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let device = open_testdev()?;
    let buffer = Buffer::export(&device, 2, GIB, 2 * GIB)?;
    let bar = Mapping::from_raw(
        mm::map_gigabyte_aligned(device.raw(), 4 * GIB, mm::RW, device.region(2)?.offset)?,
        4 * GIB,
    );
    let mapping = mm::map_gigabyte_aligned(buffer.raw(), 2 * GIB, mm::RW, 0)?;
    let mapping = Mapping::from_raw(mapping, 2 * GIB);
    for mapping in [&bar, &mapping] {
        for at in [0, GIB + 5 * PAGE, mapping.size() - PAGE] {
            mapping.load(at)?;
            check::equal("size", entry(mapping, at)?.map(|entry| entry.size), Some(GIB))?;
        }
    }
    device.set_memory(false)?;
    for mapping in [&bar, &mapping] {
        absent("memory off", mapping, GIB)?;
        check::bus_error("memory off", mapping.load(GIB))?;
    }
    device.set_memory(true)?;
    mapping.load(GIB)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    absent("revoked", &mapping, GIB)?;
    check::bus_error("revoked", mapping.load(0))?;
    bar.load(GIB).map(drop).map_err(Into::into)
}

/// That the test module, which all others here rely on, tells what is there.
fn kernels_own_dump_has_the_same_entries() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let (edu, bochs, testdev) = (open_edu()?, open_bochs()?, open_testdev()?);
    let small = export_edu(&edu)?;
    let [bar, mapping] = pair(&edu, &small)?;
    let read_only = Mapping::new(&small, PAGE, mm::RO, 0)?;
    read_only.load(0)?;
    let untouched = small.map(0, PAGE)?;
    let gone = export_edu(&edu)?;
    let revoked = gone.map(0, PAGE)?;
    revoked.load(0)?;
    check::works("REVOKE", buffer::revoke(&edu, &gone))?;
    let [huge, _] = huge(&bochs, &Buffer::export(&bochs, 0, 0, SIZE)?)?;
    let combining = combining(&bochs, PAGE)?.map(0, PAGE)?;
    combining.store(0, 1)?;
    let gigabyte = mm::map_gigabyte_aligned(testdev.raw(), GIB, mm::RW, testdev.region(2)?.offset)?;
    let gigabyte = Mapping::from_raw(gigabyte, GIB);
    gigabyte.load(0)?;

    let uncached = |size| Some(Entry { size, writable: true, memory: UncachedMinus });
    let fixed = |writable, memory| Some(Entry { size: PAGE, writable, memory });
    let cases = [
        ("a mapping of a BAR", &bar, uncached(PAGE)),
        ("a mapping of a buffer", &mapping, uncached(PAGE)),
        ("a read-only one", &read_only, fixed(false, UncachedMinus)),
        ("one that combines writes", &combining, fixed(true, WriteCombining)),
        ("a huge one", &huge, uncached(2 << 20)),
        ("a gigabyte", &gigabyte, uncached(GIB)),
        ("one that was not touched", &untouched, None),
        ("one that was revoked", &revoked, None),
    ];
    for (what, mapping, want) in cases {
        check::equal(&format!("{what}, as the test module reads it"), entry(mapping, 0)?, want)?;
    }
    let dump = Dump::take()?;
    let dump = dump.ok_or_else(|| Skip("the kernel has no CONFIG_PTDUMP_DEBUGFS".into()))?;
    for (what, mapping, want) in cases {
        check::equal(&format!("{what}, in the dump"), dump.entry(mapping, 0)?, want)?;
    }
    Ok(())
}
