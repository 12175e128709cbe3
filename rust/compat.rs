// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that this module is built for.
//!
//! The rest of the source is written for the newest of them. `before_7_3` comes from `Kbuild`.

use crate::bindings;
use kernel::prelude::*;

/// Errors that the prelude does not have in all kernels.
pub mod errno {
    #[cfg(not(before_7_3))]
    pub use kernel::error::code::{
        EALREADY,
        EBADFD,
        ENOTCONN,
        EOPNOTSUPP,
        ETIME, //
    };

    #[cfg(before_7_3)]
    macro_rules! errors {
        ($($name:ident)*) => {$(
            #[doc = concat!("`", stringify!($name), "`")]
            pub const $name: kernel::error::Error = {
                let errno = -(crate::bindings::$name as i32);
                assert!(errno < 0 && errno >= -(crate::bindings::MAX_ERRNO as i32));
                // SAFETY: The only field of `Error` is a `NonZeroI32`; `transmute()` compares the
                // sizes. The assertion above is the invariant of `Error`.
                unsafe { core::mem::transmute::<i32, kernel::error::Error>(errno) }
            };
        )*};
    }
    #[cfg(before_7_3)]
    errors!(EALREADY EBADFD ENOTCONN EOPNOTSUPP ETIME);
}

/// The module of the caller, whose crate root has the `module!`.
#[cfg(not(before_7_3))]
#[expect(clippy::crate_in_macro_def, reason = "the module is the caller's")]
#[macro_export]
macro_rules! this_module {
    () => {
        ::kernel::module::this_module::<crate::LocalModule>()
    };
}
/// The module of the caller, whose crate root has the `module!`.
#[cfg(before_7_3)]
#[expect(clippy::crate_in_macro_def, reason = "the module is the caller's")]
#[macro_export]
macro_rules! this_module {
    () => {
        &crate::THIS_MODULE
    };
}

/// Initialises `slot`. `pin_init::raw_try_init()`
///
/// # Safety
///
/// `slot` is valid for writes, and what is in it afterwards does not move.
pub(crate) unsafe fn raw_try_init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    #[cfg(not(before_7_3))]
    // SAFETY: By the requirements of this function.
    unsafe {
        pin_init::raw_try_init(slot, init)
    }
    #[cfg(before_7_3)]
    // SAFETY: By the requirements of this function.
    unsafe {
        init.__pinned_init(slot)
    }
}

/// Kernels without entries of that size for PFNs declare the function, but do not define it.
macro_rules! huge_pfnmap {
    ($option:ident, $function:ident) => {
        #[cfg($option)]
        pub(crate) use crate::bindings::$function;

        /// Maps nothing: the kernel has no such entries.
        ///
        /// # Safety
        ///
        /// None.
        #[cfg(not($option))]
        pub(crate) unsafe fn $function(
            _vmf: *mut bindings::vm_fault,
            _pfn: c_ulong,
            _write: bool,
        ) -> bindings::vm_fault_t {
            bindings::vm_fault_reason_VM_FAULT_FALLBACK
        }
    };
}
huge_pfnmap!(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP, vmf_insert_pfn_pmd);
huge_pfnmap!(CONFIG_ARCH_SUPPORTS_PUD_PFNMAP, vmf_insert_pfn_pud);

/// Whether a process that must not be able to crash the kernel may have blocks. Before 7.3,
/// `madvise(MADV_COLD)`, `/proc/PID/clear_refs` and `mbind()` look for the `struct page` of a
/// block, and device memory has none.
pub const BLOCKS_ARE_SAFE: bool = cfg!(not(before_7_3));

/// Adds the operations of a device for iommufd. Without iommufd there are none, as `linux/vfio.h`
/// says by macros, which bindgen does not see.
pub(crate) const fn with_iommufd(ops: bindings::vfio_device_ops) -> bindings::vfio_device_ops {
    #[cfg(CONFIG_IOMMUFD)]
    let ops = bindings::vfio_device_ops {
        bind_iommufd: Some(bindings::vfio_iommufd_physical_bind),
        unbind_iommufd: Some(bindings::vfio_iommufd_physical_unbind),
        attach_ioas: Some(bindings::vfio_iommufd_physical_attach_ioas),
        detach_ioas: Some(bindings::vfio_iommufd_physical_detach_ioas),
        pasid_attach_ioas: Some(bindings::vfio_iommufd_physical_pasid_attach_ioas),
        pasid_detach_ioas: Some(bindings::vfio_iommufd_physical_pasid_detach_ioas),
        ..ops
    };
    ops
}

/// Removes the page table entries of a part of a mapping. `zap_special_vma_range()`
///
/// # Safety
///
/// `vma` is a mapping of page frames that is locked, and has all of the part.
pub(crate) unsafe fn zap_special_vma_range(
    vma: *mut bindings::vm_area_struct,
    start: usize,
    len: usize,
) {
    #[cfg(not(before_7_3))]
    // SAFETY: By the requirements of this function.
    unsafe {
        bindings::zap_special_vma_range(vma, start, len)
    };
    // There, all mappings of the same memory lose their entries, and fault anew.
    #[cfg(before_7_3)]
    // SAFETY: As above; the mapping holds its file, and the offsets are in its address space.
    unsafe {
        let skipped = start - (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start;
        let offset = ((*vma).vm_pgoff << kernel::page::PAGE_SHIFT) + skipped;
        let mapping = (*(*vma).vm_file).f_mapping;
        bindings::unmap_mapping_range(mapping, offset as i64, len as i64, 1);
    };
}
