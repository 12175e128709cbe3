// SPDX-License-Identifier: GPL-2.0
//! What a case is, and how it runs once it has its process.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;
use guest::pci::Id;

/// Exit status of a case that was skipped.
pub const SKIPPED: u8 = 77;

/// One case.
pub struct Case {
    /// The fact that it proves.
    pub name: &'static str,
    /// The file that it stands in.
    pub file: &'static str,
    /// The row of the contract that the fact belongs to.
    pub row: &'static str,
    /// What must be there before it starts.
    pub setup: Setup,
    /// The case itself.
    pub run: fn() -> Result<()>,
}

/// What must be there before a case starts.
#[derive(Clone, Copy)]
pub enum Setup {
    /// The driver is loaded and has these devices.
    Bound(&'static [Id]),
    /// The machine has these devices; they have no driver, and the driver is not loaded.
    Unloaded(&'static [Id]),
}

impl Setup {
    /// The devices that the machine must have.
    pub fn devices(self) -> &'static [Id] {
        match self {
            Setup::Bound(ids) | Setup::Unloaded(ids) => ids,
        }
    }
}

/// The error of a case that this machine or its kernel cannot run.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Case {
    /// Whether its name contains one of `patterns`; without patterns, always.
    pub fn matches(&self, patterns: &[&str]) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| self.name.contains(pattern))
    }

    /// Runs it in this process.
    pub fn run_here(&self) -> ExitCode {
        match (self.run)() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                match error.downcast_ref::<Skip>() {
                    Some(_) => ExitCode::from(SKIPPED),
                    None => ExitCode::FAILURE,
                }
            }
        }
    }
}

/// The cases of a file: `setup => "row": [name, name => expression, …], "row": […];`.
///
/// A name alone is that of the case's function; an expression replaces the function. A case that
/// proves more than one row stands in each.
macro_rules! cases {
    ($($setup:expr => $($row:literal: [$($name:ident $(=> $run:expr)?),+ $(,)?]),+;)+) => {
        /// The cases of this file.
        pub const CASES: &[$crate::case::Case] = &[$($($(
            $crate::case::Case {
                name: stringify!($name),
                file: file!(),
                row: $row,
                setup: $setup,
                run: $crate::case::function!($name $(=> $run)?),
            },
        )+)+)+];
    };
}
pub(crate) use cases;

/// The function of a case in [`cases!`].
macro_rules! function {
    ($name:ident) => {
        $name
    };
    ($name:ident => $run:expr) => {
        || $run
    };
}
pub(crate) use function;
