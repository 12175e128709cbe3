// SPDX-License-Identifier: GPL-2.0
//! A client for slices of memory: fills its slice with its process id and checks that no other
//! process writes there, until SIGTERM arrives or the slice is revoked.
//!
//! It checks before each beat; the second word of the slice counts the checks.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use vfio_dmabuf::{Access, AccessError, Buffer, Mapping};

use crate::client::Client;

/// The word with the number of checks; all others have the process id.
const COUNTER: usize = 1;

/// Exit status of a client whose slice was revoked.
const REVOKED: u8 = 4;

/// Holds a slice; `command` runs with the connection as its standard input.
pub fn run(
    socket: &Path,
    beat: Duration,
    command: Option<&str>,
) -> Result<ExitCode, Box<dyn Error>> {
    let over = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, over.clone())?;

    let client = Client::connect(socket)?;
    if let Some(command) = command {
        let connection = client.as_fd().try_clone_to_owned()?;
        let words = command.split_whitespace().collect::<Vec<_>>();
        Command::new(words[0]).args(&words[1..]).stdin(connection).spawn()?;
    }
    let (slice, label) = client.slice()?;
    let (mapping, mut words) = occupy(&slice)?;
    println!("slice {}", label.number);
    while !over.load(Ordering::Relaxed) {
        match look(&mapping, &mut words) {
            Ok(()) => {}
            // Memory is disabled for now.
            Err(Look::Lost) if !slice.is_gone()? => {}
            Err(Look::Lost) => {
                println!("lost");
                return Ok(ExitCode::from(REVOKED));
            }
            Err(Look::Foreign(at)) => return Err(format!("word {at} was overwritten").into()),
        }
        // If the broker has ended, the next check notices.
        let _ = client.beat();
        sleep(beat);
    }
    Ok(ExitCode::SUCCESS)
}

/// Maps a slice, checks that it can be mapped no further and is empty, and fills it.
fn occupy(slice: &Buffer) -> Result<(Mapping, Vec<u64>), Box<dyn Error>> {
    let size = slice.size()?;
    for (offset, length) in [(0, size + 4096), (size, 4096)] {
        if slice.map_part(offset, length, Access::Read).is_ok() {
            return Err("it can be mapped past its end".into());
        }
    }
    let mapping = slice.map(Access::ReadWrite)?;
    let mut words = vec![0_u64; size as usize / 8];
    mapping.read_slice(0, &mut words)?;
    if words.iter().any(|&word| word != 0) {
        return Err("it has data of its previous client".into());
    }
    words.fill(u64::from(std::process::id()));
    words[COUNTER] = 0;
    mapping.write_slice(0, &words)?;
    Ok((mapping, words))
}

enum Look {
    Lost,
    Foreign(usize),
}

/// Checks that the slice is unchanged, and counts the check.
fn look(mapping: &Mapping, words: &mut [u64]) -> Result<(), Look> {
    let mut found = vec![0; words.len()];
    let lost = |error: AccessError| match error {
        AccessError::Lost { .. } => Look::Lost,
        error => unreachable!("{error}"),
    };
    mapping.read_slice(0, &mut found).map_err(lost)?;
    if let Some(at) = (0..words.len()).find(|&at| found[at] != words[at]) {
        return Err(Look::Foreign(at));
    }
    mapping.write(COUNTER as u64 * 8, words[COUNTER] + 1).map_err(lost)?;
    words[COUNTER] += 1;
    Ok(())
}
