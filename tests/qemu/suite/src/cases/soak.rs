// SPDX-License-Identifier: GPL-2.0
//! A short run of the program `soak`, of which `make soak` makes long ones.

use std::env;
use std::process::Command;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU, EDU, EDU, BOCHS, IVSHMEM, IGB]) =>
        "random operations of several processes agree with the model": [
            random_operations_of_the_soak_agree_with_the_model,
        ];
}

fn random_operations_of_the_soak_agree_with_the_model() -> Result<()> {
    let program = env::current_exe()?.with_file_name("soak");
    let status = Command::new(&program)
        .args(["--operations", "10000", "--seed", "1"])
        .status()
        .with_context(|| program.display().to_string())?;
    ensure!(status.success(), "soak: {status}");
    Ok(())
}
