// SPDX-License-Identifier: GPL-2.0
//! REVOKE: for good, in all processes, and of one buffer only.

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "REVOKE: for good, in all processes": [
            revoke_kills_a_mapping_in_the_same_process, revoke_kills_a_mapping_in_another_process,
            revoke_kills_a_mapping_in_a_forked_child, revoke_kills_a_mapping_in_a_stopped_process,
            revoke_kills_a_mapping_never_touched,
        ],
        "REVOKE: through any copy of the fd and any fd of the device, also by the ioctl": [
            revoke_through_a_dup_hits_the_buffer, revoke_through_an_fd_sent_back_hits_the_buffer,
            revoke_through_the_ioctl_is_the_same, revoke_by_another_open_fd_of_the_device_works,
            revoke_of_a_read_only_copy_works,
        ],
        "REVOKE: EBADFD if already revoked": [revoke_twice_is_ebadfd],
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            revoke_of_what_is_no_dma_buf_is_einval, revoke_of_a_bad_fd_is_ebadf,
            revoke_of_a_foreign_dma_buf_is_enodev,
        ],
        "mmap: ENODEV if the buffer is revoked or closed": [revoked_buffer_cannot_be_mapped],
        "REVOKE: leaves other mappings alone; the range can be exported anew": [
            revoked_range_can_be_exported_anew, revoke_leaves_bar_mappings_alone,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "REVOKE, MEMATTR, INFO: EBADF, EINVAL and ENODEV for fds that are no live buffer": [
            revoke_through_another_device_is_enodev,
        ];
    Setup::Bound(&[BOCHS]) =>
        "REVOKE: leaves other mappings alone; the range can be exported anew": [
            revoke_leaves_other_buffers_alone,
        ],
        "REVOKE: for good, in all processes": [
            revoke_kills_every_range_and_every_mapping, revoke_kills_pieces_and_moved_mappings,
            revoke_kills_huge_mappings,
        ];
}

fn revoke(device: &Device, buffer: &Buffer) -> Result<()> {
    check::works("REVOKE", buffer::revoke(device, buffer))
}

fn revoke_kills_a_mapping_in_the_same_process() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let (buffer, mapping) = map_edu(&device)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        mapping.store(INVERTER, 7)?;
        kills(&device, &buffer, &mapping)?;
        let got = device.map_bar(0)?.load(INVERTER);
        check::value("the store before, not the one after", got, !7)?;
    }
    Ok(())
}

fn revoke_kills_a_mapping_in_another_process() -> Result<()> {
    let clients = [Peer::fork()?, Peer::fork()?, Peer::fork()?];
    let (device, buffer) = exported_edu()?;
    let mut addresses = Vec::new();
    for client in &clients {
        addresses.push(map_in(client, &buffer)?);
    }
    for (client, &address) in clients.iter().zip(&addresses) {
        check::value("before", client.load(address)?, ID)?;
    }
    revoke(&device, &buffer)?;
    for (client, &address) in clients.iter().zip(&addresses) {
        check::bus_error("load", client.load(address)?)?;
        check::bus_error("store", client.store(address + INVERTER as usize, 2)?)?;
    }
    Ok(())
}

fn revoke_kills_a_mapping_in_a_forked_child() -> Result<()> {
    let (device, buffer, mapping) = mapped_edu()?;
    check::value("before the fork", mapping.load(ID_AT), ID)?;
    let child = Peer::fork()?;
    check::value("in the child", child.load(mapping.address())?, ID)?;
    revoke(&device, &buffer)?;
    check::bus_error("in the child after", child.load(mapping.address())?)?;
    check::bus_error("in the parent after", mapping.load(ID_AT))
}

fn revoke_kills_a_mapping_in_a_stopped_process() -> Result<()> {
    let (client, device, buffer, address) = edu_with_client()?;
    check::value("before", client.load(address)?, ID)?;
    client.stop()?;
    revoke(&device, &buffer)?;
    client.begin_load(address)?;
    client.resume()?;
    check::bus_error("the first load after SIGCONT", client.finish_load()?)
}

fn revoke_kills_a_mapping_never_touched() -> Result<()> {
    let (device, buffer, mapping) = mapped_edu()?;
    kills(&device, &buffer, &mapping)
}

/// Revokes a buffer and checks that a mapping of it is dead.
fn kills(device: &Device, buffer: &Buffer, mapping: &Mapping) -> Result<()> {
    revoke(device, buffer)?;
    check::bus_error("the first load", mapping.load(ID_AT))?;
    check::bus_error("the first store", mapping.store(INVERTER, 1))?;
    check::bus_error("load again", mapping.load(ID_AT))
}

fn revoke_through_a_dup_hits_the_buffer() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let copy = buffer.dup()?;
    let mapping = buffer.map(0, PAGE)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    drop(buffer);
    revoke(&device, &copy)?;
    check::bus_error("after", mapping.load(ID_AT))?;
    check::errno("mmap of the copy", copy.map(0, PAGE), Errno::ENODEV)
}

fn revoke_through_an_fd_sent_back_hits_the_buffer() -> Result<()> {
    // The child makes the buffer and keeps mapping it; the parent gets a copy of the fd only.
    let (ours, theirs) = guest::link::Link::pair()?;
    let (device, buffer, mapping) = mapped_edu()?;
    let child = Peer::fork()?;
    theirs.send(&(), Some(buffer.raw()))?;
    drop(buffer);
    let ((), fd) = ours.receive()?;
    let copy = Buffer::from(fd.expect("the fd was sent"));
    check::value("before", child.load(mapping.address())?, ID)?;
    revoke(&device, &copy)?;
    check::bus_error("after, in the child", child.load(mapping.address())?)?;
    check::bus_error("after, in the parent", mapping.load(ID_AT))
}

fn revoke_through_the_ioctl_is_the_same() -> Result<()> {
    let argsz = size_of::<uapi::vfio_dmabuf_ioctl_revoke>() as u32;
    let client = Peer::fork()?;
    let (device, buffer) = exported_edu()?;
    let fd = client.take(&buffer)?;
    let address = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("before", client.load(address)?, ID)?;
    check::works("the ioctl", buffer::revoke_by_ioctl(&device, buffer.raw(), argsz))?;
    check::bus_error("after", client.load(address)?)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    let ioctl = |fd| buffer::revoke_by_ioctl(&device, fd, argsz);
    check::errno("twice", ioctl(buffer.raw()), Errno::EBADFD)?;
    check::errno("the feature after it", buffer::revoke(&device, &buffer), Errno::EBADFD)?;
    check::errno("fd -1", ioctl(-1), Errno::EBADF)?;
    check::errno("the device fd", ioctl(device.raw()), Errno::EINVAL)
}

fn revoke_by_another_open_fd_of_the_device_works() -> Result<()> {
    let (device, buffer, mapping) = mapped_edu()?;
    let copy = device.dup()?;
    revoke(&copy, &buffer)?;
    check::bus_error("after", mapping.load(ID_AT))
}

fn revoke_twice_is_ebadfd() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    revoke(&device, &buffer)?;
    for _ in 0..3 {
        check::errno("again", buffer::revoke(&device, &buffer), Errno::EBADFD)?;
    }
    let copy = buffer.dup()?;
    check::errno("a copy", buffer::revoke(&device, &copy), Errno::EBADFD)
}

fn revoke_of_what_is_no_dma_buf_is_einval() -> Result<()> {
    let device = open_edu()?;
    let (reader, _writer) = nix::unistd::pipe()?;
    let directory = File::open("/")?;
    for (what, fd) in [
        ("a pipe", reader.as_raw_fd()),
        ("the device fd", device.raw()),
        ("the group's fd", device.holders[0].as_raw_fd()),
        ("a directory", directory.as_raw_fd()),
    ] {
        check::errno(what, buffer::revoke_fd(&device, fd), Errno::EINVAL)?;
    }
    Ok(())
}

fn revoke_of_a_bad_fd_is_ebadf() -> Result<()> {
    let device = open_edu()?;
    for fd in [-1, i32::MIN, i32::MAX, 1000, -100] {
        check::errno(&format!("fd {fd}"), buffer::revoke_fd(&device, fd), Errno::EBADF)?;
    }
    let raw = export_edu(&device)?.raw();
    check::errno("an fd that was closed", buffer::revoke_fd(&device, raw), Errno::EBADF)
}

fn revoke_of_a_foreign_dma_buf_is_enodev() -> Result<()> {
    let device = open_edu()?;
    let foreign = Buffer::from_system_heap(PAGE)?;
    let memory = foreign.map(0, PAGE)?;
    memory.store(0, 5)?;
    check::errno("a heap's", buffer::revoke(&device, &foreign), Errno::ENODEV)?;
    check::value("its memory", memory.load(0), 5)
}

fn revoke_through_another_device_is_enodev() -> Result<()> {
    let device = open_edu()?;
    let other = Device::open(&nth(EDU, 1)?, Via::newest())?;
    let (buffer, mapping) = map_edu(&device)?;
    check::errno("the other device", buffer::revoke(&other, &buffer), Errno::ENODEV)?;
    check::value("it had no effect", mapping.load(ID_AT), ID)?;
    revoke(&device, &buffer)?;
    check::bus_error("the right device", mapping.load(ID_AT))?;
    check::errno("the other after it", buffer::revoke(&other, &buffer), Errno::ENODEV)
}

fn revoked_buffer_cannot_be_mapped() -> Result<()> {
    let client = Peer::fork()?;
    let (device, buffer) = exported_edu()?;
    let fd = client.take(&buffer)?;
    revoke(&device, &buffer)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("mmap in another process", client.map(fd, PAGE, mm::RO, 0)?, Errno::ENODEV)
}

fn revoked_range_can_be_exported_anew() -> Result<()> {
    let device = open_edu()?;
    let (old, dead) = map_edu(&device)?;
    for value in 0..5 {
        let buffer = export_edu(&device)?;
        let mapping = check::works("mmap", buffer.map(0, PAGE))?;
        mapping.store(INVERTER, value)?;
        check::value("inverter", mapping.load(INVERTER), !value)?;
        if value == 0 {
            revoke(&device, &old)?;
            check::value("the new one when the old one goes", mapping.load(INVERTER), !value)?;
        }
        check::bus_error("the old one", dead.load(ID_AT))?;
        revoke(&device, &buffer)?;
        check::bus_error("the new one", mapping.load(ID_AT))?;
    }
    Ok(())
}

fn revoke_leaves_bar_mappings_alone() -> Result<()> {
    let device = open_edu()?;
    let before = device.map_bar(0)?;
    check::value("before", before.load(ID_AT), ID)?;
    let (buffer, mapping) = map_edu(&device)?;
    revoke(&device, &buffer)?;
    check::bus_error("the buffer", mapping.load(ID_AT))?;
    check::value("a BAR mapping from before", before.load(ID_AT), ID)?;
    check::value("a BAR mapping from after", device.map_bar(0)?.load(ID_AT), ID)
}

fn revoke_of_a_read_only_copy_works() -> Result<()> {
    let device = open_edu()?;
    let buffer = export_read_only(&device)?;
    let mapping = Mapping::new(&buffer, PAGE, mm::RO, 0)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    revoke(&device, &buffer)?;
    check::bus_error("after", mapping.load(ID_AT))
}

fn revoke_leaves_other_buffers_alone() -> Result<()> {
    let device = open_bochs()?;
    paint(&device.map_bar_part(0, 0, 8 * PAGE)?, 8)?;
    let buffers: Vec<Buffer> = (0..5)
        .map(|at| Buffer::export(&device, 0, at * PAGE, 4 * PAGE))
        .collect::<Result<_, _>>()?;
    let mappings: Vec<Mapping> =
        buffers.iter().map(|buffer| buffer.map(0, 4 * PAGE)).collect::<Result<_, _>>()?;
    for gone in [2_usize, 0, 4, 3, 1] {
        revoke(&device, &buffers[gone])?;
        check::bus_error(&format!("buffer {gone}"), mappings[gone].load(0))?;
        for (at, (buffer, mapping)) in (0..).zip(buffers.iter().zip(&mappings)) {
            if buffer.map(0, PAGE).is_err() {
                check::bus_error(&format!("buffer {at}, revoked"), mapping.load(3 * PAGE))?;
                continue;
            }
            for page in 0..4 {
                let what = format!("page {page} of buffer {at} without buffer {gone}");
                check::value(&what, mapping.load(page * PAGE), colour(at + page))?;
            }
        }
    }
    let live = buffers.iter().filter(|buffer| buffer.map(0, PAGE).is_ok()).count();
    check::equal("buffers alive at the end", live, 0)
}

fn revoke_kills_every_range_and_every_mapping() -> Result<()> {
    let device = open_bochs()?;
    let ranges: Vec<Range> = (0..64).map(|at| Range((at * 7 % 64) * PAGE, PAGE)).collect();
    let buffer = Export::new(0, &ranges).make(&device)?;
    let mut mappings = vec![buffer.map(0, 64 * PAGE)?, buffer.map(0, 64 * PAGE)?];
    for at in [0, 1, 31, 63] {
        mappings.push(buffer.map(at * PAGE, PAGE)?);
    }
    let pages = |mapping: &Mapping| mapping.size() / PAGE;
    for mapping in &mappings {
        (0..pages(mapping)).try_for_each(|page| mapping.load(page * PAGE).map(drop))?;
    }
    revoke(&device, &buffer)?;
    for (number, mapping) in mappings.iter().enumerate() {
        for page in 0..pages(mapping) {
            let what = format!("page {page} of mapping {number}");
            check::bus_error(&what, mapping.load(page * PAGE))?;
        }
    }
    Ok(())
}

fn revoke_kills_pieces_and_moved_mappings() -> Result<()> {
    let device = open_bochs()?;
    paint(&device.map_bar_part(0, 0, 16 * PAGE)?, 16)?;
    let buffer = Buffer::export(&device, 0, 4 * PAGE, 8 * PAGE)?;
    let cut = buffer.map(0, 8 * PAGE)?;
    cut.unmap_part(2 * PAGE, PAGE)?;
    cut.protect_part(5 * PAGE, PAGE, mm::RO)?;
    let moved = mm::map(buffer.raw(), 2 * PAGE, mm::RW, mm::SHARED, 3 * PAGE)?;
    let moved = Mapping::from_raw(mm::move_away(moved, 2 * PAGE)?, 2 * PAGE);
    let pages = [0, 1, 3, 4, 5, 6, 7];
    for page in pages {
        check::value(&format!("page {page}"), cut.load(page * PAGE), colour(4 + page))?;
    }
    check::value("the moved mapping", moved.load(PAGE), colour(8))?;
    revoke(&device, &buffer)?;
    for page in pages {
        check::bus_error(&format!("page {page}"), cut.load(page * PAGE))?;
    }
    check::segv("the hole", cut.load(2 * PAGE))?;
    check::bus_error("the moved mapping", moved.load(0))?;
    check::bus_error("the moved mapping", moved.load(PAGE))
}

fn revoke_kills_huge_mappings() -> Result<()> {
    const SIZE: u64 = 8 << 20;
    let device = open_bochs()?;
    let bar = Mapping::aligned(&device, SIZE, 0)?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
    for at in (0..SIZE).step_by(1 << 20) {
        mapping.store(at, at as u32)?;
    }
    revoke(&device, &buffer)?;
    for at in (0..SIZE).step_by(1 << 20) {
        check::bus_error(&format!("at {at:#x}"), mapping.load(at))?;
        check::bus_error(&format!("at {at:#x} and a page"), mapping.load(at + PAGE))?;
        check::value(&format!("at {at:#x} in the BAR"), bar.load(at), at as u32)?;
    }
    Ok(())
}
