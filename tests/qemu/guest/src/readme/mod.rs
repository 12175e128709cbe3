// SPDX-License-Identifier: GPL-2.0
//! The programs of the READMEs, for a case of the suite to run: [`c`] is in `README.md`, [`slice`]
//! in `tools/README.md`.
//!
//! `make check` compares them with the READMEs.

pub mod slice;

/// `slice.c`
pub mod c {
    use std::ffi::{c_char, c_int, CString, NulError};
    use std::ptr;

    extern "C" {
        fn slice_main(argc: c_int, argv: *mut *mut c_char) -> c_int;
    }

    /// Runs `main()` with these arguments and returns its exit status. It forks, and it exits on
    /// errors.
    pub fn main(args: &[&str]) -> Result<i32, NulError> {
        let args: Vec<CString> =
            args.iter().map(|&arg| CString::new(arg)).collect::<Result<_, _>>()?;
        let mut argv: Vec<*mut c_char> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        argv.push(ptr::null_mut());
        // SAFETY: `argv` has `args.len()` strings and a null behind them, as main() expects; it
        // does not write to them.
        Ok(unsafe { slice_main(args.len() as c_int, argv.as_mut_ptr()) })
    }
}
