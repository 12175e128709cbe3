// SPDX-License-Identifier: GPL-2.0
//! Makes hostile calls of every interface of the driver.
//!
//!     fuzz [--seed N] [--from ROUND[+ROUND:CALLS]] [--minutes N] [--rounds N]
//!
//! In each round several processes ([`player`]) make random calls on one device at the same time:
//! its owner, an unprivileged holder of its fd, an unprivileged holder of buffers only, and, where
//! there are cdevs, a process whose device file is not bound. [`verdict`] lists what each call may
//! answer. After each round a buffer that only this program holds, the witness, must be unchanged
//! ([`stage`]).
//!
//! Rounds that reach new code of the driver are the beginning of others ([`feedback`]).
//!
//! The calls of a process depend only on seed, round and beginning; their results also depend on
//! the other processes. A failure names all three. `make fuzz SEED=N FROM=ROUND` starts there.

#![forbid(unsafe_code)]

mod feedback;
mod memory;
mod op;
mod player;
mod run;
mod stage;
mod tally;
mod verdict;
mod words;
mod world;

use std::process::ExitCode;

use feedback::{Feedback, Round};
use guest::kmsg;
use guest::prelude::*;
use stage::Stage;
use tally::Count;

const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

/// The command line.
struct Options {
    seed: u64,
    from: Round,
    rounds: u64,
    minutes: u64,
}

fn options() -> Result<Options> {
    let from = Round { number: 0, beginning: None };
    let mut options = Options { seed: 1, from, rounds: u64::MAX, minutes: u64::MAX };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a number"))?;
        let what = || format!("{word} {value}");
        let number = || value.parse::<u64>().with_context(what);
        match word.as_str() {
            "--seed" => options.seed = number()?,
            "--from" => options.from = value.parse().with_context(what)?,
            "--rounds" => options.rounds = number()?,
            "--minutes" => options.minutes = number()?,
            _ => bail!("usage: fuzz [--seed N] [--from ROUND] [--minutes N] [--rounds N]"),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    // Private mappings of any length must reach the driver.
    let before = fs::read(OVERCOMMIT).unwrap_or_default();
    let _ = fs::write(OVERCOMMIT, "1");
    let done = options().and_then(|options| fuzz(&options));
    let _ = fs::write(OVERCOMMIT, before);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(options: &Options) -> Result<()> {
    let start = Instant::now();
    stage::bind()?;

    let started = Instant::now();
    let limit = Duration::from_secs(options.minutes.saturating_mul(60));
    let stage = Stage::new()?;
    let mut feedback = Feedback::default();
    let (mut round, mut rounds) = (options.from, 0);
    while rounds < options.rounds && start.elapsed() < limit {
        if round.number % 64 == 63 {
            let (calls, seconds) = (stage.tally.sum(Count::Calls), started.elapsed().as_secs());
            println!("fuzz: round {round}, {calls} calls, {seconds} s; {feedback}");
            kmsg::mark(&format!("fuzz: seed {} round {round}", options.seed));
        }
        stage.round(options.seed, round).with_context(|| {
            format!("round {round}; to repeat: make fuzz SEED={} FROM={round}", options.seed)
        })?;
        feedback.learn(round.number)?;
        round = feedback.plan(options.seed, round.number + 1);
        rounds += 1;
    }
    let tally = stage.end()?;
    println!("fuzz: {feedback}");
    let seconds = started.elapsed().as_secs_f64().max(0.001);
    let calls = tally.sum(Count::Calls);
    println!(
        "fuzz: seed {}: {calls} calls in {rounds} rounds, {seconds:.0} s, {:.0} calls a second; \
         {} worked, {} made a buffer, 0 mismatches",
        options.seed,
        calls as f64 / seconds,
        tally.sum(Count::Good),
        tally.sum(Count::Buffers),
    );
    Ok(())
}
