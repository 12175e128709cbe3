// SPDX-License-Identifier: GPL-2.0
//! The windows that other cases stop threads in.

use guest::windows::{symbols, ALL};

use crate::prelude::*;

cases! {
    Setup::Bound(&[]) =>
        "the tests find what they look for": [every_window_is_one_function];
}

fn every_window_is_one_function() -> Result<()> {
    let symbols = symbols()?;
    let errors = ALL.iter().filter_map(|window| window.find(&symbols).err());
    let errors: Vec<String> = errors.map(|error| format!("{error:#}")).collect();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}
