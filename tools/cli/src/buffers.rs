// SPDX-License-Identifier: GPL-2.0
//! The buffers of all processes: listing and revoking.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use serde::Serialize;
use vfio_dmabuf::{Device, Error, PciAddress};

use crate::holders::{Buffer, Fd, Holders};
use crate::output::{size, table, Failure, Output};

#[derive(Serialize)]
struct Listing {
    buffers: Vec<Buffer>,
    complete: bool,
}

/// Runs `buffers`.
///
/// # Errors
///
/// The result cannot be written.
pub fn buffers(
    output: Output,
    pid: Option<i32>,
    device: Option<PciAddress>,
) -> Result<(), Failure> {
    let holders = Holders::now();
    let listing = Listing {
        buffers: chosen(&holders, &[], pid, device).cloned().collect(),
        complete: holders.complete,
    };
    output.result(&listing, || text(&listing))
}

/// The buffers with these ids, or of the process and the device. Without a restriction, all
/// buffers.
fn chosen<'a>(
    holders: &'a Holders,
    ids: &'a [u64],
    pid: Option<i32>,
    device: Option<PciAddress>,
) -> impl Iterator<Item = &'a Buffer> {
    let has = move |buffer: &Buffer, pid: i32| {
        let fds = buffer.fds.iter().map(|fd| fd.pid);
        fds.chain(buffer.mappings.iter().map(|mapping| mapping.pid)).any(|one| one == pid)
    };
    holders.buffers.values().filter(move |buffer| {
        (ids.is_empty() || ids.contains(&buffer.id))
            && pid.is_none_or(|pid| has(buffer, pid))
            && device.is_none_or(|device| buffer.device() == Some(device))
    })
}

fn text(listing: &Listing) -> String {
    let mut rows = Vec::new();
    for buffer in &listing.buffers {
        let fds = buffer.fds.iter().map(|fd| format!("{} ({}) fd {}", fd.command, fd.pid, fd.fd));
        let mappings = buffer.mappings.iter().map(|mapping| {
            let (length, how) =
                (mapping.end - mapping.start, ["r", "rw"][mapping.writable as usize]);
            format!("{} ({}) {} {how}", mapping.command, mapping.pid, size(length))
        });
        rows.push(vec![
            buffer.id.to_string(),
            buffer.name.clone(),
            buffer.size.map_or("-".into(), size),
            buffer.said("memattr").as_str().unwrap_or("-").into(),
            buffer.said("status").as_str().unwrap_or("-").into(),
            fds.chain(mappings).collect::<Vec<_>>().join(", "),
        ]);
    }
    let mut text = match rows.is_empty() {
        true => "no visible process has a buffer\n".to_string(),
        false => table(&["ID", "NAME", "SIZE", "ATTR", "STATUS", "HELD BY"], &rows),
    };
    if !listing.complete {
        text += "the processes of other users could not be inspected\n";
    }
    text
}

#[derive(Serialize)]
struct Revoked {
    revoked: Vec<One>,
}

#[derive(Serialize)]
struct One {
    id: u64,
    name: String,
    now: bool,
}

/// Runs `revoke`.
///
/// # Errors
///
/// [`Failure::NotFound`]: no buffer matches, or no process has an fd of some of them; the others
/// are then revoked. Errors of the kernel: the buffers before the failed one are revoked.
pub fn revoke(
    output: Output,
    ids: &[u64],
    pid: Option<i32>,
    device: Option<PciAddress>,
) -> Result<(), Failure> {
    let holders = Holders::now();
    if let Some(id) = ids.iter().find(|id| !holders.buffers.contains_key(id)) {
        return Err(Failure::NotFound(format!("no visible process has buffer {id}")));
    }
    let mut revoked = Vec::new();
    let mut stuck = Vec::new();
    for buffer in chosen(&holders, ids, pid, device) {
        // BAR mappings of the device fd are listed, too, but cannot be revoked.
        if buffer.is_bar() && ids.is_empty() {
            continue;
        }
        match buffer.fds.first() {
            Some(holder) => {
                let now = revoke_one(&holders, buffer, holder)?;
                revoked.push(One { id: buffer.id, name: buffer.name.clone(), now });
            }
            None => stuck.push(why_stuck(&holders, buffer)),
        }
    }
    if revoked.is_empty() && stuck.is_empty() {
        return Err(Failure::NotFound("no visible process has such a buffer".into()));
    }
    let revoked = Revoked { revoked };
    if !revoked.revoked.is_empty() {
        output.result(&revoked, || {
            let line = |one: &One| {
                let how = if one.now { "revoked" } else { "already revoked" };
                format!("{} {}: {how}\n", one.id, one.name)
            };
            revoked.revoked.iter().map(line).collect()
        })?;
    }
    match stuck.is_empty() {
        true => Ok(()),
        false => Err(Failure::NotFound(stuck.join("; "))),
    }
}

/// The reason why a buffer without fds cannot be revoked, and what ends it.
fn why_stuck(holders: &Holders, buffer: &Buffer) -> String {
    let id = buffer.id;
    if buffer.is_bar() {
        return format!("buffer {id} belongs to BAR mappings of the device fd");
    }
    let users = buffer.device().into_iter().flat_map(|device| holders.users(device));
    let mut users: Vec<String> =
        users.map(|user| format!("{} ({})", user.command, user.pid)).collect();
    users.dedup();
    format!(
        "no process has an fd of buffer {id} any more; it lives until its device is closed, which \
         is open in: {}",
        if users.is_empty() { "no visible process".into() } else { users.join(", ") }
    )
}

fn revoke_one(holders: &Holders, buffer: &Buffer, holder: &Fd) -> Result<bool, Failure> {
    let slice = vfio_dmabuf::Buffer::from_fd(borrow(holder)?)?;
    // A buffer may have been renamed, so its name need not identify the device. Ask the kernel.
    for (_, owner) in &holders.devices {
        match Device::from_fd(borrow(owner)?)?.revoke(&slice) {
            Err(error) if error.errno() == Some(Errno::NODEV) => continue,
            result => return Ok(result?),
        }
    }
    Err(Failure::NotFound(format!(
        "no visible process has the device of buffer {} open",
        buffer.id
    )))
}

/// Duplicates an fd of another process.
fn borrow(fd: &Fd) -> Result<OwnedFd, Failure> {
    let os = |errno| Error::Os {
        tried: format!("pidfd_getfd of fd {} of process {}", fd.fd, fd.pid),
        errno,
        meaning: (errno == Errno::PERM).then_some("only root may do that"),
    };
    let pid = Pid::from_raw(fd.pid).ok_or(Errno::SRCH).map_err(os)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(os)?;
    Ok(pidfd_getfd(process, fd.fd, PidfdGetfdFlags::empty()).map_err(os)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_chosen_by_id_process_and_device() {
        let mut holders = Holders::default();
        for (id, name, pid) in [(1, "vfio0:0000:01:00.0/0", 7), (2, "vfio1:0000:02:00.0/0", 8)] {
            let fds = vec![Fd { pid, command: String::new(), fd: 3 }];
            let buffer = Buffer { id, name: name.into(), fds, ..Default::default() };
            holders.buffers.insert(id, buffer);
        }
        let first = "0000:01:00.0".parse().ok();
        let ids = |ids: &[u64], pid, device| -> Vec<u64> {
            chosen(&holders, ids, pid, device).map(|buffer| buffer.id).collect()
        };
        assert_eq!(ids(&[], None, None), [1, 2]);
        assert_eq!(ids(&[2], None, None), [2]);
        assert_eq!(ids(&[], Some(7), None), [1]);
        assert_eq!(ids(&[], None, first), [1]);
        assert_eq!(ids(&[], Some(8), first), [0; 0]);
    }
}
