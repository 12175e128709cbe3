// SPDX-License-Identifier: GPL-2.0
//! Kernel memory that the holder of an fd can use: it is charged to the memory cgroup.

use guest::arch::REPORT_LOOKS_BAD;
use guest::cgroup::Cgroup;
use guest::kmsg::{self, Log};
use guest::link::Link;
use guest::meminfo::slabs;
use guest::uffd::Userfault;
use guest::user::{become_nobody, limit_fds};

use super::iommufd::export_for_iommufd;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "kernel memory that an fd takes is charged to its memory cgroup, and bounded": [
            each_buffer_is_charged_to_its_maker, each_range_is_charged_to_its_maker,
            ranges_that_are_being_read_are_charged, mappings_of_a_buffer_are_charged_to_their_owner,
            mappings_of_a_buffer_end_at_the_limit_of_mappings, exports_end_at_the_memory_limit,
            each_fd_for_iommufd_is_charged_as_a_file,
            fds_for_iommufd_end_at_the_limit_of_fds =>
                end_at_the_limit_of_fds(|device| export_for_iommufd(device, 0)),
            buffers_end_at_the_limit_of_fds =>
                end_at_the_limit_of_fds(|device| Buffer::export(device, 0, 0, PAGE)),
            buffers_in_flight_end_at_the_limit_of_fds,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "an importer that its memory cgroup makes wait holds nothing else up": [
            revoke_does_not_wait_for_the_memory_of_an_importer,
        ];
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

/// A number that the kernel gives about a cache of objects, `None` if it does not.
fn cache(name: &str, file: &str) -> Result<Option<u64>> {
    let Ok(text) = fs::read_to_string(format!("/sys/kernel/slab/{name}/{file}")) else {
        return Ok(None);
    };
    Ok(Some(text.trim().parse().with_context(|| format!("{file} of {name}"))?))
}

/// What the kernel allocates for a file without a name, and charges.
const FILE: [&str; 3] = ["filp", "dentry", "inode_cache"];

/// How much that is, bytes.
fn file() -> Result<u64> {
    /// Beside each object there is a pointer to its cgroup, which is charged, too.
    const POINTER: u64 = 8;
    let mut file = 0;
    for name in FILE {
        let size = cache(name, "slab_size")?;
        file += size.with_context(|| format!("no size of {name}"))? + POINTER;
    }
    Ok(file)
}

/// So many that it does not matter that the kernel charges 64 pages at a time on each CPU.
const MANY: u64 = 8000;

/// Makes [`MANY`] fds and calls `check` with the bytes of each that are charged and that it costs.
/// The charges must go with the fds.
fn charges(
    name: &str,
    export: impl Fn() -> Result<Buffer, Errno>,
    check: impl Fn(u64, u64) -> Result<()>,
) -> Result<()> {
    in_cgroup(name, |cgroup| {
        limit_fds(MANY + 100)?;
        let mut fds = Vec::with_capacity(MANY as usize);
        export()?;
        let (charged, slab) = (cgroup.charged()?, slabs()?);
        for _ in 0..MANY {
            fds.push(export()?);
        }
        let each = (cgroup.charged()? - charged) / MANY;
        check(each, (slabs()? - slab) / MANY)?;
        drop(fds);
        // Files are freed after a grace period.
        wait_for("the charges to go", || {
            Ok(cgroup.charged()?.saturating_sub(charged) / MANY < each / 4)
        })
    })
}

fn each_buffer_is_charged_to_its_maker() -> Result<()> {
    /// Less than the driver's own part of a buffer.
    const OURS: u64 = 128;
    let file = file()?;
    let device = open_edu()?;
    let export = || Buffer::export(&device, 0, 0, PAGE);
    charges("buffers", export, |each, slab| {
        println!("a buffer costs {slab} bytes, {each} are charged, {file} of these for the file");
        ensure!(each > file + OURS, "{each} bytes are charged, {file} of them for the file");
        // The rest is the core's `struct dma_buf`, unless the kernel keeps notes of objects, and
        // objects for a while, to find errors.
        let debugging = cache(FILE[0], "red_zone")? == Some(1);
        ensure!(debugging || each * 3 > slab * 2, "of {slab} bytes {each} are charged");
        Ok(())
    })
}

fn each_range_is_charged_to_its_maker() -> Result<()> {
    const COUNT: u64 = 16;
    let ranges = u64::from(uapi::VFIO_DMABUF_MAX_RANGES);
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
        let ranges = uapi::VFIO_DMABUF_MAX_RANGES;
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
    let (_device, buffer) = exported_edu()?;
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

fn mappings_of_a_buffer_end_at_the_limit_of_mappings() -> Result<()> {
    const LIMIT_OF_MAPPINGS: &str = "/proc/sys/vm/max_map_count";
    const COUNT: usize = 500;
    let (_device, buffer) = exported_edu()?;
    let before = fs::read_to_string(LIMIT_OF_MAPPINGS)?;
    fs::write(LIMIT_OF_MAPPINGS, COUNT.to_string())?;
    let worker = Worker::start(|| {
        become_nobody()?;
        let (mut mappings, end) = until_it_fails(COUNT, || buffer.map(0, PAGE))?;
        check::equal("the end of mapping", end, Errno::ENOMEM)?;
        check::value("the last one", mappings[mappings.len() - 1].load(ID_AT), ID)?;
        drop(mappings.pop());
        check::works("mmap after one munmap", buffer.map(0, PAGE)).map(drop)
    });
    let end = worker.and_then(|worker| worker.finish(LIMIT));
    fs::write(LIMIT_OF_MAPPINGS, before)?;
    end
}

/// The rest of it the core allocates, and does not charge.
fn each_fd_for_iommufd_is_charged_as_a_file() -> Result<()> {
    let file = file()?;
    let device = open_edu()?;
    charges(
        "iommufd",
        || export_for_iommufd(&device, 0),
        |each, slab| {
            println!(
                "an fd for iommufd costs {slab} bytes, {each} are charged, {file} for the file"
            );
            ensure!(each + 32 > file, "{each} bytes are charged, a file has {file}");
            Ok(())
        },
    )
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
    let reports = quiet.end()?;
    drop(device);
    let Err(why) = end else { bail!("exports went on past the limit") };
    ensure!(killed == 1, "{killed} were killed for memory; it ended with: {why:#}");
    ensure!(reports >= 1, "the kernel did not report that it killed");
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

/// Holds back the console. The report of the OOM killer has a call trace, which is no splat; all
/// other lines are logged again in the end, for the judge.
struct Quiet {
    /// Until it is said.
    log: Option<Log>,
    before: String,
}

const IGNORE_LEVEL: &str = "/sys/module/printk/parameters/ignore_loglevel";
const LEVELS: &str = "/proc/sys/kernel/printk";

impl Quiet {
    fn new() -> Result<Quiet> {
        let log = Log::new().context("/dev/kmsg")?;
        let before = fs::read_to_string(LEVELS)?;
        fs::write(IGNORE_LEVEL, "N")?;
        fs::write(LEVELS, "1")?;
        Ok(Quiet { log: Some(log), before })
    }

    /// How many reports of the OOM killer there were.
    fn end(mut self) -> Result<u32> {
        self.go_on()
    }

    fn go_on(&mut self) -> Result<u32> {
        let Some(mut log) = self.log.take() else { return Ok(0) };
        fs::write(LEVELS, &self.before)?;
        fs::write(IGNORE_LEVEL, "Y")?;
        let mut reports = 0;
        // What a report still has of lines that look like those of a splat, each of them once.
        let mut looks_bad: &[&str] = &[];
        for line in log.messages().context("the kernel's log")? {
            if line.contains(" invoked oom-killer: ") {
                (reports, looks_bad) = (reports + 1, REPORT_LOOKS_BAD);
            }
            match looks_bad {
                [first, rest @ ..] if line.starts_with(first) => looks_bad = rest,
                _ => kmsg::mark(&line),
            }
        }
        Ok(reports)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.go_on();
    }
}

fn end_at_the_limit_of_fds(export: impl Fn(&Device) -> Result<Buffer, Errno>) -> Result<()> {
    const COUNT: u64 = 64;
    let device = open_edu()?;
    let worker = Worker::start(|| {
        become_nobody()?;
        limit_fds(COUNT)?;
        let (mut buffers, end) = until_it_fails(COUNT as usize, || export(&device))?;
        check::equal("the end of exporting", end, Errno::EMFILE)?;
        drop(buffers.pop());
        check::works("export after one was closed", export(&device)).map(drop)
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
            match from.send(&(), Some(buffer.raw())) {
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

/// The kernel lets a process beyond `memory.high` sleep for up to two seconds in an allocation.
fn revoke_does_not_wait_for_the_memory_of_an_importer() -> Result<()> {
    rig::peers_reach_each_other()?;
    let rig = Rig::new()?;
    let scattered = check::works("export", scattered(8).make(&rig.device))?;
    let importer = rig.attached_to(&scattered, UNMAPS_AT_ONCE)?;
    let cgroup = Cgroup::new("importer")?;
    let pause = Pause::at(windows::CHARGED)?;
    let map = Call::start(|| {
        cgroup.enter().or(Err(Errno::EINVAL))?;
        pause.arm_here()?;
        importer.map().map(drop)
    })?;
    pause.wait()?;
    let revoke = || buffer::revoke(&rig.device, &rig.buffer);
    check::works("REVOKE of another buffer", meanwhile(&pause, "REVOKE", revoke)?.0)?;
    pause.end()?;
    check::works("map", map.finish()?)?;
    check::works("unmap", importer.unmap())
}
