// SPDX-License-Identifier: GPL-2.0
//! Page table entries: present or not, of which page frame and size, in any process, also in a
//! stopped one.

use guest::arch;
use guest::ptes::MemoryType::{Uncached, WriteCombining};
use guest::ptes::{entry, touched, Dump, Pte};

use nix::sys::resource::{getrusage, UsageWho};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "page table entries: frames, levels and memory types, in any process": [
            mapping_has_no_entry_before_the_first_access, entries_are_uncached_pages,
        ],
        "REVOKE: for good, in all processes": [no_process_has_an_entry_after_a_revoke],
        "memory bit: SIGBUS while off; the same mappings work when it is on": [
            no_process_has_an_entry_while_memory_is_off,
        ],
        "VFIO_DEVICE_RESET, sysfs reset: faults wait; the same mappings work afterwards": [
            no_entry_survives_a_reset,
        ],
        "last close: buffers are closed for good": [last_close_leaves_no_entry],
        "mmap: PROT_WRITE of a read-only fd is EACCES": [
            read_only_mapping_has_read_only_entries, read_only_export_has_read_only_entries,
        ];
    Setup::Bound(&[BOCHS]) =>
        "page table entries: frames, levels and memory types, in any process": [
            entries_have_the_page_frames_of_the_ranges,
            huge_entries_have_the_page_frames_of_the_bar, mappings_out_of_phase_have_small_entries,
            entries_take_stores_without_another_fault,
        ],
        "REVOKE: for good, in all processes": [revoke_of_huge_mappings_leaves_no_entry],
        "VFIO_DEVICE_RESET, sysfs reset: faults wait; the same mappings work afterwards": [
            no_entry_of_any_bar_survives_a_reset,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "page table entries: frames, levels and memory types, in any process": [
            largest_entries_have_the_page_frames_of_the_bar,
            largest_entries_go_with_memory_off_and_revoke,
        ],
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            gigabytes_of_a_buffer_can_be_cut_and_moved,
        ];
    Setup::Bound(&[EDU, BOCHS, TESTDEV]) =>
        "page table entries: frames, levels and memory types, in any process": [
            kernels_own_dump_has_the_same_entries,
        ];
}

const GIB: u64 = 1 << 30;
/// What the entries of a large BAR mapping map.
const LARGEST: u64 = if arch::HAS_ENTRIES_OF_1_GIB { GIB } else { BLOCK };

fn absent(what: &str, mapping: &Mapping, at: u64) -> Result<()> {
    check::equal(what, entry(mapping, at)?, None)
}

fn mapping_has_no_entry_before_the_first_access() -> Result<()> {
    let device = open_edu()?;
    for mapping in [device.map_bar(0)?, export_edu(&device)?.map(0, PAGE)?] {
        absent("before", &mapping, 0)?;
        touched(&mapping, 0)?;
    }
    Ok(())
}

fn entries_are_uncached_pages() -> Result<()> {
    let device = open_edu()?;
    let want =
        Pte { pfn: edu()?.bar_start(0)? / PAGE, size: PAGE, writable: true, memory: Uncached };
    for mapping in [device.map_bar(0)?, export_edu(&device)?.map(0, PAGE)?] {
        check::equal("entry", touched(&mapping, ID_AT)?, want)?;
    }
    Ok(())
}

/// Mappings of edu's first page, all of them touched.
struct Everywhere {
    device: Device,
    buffer: Buffer,
    client: Peer,
    address: usize,
    /// Of the buffer, of another one, of the BAR.
    mappings: [Mapping; 3],
}

impl Everywhere {
    fn new() -> Result<Everywhere> {
        let (client, device) = (Peer::fork()?, open_edu()?);
        let buffer = export_edu(&device)?;
        let address = map_in(&client, &buffer)?;
        check::value("client", client.load(address)?, ID)?;
        let other = export_edu(&device)?;
        let mappings = [buffer.map(0, PAGE)?, other.map(0, PAGE)?, device.map_bar(0)?];
        for mapping in &mappings {
            check::value("before", mapping.load(ID_AT), ID)?;
        }
        let all = Everywhere { device, buffer, client, address, mappings };
        all.present("at first", [true; 4])?;
        // Its page table is read and changed all the same.
        all.client.stop()?;
        Ok(all)
    }

    /// Checks which have an entry: the client's mapping of the buffer, then this process's.
    fn present(&self, when: &str, want: [bool; 4]) -> Result<()> {
        let ptes = Ptes::new()?;
        let [buffer, other, bar] = &self.mappings;
        let got = [
            ptes.of(self.client.pid(), self.address)?.is_some(),
            entry(buffer, 0)?.is_some(),
            entry(other, 0)?.is_some(),
            entry(bar, 0)?.is_some(),
        ];
        check::equal(&format!("{when}: client, buffer, other buffer, BAR have entries"), got, want)
    }

    /// Lets the client go on and checks that it cannot reach the device, nor can this process.
    fn faults(&self) -> Result<()> {
        self.client.resume()?;
        check::bus_error("client", self.client.load(self.address)?)?;
        check::bus_error("buffer", self.mappings[0].load(ID_AT))
    }
}

fn no_process_has_an_entry_after_a_revoke() -> Result<()> {
    let all = Everywhere::new()?;
    check::works("REVOKE", buffer::revoke(&all.device, &all.buffer))?;
    all.present("revoked", [false, false, true, true])?;
    all.faults()?;
    all.present("after a fault", [false, false, true, true])
}

fn no_process_has_an_entry_while_memory_is_off() -> Result<()> {
    let all = Everywhere::new()?;
    all.device.set_memory(false)?;
    all.present("memory off", [false; 4])?;
    all.faults()?;
    check::bus_error("BAR", all.mappings[2].load(ID_AT))?;
    all.present("after a fault", [false; 4])?;
    all.device.set_memory(true)?;
    all.present("memory on, untouched", [false; 4])
}

fn no_entry_survives_a_reset() -> Result<()> {
    for through_sysfs in [false, true] {
        let all = Everywhere::new()?;
        if through_sysfs {
            check::works("reset through sysfs", edu()?.reset())?;
        } else {
            check::works("VFIO_DEVICE_RESET", all.device.reset())?;
        }
        all.present("after the reset", [false; 4])?;
        all.client.resume()?;
        check::value("client", all.client.load(all.address)?, ID)?;
    }
    Ok(())
}

/// The reset is one through sysfs: before that of the owner the core itself removes entries.
fn no_entry_of_any_bar_survives_a_reset() -> Result<()> {
    let (device, pci) = (open_bochs()?, nth(BOCHS, 0)?);
    let mut mappings = Vec::new();
    for bar in [0, 2] {
        mappings.push((bar, device.map_bar_part(bar, 0, PAGE)?));
        mappings.push((bar, Buffer::export(&device, bar, 0, PAGE)?.map(0, PAGE)?));
    }
    for (_, mapping) in &mappings {
        touched(mapping, 0)?;
    }
    let (pause, reset) = Pause::call(windows::RESET, || pci.reset())?;
    for (bar, mapping) in &mappings {
        absent(&format!("BAR{bar}, amid the reset"), mapping, 0)?;
    }
    pause.end()?;
    check::works("reset", reset.finish()?)
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
    let mapping = Mapping::new(&export_edu(&device)?, PAGE, mm::RO, 0)?;
    check::equal("writable", touched(&mapping, 0)?.writable, false)
}

fn read_only_export_has_read_only_entries() -> Result<()> {
    let device = open_edu()?;
    for (flags, memory) in WITH_EACH_TYPE {
        let open_flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
        let export = Export { open_flags, flags, ..Export::new(0, &[Range(0, PAGE)]) };
        let buffer = check::works("export", export.make(&device))?;
        let mapping = check::works("mmap", Mapping::new(&buffer, PAGE, mm::RO, 0))?;
        let pte = touched(&mapping, 0)?;
        check::equal("writable, memory type", (pte.writable, pte.memory), (false, memory))?;
    }
    Ok(())
}

fn entries_have_the_page_frames_of_the_ranges() -> Result<()> {
    let device = open_bochs()?;
    let bar = nth(BOCHS, 0)?.bar_start(0)? / PAGE;
    for (flags, _) in WITH_EACH_TYPE {
        let runs = [(12, 2), (3, 1), (700, 600), (12, 1)];
        let buffer = export_with(
            &device,
            flags,
            &runs.map(|(first, count)| Range(first * PAGE, count * PAGE)),
        )?;
        let pages = runs.iter().flat_map(|&(first, count)| first..first + count);
        let want: Vec<u64> = pages.map(|page| bar + page).collect();
        // Forwards all of it, then single pages of a mapping in the middle.
        let mapping = buffer.map(0, want.len() as u64 * PAGE)?;
        for (page, pfn) in want.iter().enumerate() {
            let pte = touched(&mapping, page as u64 * PAGE)?;
            check::equal(&format!("page {page}: frame, size"), (pte.pfn, pte.size), (*pfn, PAGE))?;
        }
        let mapping = buffer.map(2 * PAGE, 300 * PAGE)?;
        for page in [299, 0, 150, 1] {
            let pte = touched(&mapping, page * PAGE)?;
            check::equal(&format!("page 2 + {page}"), pte.pfn, want[2 + page as usize])?;
        }
    }
    Ok(())
}

/// Checks frames and sizes of a mapping that starts at byte `start` of BAR `bar` of `pci`.
fn frames(mapping: &Mapping, pci: &Pci, bar: u32, start: u64, size: u64) -> Result<()> {
    let first = (pci.bar_start(bar)? + start) / PAGE;
    for at in [0, PAGE, mapping.size() / 2 + 5 * PAGE, mapping.size() - PAGE] {
        let want = Pte { pfn: first + at / PAGE, size, writable: true, memory: Uncached };
        check::equal(&format!("entry at {at:#x}"), touched(mapping, at)?, want)?;
    }
    Ok(())
}

fn huge_entries_have_the_page_frames_of_the_bar() -> Result<()> {
    let (device, pci) = (open_bochs()?, nth(BOCHS, 0)?);
    let buffer = Buffer::export(&device, 0, BLOCK, 2 * BLOCK)?;
    frames(&Mapping::aligned(&buffer, 2 * BLOCK, 0)?, &pci, 0, BLOCK, BLOCK)?;
    frames(&Mapping::aligned(&device, 2 * BLOCK, 0)?, &pci, 0, 0, BLOCK)
}

fn revoke_of_huge_mappings_leaves_no_entry() -> Result<()> {
    let (device, pci) = (open_bochs()?, nth(BOCHS, 0)?);
    let buffer = Buffer::export(&device, 0, 0, 2 * BLOCK)?;
    let [bar, mapping] =
        [Mapping::aligned(&device, 2 * BLOCK, 0)?, Mapping::aligned(&buffer, 2 * BLOCK, 0)?];
    for mapping in [&bar, &mapping] {
        frames(mapping, &pci, 0, 0, BLOCK)?;
    }
    mapping.unmap_part(PAGE, PAGE)?;
    mapping.load(0)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    for at in [0, BLOCK, 2 * BLOCK - PAGE] {
        absent("the buffer's", &mapping, at)?;
        check::equal("the BAR mapping's is there", entry(&bar, at)?.is_some(), true)?;
    }
    device.set_memory(false)?;
    absent("the BAR mapping's, memory off", &bar, 0)
}

fn mappings_out_of_phase_have_small_entries() -> Result<()> {
    let (device, pci) = (open_bochs()?, nth(BOCHS, 0)?);
    // Page 1 of the BAR at an address where only page 0 could be part of a huge page.
    let buffer = Buffer::export(&device, 0, PAGE, 2 * BLOCK)?;
    frames(&Mapping::aligned(&buffer, BLOCK, 0)?, &pci, 0, PAGE, PAGE)?;
    // The ends of a huge mapping, of which a part was unmapped.
    let buffer = Buffer::export(&device, 0, 0, BLOCK)?;
    let mapping = Mapping::aligned(&buffer, BLOCK, 0)?;
    check::equal("size, whole", touched(&mapping, 0)?.size, BLOCK)?;
    mapping.unmap_part(4 * PAGE, PAGE)?;
    let pte = touched(&mapping, 5 * PAGE)?;
    let want = (pci.bar_start(0)? / PAGE + 5, PAGE);
    check::equal("frame and size, with a hole", (pte.pfn, pte.size), want)
}

/// An entry that a store has made is dirty. A CPU that does not set that bit would fault again.
fn entries_take_stores_without_another_fault() -> Result<()> {
    const PAGES: u64 = 64;
    let device = open_bochs()?;
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).map(|usage| usage.minor_page_faults());
    for (flags, memory) in WITH_EACH_TYPE {
        let buffer = export_with(&device, flags, &[Range(0, PAGES * PAGE)])?;
        let mut counts = Vec::new();
        // Each twice: during the first rounds the program itself may fault.
        for store in [false, true, false, true] {
            let mapping = buffer.map(0, PAGES * PAGE)?;
            let before = faults()?;
            for page in 0..PAGES {
                if store {
                    mapping.store(page * PAGE, 1)?;
                } else {
                    mapping.load(page * PAGE)?;
                }
            }
            counts.push(faults()? - before);
        }
        ensure!(counts[2] > 1, "faults of loads: {counts:?}");
        check::equal(&format!("{memory:?}: faults of stores"), counts[3], counts[2])?;
    }
    Ok(())
}

/// pci-testdev, whose BAR2 is of some GiB.
fn open_testdev() -> Result<Device> {
    let pci = nth(TESTDEV, 0)?;
    if pci.bar_size(2)? < 4 * GIB {
        return Err(Skip("pci-testdev has no membar=4G".into()).into());
    }
    Device::open(&pci, Via::Group)
}

/// A buffer of the second and third GiB of that BAR, a mapping of it, and one of the whole BAR.
fn gigabytes(device: &Device) -> Result<(Buffer, Mapping, Mapping)> {
    let map = |fd, len, offset| {
        let address = mm::map_gigabyte_aligned(fd, len, mm::RW, offset)?;
        Ok::<_, anyhow::Error>(Mapping::from_raw(address, len))
    };
    let buffer = Buffer::export(device, 2, GIB, 2 * GIB)?;
    let mapping = map(buffer.raw(), 2 * GIB, 0)?;
    let bar = map(device.raw(), 4 * GIB, device.region(2)?.offset)?;
    Ok((buffer, mapping, bar))
}

fn largest_entries_have_the_page_frames_of_the_bar() -> Result<()> {
    let (device, pci) = (open_testdev()?, nth(TESTDEV, 0)?);
    let (_buffer, mapping, bar) = gigabytes(&device)?;
    frames(&mapping, &pci, 2, GIB, BLOCK)?;
    frames(&bar, &pci, 2, 0, LARGEST)
}

fn largest_entries_go_with_memory_off_and_revoke() -> Result<()> {
    let device = open_testdev()?;
    let (buffer, mapping, bar) = gigabytes(&device)?;
    for (mapping, size) in [(&mapping, BLOCK), (&bar, LARGEST)] {
        check::equal("size", touched(mapping, GIB)?.size, size)?;
    }
    device.set_memory(false)?;
    for mapping in [&mapping, &bar] {
        absent("memory off", mapping, GIB)?;
        check::bus_error("memory off", mapping.load(GIB))?;
    }
    device.set_memory(true)?;
    check::equal("size", touched(&mapping, GIB)?.size, BLOCK)?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    absent("revoked", &mapping, GIB)?;
    check::bus_error("revoked", mapping.load(0))?;
    bar.load(GIB).map(drop).map_err(Into::into)
}

/// The kernel mishandles entries of 1 GiB then: a client must not be able to have one.
fn gigabytes_of_a_buffer_can_be_cut_and_moved() -> Result<()> {
    let device = open_testdev()?;
    let (buffer, mapping, _bar) = gigabytes(&device)?;
    touched(&mapping, GIB)?;
    touched(&mapping, 0)?;
    check::works("munmap of a page", mapping.unmap_part(PAGE, PAGE))?;
    check::segv("the hole", mapping.load(PAGE))?;
    touched(&mapping, 2 * PAGE)?;
    let moved = mm::move_away(mapping.address() + GIB as usize, GIB)?;
    let moved = Mapping::from_raw(moved, GIB);
    touched(&moved, 0)?;
    check::segv("where it was", mapping.load(GIB))?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    for (what, mapping, offset) in [("moved", &moved, 0), ("cut", &mapping, 2 * PAGE)] {
        absent(what, mapping, offset)?;
        check::bus_error(what, mapping.load(offset))?;
    }
    Ok(())
}

/// The test module, which all other cases here rely on, reads what is there.
fn kernels_own_dump_has_the_same_entries() -> Result<()> {
    let (edu, bochs, testdev) = (open_edu()?, open_bochs()?, open_testdev()?);
    let small = export_edu(&edu)?;
    let [bar, mapping] = [edu.map_bar(0)?, small.map(0, PAGE)?];
    let read_only = Mapping::new(&small, PAGE, mm::RO, 0)?;
    let untouched = small.map(0, PAGE)?;
    let (gone, revoked) = map_edu(&edu)?;
    let huge = Mapping::aligned(&bochs, 2 * BLOCK, 0)?;
    let flags = uapi::VFIO_DMABUF_ATTR_WC;
    let combining = export_with(&bochs, flags, &[Range(0, PAGE)])?.map(0, PAGE)?;
    let (_buffer, _, gigabyte) = gigabytes(&testdev)?;
    for mapping in [&bar, &mapping, &read_only, &revoked, &huge, &combining, &gigabyte] {
        mapping.load(0)?;
    }
    check::works("REVOKE", buffer::revoke(&edu, &gone))?;

    let kind = |size, writable, memory| Some(Pte { pfn: 0, size, writable, memory });
    let cases = [
        ("a mapping of a BAR", &bar, kind(PAGE, true, Uncached)),
        ("a mapping of a buffer", &mapping, kind(PAGE, true, Uncached)),
        ("a read-only one", &read_only, kind(PAGE, false, Uncached)),
        ("a write-combining one", &combining, kind(PAGE, true, WriteCombining)),
        ("a huge one", &huge, kind(BLOCK, true, Uncached)),
        ("a gigabyte", &gigabyte, kind(GIB, true, Uncached)),
        ("one that was not touched", &untouched, None),
        ("one that was revoked", &revoked, None),
    ];
    for (what, mapping, want) in cases {
        let got = entry(mapping, 0)?.map(|pte| Pte { pfn: 0, ..pte });
        check::equal(&format!("{what}, as the test module reads it"), got, want)?;
    }
    let dump = Dump::take()?;
    let dump = dump.ok_or_else(|| Skip("the kernel has no CONFIG_PTDUMP_DEBUGFS".into()))?;
    for (what, mapping, want) in cases {
        check::equal(&format!("{what}, in the dump"), dump.entry(mapping, 0)?, want)?;
    }
    Ok(())
}
