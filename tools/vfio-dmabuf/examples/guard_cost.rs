// SPDX-License-Identifier: GPL-2.0
//! Measures the cost of the guard on this machine, on ordinary memory: `guard_cost`.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vfio_dmabuf::{Access, Mapping};

fn main() -> Result<(), Box<dyn Error>> {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, 4096)?;
    let mapping = Mapping::of_file(&file, 0, 4096, Access::ReadWrite)?;
    let pointer = mapping.as_ptr().cast::<u32>();
    let mut all = vec![0_u32; 1024];
    measure("guarded read", 10_000_000, || mapping.read::<u32>(8).map(drop).is_ok());
    measure("guarded write", 10_000_000, || mapping.write(8, 1_u32).is_ok());
    measure("guarded read of 1024 words", 20_000, || mapping.read_slice(0, &mut all).is_ok());
    measure("a plain address, for comparison", 10_000_000, || !black_box(pointer).is_null());
    ftruncate(&file, 0)?;
    measure("lost read", 500_000, || mapping.read::<u32>(8).is_err());
    Ok(())
}

fn measure(what: &str, rounds: u32, mut one: impl FnMut() -> bool) {
    let start = Instant::now();
    for _ in 0..rounds {
        assert!(black_box(one()));
    }
    println!("{what}: {:.1} ns", start.elapsed().as_nanos() as f64 / f64::from(rounds));
}
