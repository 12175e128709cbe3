// SPDX-License-Identifier: GPL-2.0
//! Mappings through resets and disabled memory: `heal 0000:01:00.0`, QEMU's edu.
//!
//! Threads read a register while the device is reset, while memory is disabled and enabled, and
//! until the buffer is revoked. They distinguish disabled memory from a revoke. Every access
//! returns the register's value or an error.

use std::env;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use vfio_dmabuf::{Access, AccessError, Buffer, Device, Mapping, Status};

/// edu's id register.
const ID: u32 = 0x0100_00ed;

/// The counts of the threads.
#[derive(Default)]
struct Seen {
    values: AtomicU64,
    lost: AtomicU64,
    off: AtomicBool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: heal ADDRESS")?.parse()?;
    let device = Device::open(address)?;
    let slice = device.export(0).range(0, 4096).create()?;
    let registers = slice.map(Access::Read)?;
    let seen = Seen::default();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let readers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| read(&registers, &slice, &seen))).collect();
        let result = trouble(&device, &slice, &registers, &seen);
        // After an error, too, the readers must end.
        device.revoke(&slice)?;
        result?;
        for reader in readers {
            reader.join().map_err(|_| "a reader saw what was not there")?;
        }
        Ok(())
    })?;
    println!(
        "{address}: {} values, {} accesses lost, every mapping healed until it was revoked",
        seen.values.into_inner(),
        seen.lost.into_inner(),
    );
    Ok(())
}

/// Reads until the buffer is gone for good.
fn read(registers: &Mapping, slice: &Buffer, seen: &Seen) {
    loop {
        match registers.read::<u32>(0) {
            Ok(ID) => seen.values.fetch_add(1, Ordering::Relaxed),
            Err(AccessError::Lost { .. }) => {
                if slice.is_gone().expect("mmap answers ENODEV or works") {
                    return;
                }
                assert!(seen.off.load(Ordering::Relaxed), "lost while memory was enabled");
                seen.lost.fetch_add(1, Ordering::Relaxed)
            }
            other => panic!("{other:x?}"),
        };
    }
}

fn trouble(
    device: &Device,
    slice: &Buffer,
    registers: &Mapping,
    seen: &Seen,
) -> Result<(), Box<dyn Error>> {
    for _ in 0..5 {
        device.reset()?;
        assert_eq!(registers.read::<u32>(0)?, ID);
    }
    for _ in 0..5 {
        seen.off.store(true, Ordering::Relaxed);
        set_memory(device, false)?;
        assert_eq!(device.info(slice)?.status, Status::Suspended);
        assert_eq!(registers.read::<u32>(0), Err(AccessError::Lost { offset: 0 }));
        assert!(!slice.is_gone()?);
        sleep(Duration::from_millis(20));
        set_memory(device, true)?;
        assert_eq!(device.info(slice)?.status, Status::Live);
        assert_eq!(registers.read::<u32>(0)?, ID);
    }
    if seen.lost.load(Ordering::Relaxed) == 0 {
        return Err("no thread noticed that memory was disabled".into());
    }
    Ok(())
}

/// Sets the memory bit of the command register in the config space that VFIO presents.
fn set_memory(device: &Device, on: bool) -> std::io::Result<()> {
    const COMMAND: u64 = (7 << 40) + 4;
    const MEMORY: u16 = 2;
    let file = File::from(device.as_fd().try_clone_to_owned()?);
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, COMMAND)?;
    let command = u16::from_le_bytes(bytes) & !MEMORY | if on { MEMORY } else { 0 };
    file.write_all_at(&command.to_le_bytes(), COMMAND)
}
