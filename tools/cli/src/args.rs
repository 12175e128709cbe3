// SPDX-License-Identifier: GPL-2.0
//! The command line. Its text is also that of the man pages.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vfio_dmabuf::PciAddress;

use crate::target::{number, BarName, Range, Target};

const NOTES: &str = "\
Exit status:
  0    done
  1    refused by the kernel, or not found; standard error says what was tried
  2    the command line makes no sense
  3    refused by this program, to be on the safe side; --force overrides where there is one
  4    the slice was revoked, or its device is off
`export` exits with the status of COMMAND, 128 + N if signal N ended it; 125 if something went \
wrong before it ran, 126 if it cannot be run, 127 if it was not found.

Output with --json:
One object on standard output, with the fields that each command describes; more fields may come. \
Addresses of devices are strings, all other numbers are numbers, sizes and offsets in bytes. \
Errors are an object on standard error: \"error\" (text), \"errno\" (a number, or null), \
\"exit\" (the exit status).

Numbers are decimal, or hexadecimal with 0x; K, M, G behind them are powers of 1024.

Who else has a device or a buffer is read from /proc, which tells other users' processes to root \
only.";

/// Slices of PCI devices for other processes
///
/// Gives slices of the BARs of PCI devices, which are bound to the driver dmabuf-vfio-pci, to other
/// processes as dma-bufs, and takes them back.
#[derive(Debug, Parser)]
#[command(name = "vfio-dmabuf", version, after_long_help = NOTES, max_term_width = 100)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices that the driver has, and who uses them
    ///
    /// JSON: "devices", each with "address", "vendor", "device", "class" (numbers), "driver",
    /// "iommu_group", "vfio" (name of the VFIO device), "bars" ("index", "size", "memory",
    /// "prefetchable"), "users" ("pid", "command", "fd"), and "complete": whether all processes
    /// could be looked at.
    Devices {
        /// All PCI devices of the machine, not only those of the driver
        #[arg(long)]
        all: bool,
    },
    /// Give a device to the driver
    ///
    /// Reserves the device for the driver (driver_override), so that it stays with it until
    /// `unbind`. If the driver does not take it, it goes back to where it was.
    ///
    /// JSON: "device", "driver", "previous" (driver or null), "changed", "warnings".
    Bind {
        /// The device, as in 0000:01:00.0
        device: PciAddress,
        /// Take it from the driver that it has; whatever uses it there loses it
        #[arg(long)]
        force: bool,
    },
    /// Give a device back: drop the reservation and let the kernel find a driver for it
    ///
    /// JSON: as for `bind`; "driver" is the one that it has now, or null.
    Unbind {
        /// The device
        device: PciAddress,
        /// Even if processes have it open: wait until they close it
        #[arg(long)]
        force: bool,
    },
    /// Run a command that inherits a slice and nothing else
    ///
    /// As in: vfio-dmabuf export 0000:01:00.0/0 0:8K -- ./client
    ///
    /// Opens the device, exports the ranges, end to end, as one buffer, and runs COMMAND, whose
    /// environment has the number of the buffer's fd as VFIO_DMABUF_FD. COMMAND has standard
    /// input, output and error, that fd, and no other. When it has ended the buffer is revoked,
    /// so that whoever got it from COMMAND loses it, too. If this program is killed the kernel
    /// does the same. SIGTERM and SIGHUP are passed on to COMMAND; SIGINT and SIGQUIT are left
    /// to it.
    Export(Export),
    /// Map a slice and show what the kernel says about the mapping
    ///
    /// Nothing of the device is accessed.
    ///
    /// JSON: "target", "size", "maps" (the line of /proc/PID/maps), and with --watch a second
    /// object when the slice is gone: "target", "gone" (true).
    Map {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or fd: the one in VFIO_DMABUF_FD
        target: Target,
        /// What to map; all of it, if nothing is said
        range: Option<Range>,
        /// Map for reading only
        #[arg(long)]
        read_only: bool,
        /// Stay until the slice is revoked, and exit with status 4 then
        #[arg(long)]
        watch: bool,
    },
    /// Read registers
    ///
    /// JSON: "target", "width" (bits), "values" ("offset", "value").
    Peek {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or fd: the one in VFIO_DMABUF_FD
        target: Target,
        /// Where to begin
        #[arg(value_parser = number)]
        offset: u64,
        /// Bits of each access
        #[arg(short, long, default_value = "32")]
        width: Width,
        /// How many, one after the other
        #[arg(short = 'n', long, default_value = "1", value_parser = number)]
        count: u64,
        /// Write the bytes as they are, for files and pipes
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Write registers
    ///
    /// JSON: as for `peek`, with what was written.
    Poke {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or fd: the one in VFIO_DMABUF_FD
        target: Target,
        /// Where to begin
        #[arg(value_parser = number)]
        offset: u64,
        /// What to write, one after the other
        #[arg(required = true, value_parser = number)]
        values: Vec<u64>,
        /// Bits of each access
        #[arg(short, long, default_value = "32")]
        width: Width,
    },
    /// List the buffers that processes hold or have mapped
    ///
    /// Reads /proc, and the driver's own list in debugfs, if that is mounted. A mapping of a BAR
    /// through the device's own fd is a buffer, too, without any fd.
    ///
    /// JSON: "buffers", each with "id" (the inode's number), "name", "size" (or null), "fds"
    /// ("pid", "command", "fd"), "mappings" ("pid", "command", "start", "end", "writable"),
    /// "driver" (what the driver says, with "device" added, or null); "complete".
    Buffers {
        /// Those of this process only
        #[arg(long)]
        pid: Option<i32>,
        /// Those of this device only
        #[arg(long)]
        device: Option<PciAddress>,
    },
    /// Take buffers back from everybody, for good (root)
    ///
    /// Revoking is the owner's right: whoever has the device's fd. Root can borrow that fd from
    /// the owner (pidfd_getfd), and an fd of the buffer from whoever has one, and that is what
    /// this does; the owner notices nothing. A program that hands out slices over a socket of its
    /// own, as vfio-dmabuf-broker does, is better asked there.
    ///
    /// A buffer that is mapped, or on its way over a socket, but of which no process has an fd any
    /// more, cannot be revoked: the kernel makes no fd from a mapping, for /proc/PID/map_files
    /// opens no dma-buf. It is named, all others are revoked, and the exit status is 1. It dies
    /// when its device is closed: when the last process that has that open ends, say. An owner
    /// that may want to revoke keeps an fd of its own.
    ///
    /// JSON: "revoked", each with "id", "name", "now" (false: it had been revoked before).
    Revoke {
        /// Buffers by their ids, see `buffers`
        #[arg(required_unless_present_any = ["pid", "device"])]
        ids: Vec<u64>,
        /// All that this process holds or has mapped
        #[arg(long, conflicts_with = "ids")]
        pid: Option<i32>,
        /// All of this device
        #[arg(long, conflicts_with = "ids")]
        device: Option<PciAddress>,
    },
}

/// `export`.
#[derive(Args, Debug)]
pub struct Export {
    /// The BAR, as in 0000:01:00.0/0
    pub bar: BarName,
    /// Ranges, as OFFSET:LENGTH, multiples of the page size; a page long without LENGTH
    #[arg(required = true, value_name = "OFFSET[:LENGTH]")]
    pub ranges: Vec<Range>,
    /// Write-combining, not uncached
    #[arg(long)]
    pub wc: bool,
    /// For reading only
    #[arg(long)]
    pub read_only: bool,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Bits of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Width {
    /// u8
    #[value(name = "8")]
    W8,
    /// u16
    #[value(name = "16")]
    W16,
    /// u32
    #[value(name = "32")]
    W32,
    /// u64
    #[value(name = "64")]
    W64,
}

impl Width {
    /// Bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Width::W8 => 1,
            Width::W16 => 2,
            Width::W32 => 4,
            Width::W64 => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_of_export_keeps_its_options() {
        let cli =
            parse("vfio-dmabuf export 0000:01:00.0/0 0 4K:8K --wc -- sh -c x --json").unwrap();
        let Command::Export(export) = cli.command else { panic!("{cli:?}") };
        assert!(!cli.json && export.wc && !export.read_only);
        assert_eq!(export.ranges.len(), 2);
        assert_eq!(export.command, ["sh", "-c", "x", "--json"]);
        assert!(parse("vfio-dmabuf export 0000:01:00.0/0 0").is_err(), "no command");
        assert!(parse("vfio-dmabuf export 0000:01:00.0/0 -- true").is_err(), "no range");
    }

    #[test]
    fn revoke_wants_to_know_what() {
        assert!(parse("vfio-dmabuf revoke").is_err());
        assert!(parse("vfio-dmabuf revoke 12 13").is_ok());
        assert!(parse("vfio-dmabuf revoke --pid 1 --device 0000:01:00.0").is_ok());
        assert!(parse("vfio-dmabuf revoke 12 --pid 1").is_err());
    }
}
