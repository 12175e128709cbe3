// SPDX-License-Identifier: GPL-2.0
//! A broker: an owner process that hands slices of a BAR to clients at a UNIX socket.
//!
//! It is an example of an owner that trusts no client.
//!
//! - Each client gets one slice and reaches nothing else. All slices have the same size. Clients
//!   that arrive when no slice is free wait in order of arrival.
//! - The broker reclaims a slice when its client closes the connection, ends, sends an invalid
//!   packet, or stays silent for longer than the heartbeat. **It revokes the slice first**: the
//!   next client gets it, as a new buffer, only after no process reaches the old one.
//! - A reset of the device revokes nothing: accesses wait for its end.
//! - When the broker dies, the kernel closes the device, which kills all slices.
//!
//! [`broker`] is the owner's side, [`client`] the clients' side, [`protocol`] their packets;
//! [`occupant`] is a client that fills its slice and watches it.
//!
//! # Limits
//!
//! - One thread does all the work, and a revoke waits for other *devices* that have imported the
//!   slice. A broker whose clients pass slices to importing drivers should revoke in separate
//!   threads.
//! - The permissions of the socket decide who may connect.
//! - A client finds its slice as the previous client left it, unless the slice is memory and the
//!   broker clears it. Resetting registers needs knowledge of the device.

#![forbid(unsafe_code)]

mod broker;
mod client;
mod occupant;
mod protocol;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use vfio_dmabuf::Device;
use vfio_dmabuf_cli::target::{number, BarName};

use broker::{Broker, Config};

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
    /// Get a slice of memory, fill it with this process's id and check that it stays so, until
    /// SIGTERM; exit status 4 if the slice was revoked
    Occupy {
        /// Path of the socket
        socket: PathBuf,
        /// Milliseconds between beats
        beat: u64,
        /// A command that gets the connection as its standard input, and may outlive this program
        command: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("vfio-dmabuf-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (bar, socket, config) = match command {
        Command::Reset { socket } => {
            client::reset(&socket)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Occupy { socket, beat, command } => {
            return occupant::run(&socket, Duration::from_millis(beat), command.as_deref());
        }
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
    Ok(ExitCode::SUCCESS)
}
