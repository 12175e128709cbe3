// SPDX-License-Identifier: GPL-2.0
//! Slices: exporting to a command, mapping, reading and writing.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use vfio_dmabuf::{command, Access, Attribute, Buffer, Device, Errno, Error, Mapping, Word};

use crate::args::{Export, Width};
use crate::output::{size, Doing, Failure, Output};
use crate::target::{page_size, Range, Target};

/// The polling interval of `map --watch`.
const WATCH: Duration = Duration::from_millis(100);

/// Exit statuses of `export` itself.
const FAILED: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs `export` and returns the exit status.
pub fn export(output: Output, args: &Export) -> u8 {
    let fail = |failure: Failure, status: u8| {
        output.failure(&failure, status);
        status
    };
    let (device, slice) = match make(args) {
        Ok(made) => made,
        Err(error) => return fail(error.into(), FAILED),
    };
    let program = &args.command[0];
    let mut run = Command::new(program);
    run.args(&args.command[1..]);
    if let Err(error) = command::inherit(&mut run, &slice) {
        return fail(error.into(), FAILED);
    }
    let ended = run_to_its_end(run);
    let revoked = device.revoke(&slice);
    match ended {
        Err(error) => {
            let status = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUNNABLE,
            };
            fail(Failure::Io(program.to_string_lossy().into_owned(), error), status)
        }
        Ok(status) => match revoked {
            Err(error) => fail(error.into(), FAILED),
            Ok(_) => status,
        },
    }
}

fn make(args: &Export) -> Result<(Device, Buffer), Error> {
    let device = Device::open(args.bar.address)?;
    let mut export = device.export(args.bar.bar);
    for range in &args.ranges {
        export = export.range(range.offset, range.length);
    }
    if args.wc {
        export = export.attribute(Attribute::WriteCombining);
    }
    if args.read_only {
        export = export.read_only();
    }
    let slice = export.create()?;
    Ok((device, slice))
}

/// Runs a command and returns its exit status as a shell does.
fn run_to_its_end(mut command: Command) -> io::Result<u8> {
    // From here on these signals do not end this program. The command has their default actions.
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let mut child = command.spawn()?;
    drop(command);
    let pid = pid_of(&child);
    let passer = thread::spawn(move || {
        for signal in signals.forever() {
            // The terminal sends the other two to the command itself.
            let signal = match signal {
                SIGTERM => Signal::TERM,
                SIGHUP => Signal::HUP,
                _ => continue,
            };
            if let Some(pid) = pid {
                let _ = kill_process(pid, signal);
            }
        }
    });
    // The command is reaped after the passer has ended, so that its pid cannot be reused.
    let ended = wait_without_reaping(&child);
    handle.close();
    let _ = passer.join();
    let status = child.wait()?;
    ended?;
    let signal = status.signal().map(|signal| 128 + signal);
    Ok(status.code().or(signal).unwrap_or(i32::from(FAILED)) as u8)
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id() as i32)
}

fn wait_without_reaping(child: &Child) -> io::Result<()> {
    use rustix::process::{waitid, WaitId, WaitIdOptions};
    let Some(pid) = pid_of(child) else { return Ok(()) };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))?;
    Ok(())
}

/// An opened target.
enum Source {
    Bar(Device, u32),
    Buffer(Buffer),
}

impl Source {
    fn open(target: Target) -> Result<Source, Error> {
        Ok(match target {
            Target::Bar(name) => Source::Bar(Device::open(name.address)?, name.bar),
            Target::Fd(number) => Source::Buffer(command::inherited_as(number)?),
            Target::Inherited => Source::Buffer(command::inherited()?),
        })
    }

    fn size(&self) -> Result<u64, Error> {
        match self {
            Source::Bar(device, bar) => device.bar_size(*bar),
            Source::Buffer(buffer) => buffer.size(),
        }
    }

    fn map(&self, offset: u64, length: u64, access: Access) -> Result<Mapping, Error> {
        match self {
            Source::Bar(device, bar) => device.map_bar(*bar, offset, length, access),
            Source::Buffer(buffer) => buffer.map_part(offset, length, access),
        }
    }
}

/// A mapped target.
struct Mapped {
    mapping: Mapping,
    /// The start of the mapping in the target.
    base: u64,
    source: Source,
}

impl Mapped {
    /// Maps the pages of a range, or the whole target.
    fn new(target: Target, range: Option<Range>, access: Access) -> Result<Mapped, Failure> {
        let source = Source::open(target)?;
        let whole = source.size()?;
        let (base, length) = pages(range, whole)
            .ok_or_else(|| Failure::NotFound(format!("{target} has only {}", size(whole))))?;
        let mapping = source.map(base, length, access).map_err(|error| match &source {
            Source::Buffer(_) if error.errno() == Some(Errno::NODEV) => {
                Failure::Gone(error.to_string())
            }
            _ => error.into(),
        })?;
        Ok(Mapped { mapping, base, source })
    }
}

/// The pages that a range touches, if all are within the target.
fn pages(range: Option<Range>, whole: u64) -> Option<(u64, u64)> {
    let Some(Range { offset, length }) = range else {
        return (whole > 0).then_some((0, whole));
    };
    let end = offset.checked_add(length)?;
    let page = page_size();
    let base = offset / page * page;
    let last = end.checked_next_multiple_of(page)?;
    (length > 0 && last <= whole).then_some((base, last - base))
}

#[derive(Serialize)]
struct MapResult {
    target: String,
    size: u64,
    maps: String,
}

#[derive(Serialize)]
struct GoneResult {
    target: String,
    gone: bool,
}

/// Runs `map`.
///
/// # Errors
///
/// The target cannot be mapped; [`Failure::Gone`]: it was watched until it was gone.
pub fn map(
    output: Output,
    target: Target,
    range: Option<Range>,
    access: Access,
    watch: bool,
) -> Result<(), Failure> {
    let mapped = Mapped::new(target, range, access)?;
    let start = format!("{:x}-", mapped.mapping.as_ptr().addr());
    let maps = std::fs::read_to_string("/proc/self/maps").doing("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
    let (name, length) = (target.to_string(), mapped.mapping.size());
    let result = MapResult { target: name.clone(), size: length, maps: line.to_string() };
    output.result(&result, || format!("{line}\n"))?;
    let Source::Buffer(buffer) = &mapped.source else {
        return match watch {
            true => Err(Failure::Refused("a BAR mapping is never revoked".into())),
            false => Ok(()),
        };
    };
    if !watch {
        return Ok(());
    }
    while !buffer.is_gone()? {
        thread::sleep(WATCH);
    }
    output.result(&GoneResult { target: name, gone: true }, String::new)?;
    Err(Failure::Gone(format!("{target} was revoked, or its device was closed")))
}

#[derive(Serialize)]
struct Words {
    target: String,
    width: u64,
    values: Vec<OneWord>,
}

#[derive(Serialize)]
struct OneWord {
    offset: u64,
    value: u64,
}

fn words(
    output: Output,
    target: Target,
    width: Width,
    at: u64,
    all: &[u64],
) -> Result<(), Failure> {
    let bytes = width.bytes();
    let offsets = (0..).map(|index| at + index * bytes);
    let values = offsets.zip(all).map(|(offset, &value)| OneWord { offset, value }).collect();
    let words = Words { target: target.to_string(), width: bytes * 8, values };
    output.result(&words, || {
        let digits = 2 + 2 * bytes as usize;
        let line = |word: &OneWord| format!("{:#010x}: {:#0digits$x}\n", word.offset, word.value);
        words.values.iter().map(line).collect()
    })
}

/// Maps the pages of `count` words from `offset`; returns the offset in the mapping.
fn place(
    target: Target,
    offset: u64,
    width: Width,
    count: u64,
    access: Access,
) -> Result<(Mapped, u64), Failure> {
    let length = count.checked_mul(width.bytes());
    let length = length.ok_or_else(|| Failure::NotFound(format!("{count} words are too many")))?;
    let mapped = Mapped::new(target, Some(Range { offset, length }), access)?;
    let at = offset - mapped.base;
    Ok((mapped, at))
}

/// Runs `peek`.
///
/// # Errors
///
/// The target cannot be mapped or read.
pub fn peek(
    output: Output,
    target: Target,
    offset: u64,
    width: Width,
    count: u64,
    raw: bool,
) -> Result<(), Failure> {
    let (mapped, at) = place(target, offset, width, count, Access::Read)?;
    let mapping = &mapped.mapping;
    let values = match width {
        Width::W8 => read::<u8>(mapping, at, count),
        Width::W16 => read::<u16>(mapping, at, count),
        Width::W32 => read::<u32>(mapping, at, count),
        Width::W64 => read::<u64>(mapping, at, count),
    }?;
    if !raw {
        return words(output, target, width, offset, &values);
    }
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes().into_iter().take(width.bytes() as usize))
        .collect();
    output.bytes(&bytes)
}

fn read<T: Word + Into<u64>>(mapping: &Mapping, at: u64, count: u64) -> Result<Vec<u64>, Failure> {
    let mut values = vec![T::default(); count as usize];
    mapping.read_slice(at, &mut values)?;
    Ok(values.into_iter().map(T::into).collect())
}

/// Runs `poke`.
///
/// # Errors
///
/// The target cannot be mapped or written, or a value exceeds the width; nothing is written then.
pub fn poke(
    output: Output,
    target: Target,
    offset: u64,
    width: Width,
    values: &[u64],
) -> Result<(), Failure> {
    let (mapped, at) = place(target, offset, width, values.len() as u64, Access::ReadWrite)?;
    let mapping = &mapped.mapping;
    match width {
        Width::W8 => write::<u8>(mapping, at, values),
        Width::W16 => write::<u16>(mapping, at, values),
        Width::W32 => write::<u32>(mapping, at, values),
        Width::W64 => write::<u64>(mapping, at, values),
    }?;
    words(output, target, width, offset, values)
}

fn write<T: Word + TryFrom<u64>>(
    mapping: &Mapping,
    at: u64,
    values: &[u64],
) -> Result<(), Failure> {
    let fits = |&value: &u64| {
        let bits = 8 * size_of::<T>();
        let large = || Failure::NotFound(format!("{value:#x} does not fit into {bits} bits"));
        T::try_from(value).map_err(|_| large())
    };
    let values: Vec<T> = values.iter().map(fits).collect::<Result<_, _>>()?;
    Ok(mapping.write_slice(at, &values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(offset: u64, length: u64) -> Option<(u64, u64)> {
        pages(Some(Range { offset, length }), 4 * page_size())
    }

    #[test]
    fn ranges_grow_to_pages_and_stay_inside() {
        let page = page_size();
        assert_eq!(pages(None, 4 * page), Some((0, 4 * page)));
        assert_eq!(pages(None, 0), None);
        assert_eq!(of(0, 4), Some((0, page)));
        assert_eq!(of(page - 4, 8), Some((0, 2 * page)));
        assert_eq!(of(4 * page - 1, 1), Some((3 * page, page)));
        assert_eq!(of(4 * page, 1), None);
        assert_eq!(of(4 * page - 1, 2), None);
        assert_eq!(of(0, 0), None);
        assert_eq!(of(u64::MAX, 1), None);
        assert_eq!(of(u64::MAX - page, page), None);
    }
}
