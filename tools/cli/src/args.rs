// SPDX-License-Identifier: GPL-2.0
//! The command line. The manual pages are made from its text.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vfio_dmabuf::PciAddress;

use crate::target::{number, BarName, Range, Target};

const NOTES: &str = "\
Exit status:
  0    success
  1    an error of the kernel, or an object that does not exist; standard error names the call
  2    an invalid command line
  3    refused by this program as a precaution; --force overrides, where a command has it
  4    the slice was revoked, or the device's memory is disabled
`export` exits with the status of COMMAND, or 128 + N if signal N ended it; with 125 after a \
failure before COMMAND ran, 126 if COMMAND cannot be executed, 127 if it was not found.

Output with --json:
One object on standard output with the fields that each command documents; later versions may add \
fields. Device addresses are strings, all other numbers are numbers. Sizes and offsets are bytes. \
An error is one object on standard error: \"error\" (text), \"errno\" (a number or null), \
\"exit\" (the exit status).

Numbers are decimal, or hexadecimal with 0x. The suffixes K, M and G multiply by powers of 1024.

The users of devices and buffers come from /proc, which shows other users' processes to root only.";

/// Slices of PCI devices for other processes
///
/// Hands slices of the BARs of PCI devices to other processes as dma-bufs, and revokes them. The
/// devices are bound to the driver dmabuf-vfio-pci.
#[derive(Debug, Parser)]
#[command(name = "vfio-dmabuf", version, after_long_help = NOTES, max_term_width = 100)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// The command to run
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices of the driver and the processes that use them
    ///
    /// JSON: "devices", each with "address", "vendor", "device", "class" (numbers), "driver",
    /// "iommu_group", "vfio" (name of the VFIO device), "bars" ("index", "size", "memory",
    /// "prefetchable"), "users" ("pid", "command", "fd"); and "complete": whether all processes
    /// could be inspected.
    Devices {
        /// List all PCI devices of the machine
        #[arg(long)]
        all: bool,
    },
    /// Bind a device to the driver
    ///
    /// Sets driver_override, so that the device stays with the driver until `unbind`. If the driver
    /// refuses the device, it returns to its previous driver.
    ///
    /// JSON: "device", "driver", "previous" (driver or null), "changed", "warnings".
    Bind {
        /// The device, as in 0000:01:00.0
        device: PciAddress,
        /// Unbind it from its current driver first, even if it is in use
        #[arg(long)]
        force: bool,
    },
    /// Release a device: clear driver_override and let the kernel find a driver for it
    ///
    /// JSON: as for `bind`; "driver" is the new driver, or null.
    Unbind {
        /// The device
        device: PciAddress,
        /// If processes have it open, wait until they close it
        #[arg(long)]
        force: bool,
    },
    /// Run a command that inherits a slice and nothing else
    ///
    /// Example: vfio-dmabuf export 0000:01:00.0/0 0:8K -- ./client
    ///
    /// Opens the device, exports the ranges, laid end to end, as one buffer, and runs COMMAND. The
    /// environment variable VFIO_DMABUF_FD has the number of the buffer's fd. COMMAND inherits
    /// standard input, output and error, that fd, and no other. When COMMAND ends, the buffer is
    /// revoked, also for processes that got it from COMMAND. If this program is killed, the kernel
    /// closes the device with the same effect. SIGTERM and SIGHUP are passed on to COMMAND; this
    /// program ignores SIGINT and SIGQUIT.
    Export(Export),
    /// Map a slice and show the line of /proc/PID/maps
    ///
    /// Does not access the device.
    ///
    /// JSON: "target", "size", "maps" (the line of /proc/PID/maps), and with --watch a second
    /// object when the slice is gone: "target", "gone" (true).
    Map {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or the one in VFIO_DMABUF_FD (fd)
        target: Target,
        /// The range to map; the default is all of it
        range: Option<Range>,
        /// Map read-only
        #[arg(long)]
        read_only: bool,
        /// Wait until the slice is revoked, then exit with status 4
        #[arg(long)]
        watch: bool,
    },
    /// Read registers
    ///
    /// JSON: "target", "width" (bits), "values" ("offset", "value").
    Peek {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or the one in VFIO_DMABUF_FD (fd)
        target: Target,
        /// Offset of the first access
        #[arg(value_parser = number)]
        offset: u64,
        /// Bits of each access
        #[arg(short, long, default_value = "32")]
        width: Width,
        /// Number of consecutive accesses
        #[arg(short = 'n', long, default_value = "1", value_parser = number)]
        count: u64,
        /// Print the raw bytes, for files and pipes
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Write registers
    ///
    /// JSON: as for `peek`, with the written values.
    Poke {
        /// A BAR (0000:01:00.0/0), an inherited fd (fd:3), or the one in VFIO_DMABUF_FD (fd)
        target: Target,
        /// Offset of the first access
        #[arg(value_parser = number)]
        offset: u64,
        /// The values of consecutive accesses
        #[arg(required = true, value_parser = number)]
        values: Vec<u64>,
        /// Bits of each access
        #[arg(short, long, default_value = "32")]
        width: Width,
    },
    /// List the buffers that processes hold or map
    ///
    /// Reads /proc, and the driver's list in debugfs if that is mounted. A BAR mapping through the
    /// device fd appears as a buffer without fds.
    ///
    /// JSON: "buffers", each with "id" (the inode number), "name", "size" (or null), "fds" ("pid",
    /// "command", "fd"), "mappings" ("pid", "command", "start", "end", "writable"), "driver" (the
    /// driver's entry, with "device" added, or null); and "complete".
    Buffers {
        /// List the buffers of this process only
        #[arg(long)]
        pid: Option<i32>,
        /// List the buffers of this device only
        #[arg(long)]
        device: Option<PciAddress>,
    },
    /// Revoke buffers for all processes, for good (root)
    ///
    /// Only a holder of the device fd can revoke. This command duplicates that fd from the owner
    /// (pidfd_getfd), and an fd of the buffer from any process that has one. The owner does not
    /// notice. If the owner serves slices over a socket, as vfio-dmabuf-broker does, prefer to ask
    /// the owner.
    ///
    /// REVOKE needs an fd of the buffer; a mapping, or an fd in flight over a socket, is not
    /// enough.
    /// If no process has an fd of a buffer, the command prints its id, revokes all others and
    /// exits with status 1. Such a buffer dies when its device is closed. Owners should keep an fd
    /// of each buffer that they may want to revoke.
    ///
    /// JSON: "revoked", each with "id", "name", "now" (false: it was revoked before).
    Revoke {
        /// Ids of buffers, as listed by `buffers`
        #[arg(required_unless_present_any = ["pid", "device"])]
        ids: Vec<u64>,
        /// All buffers that this process holds or maps
        #[arg(long, conflicts_with = "ids")]
        pid: Option<i32>,
        /// All buffers of this device
        #[arg(long, conflicts_with = "ids")]
        device: Option<PciAddress>,
    },
}

/// `export`.
#[derive(Args, Debug)]
pub struct Export {
    /// The BAR, as in 0000:01:00.0/0
    pub bar: BarName,
    /// Ranges, as OFFSET:LENGTH, multiples of the page size; LENGTH defaults to one page
    #[arg(required = true, value_name = "OFFSET[:LENGTH]")]
    pub ranges: Vec<Range>,
    /// Export as write-combining; the default is uncached
    #[arg(long)]
    pub wc: bool,
    /// Export read-only
    #[arg(long)]
    pub read_only: bool,
    /// The command and its arguments
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
