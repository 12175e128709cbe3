// SPDX-License-Identifier: GPL-2.0
//! Times several threads of one process on one device. Only ratios of wall-clock times are useful.

use guest::prelude::*;

use crate::measure::touch;
use crate::{open, IN_TREE, OURS};

const MIB: u64 = 1 << 20;
const THREADS: [usize; 3] = [1, 2, 4];
const ROUNDS: usize = 15;

/// The work of each thread, and how often a round repeats it.
struct Work {
    row: &'static str,
    times: usize,
    run: fn(&Device, u64) -> Result<()>,
}

const WORK: [Work; 3] = [
    Work { row: "lone_faults", times: 4, run: lone_faults },
    Work { row: "walks", times: 4, run: walk },
    Work { row: "mmaps", times: 400, run: map_and_unmap },
];

/// Isolated faults: one page every 64 KiB.
fn lone_faults(device: &Device, offset: u64) -> Result<()> {
    touch_every(device, offset, 64 << 10)
}

/// Sequential faults: each page of 16 MiB.
fn walk(device: &Device, offset: u64) -> Result<()> {
    touch_every(device, offset, PAGE as usize)
}

fn touch_every(device: &Device, offset: u64, step: usize) -> Result<()> {
    // Address and offset differ by a page, so only entries of 4 KiB fit.
    let mapping = Mapping::aligned(device, 16 * MIB, offset + PAGE)?;
    let end = mapping.address() + mapping.size() as usize;
    (mapping.address()..end).step_by(step).try_for_each(touch)
}

fn map_and_unmap(device: &Device, offset: u64) -> Result<()> {
    let address = mm::map(device.raw(), PAGE, mm::RW, mm::SHARED, offset)?;
    Ok(mm::unmap(address, PAGE)?)
}

/// Prints `ROW THREADS RATIO` for each row: our time divided by that of the in-tree driver.
pub fn compare() -> Result<()> {
    let in_tree = measure_driver(IN_TREE)?;
    let ours = measure_driver(OURS)?;
    for ((row, threads, ours), (_, _, in_tree)) in ours.into_iter().zip(in_tree) {
        println!("{row} {threads} {:.2}", ours / in_tree);
    }
    Ok(())
}

fn measure_driver(driver: &str) -> Result<Vec<(&'static str, usize, f64)>> {
    let (pci, device) = open(BOCHS, driver)?;
    let base = device.region(0)?.offset;
    let mut rows = Vec::new();
    for work in &WORK {
        for threads in THREADS {
            rows.push((work.row, threads, best_round(&device, base, work, threads)?));
        }
    }
    drop(device);
    pci.release()?;
    Ok(rows)
}

/// The time of the best round, because the machine may be busy. In a round each thread does the
/// work on its own part of the BAR.
fn best_round(device: &Device, base: u64, work: &Work, threads: usize) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let all: Vec<_> = (0..threads as u64)
                .map(|thread| {
                    let offset = base + thread * 32 * MIB;
                    scope
                        .spawn(move || (0..work.times).try_for_each(|_| (work.run)(device, offset)))
                })
                .collect();
            for one in all {
                one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            Ok(())
        })?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
