// SPDX-License-Identifier: GPL-2.0
//! Arguments that name BARs, fds, ranges and numbers.

use std::fmt;
use std::str::FromStr;

use vfio_dmabuf::PciAddress;

/// A BAR of a device, as the kernel names it: `0000:01:00.0/0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarName {
    /// The device.
    pub address: PciAddress,
    /// The BAR, 0 to 5.
    pub bar: u32,
}

impl FromStr for BarName {
    type Err = String;

    fn from_str(text: &str) -> Result<BarName, String> {
        let example = || format!("{text:?} is not a BAR of a device; an example is 0000:01:00.0/0");
        let (address, bar) = text.split_once('/').ok_or_else(example)?;
        let address = address.parse().map_err(|_| example())?;
        match bar.parse() {
            Ok(bar) if bar < 6 => Ok(BarName { address, bar }),
            _ => Err(example()),
        }
    }
}

impl fmt::Display for BarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bar)
    }
}

/// The target of `map`, `peek` and `poke`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A BAR of a device, which the program opens.
    Bar(BarName),
    /// An inherited dma-buf, by its fd number.
    Fd(i32),
    /// The inherited dma-buf that `VFIO_DMABUF_FD` names.
    Inherited,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if text == "fd" {
            return Ok(Target::Inherited);
        }
        match text.strip_prefix("fd:") {
            Some(number) => match number.parse() {
                Ok(number) if number >= 0 => Ok(Target::Fd(number)),
                _ => Err(format!("{number:?} is not the number of an fd")),
            },
            None => {
                text.parse().map(Target::Bar).map_err(|error| format!("{error}, or fd, or fd:3"))
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Bar(bar) => bar.fmt(f),
            Target::Fd(number) => write!(f, "fd:{number}"),
            Target::Inherited => f.write_str("fd"),
        }
    }
}

/// A range of a BAR or a buffer, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its start.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// The page size, which is the length of a range that names none.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let (offset, length) = match text.split_once(':') {
            Some((offset, length)) => (offset, number(length)?),
            None => (text, page_size()),
        };
        Ok(Range { offset: number(offset)?, length })
    }
}

/// Parses a number: decimal, or hexadecimal with `0x`. The suffixes `K`, `M` and `G` multiply by
/// powers of 1024.
pub fn number(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a number; examples are 4096, 0x1000 and 4K");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    if !digits.starts_with(|digit: char| digit.is_ascii_alphanumeric()) {
        return Err(bad());
    }
    let value = u64::from_str_radix(digits, radix).map_err(|_| bad())?;
    value.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_hexadecimal_and_have_units() {
        let good = [("0", 0), ("0x1f", 31), ("4K", 4096), ("0x2M", 2 << 20), ("16G", 16 << 30)];
        for (text, value) in good {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "K", "0x", "+1", "-1", "1k", "1KK", " 1", "0x+1", "17179869184G", "é"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ranges_are_a_page_long_if_they_do_not_say() {
        assert_eq!("0x1000".parse(), Ok(Range { offset: 4096, length: page_size() }));
        assert_eq!("1M:64K".parse(), Ok(Range { offset: 1 << 20, length: 65536 }));
        for bad in ["", ":", "0:", ":1", "0:1:2"] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn targets_are_written_as_they_are_read() {
        for good in ["0000:01:00.0/0", "0000:01:00.0/5", "fd", "fd:17"] {
            assert_eq!(good.parse::<Target>().unwrap().to_string(), good);
        }
        for bad in ["", "0000:01:00.0", "0000:01:00.0/6", "fd:", "fd:-1", "fd3", "/0"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
    }
}
