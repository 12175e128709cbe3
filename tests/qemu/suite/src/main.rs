// SPDX-License-Identifier: GPL-2.0
//! The cases that run in the guest.
//!
//!     suite [PATTERN...]    run the cases whose names contain a PATTERN, or all of them
//!     suite --list          name them
//!     suite --contract      print which row of the contract each proves
//!
//! Each case is a function in [`cases`] and runs in a process of its own, which [`runner`] starts,
//! watches and cleans up after. The result is TAP on standard output; the exit status is 0 if no
//! case failed. A case may be skipped only for what the machine or its kernel does not have.
//!
//! Environment: `DRIVER_KO` is the module under test (/lib/modules/dmabuf-vfio-pci.ko), `DRIVER`
//! the name that devices are bound to (the module's own), `SUITE_EXCEPT` names of cases that are
//! left out, `SLOWER` how much slower than usual the machine is (1).

#![forbid(unsafe_code)]

mod case;
mod cases;
mod check;
mod failing;
mod fixture;
mod prelude;
mod program;
mod rig;
mod runner;
mod trace;

use std::env;
use std::process::ExitCode;

use case::Case;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let cases = cases::all();
    match words[..] {
        ["--list"] => {
            cases.iter().for_each(|case| println!("{}", case.name));
            ExitCode::SUCCESS
        }
        ["--contract"] => {
            print!("{}", cases::contract());
            ExitCode::SUCCESS
        }
        ["--case", name] => match cases.iter().find(|case| case.name == name) {
            Some(case) => case.run_here(),
            None => usage(&format!("no case {name:?}")),
        },
        [option, ..] if option.starts_with('-') => usage(&format!("no option {option:?}")),
        _ => {
            let except = env::var("SUITE_EXCEPT").unwrap_or_default();
            let except: Vec<&str> = except.split_whitespace().collect();
            if let Some(name) =
                except.iter().find(|name| !cases.iter().any(|case| case.name == **name))
            {
                return usage(&format!("SUITE_EXCEPT: no case {name:?}"));
            }
            let wanted: Vec<&Case> = cases
                .iter()
                .filter(|case| case.matches(&words) && !except.contains(&case.name))
                .copied()
                .collect();
            if wanted.is_empty() {
                return usage("no case matches");
            }
            runner::run(&wanted)
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("suite: {why}\nusage: suite [--list | --contract | PATTERN...]");
    ExitCode::FAILURE
}
