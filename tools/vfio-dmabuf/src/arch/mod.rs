// SPDX-License-Identifier: GPL-2.0
//! What differs between architectures: one file for each, with the same items.

/// A function that accesses device memory, see `crate::guard`. After `$begin`, each round runs
/// `$before`, then `$access` (to the device, at `$at`), `$after` and `$next`. `$begin` jumps to 3
/// if there is nothing to do, `$next` to 2 if there is more.
macro_rules! function {
    ($name:ident $at:ident:
        $begin:literal, $before:expr, $access:expr, $after:expr, $next:expr) => {
        std::arch::global_asm!(
            concat!(".pushsection .text.", stringify!($name), ",\"ax\",%progbits"),
            concat!(".globl ", stringify!($name), ", ", stringify!($at)),
            concat!(".hidden ", stringify!($name), ", ", stringify!($at)),
            concat!(".type ", stringify!($name), ", %function"),
            concat!(stringify!($name), ":"),
            ".cfi_startproc",
            $begin,
            "2:",
            $before,
            concat!(stringify!($at), ":"),
            $access,
            $after,
            $next,
            "3:",
            "ret",
            ".cfi_endproc",
            concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
            ".popsection",
        );
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("vfio-dmabuf supports x86-64 and arm64 only");
