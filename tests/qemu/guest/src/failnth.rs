// SPDX-License-Identifier: GPL-2.0
//! Failures on request: the n-th allocation, or copy of user memory, that a system call makes.
//!
//! `/proc/thread-self/fail-nth`, see Documentation/fault-injection in the kernel. The calling
//! thread only is hit. In a kernel that cannot, [`Injector::new`] says so.

use std::os::unix::fs::FileExt;

use crate::prelude::*;
use crate::windows::Window;

const DEBUGFS: &str = "/sys/kernel/debug";
/// A number or a flag in such a folder, and its value.
type Setting = (&'static str, &'static str);

/// What can fail, by its folder in debugfs, with the settings that let all of it fail.
const KINDS: [(Kind, &str, &[Setting]); 3] = [
    (Kind::Memory, "failslab", &[("ignore-gfp-wait", "N")]),
    (
        Kind::Memory,
        "fail_page_alloc",
        &[("ignore-gfp-wait", "N"), ("ignore-gfp-highmem", "N"), ("min-order", "0")],
    ),
    (Kind::UserCopy, "fail_usercopy", &[]),
];

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Allocations of objects and of pages.
    Memory,
    /// Copies from and to user memory.
    UserCopy,
}

/// Whose failures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All that the system call makes.
    All,
    /// Those that the function of this window makes, and what it calls.
    Function(Window),
}

/// Lets things fail for this thread. One at a time.
#[derive(Debug)]
pub struct Injector {
    nth: File,
}

impl Injector {
    /// For these kinds of failures; `None` if the kernel cannot.
    pub fn new(kinds: &[Kind], whose: Whose) -> Result<Option<Injector>> {
        let path = "/proc/thread-self/fail-nth";
        if !Path::new(path).exists() {
            return Ok(None);
        }
        let range = match whose {
            Whose::All => ["0".to_string(), u64::MAX.to_string()],
            Whose::Function(window) => extent(window)?.map(|address| format!("{address:#x}")),
        };
        // No function is there.
        let never = ["0x1".to_string(), "0x2".to_string()];
        for (kind, folder, settings) in KINDS {
            if !dir(folder).exists() {
                return Ok(None);
            }
            let [start, end] = if kinds.contains(&kind) { &range } else { &never };
            set(folder, "require-start", start)?;
            set(folder, "require-end", end)?;
            set(folder, "verbose", "0")?;
            for (name, value) in settings {
                set(folder, name, value)?;
            }
        }
        let nth = File::options().read(true).write(true).open(path).context(path)?;
        Ok(Some(Injector { nth }))
    }

    /// Makes a call in which the `n`-th possible failure happens, from 1 on.
    ///
    /// Also says whether it came to that.
    pub fn run<T>(&self, n: u32, call: impl FnOnce() -> T) -> Result<(T, bool)> {
        let text = n.to_string();
        self.nth.write_at(text.as_bytes(), 0).context("fail-nth")?;
        let result = call();
        // Reading and writing this file are system calls, too, that may be hit.
        let mut left = [0; 16];
        let injected = match self.nth.read_at(&mut left, 0) {
            Ok(_) => left[0] == b'0',
            Err(_) => false,
        };
        for _ in 0..2 {
            if self.nth.write_at(b"0", 0).is_ok() {
                return Ok((result, injected));
            }
        }
        bail!("fail-nth cannot be switched off: {}", Errno::last())
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        for (_, folder, _) in KINDS {
            let _ = set(folder, "require-start", "0");
            let _ = set(folder, "require-end", &u64::MAX.to_string());
        }
    }
}

fn dir(folder: &str) -> PathBuf {
    Path::new(DEBUGFS).join(folder)
}

fn set(folder: &str, name: &str, value: &str) -> Result<()> {
    let path = dir(folder).join(name);
    fs::write(&path, value).with_context(|| format!("{value} to {}", path.display()))
}

/// The address of a function, and that of the next one.
fn extent(window: Window) -> Result<[u64; 2]> {
    let name = window.function()?;
    let text = fs::read_to_string("/proc/kallsyms")?;
    let mut functions = Vec::new();
    for line in text.lines() {
        if let [address, "t" | "T", name, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            functions.push((u64::from_str_radix(address, 16)?, name));
        }
    }
    functions.sort_unstable();
    let (start, _) = functions.iter().find(|function| function.1 == name).context("no function")?;
    let next = functions.iter().map(|function| function.0).find(|address| address > start);
    Ok([*start, next.context("no function after it")?])
}
