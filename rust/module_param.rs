// SPDX-License-Identifier: GPL-2.0

//! Module parameters with files in sysfs, and lines of `modinfo`.
//!
//! A parameter of `module!` can be given once, when the module is loaded, and has no file in sysfs.
//! The parameters of the in-tree vfio-pci have one, and some can be changed there; parameters made
//! here are of that kind.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use crate::bindings;
use core::cell::UnsafeCell;
use kernel::{
    prelude::*,
    str::as_char_ptr_in_const_context, //
};

/// A parameter of type `bool`, which is off by default. See
/// [`bool_parameters!`](crate::bool_parameters).
#[repr(transparent)]
pub struct BoolParameter(UnsafeCell<bool>);

// SAFETY: The kernel stores it, and `value()` loads it, by one access to one byte.
unsafe impl Sync for BoolParameter {}

impl BoolParameter {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(false))
    }

    /// The value now. A write to the file in sysfs may change it at any time.
    pub fn value(&self) -> bool {
        // SAFETY: The pointer is valid. `param_set_bool()` stores 0 or 1.
        unsafe { self.0.get().read_volatile() }
    }
}

/// An entry of the section `__param`, which the kernel reads when it loads the module.
#[doc(hidden)]
#[repr(transparent)]
pub struct Entry(bindings::kernel_param);

// SAFETY: Nobody writes to it.
unsafe impl Sync for Entry {}

impl Entry {
    #[doc(hidden)]
    pub const fn new(name: &'static CStr, mode: u16, parameter: &'static BoolParameter) -> Self {
        Self(bindings::kernel_param {
            name: as_char_ptr_in_const_context(name),
            mod_: (&raw const bindings::__this_module).cast_mut(),
            ops: &raw const bindings::param_ops_bool,
            perm: mode,
            level: -1,
            flags: 0,
            __bindgen_anon_1: bindings::kernel_param__bindgen_ty_1 {
                arg: parameter.0.get().cast(),
            },
        })
    }
}

/// The bytes of a line of `modinfo`, `N` of them with its NUL.
#[doc(hidden)]
pub const fn line<const N: usize>(text: &str) -> [u8; N] {
    assert!(text.len() == N);
    let mut line = [0; N];
    let mut i = 0;
    while i < N {
        line[i] = text.as_bytes()[i];
        i += 1;
    }
    line
}

/// Adds a line to what `modinfo` says of the module. `MODULE_INFO()`
#[macro_export]
macro_rules! modinfo {
    ($tag:literal, $($text:expr),+) => {
        const _: () = {
            const TEXT: &str = concat!($tag, "=", $($text,)+ "\0");
            #[link_section = ".modinfo"]
            #[used]
            static LINE: [u8; TEXT.len()] = $crate::module_param::line(TEXT);
        };
    };
}

/// Makes parameters of type `bool` with the mode of their files in sysfs, and a description each.
/// `module_param(name, bool, mode)`
#[macro_export]
macro_rules! bool_parameters {
    ($($(#[$attribute:meta])* $name:ident: $mode:literal, $description:literal;)*) => {$(
        $(#[$attribute])*
        #[allow(non_upper_case_globals, reason = "the name is the parameter's")]
        pub(crate) static $name: $crate::module_param::BoolParameter =
            $crate::module_param::BoolParameter::new();
        $(#[$attribute])*
        const _: () = {
            #[link_section = "__param"]
            #[used]
            static ENTRY: $crate::module_param::Entry = $crate::module_param::Entry::new(
                ::kernel::c_str!(stringify!($name)),
                $mode,
                &$name,
            );
            $crate::modinfo!("parmtype", stringify!($name), ":bool");
            $crate::modinfo!("parm", stringify!($name), ":", $description);
        };
    )*};
}
