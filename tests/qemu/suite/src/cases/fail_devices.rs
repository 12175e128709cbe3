// SPDX-License-Identifier: GPL-2.0
//! Allocations that fail where devices come and go: binding and opening, importers, and what takes
//! memory away, which may not need any.

use guest::failnth::Whose;
use guest::fence::Fence;
use guest::testmod::uapi::USAGE_BOOKKEEP;
use guest::uapi::{VFIO_DMABUF_STATUS_CLOSED, VFIO_DMABUF_STATUS_LIVE};
use guest::waiting::is_in_driver;
use guest::windows::Window;

use crate::cases::observe::objects;
use crate::cases::unbound::comes_to;
use crate::failing::{each_failure, exhaust, injector, ALL, COPIES, MEMORY};
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            opening_that_the_core_gave_up_leaves_nothing, binding_survives_every_failure,
        ],
        "what must not fail allocates nothing": [last_close_allocates_nothing];
    Setup::Bound(&[EDU, BOCHS]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            exports_that_failed_keep_no_memory,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            attach_survives_every_failure, import_survives_every_failure,
        ],
        "REVOKE invalidates importers, and waits for them and for fences": [
            revoke_waits_for_fences_without_memory_for_their_list,
        ],
        "what must not fail allocates nothing": [
            revoke_allocates_nothing, revoke_that_cannot_read_its_argument_does_nothing,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            import_of_many_ranges_survives_every_failure,
        ];
}

/// The errno at the root of an error.
fn errno<T>(result: Result<T>) -> Result<T, Errno> {
    result.map_err(|error| {
        let root = error.root_cause();
        let io = root.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        let errno = root.downcast_ref::<Errno>().copied();
        errno.or(io.map(Errno::from_raw)).unwrap_or(Errno::UnknownErrno)
    })
}

/// Opening is the core's work, of which a part is enough here.
fn opening_that_the_core_gave_up_leaves_nothing() -> Result<()> {
    let pci = edu()?;
    let injector = injector(MEMORY, Whose::Function(windows::OPEN_CONFIG))?;
    exhaust(
        "open",
        &injector,
        &[Errno::ENOMEM],
        || errno(Device::open(&pci, Via::newest())),
        // Looks whether the device is open, which can be asked at any time.
        |_| objects(&pci).map(drop),
    )?;
    check::value("a load", open_edu()?.map_bar(0)?.load(ID_AT), ID)
}

fn binding_survives_every_failure() -> Result<()> {
    let pci = edu()?;
    // A kernel with CONFIG_NUMA binds a device in another task, on a CPU of the device's node, and
    // failures are those of this task.
    let node = pci.dir().join("numa_node");
    if node.exists() {
        fs::write(node, "-1")?;
    }
    binding_fails(&pci, "bind, the driver's part", windows::DEVICE_INIT)?;
    // Only its first step: if a later one fails, Linux 7.3 warns in `vfio_group_release()`.
    binding_fails(&pci, "bind, the core's part", windows::REGISTER)?;
    // Whatever is left of a binding has a reference to the PCI device.
    let released = Pause::of_any(windows::PCI_DEVICE_RELEASED)?;
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| pci.remove());
        released.wait()?;
        released.release()?;
        check::equal("remove", removal.join().ok(), Some(Ok(())))
    })?;
    check::works("rescan", Pci::rescan())
}

/// Binds a device with each failure in `function`, and without.
fn binding_fails(pci: &Pci, what: &str, function: Window) -> Result<()> {
    let injector = injector(MEMORY, Whose::Function(function))?;
    each_failure(what, &[Errno::ENOMEM], |n| {
        pci.unbind()?;
        let made = injector.run(n, || errno(pci.bind(&driver())))?;
        pci.bind(&driver())?;
        check::value("a load", export_edu(&open_edu()?)?.map(0, PAGE)?.load(ID_AT), ID)?;
        Ok(made)
    })
    .map(drop)
}

/// A buffer is made before its dma-buf, which then fails; a buffer that was left would keep the
/// memory. Another device stays bound, so that the file system of VFIO stays mounted.
fn exports_that_failed_keep_no_memory() -> Result<()> {
    let (pci, device) = (edu()?, open_edu()?);
    let mut export = Export::new(0, &[Range(0, PAGE)]).call().prepared();
    exhaust(
        "export of a device that goes",
        &injector(MEMORY, Whose::All)?,
        &[Errno::ENOMEM],
        || Buffer::by_prepared(&device, &mut export),
        |_| Ok(()),
    )?;
    drop(device);
    comes_to(windows::MEMORY_RELEASED, || pci.unbind())
}

/// Detaches when dropped.
struct Attached<'a>(&'a Importer);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let _ = self.0.detach();
    }
}

fn attach_survives_every_failure() -> Result<()> {
    let rig = Rig::new()?;
    let importer = Importer::new()?;
    let injector = injector(MEMORY, Whose::All)?;
    let attach = || {
        importer.attach(&rig.buffer, &rig.importing, UNMAPS_AT_ONCE)?;
        Ok(Attached(&importer))
    };
    let after = |result: &Result<_, _>| {
        check::equal("attached", importer.stats()?.attached, u32::from(result.is_ok()))?;
        rig.has_status("afterwards", VFIO_DMABUF_STATUS_LIVE)
    };
    exhaust("attach", &injector, &[Errno::ENOMEM], attach, after).map(drop)
}

fn imports(what: &str, device: &Device, buffer: &Buffer, importing: &Pci) -> Result<()> {
    rig::peers_reach_each_other()?;
    let importer = rig::attach(buffer, importing, UNMAPS_AT_ONCE)?;
    let injector = injector(MEMORY, Whose::All)?;
    let map = || importer.map().and_then(|_| importer.unmap());
    let after = |_: &Result<(), Errno>| {
        let stats = importer.stats()?;
        check::equal("attached, mapped", (stats.attached, stats.mapped), (1, 0))?;
        has_status(device, buffer, "afterwards", VFIO_DMABUF_STATUS_LIVE)
    };
    exhaust(what, &injector, &[Errno::ENOMEM], map, after)?;
    check::works("map", importer.map())?;
    check::works("REVOKE", buffer::revoke(device, buffer))?;
    invalidated("the importer", &importer, 1)
}

fn import_survives_every_failure() -> Result<()> {
    let rig = Rig::new()?;
    imports("map for a device", &rig.device, &rig.buffer, &rig.importing)
}

fn import_of_many_ranges_survives_every_failure() -> Result<()> {
    let device = open_bochs()?;
    let buffer = check::works("export", Export::new(0, &backwards(8)).make(&device))?;
    let importing = edu()?;
    importing.release()?;
    imports("map of 8 ranges for a device", &device, &buffer, &importing)
}

/// A revoke or a close that failed could not be reported to anybody.
fn revoke_allocates_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let can_map = guest::arch::host_bridge_is_trusted()?;
    let injector = injector(MEMORY, Whose::All)?;
    let tally = each_failure("REVOKE", &[], |n| {
        let (buffer, mapping) = map_edu(&rig.device)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        let importer = rig.attached_to(&buffer, UNMAPS_AT_ONCE)?;
        if can_map {
            check::works("map", importer.map())?;
        }
        let revoke = || buffer::revoke(&rig.device, &buffer);
        let made = injector.run(n, revoke)?;
        check::bus_error("a load", mapping.load(ID_AT))?;
        check::equal("importer's mapping", importer.stats()?.mapped, 0)?;
        check::errno("once more", revoke(), Errno::EBADFD)?;
        Ok(made)
    })?;
    check::equal("allocations that could fail", tally.injected(), 0)?;
    check::value("a buffer that stayed", rig.buffer.map(0, PAGE)?.load(ID_AT), ID)
}

fn revoke_waits_for_fences_without_memory_for_their_list() -> Result<()> {
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    let fence = Fence::new()?.ok_or_else(|| Skip("the kernel has no CONFIG_SW_SYNC".into()))?;
    check::works("dma_resv_add_fence", importer.add_fence(&fence, USAGE_BOOKKEEP))?;
    // Skips the case where the child, whose failures count, could not tell.
    drop(injector(MEMORY, Whose::All)?);
    let revoke = Call::start(|| {
        let injector = injector(MEMORY, Whose::Function(windows::FENCES)).or(Err(Errno::EIO))?;
        let made = injector.run(1, || buffer::revoke(&rig.device, &rig.buffer));
        let (result, injected) = made.or(Err(Errno::EIO))?;
        if !injected {
            return Err(Errno::ENODATA);
        }
        result
    })?;
    ends_with(&fence, revoke)?;
    rig.has_status("after REVOKE", uapi::VFIO_DMABUF_STATUS_REVOKED)?;
    rig.revoke_again()
}

/// Checks that a call waits in the driver until the fence is signalled.
fn ends_with(fence: &Fence, mut call: Call) -> Result<()> {
    wait_for("the call to wait", || {
        ensure!(!call.is_over()?, "it did not wait");
        Ok(is_in_driver(call.pid()))
    })?;
    call.hangs_for(WHILE)?;
    check::works("signal", fence.signal())?;
    check::works("the call", call.finish()?)
}

fn revoke_that_cannot_read_its_argument_does_nothing() -> Result<()> {
    unread("REVOKE, copies", buffer::revoke)?;
    unread("REVOKE by ioctl, copies", |device, buffer| {
        let size = size_of::<uapi::vfio_dmabuf_ioctl_revoke>() as u32;
        buffer::revoke_by_ioctl(device, buffer.raw(), size)
    })
}

fn unread(what: &str, revoke: impl Fn(&Device, &Buffer) -> Result<(), Errno>) -> Result<()> {
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    let mapping = rig.buffer.map(0, PAGE)?;
    let injector = injector(COPIES, Whose::All)?;
    let tally = each_failure(what, &[Errno::EFAULT], |n| {
        check::value("before", mapping.load(ID_AT), ID)?;
        rig.has_status("before", VFIO_DMABUF_STATUS_LIVE)?;
        injector.run(n, || revoke(&rig.device, &rig.buffer))
    })?;
    check::equal("absorbed", tally.absorbed, 0)?;
    check::bus_error("in the end", mapping.load(ID_AT))?;
    rig.refuses("in the end", &importer)
}

fn last_close_allocates_nothing() -> Result<()> {
    let injector = injector(ALL, Whose::Function(windows::LAST_CLOSE))?;
    let tally = each_failure("last close", &[], |n| {
        let (device, buffer, mapping) = touched_edu()?;
        drop(device.map_bar(0)?);
        let (holders, injected) = injector.run(n, || device.close())?;
        check::bus_error("a load", mapping.load(ID_AT))?;
        check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
        drop(holders);
        let again = open_edu()?;
        has_status(&again, &buffer, "of the old one", VFIO_DMABUF_STATUS_CLOSED)?;
        check::value("a new buffer", export_edu(&again)?.map(0, PAGE)?.load(ID_AT), ID)?;
        Ok((Ok(()), injected))
    })?;
    check::equal("allocations that could fail", tally.injected(), 0)
}
