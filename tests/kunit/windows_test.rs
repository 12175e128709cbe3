// SPDX-License-Identifier: GPL-2.0

//! Windows, compared with a model that searches every gap.

use crate::{
    pure::windows::{
        Room,
        Windows,
        BAR_SPACE, //
    },
    random::Random, //
};
use kernel::prelude::*;
use kernel_ext::vfio_pci_core::{
    NUM_BARS,
    REGION_PAGES, //
};

const CASES: u64 = 100;
const STEPS: u64 = 200;

type Bars = [usize; NUM_BARS];

/// Windows as (first page, pages, value), unordered.
struct Model {
    bars: Bars,
    taken: KVVec<(usize, usize, u64)>,
}

impl Model {
    /// The largest gap between windows in a region, in pages.
    fn largest_gap(&self, bar: usize) -> usize {
        let end = (bar + 1) * REGION_PAGES;
        let mut at = bar * REGION_PAGES + self.bars[bar];
        let mut largest = 0;
        loop {
            let later = self.taken.iter().filter(|window| window.0 >= at);
            let inside = later.filter(|window| window.0 < end);
            let Some(next) = inside.min_by_key(|window| window.0) else {
                return largest.max(end - at);
            };
            largest = largest.max(next.0 - at);
            at = next.0 + next.1;
        }
    }

    /// Whether a window fits there.
    fn has_room(&self, first: usize, pages: usize) -> bool {
        let bar = first / REGION_PAGES;
        let overlaps =
            |window: &(usize, usize, u64)| first < window.0 + window.1 && window.0 < first + pages;
        first >= bar * REGION_PAGES + self.bars[bar]
            && first + pages <= (bar + 1) * REGION_PAGES
            && !self.taken.iter().any(overlaps)
    }
}

/// Random BARs: absent, small, or as large as most or all of their region.
fn random_bars(random: &mut Random) -> Bars {
    let mut bars = [0; NUM_BARS];
    for pages in &mut bars {
        *pages = match random.below(5) {
            0 => 0,
            1 => 1,
            2 => 1 << random.below(20),
            3 => REGION_PAGES - 1 - random.below(1000) as usize,
            _ => REGION_PAGES,
        };
    }
    bars
}

fn random_pages(random: &mut Random) -> usize {
    match random.below(5) {
        0 => 1,
        1 => 1 + random.below(1000) as usize,
        2 => REGION_PAGES / (1 + random.below(8) as usize),
        3 => REGION_PAGES - random.below(2000) as usize,
        _ => 1 + random.below(REGION_PAGES as u64 / 4) as usize,
    }
}

/// Takes a window or returns one, in the model too.
fn step(random: &mut Random, windows: &mut Windows<u64>, model: &mut Model, value: u64) -> Result {
    if random.below(3) == 0 && !model.taken.is_empty() {
        let index = random.below(model.taken.len() as u64) as usize;
        let (first, _, value) = model.taken.remove(index).map_err(|_| EINVAL)?;
        expect_eq!(windows.give_back(first), Some(value), "given back")?;
        return expect_eq!(windows.give_back(first), None, "once more");
    }
    let pages = random_pages(random);
    match windows.take(Room::new()?, |bar| model.bars[bar], pages, value) {
        Ok(first) => {
            expect_eq!(model.has_room(first, pages), true, "room")?;
            let inside = windows.get_mut(first).map(|value| *value);
            expect_eq!(inside, Some(value), "what is in it")?;
            Ok(model.taken.push((first, pages, value), GFP_KERNEL)?)
        }
        Err(error) => {
            expect_eq!(error, ENOSPC, "error")?;
            let largest = (0..NUM_BARS).map(|bar| model.largest_gap(bar)).max();
            expect_eq!(largest >= Some(pages), false, "there is a gap")
        }
    }
}

fn check_case(seed: u64) -> Result {
    let mut random = Random(seed);
    let mut windows = Windows::new();
    let mut model = Model {
        bars: random_bars(&mut random),
        taken: KVVec::new(),
    };
    for number in 0..STEPS {
        step(&mut random, &mut windows, &mut model, number)
            .inspect_err(|_| pr_err!("seed {} step {}\n", seed, number))?;
        let (got, want) = (windows.values().count(), model.taken.len());
        expect_eq!(got, want, "seed {seed}: windows")?;
    }
    Ok(())
}

#[kunit_tests(dmabuf_vfio_pci_windows)]
mod tests {
    use super::*;

    #[test]
    fn windows_agree_with_a_list_of_all_gaps() -> Result {
        for seed in 1..=CASES {
            check_case(seed)?;
        }
        Ok(())
    }

    #[test]
    fn a_window_follows_the_last_one() -> Result {
        let mut windows = Windows::new();
        let bars = |bar| [256, 0, 1, 0, 0, 0][bar];
        for (pages, want) in [
            (1, 256),
            (4, 257),
            (REGION_PAGES - 261, 261),
            (1, REGION_PAGES),
            (REGION_PAGES, 3 * REGION_PAGES),
            (1, 4 * REGION_PAGES),
        ] {
            let got = windows.take(Room::new()?, bars, pages, ())?;
            expect_eq!(got, want, "window of {pages} pages")?;
        }
        Ok(())
    }

    #[test]
    fn what_became_free_is_used_when_the_space_has_come_round() -> Result {
        let mut windows = Windows::new();
        let bars = |bar| [16, 0, 0, 0, 0, 0][bar];
        expect_eq!(windows.take(Room::new()?, bars, 1, ())?, 16, "first")?;
        expect_eq!(windows.give_back(16), Some(()), "given back")?;
        expect_eq!(windows.take(Room::new()?, bars, 1, ())?, 17, "second")?;
        for bar in 1..NUM_BARS {
            let got = windows.take(Room::new()?, bars, REGION_PAGES, ())?;
            expect_eq!(got, bar * REGION_PAGES, "region {bar}")?;
        }
        // The cursor has wrapped to the start.
        expect_eq!(windows.take(Room::new()?, bars, 1, ())?, 16, "third")?;
        expect_eq!(windows.take(Room::new()?, bars, 1, ())?, 18, "fourth")
    }

    #[test]
    fn a_full_space_says_so_and_recovers() -> Result {
        let mut windows = Windows::new();
        let bars = |_| 0;
        for bar in 0..NUM_BARS {
            windows.take(Room::new()?, bars, REGION_PAGES, bar)?;
        }
        expect_eq!(windows.take(Room::new()?, bars, 1, 9), Err(ENOSPC), "full")?;
        let page = 2 * REGION_PAGES;
        expect_eq!(windows.give_back(page), Some(2), "given back")?;
        for pages in [REGION_PAGES + 1, BAR_SPACE, usize::MAX] {
            let got = windows.take(Room::new()?, bars, pages, 9);
            expect_eq!(got, Err(ENOSPC), "{pages} pages")?;
        }
        expect_eq!(
            windows.take(Room::new()?, bars, REGION_PAGES, 9),
            Ok(page),
            "a region"
        )
    }
}
