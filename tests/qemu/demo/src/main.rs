// SPDX-License-Identifier: GPL-2.0
//! The main job, shown: one page of a BAR in another process, taken back at will.
//!
//! Three processes. This one loads the driver, binds the device, starts the other two and cleans
//! up. The *owner* ([`owner`]) has the VFIO device open. The *client* ([`client`]) has no VFIO fd;
//! all it gets is a dma-buf fd over a UNIX socket. The owner says whose turn it is, so the lines
//! come in the order in which things happen.

#![forbid(unsafe_code)]

mod client;
mod owner;
mod say;

use std::env;
use std::process::{Child, Command, ExitCode};

use guest::prelude::*;
use say::say;
use serde::{Deserialize, Serialize};

/// Where owner and client meet.
const SOCKET: &str = "/tmp/dmabuf-demo.sock";

/// How long any of it may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The messages of owner and client.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Turn {
    /// From the owner: here is an fd.
    Take,
    /// From the owner: use it.
    Use,
    /// From the owner: it is revoked; try again.
    Revoked,
    /// From the client: done.
    Done,
}

fn main() -> ExitCode {
    let role = env::args().nth(1);
    let result = match role.as_deref() {
        None => direct(),
        Some("owner") => owner::run(),
        Some("client") => client::run(),
        Some(other) => Err(anyhow::anyhow!("no role {other:?}; call it without arguments")),
    };
    match (result, role) {
        (Ok(()), None) => println!("demo: OK"),
        (Ok(()), Some(_)) => {}
        (Err(why), None) => {
            println!("demo: FAILED: {why:#}");
            return ExitCode::FAILURE;
        }
        (Err(why), Some(role)) => {
            say(&role, &format!("failed: {why:#}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Everything around the two processes.
fn direct() -> Result<()> {
    println!("A slice of a PCI device's BAR in another process, taken back at will.\n");
    fs::create_dir_all("/tmp")?;
    let _ = fs::remove_file(SOCKET);
    let module = Module::driver();
    let driver = module.name().replace('_', "-");
    let pci = device()?;

    say("setup", &format!("insmod {}", module.path().display()));
    module.load()?;
    say("setup", &format!("bind {pci} (edu) to {driver}, by driver_override"));
    pci.bind(&driver)?;

    let shown = show(&pci);

    // After a failure, too: the demo leaves the machine as it was.
    say("setup", &format!("unbind {pci}, rmmod {}", module.name()));
    let unbound = pci.release();
    let unloaded = unbound.and_then(|()| module.unload_soon());
    shown.and(unloaded)
}

/// The edu device: the one in `BDF0`, or the first that there is.
fn device() -> Result<Pci> {
    let edus = Pci::find(pci::EDU)?;
    let wanted = env::var("BDF0").ok();
    edus.iter()
        .find(|edu| wanted.as_deref() == Some(edu.address()))
        .or(edus.first())
        .cloned()
        .context("there is no edu device: start QEMU with -device edu")
}

/// Runs owner and client to their ends, or to the end of [`LIMIT`].
fn show(pci: &Pci) -> Result<()> {
    let mut owner = start("owner", pci)?;
    let client = start("client", pci);
    let result = client.and_then(|mut client| {
        let result = wait("client", &mut client, LIMIT);
        let _ = client.kill();
        let _ = client.wait();
        result
    });
    // A client that failed leaves the owner waiting: do not.
    let limit = if result.is_ok() { LIMIT } else { Duration::ZERO };
    let result = result.and(wait("owner", &mut owner, limit));
    let _ = owner.kill();
    let _ = owner.wait();
    let _ = fs::remove_file(SOCKET);
    result
}

fn start(role: &str, pci: &Pci) -> Result<Child> {
    Command::new(env::current_exe()?)
        .arg(role)
        .env("BDF0", pci.address())
        .spawn()
        .with_context(|| format!("start the {role}"))
}

fn wait(role: &str, child: &mut Child, limit: Duration) -> Result<()> {
    wait_until(limit, &format!("the end of the {role}"), || Ok(child.try_wait()?.is_some()))?;
    let status = child.wait()?;
    ensure!(status.success(), "the {role} ended with {status}");
    Ok(())
}

/// Path of the socket.
fn socket() -> &'static Path {
    Path::new(SOCKET)
}
