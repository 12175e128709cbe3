// SPDX-License-Identifier: GPL-2.0
//! Names: where an administrator sees what a file or a mapping is.

use guest::maps;
use guest::pci::AHCI;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "names: in maps, map_files, fdinfo and bufinfo; can be replaced": [
            name_is_in_maps_map_files_fd_and_fdinfo, mapping_gives_no_fd_of_its_buffer,
            name_is_in_bufinfo_with_the_exporter, name_can_be_replaced_and_others_keep_theirs,
            name_that_is_too_long_is_refused,
        ],
        "race: loads, exports, revokes, resets and memory off, unsynchronized; O_PATH": [
            o_path_descriptor_of_a_buffer_that_is_gone_does_no_harm,
        ];
    Setup::Bound(&[BOCHS]) =>
        "names: in maps, map_files, fdinfo and bufinfo; can be replaced": [
            name_of_a_buffer_has_its_bar => names_have_bars(BOCHS, &[0, 2]),
        ];
    Setup::Bound(&[AHCI]) =>
        "names: in maps, map_files, fdinfo and bufinfo; can be replaced": [
            name_of_a_buffer_has_the_last_bar => names_have_bars(AHCI, &[5]),
        ];
}

const BUFINFO: &str = "/sys/kernel/debug/dma_buf/bufinfo";

/// The name that a buffer over BAR0 of edu is born with.
fn born() -> Result<String> {
    Ok(format!("{}:{}/0", edu()?.vfio_name()?, edu()?))
}

fn name_is_in_maps_map_files_fd_and_fdinfo() -> Result<()> {
    let device = Device::open(&edu()?, Via::newest())?;
    let buffer = export_edu(&device)?;
    let want = format!("/dmabuf:{}", born()?);
    for mapping in [device.map_bar(0)?, buffer.map(0, PAGE)?] {
        let line = maps::line_at(std::process::id() as i32, mapping.address())?;
        check::equal("maps", line.name.as_str(), want.as_str())?;
        let path = format!("/proc/self/map_files/{:x}-{:x}", line.start, line.end);
        let target = fs::read_link(&path).context(path)?;
        check::equal("map_files", target.to_string_lossy().as_ref(), want.as_str())?;
    }
    let target = fs::read_link(format!("/proc/self/fd/{}", buffer.raw()))?;
    check::equal("/proc/self/fd", target.to_string_lossy().as_ref(), want.as_str())?;
    let info = buffer.fdinfo()?;
    ensure!(info.contains(&format!("name:\t{}\n", born()?)), "fdinfo: {info}");
    ensure!(info.contains(&format!("size:\t{PAGE}\n")), "fdinfo: {info}");
    ensure!(info.contains(&format!("exp_name:\t{}\n", driver())), "fdinfo: {info}");
    Ok(())
}

/// A process without an fd cannot revoke the buffer by its mapping.
fn mapping_gives_no_fd_of_its_buffer() -> Result<()> {
    let (device, buffer, mapping) = mapped_edu()?;
    let path =
        |start: usize| format!("/proc/self/map_files/{:x}-{:x}", start, start + PAGE as usize);
    let of_mapping = path(mapping.address());
    for path in [of_mapping.clone(), format!("/proc/self/fd/{}", buffer.raw())] {
        let error = fs::File::open(&path).map(drop).map_err(|error| error.raw_os_error());
        check::equal(&path, error, Err(Some(libc::ENXIO)))?;
    }
    let path_only = open_path(&of_mapping)?;
    let got = buffer::revoke_fd(&device, path_only.as_raw_fd());
    check::errno("REVOKE of an O_PATH descriptor", got, Errno::EBADF)?;
    check::value("after it", mapping.load(ID_AT), ID)
}

fn bufinfo() -> Result<String> {
    match fs::read_to_string(BUFINFO) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Skip(format!("no {BUFINFO}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn name_is_in_bufinfo_with_the_exporter() -> Result<()> {
    let name = born()?;
    let lines = |text: &str| text.lines().filter(|line| line.contains(&name)).count();
    check::equal("before", lines(&bufinfo()?), 0)?;
    let device = open_edu()?;
    let buffers = [export_edu(&device)?, export_edu(&device)?];
    let text = bufinfo()?;
    check::equal("two buffers", lines(&text), 2)?;
    let line = text.lines().find(|line| line.contains(&name)).context("bufinfo")?;
    ensure!(line.contains(&driver()), "bufinfo: {line}");
    let bar = device.map_bar(0)?;
    check::equal("with the hidden buffer", lines(&bufinfo()?), 3)?;
    drop((bar, buffers, device));
    wait_for("all buffers leave", || Ok(lines(&bufinfo()?) == 0))
}

fn name_can_be_replaced_and_others_keep_theirs() -> Result<()> {
    let device = open_edu()?;
    let (one, other) = (export_edu(&device)?, export_edu(&device)?);
    let (mapping, bar) = (one.map(0, PAGE)?, device.map_bar(0)?);
    let name =
        |address| -> Result<String> { Ok(maps::line_at(std::process::id() as i32, address)?.name) };
    for text in [c"doorbells", c"", c"0123456789012345678901234567890"] {
        check::works("DMA_BUF_SET_NAME", one.set_name(text))?;
        let want = format!("/dmabuf:{}", text.to_string_lossy());
        check::equal("renamed", name(mapping.address())?, want)?;
    }
    let info = other.fdinfo()?;
    ensure!(info.contains(&born()?), "the other buffer: {info}");
    check::equal("the BAR mapping", name(bar.address())?, format!("/dmabuf:{}", born()?))?;
    check::value("the mapping works", mapping.load(ID_AT), ID)
}

fn name_that_is_too_long_is_refused() -> Result<()> {
    let (_device, buffer) = exported_edu()?;
    let long = c"01234567890123456789012345678901";
    check::errno("DMA_BUF_SET_NAME", buffer.set_name(long), Errno::EINVAL)?;
    let info = buffer.fdinfo()?;
    ensure!(info.contains(&born()?), "fdinfo: {info}");
    Ok(())
}

fn names_have_bars(id: Id, bars: &[u32]) -> Result<()> {
    let pci = nth(id, 0)?;
    let device = Device::open(&pci, Via::newest())?;
    for &bar in bars {
        let info = guest::buffer::Buffer::export(&device, bar, 0, PAGE)?.fdinfo()?;
        let want = format!("name:\t{}:{pci}/{bar}\n", pci.vfio_name()?);
        ensure!(info.contains(&want), "no {want:?} in {info}");
    }
    Ok(())
}

/// A dma-buf's file may be freed while an O_PATH descriptor keeps its name alive. A driver that
/// finds mappings through the buffer's file then uses freed memory, or another file.
fn o_path_descriptor_of_a_buffer_that_is_gone_does_no_harm() -> Result<()> {
    let device = open_edu()?;
    let mut paths = Vec::new();
    for _ in 0..16 {
        let buffer = export_edu(&device)?;
        let path = o_path(&buffer)?;
        buffer.map(0, PAGE)?.load(ID_AT)?;
        drop(buffer);
        paths.push(path);
    }
    let (buffer, mapping) = map_edu(&device)?;
    for _ in 0..3 {
        device.set_memory(false)?;
        check::bus_error("memory off", mapping.load(ID_AT))?;
        device.set_memory(true)?;
        check::works("reset", device.reset())?;
        check::value("memory on", mapping.load(ID_AT), ID)?;
    }
    check::works("REVOKE", guest::buffer::revoke(&device, &buffer))?;
    check::bus_error("revoked", mapping.load(ID_AT))?;
    drop(device);
    drop(paths);
    Ok(())
}
