// SPDX-License-Identifier: GPL-2.0
//! Which code of the driver rounds have reached, and how often. A round that reached something new
//! is a good beginning of other rounds.
//!
//! The driver of `make fuzz` counts how often each block of its code runs (`make coverage`); a
//! module of the tests prints the counters.

use std::fmt;
use std::str::FromStr;

use guest::prelude::*;
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::stage::CALLS;

const COUNTERS: &str = "/sys/kernel/debug/dmabuf-coverage";

/// A round by its number, and the round whose first calls it makes before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Which other round it begins with.
    pub beginning: Option<Beginning>,
}

/// The first calls of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The number of the round.
    pub round: u64,
    /// How many calls of each process.
    pub calls: u64,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        match self.beginning {
            Some(Beginning { round, calls }) => write!(f, "+{round}:{calls}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Round {
    type Err = anyhow::Error;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Round> {
        let Some((number, beginning)) = text.split_once('+') else {
            return Ok(Round { number: text.parse()?, beginning: None });
        };
        let (round, calls) = beginning.split_once(':').context("ROUND[+ROUND:CALLS]")?;
        let beginning = Beginning { round: round.parse()?, calls: calls.parse()? };
        Ok(Round { number: number.parse()?, beginning: Some(beginning) })
    }
}

/// What was reached so far.
#[derive(Default)]
pub struct Feedback {
    /// The counters after the last round.
    counters: Vec<u64>,
    /// For each counter, the powers of two that a round added to it.
    seen: Vec<u64>,
    /// Rounds that reached something new.
    good: Vec<u64>,
}

impl Feedback {
    /// Looks at the counters after a round. A driver without counters teaches nothing.
    pub fn learn(&mut self, round: u64) -> Result<()> {
        if !Path::new(COUNTERS).exists() {
            return Ok(());
        }
        let numbers = fs::read_to_string(COUNTERS).context(COUNTERS)?;
        let now = numbers.lines().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        if self.take(&now) {
            self.good.push(round);
        }
        Ok(())
    }

    /// Compares the counters with the last ones; returns whether there is anything new.
    fn take(&mut self, now: &[u64]) -> bool {
        self.counters.resize(now.len(), 0);
        self.seen.resize(now.len(), 0);
        let mut news = false;
        for ((last, seen), &now) in self.counters.iter_mut().zip(&mut self.seen).zip(now) {
            let bit = (now - *last).checked_ilog2().map_or(0, |power| 1u64 << power);
            news |= *seen & bit != bit;
            *seen |= bit;
            *last = now;
        }
        news
    }

    /// Plans a round: every second one begins with calls of a round that reached something new.
    pub fn plan(&self, seed: u64, number: u64) -> Round {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ number.rotate_left(32));
        let round = self.good.choose(&mut rng).filter(|_| number % 2 == 1);
        let calls = rng.random_range(1..CALLS);
        Round { number, beginning: round.map(|&round| Beginning { round, calls }) }
    }
}

impl fmt::Display for Feedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = self.seen.iter().filter(|&&seen| seen != 0).count();
        let kinds: u32 = self.seen.iter().map(|seen| seen.count_ones()).sum();
        let (all, good) = (self.seen.len(), self.good.len());
        write!(f, "{reached} of {all} blocks reached, {kinds} with their frequencies, ")?;
        write!(f, "by {good} rounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_blocks_and_new_frequencies_are_news() {
        let mut feedback = Feedback::default();
        assert!(feedback.take(&[0, 1]));
        assert!(!feedback.take(&[0, 2]));
        assert!(feedback.take(&[0, 5]));
        assert!(!feedback.take(&[0, 7]));
        assert!(feedback.take(&[1, 7]));
        assert!(!feedback.take(&[1, 7]));
        assert_eq!(
            feedback.to_string(),
            "2 of 2 blocks reached, 3 with their frequencies, by 0 rounds"
        );
    }

    #[test]
    fn rounds_begin_with_good_ones_only() {
        let mut feedback = Feedback::default();
        assert_eq!(feedback.plan(1, 7).beginning, None);
        feedback.good = vec![3, 4];
        let plans: Vec<Round> = (0..100).map(|number| feedback.plan(1, number)).collect();
        let begins =
            |round| plans.iter().filter_map(|plan| plan.beginning).any(|it| it.round == round);
        assert!(begins(3) && begins(4) && !begins(7));
        assert_eq!(plans, (0..100).map(|number| feedback.plan(1, number)).collect::<Vec<_>>());
    }

    #[test]
    fn rounds_are_read_as_they_are_written() {
        for text in ["12", "13+7:1999"] {
            assert_eq!(text.parse::<Round>().expect("a round").to_string(), text);
        }
        for text in ["", "x", "13+7", "13+:4", "1+2:"] {
            assert!(text.parse::<Round>().is_err(), "{text}");
        }
    }
}
