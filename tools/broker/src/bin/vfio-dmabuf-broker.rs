// SPDX-License-Identifier: GPL-2.0
//! The broker as a program; the library explains it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use vfio_dmabuf::Device;
use vfio_dmabuf_broker::broker::{Broker, Config};
use vfio_dmabuf_broker::client;
use vfio_dmabuf_cli::target::{number, BarName};

/// Hand slices of a device to clients at a socket, and revoke them
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Own a device and serve slices; prints a line for each slice that is granted or revoked
    Serve {
        /// The BAR, as in 0000:01:00.0/0
        bar: BarName,
        /// Path of the socket
        socket: PathBuf,
        /// Number of slices
        #[arg(long)]
        count: usize,
        /// Size of each slice, bytes
        #[arg(long, default_value = "4K", value_parser = number)]
        size: u64,
        /// Offset of the first slice in the BAR, bytes
        #[arg(long, default_value = "0", value_parser = number)]
        first: u64,
        /// Longest silence of a client, milliseconds
        #[arg(long, default_value_t = 1000)]
        heartbeat: u64,
        /// Fill each slice with zeroes before a client gets it
        #[arg(long)]
        clear: bool,
    },
    /// Ask the broker to reset its device
    Reset {
        /// Path of the socket
        socket: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio-dmabuf-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let (bar, socket, config) = match command {
        Command::Reset { socket } => return Ok(client::reset(&socket)?),
        Command::Serve { bar, socket, count, size, first, heartbeat, clear } => {
            let heartbeat = Duration::from_millis(heartbeat);
            (bar, socket, Config { bar: bar.bar, first, size, count, heartbeat, clear })
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut broker = Broker::new(Device::open(bar.address)?, config, &socket)?;
    println!("serving {} slices of {bar} at {}", config.count, socket.display());
    while !stop.load(Ordering::Relaxed) {
        for event in broker.turn()? {
            println!("{event}");
        }
    }
    std::fs::remove_file(&socket)?;
    Ok(())
}
