// SPDX-License-Identifier: GPL-2.0
//! A short run of the program `soak`, of which `make soak` makes long ones.

use std::process::Command;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU, EDU, EDU, BOCHS, IVSHMEM, IGB]) =>
        "random operations of several processes agree with the model": [
            random_operations_of_the_soak_agree_with_the_model,
        ];
}

fn random_operations_of_the_soak_agree_with_the_model() -> Result<()> {
    agrees(Command::new("soak").args(["--operations", "10000"]))
}
