// SPDX-License-Identifier: GPL-2.0
//! The general rules of `VFIO_DEVICE_FEATURE`, for each feature of this driver.

use guest::feature::{Call, GET, PROBE, SET};

use super::borders::{at_borders, DMA_BUF, INFO, MEMATTR, REVOKE};
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "features: PROBE, allowed operations, argsz": [
            probe_says_yes_and_does_nothing,
            probe_of_an_operation_that_a_feature_has_not_is_einval => at_borders(
                open_edu()?, |it| it.operations(&[DMA_BUF, REVOKE], |ops| ops & PROBE != 0)),
            unknown_operations_are_einval => at_borders(
                open_edu()?, |it| it.operations(&[DMA_BUF, REVOKE], |ops| ops & PROBE == 0)),
            argsz_that_does_not_hold_the_payload_is_einval,
            argsz_may_be_larger_than_the_payload, memattr_and_info_are_there_or_enotty,
        ],
        "export, REVOKE: EFAULT if the arguments cannot be read": [
            revoke_from_unreadable_memory_is_efault,
        ],
        "open: what the driver does not handle goes to the core": [
            unknown_features_are_enotty, features_of_the_core_are_the_cores,
        ];
}

fn one_page() -> Call {
    Export::new(0, &[Range(0, PAGE)]).call()
}

fn probe_says_yes_and_does_nothing() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let before = fds()?;
    for (name, feature, ops) in
        [("DMA_BUF", DMA_BUF, GET), ("DMA_BUF", DMA_BUF, 0), ("REVOKE", REVOKE, SET)]
    {
        let what = format!("PROBE of {name}, operations {ops:#x}");
        // No payload at all, and none that could be read.
        let mut call = Call::new(PROBE | ops | feature, Vec::new());
        check::equal(&what, check::works(&what, call.make_at_edge(&device))?, 0)?;
    }
    let mut call = one_page();
    call.flags |= PROBE;
    check::equal("PROBE with a payload", check::works("PROBE", call.make(&device))?, 0)?;
    check::equal("open fds", fds()?, before)?;

    let mut call = Call::new(PROBE | SET | REVOKE, vec![buffer.raw() as u32]);
    check::works("PROBE of REVOKE with a live fd", call.make(&device))?;
    check::works("mmap after it", buffer.map(0, PAGE))?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))
}

fn argsz_that_does_not_hold_the_payload_is_einval() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    for argsz in [0, 4, 7] {
        let result = buffer::revoke_by_ioctl(&device, buffer.raw(), argsz);
        check::errno(&format!("the ioctl, argsz {argsz}"), result, Errno::EINVAL)?;
    }
    check::works("mmap: the buffer is still there", buffer.map(0, PAGE))?;
    at_borders(device, |it| it.sizes(&[DMA_BUF, REVOKE]))
}

fn argsz_may_be_larger_than_the_payload() -> Result<()> {
    let device = open_edu()?;
    let mut call = one_page();
    call.argsz += 64;
    let buffer = check::works("DMA_BUF", Buffer::by_call(&device, &mut call))?;
    let mut call = Call::new(SET | REVOKE, vec![buffer.raw() as u32]);
    call.argsz += 64;
    check::works("REVOKE", call.make(&device))?;
    let buffer = export_edu(&device)?;
    check::works("the ioctl", buffer::revoke_by_ioctl(&device, buffer.raw(), 64))
}

fn revoke_from_unreadable_memory_is_efault() -> Result<()> {
    let device = open_edu()?;
    let mut call = Call::new(SET | REVOKE, Vec::new());
    call.argsz += 4;
    check::errno("REVOKE", call.make_at_edge(&device), Errno::EFAULT)?;
    for address in [0, 8, usize::MAX - 3] {
        let result = device.ioctl(uapi::VFIO_DMABUF_IOCTL_REVOKE, address);
        check::errno(&format!("the ioctl with {address:#x}"), result, Errno::EFAULT)?;
    }
    Ok(())
}

fn unknown_features_are_enotty() -> Result<()> {
    let device = open_edu()?;
    for number in [0xff0c, 0xff11, 0xff00, 0xfffe, 0xffff, 0x7fff, 100] {
        for ops in [GET, SET, PROBE | GET, PROBE | SET] {
            let what = format!("feature {number:#x}, operations {ops:#x}");
            let mut call = Call::new(ops | number, vec![0; 4]);
            check::errno(&what, call.make(&device), Errno::ENOTTY)?;
        }
    }
    Ok(())
}

fn features_of_the_core_are_the_cores() -> Result<()> {
    let device = open_edu()?;
    for (name, number) in [
        ("LOW_POWER_ENTRY", uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY),
        ("LOW_POWER_EXIT", uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT),
    ] {
        check::works(&format!("PROBE of {name}"), feature::probe(&device, number, SET))?;
        let got = feature::probe(&device, number, GET);
        check::errno(&format!("PROBE of GET of {name}"), got, Errno::EINVAL)?;
    }
    // edu is no virtual function.
    let token = uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN;
    check::errno("PROBE of VF_TOKEN", feature::probe(&device, token, SET), Errno::ENOTTY)
}

/// A feature that is not implemented must say so for every call: no stub that succeeds.
fn memattr_and_info_are_there_or_enotty() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let fd = buffer.raw() as u32;
    for (name, feature, ops) in [("MEMATTR", MEMATTR, &[GET, SET][..]), ("INFO", INFO, &[GET])] {
        let there = match feature::probe(&device, feature, ops[0]) {
            Ok(_) => true,
            Err(Errno::ENOTTY) => false,
            Err(errno) => anyhow::bail!("PROBE of {name}: {errno}"),
        };
        for &op in ops {
            let got = Call::new(op | feature, vec![fd, 0, 0, 0, 0, 0]).make(&device);
            let what = format!("{name}, operation {op:#x}");
            if there {
                check::works(&what, got)?;
            } else {
                check::errno(&what, got, Errno::ENOTTY)?;
            }
        }
    }
    Ok(())
}
