// SPDX-License-Identifier: GPL-2.0
//! What is left of a device that was unbound while a client kept a buffer of it: nothing that VFIO
//! acts upon. The devices are two functions of one slot, which VFIO resets together.

use guest::windows::{Window, BUS_RESET, DEVICE_RELEASED, MEMORY_RELEASED};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "unbound device: VFIO does not act upon it, whatever clients keep": [
            device_gets_its_name_back_although_a_client_keeps_a_buffer,
            buffer_outlives_the_last_device,
        ];
    Setup::Bound(&[EDU, EDU, BOCHS]) =>
        "release when fd and mappings are gone; unloading the module": [
            references_to_a_device_and_its_memory_are_given_back,
        ];
    Setup::Bound(&[EDU, EDU, EDU, EDU]) =>
        "unbound device: VFIO does not act upon it, whatever clients keep": [
            close_of_a_sibling_leaves_a_device_alone_that_the_host_has_back,
            hot_reset_works_after_a_sibling_was_bound_anew,
            hot_reset_works_after_a_sibling_was_pulled,
            hot_reset_info_tells_the_id_of_a_sibling_that_was_bound_anew,
        ];
}

/// What a client keeps of a buffer.
#[derive(Clone, Copy, Debug)]
enum How {
    Fd,
    Mapping,
    Path,
    Importer,
}

const ALL: [How; 4] = [How::Fd, How::Mapping, How::Path, How::Importer];

/// A buffer, or what keeps it.
#[expect(dead_code, reason = "kept until it is dropped")]
enum Kept {
    Fd(Buffer),
    Mapping(Mapping),
    Path(File),
    Importer(Importer),
}

impl How {
    /// Keeps a new buffer of the device.
    fn keep(self, device: &Device) -> Result<Kept> {
        let buffer = export_edu(device)?;
        Ok(match self {
            How::Fd => Kept::Fd(buffer),
            How::Mapping => {
                let mapping = buffer.map(0, PAGE)?;
                check::value("before", mapping.load(ID_AT), ID)?;
                Kept::Mapping(mapping)
            }
            How::Path => Kept::Path(o_path(&buffer)?),
            How::Importer => Kept::Importer(rig::attach(&buffer, &importing()?, UNMAPS_AT_ONCE)?),
        })
    }

    /// Keeps a buffer of a device that is closed and unbound after that.
    fn keep_over_unbind(self, pci: &Pci, via: Via) -> Result<Kept> {
        let device = Device::open(pci, via)?;
        let kept = self.keep(&device)?;
        drop(device);
        pci.unbind()?;
        Ok(kept)
    }
}

/// Calls `check` with each way to keep a buffer and each way of opening.
fn for_each_way(check: impl Fn(How, Via) -> Result<()>) -> Result<()> {
    for how in ALL {
        for &via in Via::all() {
            check(how, via).with_context(|| format!("{how:?} kept, {via:?}"))?;
        }
    }
    Ok(())
}

/// Opens both functions, the second one through what holds the first.
fn open_both(pair: &[Pci; 2], via: Via) -> Result<[Device; 2]> {
    let first = Device::open(&pair[0], via)?;
    let second = first.open_sibling(&pair[1], via)?;
    Ok([first, second])
}

fn device_gets_its_name_back_although_a_client_keeps_a_buffer() -> Result<()> {
    let pci = edu()?;
    let name = pci.vfio_name()?;
    for_each_way(|how, via| {
        let _kept = how.keep_over_unbind(&pci, via)?;
        pci.bind(&driver())?;
        check::equal("name", pci.vfio_name()?, name.clone())
    })
}

/// VFIO unmounts its file system with the last device; the mappings of buffers are linked there.
fn buffer_outlives_the_last_device() -> Result<()> {
    let pci = edu()?;
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        let (buffer, mapping) = map_edu(&device)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        drop(device);
        pci.unbind()?;
        check::bus_error("after unbind", mapping.load(ID_AT))?;
        pci.bind(&driver())?;
        check::bus_error("after bind", mapping.load(ID_AT))?;
        drop(buffer);
        check::works("munmap of a part", mapping.unmap_part(0, PAGE))?;
        let device = Device::open(&pci, via)?;
        check::value("a new buffer", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)?;
    }
    Ok(())
}

/// Does what takes references: exports that work and that fail, mappings, an importer, a revoke.
fn use_once(device: &Device) -> Result<()> {
    check::errno("export of nothing", Buffer::export(device, 0, 0, 0), Errno::EINVAL)?;
    let buffer = export_edu(device)?;
    for mapping in [buffer.map(0, PAGE)?, device.map_bar(0)?] {
        check::value("mapping", mapping.load(ID_AT), ID)?;
    }
    let importer = Importer::new()?;
    check::works("attach", importer.attach(&buffer, &importing()?, UNMAPS_AT_ONCE))?;
    check::works("reset", device.reset())?;
    check::works("REVOKE", buffer::revoke(device, &buffer))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)
}

/// Runs `last`, in which the last reference to something has to go: its thread comes to `window`.
pub(super) fn comes_to(window: Window, last: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let pause = Pause::at(window)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pause.arm_here()?;
            last()
        });
        pause.wait()?;
        pause.release()?;
        thread.join().map_err(|_| anyhow!("panic"))?
    })
}

/// One leaked buffer would keep the memory, one leaked reference of an export the device. Another
/// device stays bound, so that the file system of VFIO stays mounted.
fn references_to_a_device_and_its_memory_are_given_back() -> Result<()> {
    let pci = edu()?;
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        use_once(&device)?;
        drop(device);
        comes_to(DEVICE_RELEASED, || pci.unbind()).context("the device, nothing kept")?;
        pci.bind(&driver())?;

        let device = Device::open(&pci, via)?;
        use_once(&device)?;
        drop(device);
        comes_to(MEMORY_RELEASED, || pci.unbind()).context("the memory, nothing kept")?;
        pci.bind(&driver())?;

        for how in ALL {
            let device = Device::open(&pci, via)?;
            let kept = how.keep(&device)?;
            use_once(&device)?;
            drop(device);
            let early = Pause::of_any(MEMORY_RELEASED)?;
            comes_to(DEVICE_RELEASED, || pci.unbind()).with_context(|| format!("{how:?}"))?;
            early.is_ahead()?;
            drop(early);
            let last = || {
                drop(kept);
                Ok(())
            };
            comes_to(MEMORY_RELEASED, last).with_context(|| format!("{how:?} was kept"))?;
            pci.bind(&driver())?;
        }
    }
    Ok(())
}

fn close_of_a_sibling_leaves_a_device_alone_that_the_host_has_back() -> Result<()> {
    let [pci, sibling] = siblings()?;
    for_each_way(|how, via| {
        let kept = how.keep_over_unbind(&pci, via)?;
        let reset = Pause::of_any(BUS_RESET)?;
        drop(Device::open(&sibling, via)?);
        let group = format!("/dev/vfio/{}", sibling.group()?);
        wait_for("the sibling to be closed", || Ok(File::open(&group).is_ok()))?;
        reset.is_ahead()?;
        drop((kept, reset));
        pci.bind(&driver())
    })
}

/// Checks that the pair can be reset together.
fn hot_reset_works(pair: &[Pci; 2]) -> Result<()> {
    for &via in Via::all() {
        let [first, _second] = open_both(pair, via)?;
        check::works("HOT_RESET", first.hot_reset(&groups(&first, via)))?;
    }
    Ok(())
}

fn hot_reset_works_after_a_sibling_was_bound_anew() -> Result<()> {
    let pair = siblings()?;
    for_each_way(|how, via| {
        let _kept = how.keep_over_unbind(&pair[0], via)?;
        pair[0].bind(&driver())?;
        hot_reset_works(&pair)
    })
}

fn hot_reset_works_after_a_sibling_was_pulled() -> Result<()> {
    let pair = siblings()?;
    for how in ALL {
        let device = Device::open(&pair[1], Via::Group)?;
        let kept = how.keep(&device)?;
        drop(device);
        check::works("remove", pair[1].remove())?;
        check::works("rescan", Pci::rescan())?;
        pair[1].bind(&driver())?;
        hot_reset_works(&pair).with_context(|| format!("{how:?} kept"))?;
        drop(kept);
    }
    Ok(())
}

fn hot_reset_info_tells_the_id_of_a_sibling_that_was_bound_anew() -> Result<()> {
    if Via::newest() != Via::Cdev {
        return Err(crate::case::Skip("the kernel has no VFIO cdevs".into()).into());
    }
    let pair = siblings()?;
    for how in ALL {
        let kept = how.keep_over_unbind(&pair[0], Via::Cdev)?;
        pair[0].bind(&driver())?;
        let [first, second] = open_both(&pair, Via::Cdev)?;
        let ids = second.hot_reset_ids()?;
        ensure!(ids.len() == 2 && ids.iter().all(|&id| id > 0), "{how:?} kept: ids {ids:?}");
        drop((first, kept));
    }
    Ok(())
}
