// SPDX-License-Identifier: GPL-2.0
//! The guard on memory of a truncated file, which raises SIGBUS as a revoked buffer does.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{env, mem, ptr};

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vfio_dmabuf::{guard, Access, AccessError, Mapping, Word};

const PAGE: u64 = 4096;

/// A mapped file with this number of pages.
fn memory(pages: u64) -> (OwnedFd, Mapping) {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, pages * PAGE).unwrap();
    let mapping = Mapping::of_file(&file, 0, pages * PAGE, Access::ReadWrite).unwrap();
    (file, mapping)
}

fn each_width<T: Word + From<u8> + PartialEq + std::fmt::Debug>() {
    let width = size_of::<T>() as u64;
    let (file, mapping) = memory(2);
    let values: Vec<T> = (0..=255).map(T::from).collect();
    mapping.write_slice(PAGE, &values).unwrap();
    let mut read = vec![T::default(); values.len()];
    mapping.read_slice(PAGE, &mut read).unwrap();
    assert_eq!(read, values);
    assert_eq!(mapping.read(PAGE + 7 * width), Ok(T::from(7)));
    mapping.write(2 * PAGE - width, T::from(9)).unwrap();
    assert_eq!(mapping.read(2 * PAGE - width), Ok(T::from(9)));
    assert_eq!(mapping.read(2 * PAGE - 2 * width), Ok(T::from(0)));

    ftruncate(&file, PAGE).unwrap();
    let lost = |offset| Some(AccessError::Lost { offset });
    assert_eq!(mapping.read::<T>(PAGE).err(), lost(PAGE));
    assert_eq!(mapping.write(2 * PAGE - width, T::from(1)).err(), lost(2 * PAGE - width));
    // Everything before the lost page is accessed, and nothing after it.
    let mut read = vec![T::from(77); 8];
    mapping.write_slice(PAGE - 4 * width, &values[1..5]).unwrap();
    assert_eq!(mapping.read_slice(PAGE - 4 * width, &mut read).err(), lost(PAGE));
    assert_eq!(read[..4], values[1..5]);
    assert_eq!(read[4..], vec![T::from(77); 4]);
    let result = mapping.write_slice(PAGE - 2 * width, &values[100..104]);
    assert_eq!(result.err(), lost(PAGE));
    assert_eq!(mapping.read(PAGE - width), Ok(T::from(101)));

    ftruncate(&file, 2 * PAGE).unwrap();
    assert_eq!(mapping.read(PAGE), Ok(T::from(0)), "heals");
}

#[test]
fn accesses_of_each_width_work_are_lost_and_heal() {
    each_width::<u8>();
    each_width::<u16>();
    each_width::<u32>();
    each_width::<u64>();
}

#[test]
fn bounds_and_alignment_are_checked() {
    let (_file, mapping) = memory(1);
    let bounds = |offset, length| Some(AccessError::Bounds { offset, length, size: PAGE });
    assert_eq!(mapping.read::<u32>(PAGE).err(), bounds(PAGE, 4));
    assert_eq!(mapping.write(PAGE, 0_u8).err(), bounds(PAGE, 1));
    assert_eq!(mapping.read::<u64>(u64::MAX - 7).err(), bounds(u64::MAX - 7, 8));
    let across = mapping.read_slice(PAGE - 4, &mut [0_u16; 3]);
    assert_eq!(across.err(), bounds(PAGE - 4, 6));
    assert_eq!(mapping.read_slice::<u64>(PAGE, &mut []), Ok(()));
    for offset in 1..8 {
        let want = Err(AccessError::Alignment { offset, width: 8 });
        assert_eq!(mapping.read::<u64>(offset), want);
    }
}

#[test]
fn mapping_for_reading_only_is_not_written() {
    let (file, _) = memory(1);
    let mapping = Mapping::of_file(&file, 0, PAGE, Access::Read).unwrap();
    assert_eq!(mapping.write(0, 1_u8), Err(AccessError::ReadOnly));
    assert_eq!(mapping.read::<u8>(0), Ok(0));
}

#[test]
fn threads_lose_each_their_own_accesses() {
    const THREADS: u64 = 8;
    let (file, mapping) = memory(THREADS + 1);
    ftruncate(&file, PAGE).unwrap();
    let over = AtomicBool::new(false);
    let lost = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (mapping, over, lost) = (&mapping, &over, &lost);
            scope.spawn(move || {
                for round in 0.. {
                    let offset = thread * PAGE + round % 512 * 8;
                    let want = Err(AccessError::Lost { offset });
                    assert_eq!(mapping.read::<u64>(offset), want);
                    lost.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        for round in 0..20_000_u64 {
            mapping.write(8, round).unwrap();
            assert_eq!(mapping.read(8), Ok(round));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(lost.load(Ordering::Relaxed) >= THREADS as usize);
}

/// Runs the test `name` of this file in a child process, with `GUARD_TEST` set to `what`.
fn in_child(name: &str, what: &str) -> std::process::ExitStatus {
    let test = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env("GUARD_TEST", what)
        .output()
        .unwrap();
    if test.status.code().is_some_and(|code| code != 0) {
        panic!("{}", String::from_utf8_lossy(&test.stderr));
    }
    test.status
}

fn set_handler(handler: usize, flags: i32) {
    // SAFETY: All-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: The handlers of this file are async-signal-safe.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) }, 0);
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// Counts the call and maps memory at the faulting address, so that the access succeeds.
extern "C" fn mend(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: The kernel passes a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize & !(PAGE as usize - 1);
    ADDRESS.store(address, Ordering::Relaxed);
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: A test mapped this page and truncated its file.
    unsafe {
        libc::mmap(address as *mut _, PAGE as usize, libc::PROT_READ, flags, -1, 0);
    }
}

extern "C" fn count(_: i32) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

fn lose(mapping: &Mapping) {
    assert_eq!(mapping.read::<u32>(0), Err(AccessError::Lost { offset: 0 }));
}

fn touch(mapping: &Mapping) {
    // SAFETY: The page is mapped; reading it may raise SIGBUS.
    unsafe { mapping.as_ptr().read_volatile() };
}

fn raise() {
    // SAFETY: Sends a signal to this process.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// The child of `signals_that_are_not_ours_go_to_the_earlier_handler`.
fn play(what: &str) {
    let siginfo = libc::SA_SIGINFO;
    match what {
        "mend" => set_handler(mend as extern "C" fn(_, _, _) as usize, siginfo),
        "plain" => set_handler(count as extern "C" fn(_) as usize, 0),
        "once" => set_handler(count as extern "C" fn(_) as usize, libc::SA_RESETHAND),
        "ignored" | "ignored fault" => set_handler(libc::SIG_IGN, 0),
        "default" | "default fault" => set_handler(libc::SIG_DFL, 0),
        _ => {}
    }
    guard::install();
    assert!(guard::is_first());
    let (file, mapping) = memory(1);
    ftruncate(&file, 0).unwrap();
    lose(&mapping);
    assert_eq!(CALLS.load(Ordering::Relaxed), 0, "the earlier handler was called");
    match what {
        "mend" => {
            touch(&mapping);
            assert_eq!(ADDRESS.load(Ordering::Relaxed), mapping.as_ptr() as usize);
        }
        "plain" => raise(),
        "once" => {
            raise();
            assert_eq!(CALLS.load(Ordering::Relaxed), 1);
            raise();
        }
        "ignored" => return raise(),
        "default" => raise(),
        "later" => {
            set_handler(mend as extern "C" fn(_, _, _) as usize, siginfo);
            assert!(!guard::is_first());
            return;
        }
        _ => touch(&mapping),
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    let (file, mapping) = memory(1);
    ftruncate(&file, 0).unwrap();
    lose(&mapping);
}

#[test]
fn signals_that_are_not_ours_go_to_the_earlier_handler() {
    const NAME: &str = "signals_that_are_not_ours_go_to_the_earlier_handler";
    if let Ok(what) = env::var("GUARD_TEST") {
        return play(&what);
    }
    for what in ["mend", "plain", "ignored", "later"] {
        assert_eq!(in_child(NAME, what).code(), Some(0), "{what}");
    }
    for what in ["once", "default", "default fault", "ignored fault", "rust's own"] {
        assert_eq!(in_child(NAME, what).signal(), Some(libc::SIGBUS), "{what}");
    }
}
