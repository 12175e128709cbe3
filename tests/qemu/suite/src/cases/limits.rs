// SPDX-License-Identifier: GPL-2.0
//! What those who hold an fd can make the kernel allocate: it is charged to their memory cgroup.

use std::fs;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use guest::buffer::{Buffer, Export, Range};
use guest::cgroup::Cgroup;
use guest::device::Device;
use guest::link::Link;
use guest::pci::EDU;
use guest::uffd::Userfault;
use guest::user::{become_nobody, limit_fds};
use guest::worker::Worker;
use guest::{feature, mm, uapi, Errno, PAGE};

use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{export_edu, fds, open_edu};

cases! {
    Setup::Bound(&[EDU]) =>
        each_buffer_is_charged_to_its_maker,
        each_range_is_charged_to_its_maker,
        ranges_that_are_being_read_are_charged,
        mappings_of_a_buffer_are_charged_to_their_owner,
        exports_end_at_the_memory_limit,
        buffers_end_at_the_limit_of_fds,
        buffers_in_flight_end_at_the_limit_of_fds;
}

/// How long a process of these cases may take.
const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

/// Runs `work` in a process of its own, which is in a cgroup of its own.
fn in_cgroup(name: &str, work: impl FnOnce(&Cgroup) -> Result<()>) -> Result<()> {
    let cgroup = Cgroup::new(name)?;
    let worker = Worker::start(|| {
        cgroup.enter()?;
        work(&cgroup)
    })?;
    worker.finish(LIMIT)
}

/// An export of so many pages that do not follow each other, so that each is a range.
fn scattered(count: u64) -> Export {
    let ranges: Vec<Range> = (0..count).map(|i| Range(i % 2 * 2 * PAGE, PAGE)).collect();
    Export::new(0, &ranges)
}

/// Kernel memory of the machine that is in slabs, bytes.
fn slabs() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("Slab:")).context("meminfo")?;
    let kib: u64 = line.split_whitespace().nth(1).context("Slab")?.parse()?;
    Ok(kib << 10)
}

/// A number that the kernel gives about a cache of objects, `None` if it does not.
fn cache(name: &str, file: &str) -> Result<Option<u64>> {
    let Ok(text) = fs::read_to_string(format!("/sys/kernel/slab/{name}/{file}")) else {
        return Ok(None);
    };
    Ok(Some(text.trim().parse().with_context(|| format!("{file} of {name}"))?))
}

fn each_buffer_is_charged_to_its_maker() -> Result<()> {
    // So many that it does not matter that the kernel charges 64 pages at a time on each CPU.
    const COUNT: u64 = 8000;
    /// What the kernel allocates for a file without a name, and charges.
    const FILE: [&str; 3] = ["filp", "dentry", "inode_cache"];
    /// Beside each object there is a pointer to its cgroup, which is charged, too.
    const POINTER: u64 = 8;
    /// Less than the driver's own part of a buffer.
    const OURS: u64 = 128;
    let mut file = 0;
    for name in FILE {
        let size = cache(name, "slab_size")?;
        file += size.with_context(|| format!("no size of {name}"))? + POINTER;
    }
    let device = open_edu()?;
    in_cgroup("buffers", |cgroup| {
        limit_fds(COUNT + 100)?;
        let mut buffers = Vec::with_capacity(COUNT as usize);
        export_edu(&device)?;
        let (charged, slab) = (cgroup.charged()?, slabs()?);
        for _ in 0..COUNT {
            buffers.push(export_edu(&device)?);
        }
        let each = (cgroup.charged()? - charged) / COUNT;
        let slab = (slabs()? - slab) / COUNT;
        println!("a buffer costs {slab} bytes, {each} are charged, {file} of these for the file");
        ensure!(each > file + OURS, "{each} bytes are charged, {file} of them for the file");
        // The rest is the core's `struct dma_buf`, unless the kernel keeps notes of objects, and
        // objects for a while, to find errors.
        let debugging = cache(FILE[0], "red_zone")? == Some(1);
        ensure!(debugging || each * 3 > slab * 2, "of {slab} bytes {each} are charged");
        drop(buffers);
        let left = cgroup.charged()?.saturating_sub(charged) / COUNT;
        ensure!(left < each / 4, "{left} bytes of each are still charged");
        Ok(())
    })
}

fn each_range_is_charged_to_its_maker() -> Result<()> {
    const COUNT: u64 = 16;
    let ranges = u64::from(uapi::VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES);
    let device = open_edu()?;
    in_cgroup("ranges", |cgroup| {
        let export = scattered(ranges);
        let mut call = export.call();
        let mut buffers = vec![Buffer::by_call(&device, &mut call)?];
        let charged = cgroup.charged()?;
        for _ in 0..COUNT {
            buffers.push(Buffer::by_call(&device, &mut call)?);
        }
        let each = (cgroup.charged()? - charged) / COUNT;
        println!("a buffer of {ranges} ranges: {each} bytes are charged");
        ensure!((ranges * 15..ranges * 20).contains(&each), "{each} bytes are charged");
        Ok(())
    })
}

/// A process makes reading its memory take as long as it likes.
fn ranges_that_are_being_read_are_charged() -> Result<()> {
    const COUNT: u64 = 12;
    let device = open_edu()?;
    in_cgroup("reading", |cgroup| {
        let memory = Userfault::new(2)?;
        memory.fill(0)?;
        let ranges = uapi::VFIO_DEVICE_FEATURE_DMA_BUF_MAX_RANGES;
        let head = [u32::MAX, feature::GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF, 0, 2, 0, ranges];
        for (at, word) in (0..).zip(head) {
            memory.area().store(at * 4, word)?;
        }
        let charged = cgroup.charged()?;
        thread::scope(|scope| -> Result<()> {
            for _ in 0..COUNT {
                scope.spawn(|| {
                    let arg = memory.area().address();
                    let result = device.ioctl(uapi::VFIO_DEVICE_FEATURE, arg);
                    // Ranges of length zero, or past the area.
                    assert!(matches!(result, Err(Errno::EINVAL | Errno::EFAULT)), "{result:?}");
                });
            }
            let mut waiting = 0;
            while waiting < COUNT && memory.is_touched()? {
                waiting += 1;
            }
            let now = cgroup.charged()?;
            memory.fill(PAGE)?;
            check::equal("exports that wait for their ranges", waiting, COUNT)?;
            let more = now.saturating_sub(charged);
            println!("{COUNT} exports that read: {more} bytes are charged");
            ensure!(more >= COUNT * MIB, "{more} bytes are charged for {COUNT} MiB");
            Ok(())
        })
    })
}

fn mappings_of_a_buffer_are_charged_to_their_owner() -> Result<()> {
    const COUNT: u64 = 512;
    let device = open_edu()?;
    let buffer = export_edu(&device)?;
    in_cgroup("mappings", |cgroup| {
        become_nobody()?;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let apart = 2 * MIB;
        let room = mm::map(-1, (COUNT + 1) * apart, libc::PROT_NONE, anonymous, 0)?;
        let mut mappings = Vec::new();
        for _ in 0..COUNT {
            mappings.push(buffer.map(0, PAGE)?);
        }
        let charged = cgroup.charged()?;
        for (at, mapping) in (0..).zip(&mappings) {
            // A page table for each.
            let place = (room as u64 + at * apart) as usize;
            let moved = mm::move_to(mapping.address(), PAGE, place)?;
            guest::fault::load32(moved)?;
        }
        let each = (cgroup.charged()? - charged) / COUNT;
        println!("a mapping in a page table of its own: {each} bytes are charged");
        ensure!(each >= PAGE, "{each} bytes are charged");
        Ok(())
    })
}

fn exports_end_at_the_memory_limit() -> Result<()> {
    let device = open_edu()?;
    let cgroup = Cgroup::new("limited")?;
    cgroup.write("memory.max", &(24 * MIB).to_string())?;
    let quiet = Quiet::new()?;
    let worker = Worker::start(|| {
        cgroup.enter()?;
        export_until_it_fails(&device, &scattered(4096))
    })?;
    let end = worker.finish(LIMIT);
    let killed = cgroup.value("memory.events", "oom_kill")?;
    let said = quiet.end()?;
    drop(device);
    let Err(why) = end else { bail!("exports went on past the limit") };
    ensure!(killed == 1, "{killed} were killed for memory; it ended with: {why:#}\n{said}");
    ensure!(said.contains("Memory cgroup out of memory"), "the kernel said: {said}");
    for bad in ["BUG", "WARNING:", "KASAN", "Oops", "RIP: 0010:dmabuf"] {
        ensure!(!said.contains(bad), "the kernel said: {said}");
    }
    // Everything of it is gone, and others are as well off as before.
    let device = open_edu()?;
    check::works("export", Buffer::export(&device, 0, 0, PAGE)).map(drop)
}

/// Fails with what came if that is an errno; far past any limit it is no failure.
fn export_until_it_fails(device: &Device, export: &Export) -> Result<()> {
    let mut call = export.call();
    let mut buffers = Vec::new();
    for _ in 0..900 {
        buffers.push(Buffer::by_call(device, &mut call)?);
    }
    Ok(())
}

/// The console says nothing of what the kernel logs. What the OOM killer reports has a call trace,
/// which is no splat; so here the case itself looks at the log.
struct Quiet {
    log: fs::File,
    before: String,
}

const IGNORE_LEVEL: &str = "/sys/module/printk/parameters/ignore_loglevel";
const LEVELS: &str = "/proc/sys/kernel/printk";

impl Quiet {
    fn new() -> Result<Quiet> {
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        let before = fs::read_to_string(LEVELS)?;
        fs::write(IGNORE_LEVEL, "N")?;
        fs::write(LEVELS, "1")?;
        Ok(Quiet { log, before })
    }

    /// What the kernel has logged meanwhile.
    fn end(mut self) -> Result<String> {
        let mut said = String::new();
        let mut record = [0; 8192];
        loop {
            match self.log.read(&mut record) {
                Ok(length) => said += &String::from_utf8_lossy(&record[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(said),
                Err(error) => return Err(error).context("the kernel's log"),
            }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = fs::write(LEVELS, &self.before);
        let _ = fs::write(IGNORE_LEVEL, "Y");
    }
}

fn buffers_end_at_the_limit_of_fds() -> Result<()> {
    const COUNT: u64 = 64;
    let device = open_edu()?;
    let worker = Worker::start(|| {
        become_nobody()?;
        limit_fds(COUNT)?;
        let mut buffers = Vec::new();
        let end = loop {
            match Buffer::export(&device, 0, 0, PAGE) {
                Ok(buffer) => buffers.push(buffer),
                Err(errno) => break errno,
            }
            ensure!(buffers.len() as u64 <= COUNT, "more buffers than fds");
        };
        check::equal("the end of exporting", end, Errno::EMFILE)?;
        drop(buffers.pop());
        check::works("export after one was closed", Buffer::export(&device, 0, 0, PAGE)).map(drop)
    })?;
    worker.finish(LIMIT)
}

/// Sent over a socket and not received, a buffer has no fd in any process.
fn buffers_in_flight_end_at_the_limit_of_fds() -> Result<()> {
    const COUNT: u64 = 32;
    let device = open_edu()?;
    let worker = Worker::start(|| {
        let mut links = Vec::new();
        for _ in 0..COUNT {
            links.push(Link::pair()?);
        }
        become_nobody()?;
        let before = fds()?;
        limit_fds(before as u64 + 4)?;
        let mut sent = 0;
        let end = loop {
            let buffer = check::works("export", Buffer::export(&device, 0, 0, PAGE))?;
            let (from, _to) = &links[sent as usize % links.len()];
            match from.send([0; 6], Some(buffer.raw())) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            ensure!(sent < 4 * before as u64, "{sent} buffers are in flight");
        };
        let errno = end.downcast_ref::<Errno>().copied();
        check::equal(&format!("the end of sending {sent}"), errno, Some(Errno::ETOOMANYREFS))?;
        check::equal("open fds", fds()?, before)
    })?;
    worker.finish(LIMIT)
}
