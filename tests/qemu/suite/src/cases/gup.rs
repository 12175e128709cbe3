// SPDX-License-Identifier: GPL-2.0
//! Calls that need the struct pages of a mapping fail: there are none.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::sys::uio::{process_vm_readv, process_vm_writev, RemoteIoVec};
use nix::unistd::Pid;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "mappings: get_user_pages fails": [
            process_vm_readv_of_a_mapping_fails => vm_fails(&small(&open_edu()?)?, ID),
            vmsplice_of_a_mapping_fails => vmsplice_fails(&small(&open_edu()?)?, ID),
            direct_io_of_a_mapping_fails => direct_io_fails(&small(&open_edu()?)?, ID),
            proc_mem_of_a_mapping_fails,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "mappings: split, mprotect, mremap, fork and holes work; growing fails": [
            mlock_and_madvise_leave_a_mapping_alone, numa_calls_leave_a_clients_mapping_alone,
        ];
    Setup::Bound(&[BOCHS]) =>
        "mappings: get_user_pages fails": [
            process_vm_readv_of_a_huge_mapping_fails => vm_fails(&huge(&open_bochs()?)?, 77),
            vmsplice_of_a_huge_mapping_fails => vmsplice_fails(&huge(&open_bochs()?)?, 77),
            direct_io_of_a_huge_mapping_fails => direct_io_fails(&huge(&open_bochs()?)?, 77),
        ];
}

/// A mapping of each kind, touched: through the device fd and through a buffer.
fn small(device: &Device) -> Result<[Mapping; 2]> {
    let mappings = [device.map_bar_part(0, 0, PAGE)?, export_edu(device)?.map(0, PAGE)?];
    for mapping in &mappings {
        check::value("id register", mapping.load(ID_AT), ID)?;
    }
    Ok(mappings)
}

/// The same, of 2 MiB pages.
fn huge(device: &Device) -> Result<[Mapping; 2]> {
    const SIZE: u64 = 4 << 20;
    let buffer = Buffer::export(device, 0, 0, SIZE)?;
    let mappings = [Mapping::aligned(device, SIZE, 0)?, Mapping::aligned(&buffer, SIZE, 0)?];
    for mapping in &mappings {
        mapping.store(0, 77)?;
    }
    Ok(mappings)
}

fn vm_fails(mappings: &[Mapping; 2], want: u32) -> Result<()> {
    let child = Peer::fork()?;
    let pid = Pid::from_raw(child.pid());
    for mapping in mappings {
        let base = mapping.address();
        let mut bytes = [0; 64];
        let remote = [RemoteIoVec { base, len: bytes.len() }];
        let got = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &remote);
        check::errno("process_vm_readv", got, Errno::EFAULT)?;
        let got = process_vm_writev(pid, &[IoSlice::new(&bytes)], &remote);
        check::errno("process_vm_writev", got, Errno::EFAULT)?;
        check::value("the mapping after it", mapping.load(0), want)?;
        check::value("the mapping in the child", child.load(base)?, want)?;
    }
    Ok(())
}

fn vmsplice_fails(mappings: &[Mapping; 2], want: u32) -> Result<()> {
    let (_reader, writer) = nix::unistd::pipe()?;
    for mapping in mappings {
        let got = mm::vmsplice(writer.as_raw_fd(), mapping.address(), PAGE);
        check::errno("vmsplice", got, Errno::EFAULT)?;
        check::value("the mapping after it", mapping.load(0), want)?;
    }
    // The other side: ordinary memory goes through.
    let memory = Mapping::anonymous(PAGE)?;
    memory.store(0, 1)?;
    let got = mm::vmsplice(writer.as_raw_fd(), memory.address(), PAGE);
    check::equal("vmsplice of memory", got, Ok(PAGE as usize))
}

/// O_DIRECT, on a ramdisk.
fn direct_io_fails(mappings: &[Mapping; 2], want: u32) -> Result<()> {
    let disk = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open("/dev/ram0")
        .context("/dev/ram0")?;
    for mapping in mappings {
        let got = mm::read_at(disk.as_raw_fd(), mapping.address(), PAGE, 0);
        check::errno("read into the mapping", got, Errno::EFAULT)?;
        let got = mm::write_at(disk.as_raw_fd(), mapping.address(), PAGE, 0);
        check::errno("write from the mapping", got, Errno::EFAULT)?;
        check::value("the mapping after it", mapping.load(0), want)?;
    }
    // The other side: ordinary memory goes through.
    let memory = Mapping::anonymous(PAGE)?;
    memory.store(0, 0x0d_15c0)?;
    let got = mm::write_at(disk.as_raw_fd(), memory.address(), PAGE, 0);
    check::equal("write from memory", got, Ok(PAGE as usize))?;
    memory.store(0, 0)?;
    let got = mm::read_at(disk.as_raw_fd(), memory.address(), PAGE, 0);
    check::equal("read into memory", got, Ok(PAGE as usize))?;
    check::value("what was written", memory.load(0), 0x0d_15c0)
}

fn proc_mem_of_a_mapping_fails() -> Result<()> {
    let mappings = small(&open_edu()?)?;
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    for mapping in &mappings {
        let mut bytes = [0; 4];
        let got = memory.read_at(&mut bytes, mapping.address() as u64);
        let got = got.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        check::errno("read of /proc/self/mem", got, Errno::EIO)?;
        check::value("the mapping after it", mapping.load(ID_AT), ID)?;
    }
    Ok(())
}

/// Advice that the kernel takes for some mappings; none of it may reach the memory behind these.
const ADVICE: [(&str, i32); 12] = [
    ("MADV_DONTNEED", libc::MADV_DONTNEED),
    ("MADV_FREE", libc::MADV_FREE),
    ("MADV_COLD", libc::MADV_COLD),
    ("MADV_PAGEOUT", libc::MADV_PAGEOUT),
    ("MADV_POPULATE_READ", libc::MADV_POPULATE_READ),
    ("MADV_POPULATE_WRITE", libc::MADV_POPULATE_WRITE),
    ("MADV_REMOVE", libc::MADV_REMOVE),
    ("MADV_MERGEABLE", libc::MADV_MERGEABLE),
    ("MADV_COLLAPSE", 25),
    ("MADV_NOHUGEPAGE", libc::MADV_NOHUGEPAGE),
    ("MADV_HUGEPAGE", libc::MADV_HUGEPAGE),
    ("MADV_DONTNEED_LOCKED", 24),
];

fn mlock_and_madvise_leave_a_mapping_alone() -> Result<()> {
    let (edu, bochs) = (open_edu()?, open_bochs()?);
    let mappings = small(&edu)?.into_iter().chain(huge(&bochs)?);
    for mapping in mappings {
        let before = mapping.load(0).context("before")?;
        // Some of these fail, and must then do nothing.
        let _ = mm::lock(mapping.address(), mapping.size());
        check::value("the mapping after mlock", mapping.load(0), before)?;
        for (name, advice) in ADVICE {
            for len in [PAGE, mapping.size()] {
                let _ = mm::advise(mapping.address(), len, advice);
                check::value(&format!("the mapping after {name}"), mapping.load(0), before)?;
            }
        }
        // Makes all pages of the process look as if nobody had accessed them.
        fs::write("/proc/self/clear_refs", "1")?;
        check::value("the mapping after clear_refs", mapping.load(0), before)?;
    }
    Ok(())
}

/// Calls that look for the nodes of pages walk the page tables, of some mappings that others skip.
fn numa_calls_leave_a_clients_mapping_alone() -> Result<()> {
    const SIZE: u64 = 4 << 20;
    const MPOL_BIND: u64 = 2;
    const MPOL_MF_MOVE_ALL: u64 = 4;
    let bochs = open_bochs()?;
    for flags in [0, uapi::VFIO_DMABUF_TYPE1] {
        let mut export = Export::new(0, &[Range(0, SIZE)]);
        export.flags = flags;
        let buffer = export.make(&bochs)?;
        let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
        let before = mapping.load(0).context("before")?;
        let (at, nodes) = (mapping.address() as u64, [1u64]);
        let (pages, to, status) = ([at], [0u32], Mapping::anonymous(PAGE)?);
        let [nodes, pages, to] = [nodes.as_ptr() as u64, pages.as_ptr() as u64, to.as_ptr() as u64];
        for how in 0..=MPOL_MF_MOVE_ALL {
            let bound = raw::call(libc::SYS_mbind, [at, SIZE, MPOL_BIND, nodes, 64, how]);
            if bound == Err(libc::ENOSYS) {
                return Err(Skip("the kernel has no CONFIG_NUMA".into()).into());
            }
            check::value(&format!("after mbind, {how}"), mapping.load(0), before)?;
        }
        for to in [0, to] {
            let status = status.address() as u64;
            let _ = raw::call(libc::SYS_move_pages, [0, 1, pages, to, status, MPOL_MF_MOVE_ALL]);
            check::value("after move_pages", mapping.load(0), before)?;
        }
        let _ = raw::call(libc::SYS_migrate_pages, [0, 64, nodes, nodes, 0, 0]);
        check::value("after migrate_pages", mapping.load(0), before)?;
        for file in ["numa_maps", "smaps", "smaps_rollup"] {
            fs::read(format!("/proc/self/{file}"))?;
        }
    }
    Ok(())
}
