// SPDX-License-Identifier: GPL-2.0
//! Programs of `tools/`, which the cases about them run and watch from outside.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{ensure, Context, Result};

/// Where they are in the guest.
const DIRECTORY: &str = "/lib/tools";

/// A command that runs the program `name`.
pub fn command(name: &str) -> Command {
    Command::new(Path::new(DIRECTORY).join(name))
}

/// Runs a program to its end.
pub fn run(name: &str, args: &[&str]) -> Result<Output> {
    command(name).args(args).output().with_context(|| format!("start {name}"))
}

/// Runs a program that has to succeed; returns what it printed.
pub fn succeeds(name: &str, args: &[&str]) -> Result<String> {
    let output = run(name, args)?;
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let status = output.status;
    ensure!(status.success(), "{name} {}: {status}\n{said}{complained}", args.join(" "));
    Ok(said)
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
