// SPDX-License-Identifier: GPL-2.0
//! Where bytes go: what was written through a buffer is at its place in the device's memory, as
//! the host sees it, and nothing else changed. The device is ivshmem, whose BAR2 is a file of the
//! host; a second ivshmem, which is not exported, shows that file.

use crate::prelude::*;

cases! {
    Setup::Bound(&[IVSHMEM, IVSHMEM]) =>
        "mmap of a buffer: from any process; the offset counts in the concatenated ranges": [
            bytes_written_by_a_client_are_at_their_place_and_nowhere_else,
            bytes_written_through_many_ranges_are_at_their_places,
        ],
        "REVOKE: for good, in all processes": [
            bytes_written_before_a_revoke_stay_and_later_ones_never_arrive,
        ],
        "memory bit: SIGBUS while off; the same mappings work when it is on": [
            bytes_written_while_memory_is_off_never_arrive,
        ];
}

/// Words of memory that are looked at in each page.
const WORDS: u64 = 4;

/// The file of the host that is the device's memory.
struct Oracle {
    memory: Mapping,
    expected: Vec<[u32; WORDS as usize]>,
}

impl Oracle {
    /// Fills the memory with zeroes, as far as it is looked at.
    fn new() -> Result<Oracle> {
        let pci = nth(IVSHMEM, 1)?;
        pci.release()?;
        pci.set_config16(uapi::PCI_COMMAND.into(), uapi::PCI_COMMAND_MEMORY as u16)?;
        let size = pci.bar_size(2)?;
        let memory = Mapping::new(&pci.bar_file(2)?, size, mm::RW, 0).context("BAR2 in sysfs")?;
        let expected = vec![[0; WORDS as usize]; (size / PAGE) as usize];
        for page in 0..size / PAGE {
            for word in 0..WORDS {
                memory.store(place(page, word), 0)?;
            }
        }
        Ok(Oracle { memory, expected })
    }

    /// From now on the given word of the given page should have `value`.
    fn expect(&mut self, page: u64, word: u64, value: u32) {
        self.expected[page as usize][word as usize] = value;
    }

    /// Looks at all of the memory.
    fn check(&self) -> Result<()> {
        for (page, words) in (0..).zip(&self.expected) {
            for (word, &want) in (0..).zip(words) {
                let got = self.memory.load(place(page, word));
                check::value(&format!("word {word} of page {page}"), got, want)?;
            }
        }
        Ok(())
    }
}

/// Offset of a word that is looked at: the first, the last, and two between.
fn place(page: u64, word: u64) -> u64 {
    page * PAGE + [0, 0x7f8, 0x800, PAGE - 4][word as usize]
}

fn open() -> Result<Device> {
    let device = Device::open(&nth(IVSHMEM, 0)?, Via::Group)?;
    device.set_memory(true)?;
    Ok(device)
}

fn bytes_written_by_a_client_are_at_their_place_and_nowhere_else() -> Result<()> {
    let client = Peer::fork()?;
    let device = open()?;
    let mut oracle = Oracle::new()?;
    for (first, pages) in [(0, 1), (17, 3), (200, 56), (255, 1)] {
        let buffer = Buffer::export(&device, 2, first * PAGE, pages * PAGE)?;
        let fd = client.take(buffer)?;
        let address = check::works("mmap", client.map(fd, pages * PAGE, mm::RW, 0)?)?;
        for page in 0..pages {
            for word in 0..WORDS {
                let value = 0x5000_0000 | ((first << 12) | (page << 4) | word) as u32;
                client.store(address + place(page, word) as usize, value)??;
                oracle.expect(first + page, word, value);
            }
        }
        oracle.check().with_context(|| format!("after pages {first}+{pages}"))?;
    }
    Ok(())
}

fn bytes_written_through_many_ranges_are_at_their_places() -> Result<()> {
    let device = open()?;
    let mut oracle = Oracle::new()?;
    let pages: Vec<u64> = (0..256).map(|at| at * 37 % 256).take(100).collect();
    let ranges: Vec<Range> = pages.iter().map(|page| Range(page * PAGE, PAGE)).collect();
    let buffer = Export::new(2, &ranges).make(&device)?;
    // One mapping of everything, and one of each page at its own offset.
    let all = buffer.map(0, 100 * PAGE)?;
    for (at, &page) in (0..).zip(&pages) {
        all.store(place(at, 0), 0xa000_0000 | page as u32)?;
        oracle.expect(page, 0, 0xa000_0000 | page as u32);
        let single = buffer.map(at * PAGE, PAGE)?;
        single.store(place(0, 3), 0xb000_0000 | page as u32)?;
        oracle.expect(page, 3, 0xb000_0000 | page as u32);
    }
    oracle.check()
}

fn bytes_written_before_a_revoke_stay_and_later_ones_never_arrive() -> Result<()> {
    let client = Peer::fork()?;
    let device = open()?;
    let mut oracle = Oracle::new()?;
    let buffer = Buffer::export(&device, 2, 3 * PAGE, PAGE)?;
    let address = map_in(&client, &buffer)?;
    client.store(address, 1)??;
    oracle.expect(3, 0, 1);
    check::works("REVOKE", guest::buffer::revoke(&device, &buffer))?;
    check::bus_error("store", client.store(address, 2)?)?;
    check::bus_error("store", client.store(address + PAGE as usize - 4, 2)?)?;
    oracle.check()
}

fn bytes_written_while_memory_is_off_never_arrive() -> Result<()> {
    let device = open()?;
    let mut oracle = Oracle::new()?;
    let buffer = Buffer::export(&device, 2, 9 * PAGE, 2 * PAGE)?;
    let (mapping, bar) = (buffer.map(0, 2 * PAGE)?, device.map_bar(2)?);
    mapping.store(PAGE, 1)?;
    bar.store(place(11, 0), 2)?;
    oracle.expect(10, 0, 1);
    oracle.expect(11, 0, 2);
    device.set_memory(false)?;
    check::bus_error("store to the buffer", mapping.store(PAGE, 3))?;
    check::bus_error("store to the BAR", bar.store(place(11, 0), 4))?;
    device.set_memory(true)?;
    oracle.check()?;
    mapping.store(place(0, 2), 5)?;
    oracle.expect(9, 2, 5);
    oracle.check()
}
