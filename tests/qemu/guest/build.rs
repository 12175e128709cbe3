// SPDX-License-Identifier: GPL-2.0
//! Runs bindgen over this project's UAPI header, so that the programs use the header itself and
//! not a copy, and so that a header which bindgen cannot read fails the build. Compiles the C
//! program of the README.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let include = root.join("../../../include/uapi");
    println!("cargo:rerun-if-changed=uapi.h");
    println!("cargo:rerun-if-changed={}", include.join("linux/vfio_dmabuf.h").display());

    let status = Command::new("bindgen")
        .arg(root.join("uapi.h"))
        .args(["--no-layout-tests", "--with-derive-default", "--no-prepend-enum-name"])
        // _IO() and its kin are casts and function-like macros: let clang evaluate them.
        .arg("--clang-macro-fallback")
        .arg("--clang-macro-fallback-build-dir")
        .arg(&out)
        .args(["--allowlist-item", "(VFIO|IOMMU|DMA_BUF|DMA_HEAP|PCI)_.*"])
        .args(["--allowlist-item", "(UFFD|UFFDIO)_.*"])
        .args(["--allowlist-item", "(uffdio|vfio|iommu|iommufd|dma_buf|dma_heap)_.*"])
        .arg("-o")
        .arg(out.join("uapi.rs"))
        .arg("--")
        .arg(format!("-I{}", include.display()))
        .arg(format!("--target={}", env::var("TARGET").expect("cargo sets it")))
        .status()
        .expect("bindgen must be in PATH (Debian: apt install bindgen)");
    assert!(status.success(), "bindgen cannot read include/uapi/linux/vfio_dmabuf.h");

    println!("cargo:rerun-if-changed=src/readme/slice.c");
    cc::Build::new()
        .file("src/readme/slice.c")
        // A program, of which the case calls the function.
        .define("main", "slice_main")
        .include(&include)
        .warnings_into_errors(true)
        .compile("slice");
}
