// SPDX-License-Identifier: GPL-2.0
//! Writes the manual pages (`man1/`) and the completions (`completions/`) of `vfio-dmabuf` into a
//! directory.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use vfio_dmabuf_cli::args::Cli;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: vfio-dmabuf-pages DIRECTORY");
        return ExitCode::FAILURE;
    };
    match write(directory.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio-dmabuf-pages: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: PathBuf) -> std::io::Result<()> {
    let (pages, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), pages)?;
    for &shell in Shell::value_variants() {
        clap_complete::generate_to(shell, &mut Cli::command(), "vfio-dmabuf", &completions)?;
    }
    Ok(())
}
