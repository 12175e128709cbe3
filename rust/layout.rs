// SPDX-License-Identifier: GPL-2.0

//! The sizes of C structures and the offsets of their members that this crate depends on.
//!
//! The kernel does not check them when it loads a module: the headers that the module was compiled
//! with may be those of another kernel of the same release. So each fact is a line of `modinfo`,
//! and `scripts/debian/layout` compares these with the type information (BTF) of a kernel.
//! `scripts/check-layout` compares the list with the code.

use crate::bindings;
use core::mem::{
    offset_of,
    size_of, //
};

const DIGITS: usize = 6;

/// `head`, `value` in [`DIGITS`] decimal digits, and a NUL.
const fn line<const N: usize>(head: &str, value: usize) -> [u8; N] {
    let head = head.as_bytes();
    assert!(N == head.len() + DIGITS + 1);
    let mut line = [0; N];
    let mut i = 0;
    while i < head.len() {
        line[i] = head[i];
        i += 1;
    }
    let mut rest = value;
    let mut i = N - 1;
    while i > head.len() {
        i -= 1;
        // CAST: A digit.
        line[i] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    assert!(rest == 0);
    line
}

/// A line of `modinfo`.
macro_rules! fact {
    ($head:expr, $value:expr) => {
        const _: () = {
            const HEAD: &str = $head;
            #[link_section = ".modinfo"]
            #[used]
            static LINE: [u8; HEAD.len() + DIGITS + 1] = line(HEAD, $value);
        };
    };
}

/// Size of each structure, offset of each member in it, bytes. Names of unions and structures that
/// have none in C are bindgen's.
macro_rules! layout {
    ($($name:ident { $($($member:ident).+),* $(,)? })*) => {$(
        fact!(
            concat!("layout=", stringify!($name), "="),
            size_of::<bindings::$name>()
        );
        $(fact!(
            concat!("layout=", stringify!($name), $(".", stringify!($member)),+, "="),
            offset_of!(bindings::$name, $($member).+)
        );)*
    )*};
}

layout! {
    completion {}
    dma_buf { file, name, name_lock, ops, priv_, resv }
    dma_buf_attachment { dmabuf, peer2peer }
    dma_buf_export_info { exp_name, owner, ops, size, flags, priv_ }
    dma_buf_ops { attach, detach, map_dma_buf, unmap_dma_buf, mmap, release }
    file { f_flags, f_inode, f_mapping, private_data }
    file_operations { owner, open, read, llseek, release }
    inode { i_ino, i_mapping, i_private, i_sb }
    kernel_param { name, mod_, ops, perm, level, flags, __bindgen_anon_1.arg }
    kobject { kset, ktype }
    module { mkobj }
    module_kobject { kobj, mod_, kobj_completion }
    pci_dev { current_state, dev, driver, resource }
    pci_device_id {
        vendor, device, subvendor, subdevice, class, class_mask, driver_data, override_only,
    }
    pci_driver { name, id_table, probe, remove, sriov_configure, err_handler, driver_managed_dma }
    pci_error_handlers {
        error_detected, mmio_enabled, slot_reset, reset_prepare, reset_done, resume,
        cor_error_detected,
    }
    phys_vec { paddr, len }
    resource { start, end }
    rw_semaphore {}
    scatterlist { dma_address, dma_length }
    seq_file { private }
    sg_table { sgl, nents, orig_nents }
    super_block { s_active }
    task_struct { mm }
    vfio_device { device, index, inode }
    vfio_device_ops {
        name, init, release, open_device, close_device, read, write, ioctl,
        get_region_info_caps, mmap, request, match_, match_token_uuid, device_feature,
        bind_iommufd, unbind_iommufd, attach_ioas, detach_ioas, pasid_attach_ioas,
        pasid_detach_ioas, dma_unmap,
    }
    vfio_pci_core_device {
        vdev, pdev, barmap, bar_mmap_supported, pm_runtime_engaged, pci_ops,
    }
    vm_area_struct {
        __bindgen_anon_1.__bindgen_anon_1.vm_start,
        __bindgen_anon_1.__bindgen_anon_1.vm_end,
        __bindgen_anon_2.vm_flags,
        vm_file, vm_mm, vm_ops, vm_page_prot, vm_pgoff, vm_private_data,
    }
    vm_fault {
        __bindgen_anon_1.vma,
        __bindgen_anon_1.address,
        flags, pmd, pud, prealloc_pte,
    }
    vm_operations_struct { open, close, fault, huge_fault, map_pages }
    wait_queue_entry { func }
    wait_queue_head {}
}

#[cfg(CONFIG_TRACEPOINTS)]
layout! {
    tracepoint { key }
}

#[cfg(CONFIG_VFIO_PCI_DMABUF)]
layout! {
    vfio_pci_device_ops { get_dmabuf_phys }
}
