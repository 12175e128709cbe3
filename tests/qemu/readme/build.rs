// SPDX-License-Identifier: GPL-2.0
//! Compiles the README's C program.

fn main() {
    println!("cargo:rerun-if-changed=slice.c");
    println!("cargo:rerun-if-changed=../../../include/uapi/linux/vfio_dmabuf.h");
    cc::Build::new()
        .file("slice.c")
        .include("../../../include/uapi")
        .warnings_into_errors(true)
        .compile("slice");
}
