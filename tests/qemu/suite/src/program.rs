// SPDX-License-Identifier: GPL-2.0
//! Programs of `tools/`, which the cases about them run and watch from outside.

use std::os::fd::AsFd;
use std::process::{Command, Output};

use anyhow::{ensure, Context, Result};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use serde_json::Value;

/// Where they are in the guest.
const DIRECTORY: &str = "/lib/tools";

/// Where the program `name` is.
pub fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

/// Runs a program to its end.
pub fn run(name: &str, args: &[&str]) -> Result<Output> {
    Command::new(path(name)).args(args).output().with_context(|| format!("start {name}"))
}

/// Lets programs that are started inherit an fd of this process.
pub fn keep_in_children(fd: impl AsFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
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

/// Runs `vfio-dmabuf --json`, which has to end with `status`. Returns what it printed: on standard
/// output if it succeeded, on standard error otherwise.
pub fn json(args: &[&str], status: i32) -> Result<Value> {
    let all: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
    let output = run("vfio-dmabuf", &all)?;
    let printed = if status == 0 { &output.stdout } else { &output.stderr };
    let what = format!(
        "vfio-dmabuf {}: {}\n{}{}",
        all.join(" "),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    ensure!(output.status.code() == Some(status), "{what}expected status {status}");
    serde_json::from_slice(printed).with_context(|| what)
}

/// Runs `vfio-dmabuf --json`, which has to end with `status` and an error that contains `why`.
pub fn refuses(args: &[&str], status: i32, why: &str) -> Result<()> {
    let said = json(args, status)?;
    ensure!(said["error"].to_string().contains(why), "{why:?} is not in {said}");
    Ok(())
}
