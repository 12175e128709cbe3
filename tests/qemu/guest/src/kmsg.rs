// SPDX-License-Identifier: GPL-2.0
//! The kernel log: marks in it, which say from which case a splat came, and what the
//! kernel has said since.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Writes one line to the kernel log; a guest without /dev/kmsg does without.
pub fn mark(line: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// What the kernel says from now on.
pub struct Log(File);

impl Log {
    /// Begins now.
    pub fn new() -> io::Result<Log> {
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Log(file))
    }

    /// The messages since the last call, without time and level.
    pub fn messages(&mut self) -> io::Result<Vec<String>> {
        let mut messages = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let (_, message) = text.split_once(';').unwrap_or(("", &text));
                    messages.push(message.lines().next().unwrap_or_default().to_string());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(messages),
                Err(error) => return Err(error),
            }
        }
    }
}
