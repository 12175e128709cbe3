// SPDX-License-Identifier: GPL-2.0
//! Owner and client, two processes: `share 0000:01:00.0`, QEMU's edu.
//!
//! The client gets one page of the BAR over a socket, uses it, and survives its revoke.

use std::env;
use std::error::Error;
use std::io::{stdin, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};

use vfio_dmabuf::channel::{receive_buffer, send_buffer, Label};
use vfio_dmabuf::{Access, AccessError, Device};

/// edu's id register and its value.
const ID: (u64, u32) = (0x00, 0x0100_00ed);
/// edu's inverter: reads as the inverse of what was written.
const INVERTER: u64 = 0x04;

fn main() -> ExitCode {
    let result = match env::args().nth(1).as_deref() {
        Some("client") => client(),
        Some(address) => owner(address),
        None => Err("usage: share ADDRESS".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("share: {error}");
            ExitCode::FAILURE
        }
    }
}

fn owner(address: &str) -> Result<(), Box<dyn Error>> {
    let (mut near, far) = UnixStream::pair()?;
    let mut client = Command::new(env::current_exe()?)
        .arg("client")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()?;

    let device = Device::open(address.parse()?)?;
    let slice = device.export(0).range(0, 4096).create()?;
    println!("owner: {} bytes, {}", slice.size()?, slice.name()?);
    send_buffer(&near, &slice, &Label { address: device.address(), bar: 0, number: 7 })?;

    // The client reports that it has read the registers, and learns when they are revoked.
    near.read_exact(&mut [0])?;
    assert!(device.revoke(&slice)?, "this call revoked it");
    assert!(!device.revoke(&slice)?, "this one came later");
    near.write_all(b"!")?;

    let status = client.wait()?;
    let registers = device.map_bar(0, 0, 4096, Access::ReadWrite)?;
    println!("owner: the client ended with {status}; the id still is {:#x}", id(&registers)?);
    if status.success() {
        Ok(())
    } else {
        Err("the client failed".into())
    }
}

fn client() -> Result<(), Box<dyn Error>> {
    let mut socket = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let (slice, label) = receive_buffer(&socket)?;
    let registers = slice.map(Access::ReadWrite)?;
    println!("client: slice {} of BAR {} of {}", label.number, label.bar, label.address);
    println!("client: id {:#x}", id(&registers)?);
    registers.write(INVERTER, 0x1234_5678_u32)?;
    assert_eq!(registers.read::<u32>(INVERTER)?, !0x1234_5678);
    assert!(!slice.is_gone()?);

    socket.write_all(b"?")?;
    socket.read_exact(&mut [0])?;
    assert_eq!(registers.read::<u32>(ID.0), Err(AccessError::Lost { offset: ID.0 }));
    assert_eq!(registers.write(INVERTER, 0_u32), Err(AccessError::Lost { offset: INVERTER }));
    assert!(slice.is_gone()?);
    println!("client: {}", registers.read::<u32>(ID.0).unwrap_err());
    Ok(())
}

fn id(registers: &vfio_dmabuf::Mapping) -> Result<u32, Box<dyn Error>> {
    match registers.read::<u32>(ID.0)? {
        id if id == ID.1 => Ok(id),
        other => Err(format!("the id register has {other:#x}").into()),
    }
}
