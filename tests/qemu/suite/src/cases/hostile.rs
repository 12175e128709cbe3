// SPDX-License-Identifier: GPL-2.0
//! Hostile user space: calls that the fuzzer cannot hit by chance, or could not judge.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::feature::{GET, SET};
use guest::uffd::Userfault;
use guest::user::become_nobody;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "hostile processes harm nobody": [
            bar_mapping_is_dead_when_somebody_else_opens_the_device,
            remap_file_pages_of_a_mapping_of_a_buffer_stays_in_the_buffer,
            holder_of_a_buffer_can_map_it_and_no_more,
            calls_that_wait_for_their_memory_hold_nothing_up,
            calls_that_wait_for_their_memory_can_be_killed,
        ];
    Setup::Bound(&[BOCHS]) =>
        "hostile processes harm nobody": [arguments_may_lie_in_the_devices_own_memory];
    Setup::Bound(&[EDU, EDU, BOCHS, IGB, TESTDEV]) =>
        "hostile processes harm nobody": [hostile_calls_answer_as_they_may_and_leave_others_alone];
}

/// The fuzzer, briefly; `make fuzz` runs it for as long as one likes.
fn hostile_calls_answer_as_they_may_and_leave_others_alone() -> Result<()> {
    agrees(Command::new("fuzz").args(["--rounds", "4"]))
}

/// It calls mmap() of the file that is under the mapping, past the device fd. What that made would
/// not keep the device open, and be there when somebody else opens it.
fn bar_mapping_is_dead_when_somebody_else_opens_the_device() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar_part(0, 0, 2 * PAGE)?;
    check::value("id register", bar.load(ID_AT), ID)?;
    let remapped = mm::remap_file_pages(bar.address(), PAGE, 0);
    bar.unmap_part(PAGE, PAGE)?;
    device.close();
    if remapped.is_err() {
        bar.unmap_part(0, PAGE)?;
    }
    let mut next = None;
    wait_for("the device can be opened again", || {
        next = Device::open(&edu()?, Via::Group).ok();
        Ok(next.is_some())
    })?;
    check::segv("load through the old mapping", bar.load(ID_AT))?;
    check::errno("remap_file_pages", remapped, Errno::EINVAL)
}

fn remap_file_pages_of_a_mapping_of_a_buffer_stays_in_the_buffer() -> Result<()> {
    let (_device, buffer, mapping) = mapped_edu()?;
    check::works("to page 0", mm::remap_file_pages(mapping.address(), PAGE, 0))?;
    check::value("id register", mapping.load(ID_AT), ID)?;
    for page in [1, 2, 1 << 28, (1 << 52) - 1] {
        let got = mm::remap_file_pages(mapping.address(), PAGE, page);
        check::errno(&format!("to page {page:#x}"), got, Errno::EINVAL)?;
        let again = buffer.map(0, PAGE)?;
        check::value("id register of another mapping", again.load(ID_AT), ID)?;
    }
    Ok(())
}

fn holder_of_a_buffer_can_map_it_and_no_more() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let read_only = export_read_only(&device)?;
    let mut nodes = vec![format!("/dev/vfio/{}", edu()?.group()?)];
    if Via::all().contains(&Via::Cdev) {
        nodes.push(format!("/dev/vfio/devices/{}", edu()?.vfio_name()?));
    }
    let worker = Worker::start(|| {
        become_nobody()?;
        // Its copies of what the parent has.
        let held = device.holders.iter().map(AsRawFd::as_raw_fd);
        for fd in held.chain([device.raw()]) {
            check::equal("close", raw::close(fd), Ok(()))?;
        }
        for fd in [&buffer, &read_only] {
            let mapping = Mapping::new(fd, PAGE, mm::RO, 0)?;
            check::value("load", mapping.load(ID_AT), ID)?;
            for request in [uapi::VFIO_DEVICE_FEATURE, uapi::VFIO_DMABUF_IOCTL_REVOKE] {
                let words = [16u32, SET | 0xff0d, fd.raw() as u32, 0];
                let got = raw::ioctl(fd.raw(), request, words.as_ptr() as u64);
                check::equal(&format!("ioctl {request:#x} of a buffer"), got, Err(libc::ENOTTY))?;
            }
            // Not even with more rights than it was given.
            let again = format!("/proc/self/fd/{}", fd.raw());
            let got = File::options().read(true).write(true).open(&again).err();
            let errno = got.and_then(|error| error.raw_os_error());
            check::equal("open of its own fd", errno, Some(libc::EACCES))?;
        }
        let writable = read_only.map(0, PAGE);
        check::errno("mmap for writing of the read-only one", writable, Errno::EACCES)?;
        for path in &nodes {
            let got = File::options().read(true).open(path).err();
            let errno = got.and_then(|error| error.raw_os_error());
            check::equal(&format!("open of {path}"), errno, Some(libc::EACCES))?;
        }
        Ok(())
    })?;
    worker.finish(Duration::from_secs(30))
}

/// Calls whose argument is the page of `memory` at 0, with what it takes to make each.
fn waiting_calls(device: i32, memory: u64) -> [(&'static str, i64, [u64; 6]); 4] {
    let fd = device as u64;
    let config = u64::from(uapi::VFIO_PCI_CONFIG_REGION_INDEX) << 40;
    let feature = uapi::VFIO_DEVICE_FEATURE.into();
    let revoke = uapi::VFIO_DMABUF_IOCTL_REVOKE.into();
    [
        ("a feature", libc::SYS_ioctl, [fd, feature, memory, 0, 0, 0]),
        ("REVOKE", libc::SYS_ioctl, [fd, revoke, memory, 0, 0, 0]),
        // The command register: importers are kept away meanwhile.
        ("a config write", libc::SYS_pwrite64, [fd, memory, 2, config + 4, 0, 0]),
        ("a read of a register", libc::SYS_pread64, [fd, memory, 4, 0, 0, 0]),
    ]
}

fn calls_that_wait_for_their_memory_hold_nothing_up() -> Result<()> {
    let device = open_edu()?;
    let memory = Userfault::new(1)?;
    for (what, number, args) in waiting_calls(device.raw(), memory.area().address() as u64) {
        memory.empty(0)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                let _ = raw::call(number, args);
                over.store(true, Ordering::SeqCst);
            });
            let others = || -> Result<()> {
                ensure!(memory.is_touched()?, "{what} does not read its memory");
                let (buffer, mapping) = map_edu(&device)?;
                let bar = device.map_bar(0)?;
                check::value(&format!("load during {what}"), mapping.load(ID_AT), ID)?;
                soon("memory off", || device.set_memory(false).map_err(|_| Errno::EIO))?;
                check::bus_error("load with memory off", bar.load(ID_AT))?;
                soon("memory on", || device.set_memory(true).map_err(|_| Errno::EIO))?;
                soon("VFIO_DEVICE_RESET", || device.reset())?;
                check::value("load after it", bar.load(ID_AT), ID)?;
                soon("REVOKE", || buffer::revoke(&device, &buffer))?;
                check::bus_error("load after REVOKE", mapping.load(ID_AT))?;
                ensure!(!over.load(Ordering::SeqCst), "{what} did not wait");
                Ok(())
            };
            let done = others().with_context(|| format!("during {what}"));
            memory.fill(0)?;
            done
        })?;
        device.set_memory(true)?;
    }
    Ok(())
}

fn calls_that_wait_for_their_memory_can_be_killed() -> Result<()> {
    let device = open_edu()?;
    for at in 0..4 {
        let (link, theirs) = guest::link::Link::pair()?;
        let worker = Worker::start(|| {
            let memory = Userfault::new(1)?;
            let (_, number, args) = waiting_calls(device.raw(), memory.area().address() as u64)[at];
            thread::scope(|scope| -> Result<()> {
                scope.spawn(|| raw::call(number, args));
                ensure!(memory.is_touched()?, "call {at} does not read its memory");
                theirs.send(&(), None)?;
                // The page is never provided.
                thread::sleep(Duration::from_secs(1000));
                Ok(())
            })
        })?;
        link.set_limit(Duration::from_secs(20))?;
        link.receive::<()>()?;
        let pid = worker.pid();
        soon("the death of the process", || {
            drop(worker);
            Ok(())
        })?;
        let proc = format!("/proc/{pid}");
        ensure!(!std::path::Path::new(&proc).exists(), "process {pid} is still there");
        soon("REVOKE", || buffer::revoke(&device, &export_edu(&device).map_err(|_| Errno::EIO)?))?;
    }
    Ok(())
}

/// The page fault on a mapping comes in the middle of the call: whatever lock the call held then,
/// the fault would want, too.
fn arguments_may_lie_in_the_devices_own_memory() -> Result<()> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, PAGE)?;
    let fd = buffer.raw() as u32;
    let calls = [
        [32, GET | uapi::VFIO_DMABUF_INFO, fd],
        [16, GET | uapi::VFIO_DMABUF_MEMATTR, fd],
        [16, SET | uapi::VFIO_DMABUF_MEMATTR, fd],
        [12, SET | uapi::VFIO_DMABUF_REVOKE, fd],
    ];
    let call = |argument: &Mapping| {
        let address = argument.address() as u64;
        raw::ioctl(device.raw(), uapi::VFIO_DEVICE_FEATURE, address)
    };
    for words in calls {
        for through_bar in [true, false] {
            let fresh = || match through_bar {
                true => device.map_bar_part(0, 0, PAGE),
                false => buffer.map(0, PAGE),
            };
            let writer = fresh()?;
            for (at, word) in (0..).zip(words.into_iter().chain([0; 5])) {
                writer.store(at * 4, word)?;
            }
            device.set_memory(false)?;
            let off = call(&fresh()?);
            device.set_memory(true)?;
            check::equal(&format!("{words:x?} with memory off"), off, Err(libc::EFAULT))?;
            let revokes = words[1] & 0xffff == uapi::VFIO_DMABUF_REVOKE;
            if !(revokes && through_bar) {
                check::equal(&format!("{words:x?}"), call(&fresh()?), Ok(0))?;
            }
        }
    }
    let info = buffer::info(&device, buffer.raw())?;
    check::equal("status", info.status, uapi::VFIO_DMABUF_STATUS_REVOKED)
}
