// SPDX-License-Identifier: GPL-2.0

//! Ranges: which are refused, up to each boundary, and how pages are found.

use crate::{
    pure::range::{
        Layout,
        Range,
        Run, //
    }, //
};
use kernel::prelude::*;

const PAGE: u64 = 4096;
/// A BAR of 1 MiB.
const START: u64 = 0xfe00_0000;
const LEN: u64 = 0x10_0000;
const PFN: u64 = START / PAGE;

fn range(offset: u64, length: u64) -> Range {
    Range { offset, length }
}

/// The size of the buffer over `ranges`, in pages, or the error.
fn pages(start: u64, len: u64, ranges: &[Range]) -> Result<u64> {
    Layout::new(start, len, ranges).map(|layout| layout.pages())
}

#[kunit_tests(dmabuf_vfio_pci_range)]
mod tests {
    use super::*;

    #[test]
    fn one_range_has_its_size() -> Result {
        for (offset, length, want) in [
            (0, PAGE, Ok(1)),
            (0, LEN, Ok(256)),
            (LEN - PAGE, PAGE, Ok(1)),
            (0, 0, Err(EINVAL)),
            (0, 1, Err(EINVAL)),
            (0, PAGE - 1, Err(EINVAL)),
            (0, PAGE + 1, Err(EINVAL)),
            (1, PAGE, Err(EINVAL)),
            (PAGE - 1, PAGE, Err(EINVAL)),
            (2048, 2048, Err(EINVAL)),
            (0, LEN + PAGE, Err(EINVAL)),
            (LEN, PAGE, Err(EINVAL)),
            (LEN - PAGE, 2 * PAGE, Err(EINVAL)),
            (1 << 40, PAGE, Err(EINVAL)),
        ] {
            let got = pages(START, LEN, &[range(offset, length)]);
            expect_eq!(got, want, "{offset:#x}+{length:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn no_range_is_refused() -> Result {
        expect_eq!(pages(START, LEN, &[]), Err(EINVAL), "no range")
    }

    #[test]
    fn every_range_is_checked() -> Result {
        let good = range(0, PAGE);
        for bad in [range(0, 0), range(1, PAGE), range(LEN, PAGE)] {
            for ranges in [[bad, good, good], [good, bad, good], [good, good, bad]] {
                expect_eq!(pages(START, LEN, &ranges), Err(EINVAL), "{ranges:?}")?;
            }
        }
        Ok(())
    }

    #[test]
    fn sums_that_overflow_or_have_bit_63_are_refused() -> Result {
        let half = range(0, 1 << 62);
        for (ranges, want) in [
            // Each range alone fits into such a BAR.
            (&[half][..], Ok((1 << 62) / PAGE)),
            (&[half, half], Err(EINVAL)),
            (&[half, half, half], Err(EINVAL)),
            (&[half, half, half, half], Err(EINVAL)),
            (&[range(0, 1 << 63)], Err(EINVAL)),
            (&[range(0, u64::MAX - PAGE + 1)], Err(EINVAL)),
            (
                &[range(0, u64::MAX - PAGE + 1), range(0, PAGE)],
                Err(EINVAL),
            ),
        ] {
            expect_eq!(pages(0, 1 << 63, ranges), want, "{ranges:?}")?;
        }
        // One page less than bit 63.
        let most = [range(0, (1 << 63) - PAGE)];
        expect_eq!(
            pages(0, 1 << 63, &most),
            Ok(((1 << 63) - PAGE) / PAGE),
            "most"
        )
    }

    #[test]
    fn addresses_that_overflow_are_refused() -> Result {
        let last_page = u64::MAX - PAGE + 1;
        for (start, len, offset, length, want) in [
            (last_page, PAGE, 0, PAGE, Err(EOVERFLOW)),
            (last_page - PAGE, PAGE, 0, PAGE, Ok(1)),
            (PAGE, PAGE, last_page, PAGE, Err(EOVERFLOW)),
            (START, LEN, last_page, PAGE, Err(EOVERFLOW)),
            (START, LEN, last_page - START, PAGE, Err(EOVERFLOW)),
            (START, LEN, last_page - START - PAGE, PAGE, Err(EINVAL)),
        ] {
            let got = pages(start, len, &[range(offset, length)]);
            expect_eq!(got, want, "{start:#x}: {offset:#x}+{length:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn pages_are_found_in_the_order_given() -> Result {
        let ranges = [
            range(8 * PAGE, 2 * PAGE),
            range(0, PAGE),
            range(8 * PAGE, PAGE),
        ];
        let layout = Layout::new(START, LEN, &ranges)?;
        for (page, pfn, pages) in [(0, 8, 2), (1, 9, 1), (2, 0, 1), (3, 8, 1)] {
            let want = Run {
                pfn: PFN + pfn,
                pages,
            };
            expect_eq!(layout.lookup(page), Some(want), "page {page}")?;
        }
        for page in [4, 5, u64::MAX] {
            expect_eq!(layout.lookup(page), None, "page {page}")?;
        }
        Ok(())
    }

    #[test]
    fn ranges_that_touch_become_one_span() -> Result {
        let layout = Layout::new(START, LEN, &[range(0, PAGE), range(PAGE, 3 * PAGE)])?;
        let whole = Run { pfn: PFN, pages: 4 };
        expect_eq!(layout.lookup(0), Some(whole), "page 0")?;
        // In the opposite order the two are not adjacent.
        let layout = Layout::new(START, LEN, &[range(PAGE, 3 * PAGE), range(0, PAGE)])?;
        let first = Run {
            pfn: PFN + 1,
            pages: 3,
        };
        expect_eq!(layout.lookup(0), Some(first), "turned round")
    }

    #[test]
    fn blocks_need_alignment_and_room() -> Result {
        // 4 MiB at 2 MiB, as adjacent ranges of 1 and 3 MiB, then 2 MiB at an unaligned address.
        let mib = 1 << 20;
        let start = 0x1_0020_0000;
        let ranges = [
            range(0, mib),
            range(mib, 3 * mib),
            range(4 * mib + PAGE, 2 * mib),
        ];
        let layout = Layout::new(start, 8 * mib, &ranges)?;
        let pfn = start / PAGE;
        for (page, order, want) in [
            (0, 0, Some(pfn)),
            (0, 9, Some(pfn)),
            (512, 9, Some(pfn + 512)),
            (256, 9, None),
            (1024, 9, None),
            (1024, 0, Some(pfn + 1025)),
            (1535, 0, Some(pfn + 1536)),
            (1536, 0, None),
            (0, 10, None),
            (0, 18, None),
            (0, 63, None),
            (0, 64, None),
            (u64::MAX, 0, None),
        ] {
            let got = layout.block(page, order);
            expect_eq!(got, want, "page {page} order {order}")?;
        }
        Ok(())
    }

    #[test]
    fn a_whole_bar_has_its_partial_page() -> Result {
        for (len, want) in [(1, 1), (PAGE - 1, 1), (PAGE, 1), (PAGE + 1, 2), (LEN, 256)] {
            let layout = Layout::whole_bar(START, len)?;
            expect_eq!(layout.pages(), want, "{len} bytes")?;
            expect_eq!(layout.size(), want * PAGE, "{len} bytes")?;
        }
        let empty = Layout::whole_bar(START, 0).map(|layout| layout.pages());
        expect_eq!(empty, Err(EINVAL), "empty")?;
        let huge = Layout::whole_bar(0, u64::MAX).map(|layout| layout.pages());
        expect_eq!(huge, Err(EOVERFLOW), "huge")
    }
}
