// SPDX-License-Identifier: GPL-2.0
//! Compiles the README's C program. Its `main()` becomes `slice_main()`.

fn main() {
    println!("cargo:rerun-if-changed=slice.c");
    println!("cargo:rerun-if-changed=../../../include/uapi/linux/vfio_dmabuf.h");
    cc::Build::new()
        .file("slice.c")
        .define("main", "slice_main")
        .include("../../../include/uapi")
        .warnings_into_errors(true)
        .compile("slice");
}
