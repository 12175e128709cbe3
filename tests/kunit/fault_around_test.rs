// SPDX-License-Identifier: GPL-2.0

//! Fault-around: isolated accesses map one page, sequential ones grow the batch up to its limit.

use crate::pure::fault_around::History;
use kernel::prelude::*;

const TABLE: u64 = 512;

/// Accesses each page of `first..end` that is not mapped yet; page tables start at `phase`. Returns
/// the number of accesses.
fn walk(mut trace: History, first: u64, end: u64, phase: u64) -> (u64, History) {
    let mut faults = 0;
    let mut page = first;
    while page < end {
        let table_end = (page + phase) / TABLE * TABLE + TABLE - phase;
        let (count, after) = trace.after(page, table_end.min(end) - page);
        page += count;
        trace = after;
        faults += 1;
    }
    (faults, trace)
}

#[kunit_tests(dmabuf_vfio_pci_batch)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_access_maps_one_page() -> Result {
        let mut trace = History::from_raw(0);
        for page in (0..4096).step_by(16) {
            let (count, after) = trace.after(page, TABLE);
            expect_eq!(count, 1, "page {page}")?;
            trace = after;
        }
        Ok(())
    }

    #[test]
    fn a_walk_doubles_up_to_a_page_table() -> Result {
        let mut trace = History::from_raw(0);
        let mut page = 7;
        for want in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512] {
            let (count, after) = trace.after(page, u64::MAX);
            expect_eq!(count, want, "page {page}")?;
            page += count;
            trace = after;
        }
        let (count, _) = trace.after(page + 1, u64::MAX);
        expect_eq!(count, 1, "somewhere else")
    }

    #[test]
    fn the_first_access_ever_is_no_walk() -> Result {
        let (count, _) = History::from_raw(0).after(0, TABLE);
        expect_eq!(count, 1, "page 0")
    }

    #[test]
    fn limits_are_kept_and_do_not_slow_the_walk() -> Result {
        for (first, end, phase, most) in [
            (0, 16384, 1, 43),
            (0, 16384, 0, 43),
            (511, 16384, 0, 43),
            (0, 262144, 1, 523),
        ] {
            let (faults, _) = walk(History::from_raw(0), first, end, phase);
            expect_eq!(faults <= most, true, "{first}..{end}: {faults} faults")?;
        }
        for limit in [0, 1] {
            let (count, _) = History::from_raw(u64::MAX).after(5, limit);
            expect_eq!(count, 1, "limit {limit}")?;
        }
        Ok(())
    }

    #[test]
    fn a_trace_survives_packing() -> Result {
        let (_, trace) = walk(History::from_raw(0), 3, 100_000, 0);
        expect_eq!(History::from_raw(trace.as_raw()), trace, "a walk")?;
        // Any value of the atomic gives a batch within the limit.
        for raw in [0, 1, u64::MAX, 1 << 63, 0x3ff] {
            let next = raw >> 10;
            let (count, _) = History::from_raw(raw).after(next, 100);
            expect_eq!((1..=100).contains(&count), true, "{raw:#x}: {count}")?;
        }
        Ok(())
    }
}
