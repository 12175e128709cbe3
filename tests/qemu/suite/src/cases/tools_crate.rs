// SPDX-License-Identifier: GPL-2.0
//! The crate `vfio-dmabuf`: its examples work on real (emulated) devices. What they say they saw is
//! compared with what this program sees by its own means.

use crate::prelude::*;
use crate::program;

cases! {
    Setup::Bound(&[EDU]) =>
        "the crate vfio-dmabuf: its examples work; loss of a slice is an error": [
            crate_client_survives_the_loss_of_its_slice, crate_mappings_heal_until_they_are_revoked,
            crate_makes_buffers_of_a_device_of_rust_vmm =>
                program::succeeds("existing_device", &[edu()?.address()]).map(drop),
        ];
    Setup::Bound(&[BOCHS]) =>
        "the crate vfio-dmabuf: its examples work; loss of a slice is an error": [
            crate_exports_ranges_with_attributes,
        ];
    Setup::Bound(&[BOCHS, EDU]) =>
        "the crate vfio-dmabuf: its examples work; loss of a slice is an error": [
            crate_exports_memory_for_iommufd,
        ];
}

fn crate_client_survives_the_loss_of_its_slice() -> Result<()> {
    let edu = edu()?;
    let said = program::succeeds("share", &[edu.address()])?;
    let lines = [
        format!("client: slice 7 of BAR 0 of {edu}"),
        format!("client: id {ID:#x}"),
        "client: no device memory at 0x0: the buffer was revoked or memory is disabled".into(),
        format!("owner: the client ended with exit status: 0; the id still is {ID:#x}"),
    ];
    for line in lines {
        ensure!(said.contains(&line), "{line:?} is not in\n{said}");
    }
    let bar = check::works("BAR0", open_edu()?.map_bar(0))?;
    check::value("id register, from here", bar.load(ID_AT), ID)
}

fn crate_mappings_heal_until_they_are_revoked() -> Result<()> {
    let said = program::succeeds("heal", &[edu()?.address()])?;
    let number = |word: &str| {
        let before = said.split(word).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|text| text.parse::<u64>().ok())
    };
    ensure!(number("values") > Some(100), "too few reads worked: {said}");
    ensure!(number("accesses lost") > Some(0), "no access was lost: {said}");
    Ok(())
}

fn crate_exports_ranges_with_attributes() -> Result<()> {
    let bochs = nth(BOCHS, 0)?;
    let said = program::succeeds("attributes", &[bochs.address()])?;
    for via in Via::all() {
        let line = format!("{bochs} via {via:?}: all as it should be");
        ensure!(said.contains(&line), "{line:?} is not in\n{said}");
    }
    ensure!(said.contains("a second open: open /dev/vfio/"), "{said}");
    // What the example wrote through its last range is where it should be.
    let device = open_bochs()?;
    let memory = check::works("BAR0", device.map_bar(0))?;
    check::value("BAR0 + 3 pages + 8", memory.load(3 * 4096 + 8), 0x0403_0201)?;
    let registers = check::works("BAR2", device.map_bar(2))?;
    check::value("size register", registers.load(BOCHS_SIZE_AT), BOCHS_SIZE)
}

fn crate_exports_memory_for_iommufd() -> Result<()> {
    let (memory, edu) = (nth(BOCHS, 0)?, edu()?);
    let said = program::succeeds("iommufd", &[memory.address(), edu.address()])?;
    let refused = "iommufd and a buffer: Operation not supported";
    ensure!(said.contains(refused), "{refused:?} is not in\n{said}");
    // Its DMA went where the example says.
    let device = open_bochs()?;
    let memory = check::works("BAR0", device.map_bar(0))?;
    for (page, want) in [(0, 0x600d_0000), (1, 0x600d_0001), (2, 0x600d_0002), (3, 0x600d_0001)] {
        check::value(&format!("page {page}"), memory.load(page * 4096), want)?;
    }
    Ok(())
}
