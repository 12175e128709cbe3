// SPDX-License-Identifier: GPL-2.0
//! Marks in the kernel log, so that a splat there can be told from which case it came.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line to the kernel log; a guest without /dev/kmsg does without.
pub fn mark(line: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
