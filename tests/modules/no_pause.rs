// SPDX-License-Identifier: GPL-2.0

//! In place of `pause.rs` on a kernel without kprobes, where tasks cannot be stopped.

use kernel::prelude::*;

/// Nothing.
pub(crate) struct Registration;

/// Registers nothing.
pub(crate) fn register() -> impl PinInit<Registration, Error> {
    Ok(Registration)
}
