// SPDX-License-Identifier: GPL-2.0
//! Allocations and copies of user memory that fail in calls on buffers: the first that a call
//! makes, the second, and so on until the call works. Each failure has a clear errno and leaves
//! nothing behind, and the same call works right after it.

use guest::device::Region;
use guest::failnth::{Injector, Whose};
use guest::feature::Call;
use guest::maps;

use crate::failing::{each_failure, exhaust, injector, Left, ALL, MEMORY};
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            export_survives_every_failure =>
                survives("export", Export::new(0, &[Range(0, PAGE)]).call()),
            export_for_iommufd_survives_every_failure, buffer_mmap_survives_every_failure,
            fault_survives_every_failure, features_survive_every_failure,
        ];
    Setup::Bound(&[BOCHS]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            export_of_many_ranges_survives_every_failure, huge_fault_survives_every_failure,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            export_that_failed_gives_its_place_back,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "every failed allocation or user copy: clear errno, no leak, the next call works": [
            bar_mmap_survives_every_failure,
        ];
}

/// A buffer that has nothing to do with what fails.
struct Bystander {
    buffer: Buffer,
    mapping: Mapping,
}

impl Bystander {
    fn new(device: &Device) -> Result<Bystander> {
        let (buffer, mapping) = map_edu(device)?;
        Ok(Bystander { buffer, mapping })
    }

    fn is_well(&self, device: &Device) -> Result<()> {
        let info = buffer::info(device, self.buffer.raw())?;
        let got = (info.status, info.memattr, info.nr_ranges, info.size);
        check::equal("INFO", got, (uapi::VFIO_DMABUF_STATUS_LIVE, 0, 1, PAGE))?;
        check::value("load", self.mapping.load(ID_AT), ID)
    }
}

fn export_for_iommufd_survives_every_failure() -> Result<()> {
    let mut export = Export::new(0, &[Range(0, PAGE)]).call();
    export.flags = feature::GET | uapi::VFIO_DMABUF_IOMMUFD;
    survives("export for iommufd", export)
}

/// Makes all of an export fail, one after the other.
fn survives(what: &str, export: Call) -> Result<()> {
    let device = open_edu()?;
    let bystander = Bystander::new(&device)?;
    let mut export = export.prepared();
    exhaust(
        what,
        &injector(ALL, Whose::All)?,
        &[Errno::ENOMEM, Errno::EFAULT],
        || Buffer::by_prepared(&device, &mut export),
        |_| bystander.is_well(&device),
    )
    .map(drop)
}

/// With room for one more only, a place in the offset space that was lost is missed at once.
fn export_that_failed_gives_its_place_back() -> Result<()> {
    let device = Device::open(&nth(TESTDEV, 0)?, Via::Group)?;
    let size = device.region(2)?.size;
    // A quarter of what one BAR has of that space.
    let ranges = vec![Range(0, size); ((1 << 38) / size) as usize];
    let mut export = Export::new(2, &ranges).call().prepared();
    let (mut buffers, end) = until_it_fails(24, || Buffer::by_prepared(&device, &mut export))?;
    check::equal("the end of exporting", end, Errno::ENOSPC)?;
    ensure!(buffers.pop().is_some(), "there is no room at all");
    exhaust(
        "export where there is room for one",
        &injector(MEMORY, Whose::All)?,
        &[Errno::ENOMEM],
        || Buffer::by_prepared(&device, &mut export),
        |_| Ok(()),
    )
    .map(drop)
}

fn export_of_many_ranges_survives_every_failure() -> Result<()> {
    let device = open_bochs()?;
    let mut export = Export::new(0, &backwards(4096)).call().prepared();
    exhaust(
        "export of 4096 ranges",
        &injector(ALL, Whose::All)?,
        &[Errno::ENOMEM, Errno::EFAULT],
        || Buffer::by_prepared(&device, &mut export),
        |_| Ok(()),
    )
    .map(drop)
}

/// Checks that a mapping that was made is a good one: not one that the driver has no part in.
fn is_of_a_buffer(result: &Result<Mapping, Errno>) -> Result<()> {
    if let Ok(mapping) = result {
        let line = maps::line_at(std::process::id() as i32, mapping.address())?;
        ensure!(line.name.starts_with("/dmabuf:vfio"), "{line}");
        mapping.load(0)?;
    }
    Ok(())
}

fn bar_mmap_survives_every_failure() -> Result<()> {
    let device = open_edu()?;
    let bystander = Bystander::new(&device)?;
    let injector = injector(MEMORY, Whose::All)?;
    let Region { size, offset, .. } = device.region(0)?;
    let map = || Mapping::new(&device, size, mm::RW, offset);
    // The first of an open device makes the buffer of the BAR.
    let first = each_failure("first BAR mmap", &[Errno::ENOMEM], |n| {
        let other = open_bochs()?;
        let Region { size, offset, .. } = other.region(0)?;
        let map = || Mapping::new(&other, size, mm::RW, offset);
        let (result, injected) = injector.run(n, map)?;
        is_of_a_buffer(&result)?;
        is_of_a_buffer(&Ok(check::works("the next mmap", map())?))?;
        Ok((result.map(drop), injected))
    })?;
    let later = exhaust("BAR mmap", &injector, &[Errno::ENOMEM], map, |result| {
        is_of_a_buffer(result)?;
        bystander.is_well(&device)
    })?;
    ensure!(
        first.injected() > later.injected(),
        "the first mmap allocates no more than a later one"
    );
    check::value("load", device.map_bar(0)?.load(ID_AT), ID)
}

fn buffer_mmap_survives_every_failure() -> Result<()> {
    let device = open_edu()?;
    let bystander = Bystander::new(&device)?;
    let injector = injector(MEMORY, Whose::All)?;
    let map = || bystander.buffer.map(0, PAGE);
    let after = |result: &_| {
        is_of_a_buffer(result)?;
        bystander.is_well(&device)
    };
    exhaust("dma-buf mmap", &injector, &[Errno::ENOMEM], map, after).map(drop)
}

fn fault_survives_every_failure() -> Result<()> {
    let device = open_edu()?;
    let bystander = Bystander::new(&device)?;
    let bar = device.region(0)?;
    let injector = injector(MEMORY, Whose::All)?;
    // Where no other mapping is near: with page tables of its own.
    let fresh = || mm::map_alone(device.raw(), PAGE, mm::RW, bar.offset);
    faults("fault", &injector, PAGE, fresh, || bystander.is_well(&device))
}

fn huge_fault_survives_every_failure() -> Result<()> {
    const SIZE: u64 = BLOCK;
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let injector = injector(MEMORY, Whose::All)?;
    let fresh = || mm::map_alone(buffer.raw(), SIZE, mm::RW, 0);
    faults("fault of 2 MiB", &injector, SIZE, fresh, || Ok(()))
}

/// Loads by the kernel, which end with an errno where user space would have to try again: that is
/// what the kernel makes of a fault that finds no memory. All are from mappings that `fresh` makes.
fn faults(
    what: &str,
    injector: &Injector,
    size: u64,
    fresh: impl Fn() -> Result<usize, Errno>,
    check: impl Fn() -> Result<()>,
) -> Result<()> {
    each_failure(what, &[Errno::EFAULT], |n| {
        let mapping = Mapping::from_raw(check::works("mmap", fresh())?, size);
        let before = Left::now()?;
        let made = injector.run(n, || mm::load_by_kernel(mapping.address()))?;
        check::equal("left behind", Left::now()?, before)?;
        check()?;
        check::works("the next load", mm::load_by_kernel(mapping.address()))?;
        Ok(made)
    })
    .map(drop)
}

fn features_survive_every_failure() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let injector = injector(ALL, Whose::All)?;
    let get = || buffer::memattr(&device, buffer.raw());
    let set = |memattr| buffer::set_memattr(&device, buffer.raw(), memattr);
    let is_well = |_: &Result<u32, Errno>| check::equal("attribute", get(), Ok(0));
    exhaust("MEMATTR GET", &injector, &[Errno::EFAULT], get, is_well)?;
    let info = || buffer::info(&device, buffer.raw()).map(|info| info.status);
    exhaust("INFO", &injector, &[Errno::EFAULT], info, is_well)?;
    let now = std::cell::Cell::new(0);
    let set_other = || {
        set(1 - now.get())?;
        now.set(1 - now.get());
        Ok(())
    };
    let is_that = |_: &Result<(), Errno>| check::equal("attribute", get(), Ok(now.get()));
    exhaust("MEMATTR SET", &injector, &[Errno::EFAULT], set_other, is_that).map(drop)
}
