// SPDX-License-Identifier: GPL-2.0
//! Starts each case in a process of its own, watches it, and cleans up after it.

use std::env;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use guest::arch::trust_host_bridge;
use guest::kmsg;
use nix::sys::prctl;
use nix::sys::signal::{killpg, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag};
use nix::unistd::Pid;

use crate::case::{Case, SKIPPED};
use crate::fixture;
use crate::prelude::*;

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Where a case's output goes until it is over.
const OUTPUT: &str = "/tmp/suite.out";

/// What the kernel prints on its console, which is the log that is judged.
const CONSOLE: [&str; 2] =
    ["/proc/sys/kernel/printk", "/sys/module/printk/parameters/ignore_loglevel"];

/// What a case came to.
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs `cases`, prints TAP.
pub fn run(cases: &[&Case]) -> ExitCode {
    let _ = fs::create_dir_all("/tmp");
    // Children of a case's process that outlive it become this process's, to be reaped.
    let _ = prctl::set_child_subreaper(true);
    if let Err(error) = trust_host_bridge() {
        println!("Bail out! peer-to-peer DMA: {error:#}");
        return ExitCode::FAILURE;
    }
    println!("TAP version 14\n1..{}", cases.len());
    let console = CONSOLE.map(|file| (file, fs::read_to_string(file).unwrap_or_default()));
    let mut failed = 0;
    for (number, case) in (1..).zip(cases) {
        kmsg::mark(&format!("suite: begin {}", case.name));
        let start = Instant::now();
        let verdict = run_one(case);
        // A case that changes it may have been killed.
        for (file, level) in &console {
            let _ = fs::write(file, level);
        }
        kmsg::mark(&format!("suite: end {}", case.name));
        match verdict {
            Ok(Verdict::Passed) => println!("ok {number} - {}", case.name),
            Ok(Verdict::Skipped(why)) => println!("ok {number} - {} # SKIP {why}", case.name),
            Ok(Verdict::Failed(why)) => {
                failed += 1;
                // The kernel's parser takes lines before a result for its log.
                why.lines().for_each(|line| println!("# {line}"));
                println!("not ok {number} - {}", case.name);
            }
            Err(error) => {
                println!("# {error:#}\nnot ok {number} - {}", case.name);
                println!("Bail out! the machine cannot run more cases");
                return ExitCode::FAILURE;
            }
        }
        if start.elapsed() > Duration::from_secs(5) {
            println!("# took {} s", start.elapsed().as_secs());
        }
        let _ = std::io::stdout().flush();
    }
    println!("# {} cases, {failed} failed", cases.len());
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one case. An error means that no other case can run.
fn run_one(case: &Case) -> Result<Verdict> {
    let devices = match find(case.setup.devices())? {
        Ok(devices) => devices,
        Err(missing) => return Ok(Verdict::Skipped(missing)),
    };
    if let Err(error) = prepare(case.setup, &devices) {
        return Ok(Verdict::Failed(format!("cannot set up: {error:#}")));
    }
    let verdict = supervise(case)?;
    let leak = left_behind();
    Ok(match (verdict, leak) {
        (Verdict::Failed(why), Err(leak)) => Verdict::Failed(format!("{why}\n{leak:#}")),
        (_, Err(leak)) => Verdict::Failed(format!("{leak:#}")),
        (verdict, Ok(())) => verdict,
    })
}

/// The devices with these ids, or a sentence about the one that is missing.
fn find(ids: &[Id]) -> Result<Result<Vec<Pci>, String>> {
    let mut devices: Vec<Pci> = Vec::new();
    for &id in ids {
        match Pci::find(id)?.into_iter().find(|pci| !devices.contains(pci)) {
            Some(pci) => devices.push(pci),
            None => {
                let why = format!("no (further) PCI device {:04x}:{:04x}", id.0, id.1);
                return Ok(Err(why));
            }
        }
    }
    Ok(Ok(devices))
}

/// Sets up what a case needs.
fn prepare(setup: Setup, devices: &[Pci]) -> Result<()> {
    let module = Module::driver();
    match setup {
        Setup::Bound(_) => {
            module.load()?;
            devices.iter().try_for_each(|pci| pci.bind(&fixture::driver()))
        }
        Setup::Unloaded(_) => {
            // Other cases' devices too: an override that is left would bind one at the next load.
            Pci::all()?.iter().filter(|pci| pci.has_override()).try_for_each(Pci::release)?;
            if module.is_loaded() {
                module.unload_soon()?;
            }
            Ok(())
        }
    }
}

/// Starts the case and waits for its end; kills it at its time limit.
fn supervise(case: &Case) -> Result<Verdict> {
    let output = File::create(OUTPUT)?;
    let mut child = Command::new(env::current_exe()?)
        .args(["--case", case.name])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("start the case")?;
    let group = Pid::from_raw(child.id() as i32);
    let limit = scaled(LIMIT);
    let deadline = Instant::now() + limit;
    let mut status = None;
    while status.is_none() && Instant::now() < deadline {
        status = child.try_wait()?;
        sleep(Duration::from_millis(2));
    }
    let stacks = if status.is_none() { stacks(group) } else { String::new() };
    kill(group)?;
    let output = fs::read_to_string(OUTPUT).unwrap_or_default();
    let output = output.trim_end();
    Ok(match status {
        None => Verdict::Failed(format!("not over after {limit:?}\n{output}\n{stacks}")),
        Some(status) => verdict(status, output),
    })
}

fn verdict(status: ExitStatus, output: &str) -> Verdict {
    match status.code() {
        Some(0) => Verdict::Passed,
        Some(code) if code == i32::from(SKIPPED) => Verdict::Skipped(output.replace('\n', "; ")),
        Some(_) => Verdict::Failed(output.to_string()),
        None => Verdict::Failed(format!("{output}\nended with {status}")),
    }
}

/// Kills whatever is left of a case and waits until it is gone.
fn kill(group: Pid) -> Result<()> {
    let ended = wait_until(Duration::from_secs(20), "the end of a case", || {
        let _ = killpg(group, Signal::SIGKILL);
        match waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => Ok(true),
            Ok(_) => Ok(false),
            Err(errno) => bail!("waitpid: {errno}"),
        }
    });
    ended.with_context(|| stacks(group))
}

/// Where in the kernel the processes of a group are.
fn stacks(group: Pid) -> String {
    let mut text = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let after = stat.rsplit(')').next().unwrap_or_default();
        if after.split_whitespace().nth(2) == Some(&group.to_string()) {
            let stack = fs::read_to_string(entry.path().join("stack")).unwrap_or_default();
            text += &format!("process {name}:\n{stack}");
        }
    }
    text
}

/// Checks that the module has no reference after all processes of a case are gone.
fn left_behind() -> Result<()> {
    let module = Module::driver();
    let gone = || Ok(!module.is_loaded() || module.references()? == 0);
    wait_until(Duration::from_secs(10), "the last reference to the module", gone).with_context(
        || {
            let info = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").unwrap_or_default();
            format!("left references to the module behind; bufinfo:\n{info}")
        },
    )
}
