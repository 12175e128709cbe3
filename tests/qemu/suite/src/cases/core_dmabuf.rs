// SPDX-License-Identifier: GPL-2.0
//! The module parameter `core_dmabuf`: exports without flags return a dma-buf of the in-tree core,
//! as VMMs want that map BARs by iommufd; exports that ask for a buffer return one.

use guest::feature::GET;

use super::container::{Dma, IOVA};
use super::iommufd::Attached;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "core_dmabuf: a plain export is the core's, one with VFIO_DMABUF_BUFFER a buffer": [
            plain_export_is_the_cores_if_told_so,
            export_that_asks_for_a_buffer_gets_one_either_way,
            unknown_flags_are_einval_either_way,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "core_dmabuf: a plain export is the core's, one with VFIO_DMABUF_BUFFER a buffer": [
            iommufd_maps_a_plain_export_if_told_so,
        ];
}

/// The parameter, set until this is dropped.
struct Told;

impl Told {
    fn new() -> Result<Told> {
        Module::driver().set_parameter("core_dmabuf", true)?;
        Ok(Told)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = Module::driver().set_parameter("core_dmabuf", false);
    }
}

fn export(device: &Device, flags: u32) -> Result<Buffer, Errno> {
    Export { flags, ..Export::new(0, &[Range(0, PAGE)]) }.make(device)
}

/// Checks that it is a buffer: mapped, described, revoked.
fn is_a_buffer(what: &str, device: &Device, buffer: &Buffer, memattr: u32) -> Result<()> {
    let mapping = check::works(&format!("mmap, {what}"), buffer.map(0, PAGE))?;
    check::value(&format!("register, {what}"), mapping.load(ID_AT), ID)?;
    let info = check::works(&format!("INFO, {what}"), buffer::info(device, buffer.raw()))?;
    check::equal(&format!("attribute, {what}"), info.memattr, memattr)?;
    check::works(&format!("REVOKE, {what}"), buffer::revoke(device, buffer))?;
    check::bus_error(&format!("revoked, {what}"), mapping.load(ID_AT))
}

fn plain_export_is_the_cores_if_told_so() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let before = check::works("export", export(&device, 0))?;
        let told = Told::new()?;
        let probe = feature::probe(&device, uapi::VFIO_DEVICE_FEATURE_DMA_BUF, GET);
        check::works("PROBE", probe)?;
        let theirs = check::works("plain export", export(&device, 0))?;
        check::errno("mmap", theirs.map(0, PAGE), Errno::EINVAL)?;
        check::errno("INFO", buffer::info(&device, theirs.raw()), Errno::ENODEV)?;
        check::errno("REVOKE", buffer::revoke(&device, &theirs), Errno::ENODEV)?;
        is_a_buffer("made before", &device, &before, uapi::VFIO_DMABUF_MEMATTR_NC)?;
        drop(told);
        let after = check::works("export", export(&device, 0))?;
        is_a_buffer("made after", &device, &after, uapi::VFIO_DMABUF_MEMATTR_NC)?;
    }
    Ok(())
}

fn export_that_asks_for_a_buffer_gets_one_either_way() -> Result<()> {
    let (nc, wc) = (uapi::VFIO_DMABUF_MEMATTR_NC, uapi::VFIO_DMABUF_MEMATTR_WC);
    let ours = uapi::VFIO_DMABUF_BUFFER;
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        for told in [false, true] {
            let _told = if told { Some(Told::new()?) } else { None };
            for (flags, memattr) in [
                (ours, nc),
                (ours | uapi::VFIO_DMABUF_ATTR_WC, wc),
                (uapi::VFIO_DMABUF_ATTR_WC, wc),
            ] {
                let what = format!("{via:?}, flags {flags:#x}, told {told}");
                let buffer = check::works(&what, export(&device, flags))?;
                is_a_buffer(&what, &device, &buffer, memattr)?;
            }
        }
    }
    Ok(())
}

fn unknown_flags_are_einval_either_way() -> Result<()> {
    let device = Device::open(&edu()?, Via::newest())?;
    for told in [false, true] {
        let _told = if told { Some(Told::new()?) } else { None };
        for bit in 0..26 {
            for flags in [1 << bit, (1 << bit) | uapi::VFIO_DMABUF_BUFFER] {
                let what = format!("flags {flags:#x}, told {told}");
                check::errno(&what, export(&device, flags), Errno::EINVAL)?;
            }
        }
    }
    Ok(())
}

/// As QEMU, OpenVMM and cloud-hypervisor do for peer-to-peer DMA: each BAR by a plain export.
fn iommufd_maps_a_plain_export_if_told_so() -> Result<()> {
    let other = Device::open(&nth(BOCHS, 0)?, Via::Cdev)?;
    let memory = other.map_bar_part(0, 0, PAGE)?;
    memory.store(0, 0)?;
    let attached = Attached::new()?;
    let dma = Dma::of(&attached.device)?;
    let source = Mapping::anonymous(PAGE)?;
    source.store(0, 0x600d_f00d)?;
    check::works("map memory", attached.map(&source, IOVA))?;

    let ours = check::works("export", export(&other, 0))?;
    let got = attached.map_file(ours.raw(), IOVA + PAGE);
    check::errno("map of a buffer", got, Errno::EOPNOTSUPP)?;
    let _told = Told::new()?;
    let theirs = check::works("export", export(&other, 0))?;
    check::works("map of a plain export", attached.map_file(theirs.raw(), IOVA + PAGE))?;
    drop(theirs);
    dma.copy(IOVA, IOVA + PAGE)?;
    check::value("what the device wrote", memory.load(0), 0x600d_f00d)
}
