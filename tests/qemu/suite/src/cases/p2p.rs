// SPDX-License-Identifier: GPL-2.0
//! What an importing device reaches: real DMA from one device into another one's BAR.
//!
//! The second edu's engine reads and writes through the addresses that the importer got; what it
//! does is seen through the CPU's mapping of the exporting device. Between them is the emulated
//! IOMMU, which sends what it translates to the other device: that is a mapping through the host
//! bridge. Where two devices have a bridge in common, the kernel maps bus addresses instead: a
//! switch would turn such an access to the peer before it comes to the IOMMU. The emulated switch
//! does not; there an identity mapping in the IOMMU stands for the way that a real one takes.

use guest::engine::Engine;
use guest::pci::VIRTIO_RNG;
use guest::testmod::Entry;

use crate::prelude::*;

cases! {
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            mapping_has_the_bytes_of_all_ranges,
            device_writes_into_video_memory => writes(&Bench::bochs()?),
            device_reads_from_video_memory, device_reaches_each_range_of_a_buffer,
        ],
        "REVOKE invalidates importers, and waits for them and for fences": [
            device_reaches_nothing_after_a_revoke,
        ],
        "temporary revocation invalidates importers; they map again afterwards": [
            device_reaches_memory_again_after_a_reset,
        ];
    Setup::Bound(&[BOCHS, BOCHS, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            device_writes_into_a_peer_below_its_switch,
        ];
    Setup::Bound(&[IVSHMEM, EDU, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            device_writes_into_shared_memory => writes(&Bench::new(nth(IVSHMEM, 0)?, 2)?),
        ];
    Setup::Bound(&[BOCHS, VIRTIO_RNG, EDU, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            device_reads_from_a_peer_without_memory_in_its_first_bar,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            functions_of_one_slot_use_bus_addresses, unmapping_gives_all_memory_back,
        ];
}

/// An exporting device, its memory as the CPU sees it, and an engine in another device.
struct Bench {
    device: Device,
    memory: Mapping,
    bar: u32,
    importing: Pci,
    engine: Engine,
}

/// How much of the memory is looked at, pages.
const PAGES: u64 = 64;

impl Bench {
    fn new(pci: Pci, bar: u32) -> Result<Bench> {
        rig::peers_reach_each_other()?;
        Bench::between(pci, bar, rig::importing()?)
    }

    fn between(pci: Pci, bar: u32, importing: Pci) -> Result<Bench> {
        let engine = Engine::new(&importing)?;
        let device = Device::open(&pci, Via::Group)?;
        let memory = device.map_bar_part(bar, 0, PAGES * PAGE)?;
        paint(&memory, PAGES)?;
        Ok(Bench { device, memory, bar, importing, engine })
    }

    fn bochs() -> Result<Bench> {
        Bench::new(nth(BOCHS, 0)?, 0)
    }

    /// A buffer over runs of pages: (first, count).
    fn export(&self, runs: &[(u64, u64)]) -> Result<Buffer> {
        let ranges: Vec<Range> =
            runs.iter().map(|(first, count)| Range(first * PAGE, count * PAGE)).collect();
        check::works("export", Export::new(self.bar, &ranges).make(&self.device))
    }

    fn import(&self, buffer: &Buffer) -> Result<(Importer, Vec<Entry>)> {
        let importer = rig::attach(buffer, &self.importing, UNMAPS_AT_ONCE)?;
        let entries = check::works("map", importer.map())?;
        Ok((importer, entries))
    }

    /// Checks that the first words of all pages are as painted, but for these.
    fn only_changed(&self, changed: &[(u64, u32)]) -> Result<()> {
        for page in 0..PAGES {
            let want = changed.iter().find(|(at, _)| *at == page).map(|(_, word)| *word);
            let got = self.memory.load(page * PAGE);
            check::value(&format!("page {page}"), got, want.unwrap_or(colour(page)))?;
        }
        Ok(())
    }

    /// Lets the engine copy four bytes within device memory, by DMA addresses.
    fn copy(&self, from: u64, to: u64) -> Result<()> {
        self.engine.read(from, 4)?;
        self.engine.write(to, 4)
    }
}

/// The DMA address of a page of the buffer.
fn address(entries: &[Entry], page: u64) -> Result<u64> {
    let mut at = page * PAGE;
    for entry in entries {
        if at < entry.length {
            return Ok(entry.address + at);
        }
        at -= entry.length;
    }
    anyhow::bail!("page {page} is not mapped: {entries:x?}")
}

fn mapping_has_the_bytes_of_all_ranges() -> Result<()> {
    let bench = Bench::bochs()?;
    for runs in [
        &[(0, 1)][..],
        &[(3, 5)],
        &[(8, 2), (0, 1), (40, 8)],
        &[(7, 1), (7, 1), (6, 3), (0, 64)],
        &[(0, 2), (2, 2), (4, 2)],
    ] {
        let buffer = bench.export(runs)?;
        let pages: u64 = runs.iter().map(|(_, count)| count).sum();
        for round in 0..2 {
            let (_importer, entries) = bench.import(&buffer)?;
            let size: u64 = entries.iter().map(|entry| entry.length).sum();
            check::equal(&format!("{runs:?}, round {round}, bytes"), size, pages * PAGE)?;
            let aligned = |entry: &Entry| (entry.address | entry.length) % PAGE == 0;
            ensure!(entries.iter().all(aligned), "{entries:x?}");
        }
    }
    Ok(())
}

fn writes(bench: &Bench) -> Result<()> {
    let buffer = bench.export(&[(10, 4)])?;
    let (_importer, entries) = bench.import(&buffer)?;
    bench.copy(address(&entries, 0)?, address(&entries, 3)?)?;
    bench.only_changed(&[(13, colour(10))])?;
    bench.copy(address(&entries, 2)?, address(&entries, 1)?)?;
    bench.only_changed(&[(13, colour(10)), (11, colour(12))])
}

fn device_reads_from_video_memory() -> Result<()> {
    let bench = Bench::bochs()?;
    let (source, target) = (bench.export(&[(20, 1)])?, bench.export(&[(30, 1)])?);
    let (_first, source) = bench.import(&source)?;
    let (_second, target) = bench.import(&target)?;
    let words: Vec<u32> = (0..1024).map(|word| 0xd0a0_0000 | word).collect();
    for (word, value) in words.iter().enumerate() {
        bench.memory.store(20 * PAGE + word as u64 * 4, *value)?;
    }
    bench.engine.read(address(&source, 0)?, 4096)?;
    bench.engine.write(address(&target, 0)?, 4096)?;
    for (word, value) in words.iter().enumerate() {
        let got = bench.memory.load(30 * PAGE + word as u64 * 4);
        check::value(&format!("word {word}"), got, *value)?;
    }
    bench.only_changed(&[(20, words[0]), (30, words[0])])
}

/// The offered features of a virtio device are a register that does not change.
fn device_reads_from_a_peer_without_memory_in_its_first_bar() -> Result<()> {
    const FEATURES_AT: u64 = 4;
    let bench = Bench::bochs()?;
    let peer = Device::open(&nth(VIRTIO_RNG, 0)?, Via::Group)?;
    check::equal("size of BAR0", peer.region(0)?.size, 0)?;
    let features = peer.map_bar_part(4, 0, PAGE)?.load(FEATURES_AT)?;
    ensure!(features != 0 && features != u32::MAX, "features: {features:#x}");
    let source = check::works("export", Buffer::export(&peer, 4, 0, PAGE))?;
    let target = bench.export(&[(30, 1)])?;
    let (importer, source_at) = bench.import(&source)?;
    let (_second, target) = bench.import(&target)?;
    bench.copy(address(&source_at, 0)? + FEATURES_AT, address(&target, 0)?)?;
    bench.only_changed(&[(30, features)])?;
    check::works("REVOKE", guest::buffer::revoke(&peer, &source))?;
    check::equal("mapped", importer.stats()?.mapped, 0)
}

fn device_reaches_each_range_of_a_buffer() -> Result<()> {
    let bench = Bench::bochs()?;
    let (source, target) = (bench.export(&[(50, 6)])?, bench.export(&[(9, 2), (3, 1), (40, 3)])?);
    let (_first, source) = bench.import(&source)?;
    let (_second, target) = bench.import(&target)?;
    let mut changed = Vec::new();
    for (page, place) in [9, 10, 3, 40, 41, 42].into_iter().enumerate() {
        let page = page as u64;
        bench.copy(address(&source, page)?, address(&target, page)?)?;
        changed.push((place, colour(50 + page)));
        bench.only_changed(&changed)?;
    }
    Ok(())
}

fn device_reaches_nothing_after_a_revoke() -> Result<()> {
    let bench = Bench::bochs()?;
    let (source, target) = (bench.export(&[(20, 1)])?, bench.export(&[(30, 1)])?);
    let (_first, source) = bench.import(&source)?;
    let (importer, entries) = bench.import(&target)?;
    bench.copy(address(&source, 0)?, address(&entries, 0)?)?;
    bench.only_changed(&[(30, colour(20))])?;
    bench.memory.store(30 * PAGE, colour(30))?;
    check::works("REVOKE", guest::buffer::revoke(&bench.device, &target))?;
    check::equal("mapped", importer.stats()?.mapped, 0)?;
    bench.copy(address(&source, 0)?, address(&entries, 0)?)?;
    bench.only_changed(&[])
}

fn device_reaches_memory_again_after_a_reset() -> Result<()> {
    let bench = Bench::bochs()?;
    let buffer = bench.export(&[(10, 4)])?;
    let (importer, _) = bench.import(&buffer)?;
    for round in 0..2 {
        if round == 0 {
            check::works("VFIO_DEVICE_RESET", bench.device.reset())?;
        } else {
            bench.device.renew_memory()?;
        }
        paint(&bench.memory, PAGES)?;
        let entries = check::works("map", importer.map())?;
        bench.copy(address(&entries, 0)?, address(&entries, 3)?)?;
        bench.only_changed(&[(13, colour(10))])?;
    }
    Ok(())
}

/// Checks that the device has the runs of pages at their bus addresses, until a revoke.
fn has_bus_addresses(bench: &Bench, pci: &Pci, runs: &[(u64, u64)]) -> Result<()> {
    let buffer = bench.export(runs)?;
    let (importer, entries) = bench.import(&buffer)?;
    let start = pci.bar_start(bench.bar)?;
    let bus = |(page, count): &(u64, u64)| (start + page * PAGE, count * PAGE);
    let want: Vec<_> = runs.iter().map(bus).collect();
    let got: Vec<_> = entries.iter().map(|entry| (entry.address, entry.length)).collect();
    check::equal("bus addresses and lengths", got, want)?;
    check::works("REVOKE", buffer::revoke(&bench.device, &buffer))?;
    check::equal("mapped", importer.stats()?.mapped, 0)
}

fn functions_of_one_slot_use_bus_addresses() -> Result<()> {
    let [ours, sibling] = pair()?;
    let bench = Bench::between(ours.clone(), 0, sibling)?;
    has_bus_addresses(&bench, &ours, &[(8, 2), (0, 1), (40, 8)])
}

fn device_writes_into_a_peer_below_its_switch() -> Result<()> {
    let exporting = nth(BOCHS, 1)?;
    let group = exporting.group()?;
    let edus = Pci::find(EDU)?;
    let peer = edus.into_iter().find(|edu| edu.group().is_ok_and(|other| other == group));
    let importing = peer.context("no edu below the switch of the second display")?;
    importing.release()?;
    let bench = Bench::between(exporting.clone(), 0, importing)?;
    let start = exporting.bar_start(0)?;
    check::works("MAP_DMA", bench.device.map_dma(start, &bench.memory))?;

    let runs = [(40, 2), (7, 1), (20, 4)];
    let buffer = bench.export(&runs)?;
    let (importer, entries) = bench.import(&buffer)?;
    bench.copy(address(&entries, 1)?, address(&entries, 2)?)?;
    bench.copy(address(&entries, 6)?, address(&entries, 0)?)?;
    bench.only_changed(&[(7, colour(41)), (40, colour(23))])?;
    drop(importer);
    has_bus_addresses(&bench, &exporting, &runs)
}

/// Linux 7.3's `dma_buf_free_sgt()` forgets the list of entries, if left to itself: 32 bytes each.
///
/// Others take memory, too, but not as much and most times.
fn unmapping_gives_all_memory_back() -> Result<()> {
    const RANGES: u64 = 1024;
    const ROUNDS: u64 = 16;
    const LISTS: u64 = RANGES * 32 * ROUNDS;
    let [ours, sibling] = pair()?;
    let device = Device::open(&ours, Via::Group)?;
    let ranges: Vec<Range> = (0..RANGES).map(|number| Range(number % 2 * 2 * PAGE, PAGE)).collect();
    let buffer = check::works("export", Export::new(0, &ranges).make(&device))?;
    let importer = rig::attach(&buffer, &sibling, UNMAPS_AT_ONCE)?;
    // Others take memory and give it back, too; what leaks is lost each time.
    let mut lost = Vec::new();
    for _ in 0..5 {
        let before = free()?;
        for _ in 0..ROUNDS {
            check::works("map", importer.map())?;
            check::works("unmap", importer.unmap())?;
        }
        lost.push(before.saturating_sub(free()?));
        if lost.last() < Some(&(LISTS / 2)) {
            return Ok(());
        }
    }
    bail!("{ROUNDS} mappings each have cost {lost:?} bytes")
}

/// Free memory, bytes, with the pages that each CPU keeps.
fn free() -> Result<u64> {
    // Adds up what each CPU has counted.
    fs::read_to_string("/proc/sys/vm/stat_refresh").context("stat_refresh")?;
    let text = fs::read_to_string("/proc/zoneinfo").context("zoneinfo")?;
    let mut pages = 0;
    for line in text.lines() {
        if let ["pages", "free", count] | ["count:", count] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        {
            pages += count.parse::<u64>()?;
        }
    }
    ensure!(pages > 0, "zoneinfo: {text}");
    Ok(pages * PAGE)
}
