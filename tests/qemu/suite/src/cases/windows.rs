// SPDX-License-Identifier: GPL-2.0
//! What other cases rely on: the windows in which they stop threads, and KCSAN, which must find
//! data races in Rust modules. Without the latter, a log without reports would mean nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use guest::kmsg::Log;
use guest::testmod::Racer;
use guest::windows::{symbols, ALL};

use crate::prelude::*;

cases! {
    Setup::Bound(&[]) =>
        "the tests find what they look for": [data_race_is_found, every_window_is_one_function];
}

fn data_race_is_found() -> Result<()> {
    let mut log = Log::new()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let race = || -> Result<()> {
            let racer = Racer::new()?;
            while !over.load(Ordering::Relaxed) {
                racer.change(1000)?;
            }
            Ok(())
        };
        let racing = [scope.spawn(race), scope.spawn(race)];
        let found = wait_for("a report of KCSAN", || {
            let is_it = |line: &String| line.contains("KCSAN") && line.contains("race_on_purpose");
            Ok(log.messages()?.iter().any(is_it))
        });
        over.store(true, Ordering::Relaxed);
        racing.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))?;
        found
    })
}

fn every_window_is_one_function() -> Result<()> {
    let symbols = symbols()?;
    let errors = ALL.iter().filter_map(|window| window.find(&symbols).err());
    let errors: Vec<String> = errors.map(|error| format!("{error:#}")).collect();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}
