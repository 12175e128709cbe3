// SPDX-License-Identifier: GPL-2.0
//! A C compiler compares the numbers and structures of `uapi` with the header.

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::{Command, Stdio};

use vfio_dmabuf::uapi::*;

/// `_Static_assert`s for constants, and for sizes and fields of structures.
macro_rules! asserts {
    ($($constant:ident)*; $($structure:ident { $($field:ident)* })*) => {{
        let mut text = String::new();
        let mut equal = |c: String, value: usize| {
            writeln!(text, "_Static_assert({c} == {value}, \"{c}\");").unwrap();
        };
        $(equal(stringify!($constant).into(), $constant as usize);)*
        $(
            let c = concat!("struct ", stringify!($structure));
            equal(format!("sizeof({c})"), size_of::<$structure>());
            $(equal(
                format!("offsetof({c}, {})", stringify!($field)),
                offset_of!($structure, $field),
            );)*
        )*
        text
    }};
}

fn compile(text: &str) -> (bool, String) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/uapi");
    let mut compiler = Command::new("cc")
        .args(["-std=c11", "-fsyntax-only", "-x", "c", "-", "-I"])
        .arg(include)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler");
    let mut input = compiler.stdin.take().unwrap();
    write!(input, "#include <stddef.h>\n#include <linux/vfio_dmabuf.h>\n{text}").unwrap();
    drop(input);
    let output = compiler.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn numbers_and_structures_are_those_of_the_header() {
    let text = asserts!(
        VFIO_DEVICE_FEATURE_GET
        VFIO_DEVICE_FEATURE_SET
        VFIO_DEVICE_FEATURE_PROBE
        VFIO_DEVICE_FEATURE_DMA_BUF
        VFIO_DMABUF_MAX_RANGES
        VFIO_DMABUF_BUFFER
        VFIO_DMABUF_ATTR_UC
        VFIO_DMABUF_ATTR_WC
        VFIO_DMABUF_REVOKE
        VFIO_DMABUF_MEMATTR
        VFIO_DMABUF_INFO
        VFIO_DMABUF_IOMMUFD
        VFIO_DMABUF_MEMATTR_NC
        VFIO_DMABUF_MEMATTR_WC
        VFIO_DMABUF_STATUS_LIVE
        VFIO_DMABUF_STATUS_REVOKED_TEMP
        VFIO_DMABUF_STATUS_REVOKED
        VFIO_DMABUF_STATUS_CLOSED;
        vfio_region_dma_range { offset length }
        vfio_device_feature_dma_buf { region_index open_flags flags nr_ranges dma_ranges }
        vfio_dmabuf_feature_revoke { dmabuf_fd }
        vfio_dmabuf_feature_memattr { dmabuf_fd memattr }
        vfio_dmabuf_feature_info { dmabuf_fd status memattr nr_ranges size }
    );
    let (good, said) = compile(&text);
    assert!(good, "{said}");
}

#[test]
fn a_wrong_number_is_found() {
    let (good, said) = compile("_Static_assert(VFIO_DEVICE_FEATURE_DMA_BUF == 12, \"wrong\");");
    assert!(!good && said.contains("wrong"), "{said}");
}
