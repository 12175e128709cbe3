// SPDX-License-Identifier: GPL-2.0
//! The program `vfio-dmabuf`; the library has its modules.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use vfio_dmabuf::Access;
use vfio_dmabuf_cli::args::{Cli, Command};
use vfio_dmabuf_cli::output::{Failure, Output};
use vfio_dmabuf_cli::{bind, buffers, slice};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    if let Command::Export(args) = &cli.command {
        return ExitCode::from(slice::export(output, args));
    }
    match run(output, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let status = failure.status();
            output.failure(&failure, status);
            ExitCode::from(status)
        }
    }
}

fn run(output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Devices { all } => bind::devices(output, all),
        Command::Bind { device, force } => bind::bind(output, device, force),
        Command::Unbind { device, force } => bind::unbind(output, device, force),
        Command::Export(_) => Ok(()),
        Command::Map { target, range, read_only, watch } => {
            let access = if read_only { Access::Read } else { Access::ReadWrite };
            slice::map(output, target, range, access, watch)
        }
        Command::Peek { target, offset, width, count, raw } => {
            slice::peek(output, target, offset, width, count, raw)
        }
        Command::Poke { target, offset, values, width } => {
            slice::poke(output, target, offset, width, &values)
        }
        Command::Buffers { pid, device } => buffers::buffers(output, pid, device),
        Command::Revoke { ids, pid, device } => buffers::revoke(output, &ids, pid, device),
    }
}
