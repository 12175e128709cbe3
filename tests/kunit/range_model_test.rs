// SPDX-License-Identifier: GPL-2.0

//! Random ranges, compared with a model that stores the PFN of each page.

use crate::{
    pure::range::{
        Layout,
        Range,
        Run, //
    },
    random::Random, //
};
use kernel::prelude::*;

const PAGE: u64 = 4096;
const CASES: u64 = 400;
const BAR_PAGES: u64 = 4096;

/// Random ranges: some are adjacent, some overlap, some are far apart.
fn random_ranges(random: &mut Random) -> Result<KVVec<Range>> {
    let count = 1 + random.below(24);
    let mut ranges = KVVec::new();
    let mut next = random.below(BAR_PAGES - 64);
    for _ in 0..count {
        let pages = match random.below(4) {
            0 => 1,
            1 => 512,
            _ => 1 + random.below(40),
        };
        if random.below(2) == 0 || next + pages > BAR_PAGES {
            next = random.below(BAR_PAGES - pages);
        }
        let range = Range {
            offset: next * PAGE,
            length: pages * PAGE,
        };
        ranges.push(range, GFP_KERNEL)?;
        next += pages;
    }
    Ok(ranges)
}

/// The PFN of each page.
fn model(first_pfn: u64, ranges: &[Range]) -> Result<KVVec<u64>> {
    let mut pfns = KVVec::new();
    for range in ranges {
        for page in 0..range.length / PAGE {
            pfns.push(first_pfn + range.offset / PAGE + page, GFP_KERNEL)?;
        }
    }
    Ok(pfns)
}

/// The number of consecutive PFNs from `page` on.
fn run_length(pfns: &[u64], page: usize) -> u64 {
    let mut length = 1;
    while pfns.get(page + length) == Some(&(pfns[page] + length as u64)) {
        length += 1;
    }
    length as u64
}

fn check_case(seed: u64) -> Result {
    let mut random = Random(seed);
    let first_pfn = 0x10_0000 + random.below(2048);
    let ranges = random_ranges(&mut random)?;
    let pfns = model(first_pfn, &ranges)?;
    let layout = Layout::new(first_pfn * PAGE, BAR_PAGES * PAGE, &ranges)?;

    expect_eq!(layout.pages(), pfns.len() as u64, "seed {seed}: pages")?;
    for (page, &pfn) in pfns.iter().enumerate() {
        let pages = run_length(&pfns, page);
        let got = layout.lookup(page as u64);
        expect_eq!(got, Some(Run { pfn, pages }), "seed {seed} page {page}")?;
        let block = (pages >= 512 && pfn % 512 == 0).then_some(pfn);
        let got = layout.block(page as u64, 9);
        expect_eq!(got, block, "seed {seed} page {page}: block")?;
    }
    let mut page = random.below(pfns.len() as u64);
    for run in layout.runs(page) {
        let pages = run_length(&pfns, page as usize);
        let pfn = pfns[page as usize];
        expect_eq!(run, Run { pfn, pages }, "seed {seed} run at {page}")?;
        page += pages;
    }
    expect_eq!(page, pfns.len() as u64, "seed {seed}: end of the runs")?;
    let past = layout.lookup(pfns.len() as u64);
    expect_eq!(past, None, "seed {seed}: past the end")
}

#[kunit_tests(dmabuf_vfio_pci_range_model)]
mod tests {
    use super::*;

    #[test]
    fn lookup_agrees_with_a_list_of_all_pages() -> Result {
        for seed in 1..=CASES {
            check_case(seed)?;
        }
        Ok(())
    }
}
