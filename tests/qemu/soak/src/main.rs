// SPDX-License-Identifier: GPL-2.0
//! Random operations on buffers, each compared with a model of the contract.
//!
//!     soak [--minutes N | --operations N] [--seed S]
//!
//! A run consists of episodes. Each begins with fresh processes on devices in a known state; its
//! operations follow from its seed alone. The seeds are S, S + 1, and so on. If an outcome differs
//! from that of the [`model`], the program repeats the episode with parts left out, until none can
//! be spared, and prints the rest. `--seed` with the seed of that episode repeats it.
//!
//! Environment: `DRIVER_KO` and `SLOWER` as for the suite.

#![forbid(unsafe_code)]

mod agent;
mod device;
mod generate;
mod hammer;
mod hardware;
mod machine;
mod model;
mod op;
mod session;
mod show;
mod shrink;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use guest::arch::trust_host_bridge;
use guest::device::Via;
use nix::sys::prctl;

use generate::Generator;
use hammer::Flag;
use hardware::Hardware;
use op::Step;
use session::{play, Mismatch, Replay, Table};

/// Steps of an episode.
const EPISODE: u64 = 20_000;
/// The longest time for shortening a failing sequence.
const SHRINKING: Duration = Duration::from_secs(600);
/// Time between lines of progress.
const REPORT: Duration = Duration::from_secs(10);

/// The length of a run.
enum Limit {
    Time(Duration),
    Operations(u64),
}

struct Options {
    limit: Limit,
    seed: u64,
}

fn options() -> Result<Options> {
    let mut options = Options { limit: Limit::Operations(EPISODE), seed: 1 };
    let mut args = env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| format!("{name} needs a value"))?;
        let number: u64 = value.parse().with_context(|| format!("{name} {value}"))?;
        match name.as_str() {
            "--minutes" => options.limit = Limit::Time(Duration::from_secs(number * 60)),
            "--operations" => options.limit = Limit::Operations(number),
            "--seed" => options.seed = number,
            _ => bail!("no option {name}"),
        }
    }
    Ok(options)
}

/// A run under way.
struct Run {
    table: Table,
    start: Instant,
    reported: Instant,
    operations: u64,
    accesses: u64,
    /// Whether the kernel has VFIO character devices.
    cdevs: bool,
}

impl Run {
    fn say(&self, text: &str) {
        println!("soak: [{:4} s] {text}", self.start.elapsed().as_secs());
    }

    fn rate(&self) -> u64 {
        (self.operations as f64 / self.start.elapsed().as_secs_f64()) as u64
    }

    /// Plays episodes until the limit; returns whether all outcomes were right.
    fn go(&mut self, options: &Options) -> Result<bool> {
        for seed in options.seed.. {
            let left = match options.limit {
                Limit::Time(time) if self.start.elapsed() >= time => 0,
                Limit::Time(_) => EPISODE,
                Limit::Operations(count) => count.saturating_sub(self.operations).min(EPISODE),
            };
            if left == 0 {
                break;
            }
            let mut source = Generator::new(seed, left, self.cdevs);
            let played = play(&self.table, &mut source).with_context(|| format!("seed {seed}"))?;
            self.operations += played.operations;
            self.accesses += played.accesses;
            if let Some(mismatch) = played.mismatch {
                self.show(seed, mismatch);
                return Ok(false);
            }
            if self.reported.elapsed() >= REPORT {
                self.reported = Instant::now();
                self.say(&format!(
                    "{} operations, {}/s, seed {seed}",
                    self.operations,
                    self.rate()
                ));
            }
        }
        Ok(true)
    }

    /// Shortens a failing sequence, and prints it.
    fn show(&self, seed: u64, mismatch: Mismatch) {
        self.say(&format!("mismatch with seed {seed}, operation {}", mismatch.steps.len()));
        print(&mismatch.steps[mismatch.steps.len().saturating_sub(5)..], &mismatch);
        let begin = Instant::now();
        let mut tries = 0;
        let mut last = None;
        let fails = |steps: &[Step]| {
            tries += 1;
            let played = play(&self.table, &mut Replay(steps.iter())).ok()?;
            let mismatch = played.mismatch?;
            let steps = mismatch.steps.clone();
            last = Some(mismatch);
            Some(steps)
        };
        let count = mismatch.steps.len();
        let steps = shrink::shrink(mismatch.steps.clone(), fails, || begin.elapsed() > SHRINKING);
        let time = begin.elapsed().as_secs();
        let shown = last.as_ref().unwrap_or(&mismatch);
        self.say(&format!(
            "{count} operations, {} of which are needed ({tries} tries, {time} s):",
            steps.len()
        ));
        print(&steps, shown);
    }
}

fn print(steps: &[Step], mismatch: &Mismatch) {
    steps.iter().for_each(|step| println!("soak:   {step}"));
    println!("soak:   came: {}", mismatch.got);
    println!("soak:   want: {}", mismatch.want);
}

fn main() -> ExitCode {
    let result = options().and_then(|options| {
        prctl::set_child_subreaper(true)?;
        trust_host_bridge()?;
        let hardware = Hardware::find()?;
        let start = Instant::now();
        let mut run = Run {
            table: Table { hardware, flag: Flag::new()? },
            start,
            reported: start,
            operations: 0,
            accesses: 0,
            cdevs: Via::all().contains(&Via::Cdev),
        };
        let good = run.go(&options)?;
        run.table.hardware.release()?;
        let (count, seed, rate) = (run.operations, options.seed, run.rate());
        let mismatches = u32::from(!good);
        println!("soak: {} accesses during operations", run.accesses);
        println!("soak: {count} operations, seed {seed}, {mismatches} mismatches ({rate}/s)");
        Ok(good)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}
