// SPDX-License-Identifier: GPL-2.0
//! The program `vfio-dmabuf`: the suite checks its output and effects by its own means.

use std::os::unix::fs::MetadataExt;
use std::process;

use serde_json::{json, Value};

use crate::prelude::*;
use crate::program::{self, text};

cases! {
    Setup::Bound(&[EDU]) =>
        "the program vfio-dmabuf: devices, binding, slices, registers, buffers, errors": [
            tool_lists_devices_and_who_has_them_open, tool_takes_no_device_from_a_driver_unasked,
            tool_takes_no_device_from_its_users_unasked,
            tool_runs_a_command_that_inherits_the_slice_only,
            tool_revokes_the_slice_when_the_command_ends, tool_ends_as_its_command_ends,
            tool_lists_and_revokes_buffers_of_other_processes, tool_revokes_what_one_process_holds,
            tool_names_the_buffer_that_it_cannot_revoke, tool_says_what_was_refused_and_why,
        ];
    Setup::Bound(&[BOCHS]) =>
        "the program vfio-dmabuf: devices, binding, slices, registers, buffers, errors": [
            tool_reads_and_writes_in_each_width,
        ];
}

fn inode(buffer: &Buffer) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/self/fd/{}", buffer.raw()))?.ino())
}

/// The object in `list` whose field `key` is `value`.
fn find<'a>(list: &'a Value, key: &str, value: &Value) -> Result<&'a Value> {
    let mut objects = list.as_array().into_iter().flatten();
    objects
        .find(|object| object[key] == *value)
        .with_context(|| format!("no {key} {value}: {list}"))
}

fn tool_lists_devices_and_who_has_them_open() -> Result<()> {
    let edu = edu()?;
    let listed = || -> Result<Value> {
        let said = program::json(&["devices"], 0)?;
        check::equal("complete", &said["complete"], &json!(true))?;
        find(&said["devices"], "address", &json!(edu.address())).cloned()
    };
    let row = listed()?;
    check::equal("ids", (&row["vendor"], &row["device"]), (&json!(EDU.0), &json!(EDU.1)))?;
    check::equal("driver", &row["driver"], &json!(driver()))?;
    check::equal("vfio", &row["vfio"], &json!(edu.vfio_name()?))?;
    check::equal("group", row["iommu_group"].to_string(), edu.group()?)?;
    check::equal("users", &row["users"], &json!([]))?;
    let bar = json!({"index": 0, "size": 1 << 20, "memory": true, "prefetchable": false});
    check::equal("bars", &row["bars"], &json!([bar]))?;

    let device = open_edu()?;
    let row = listed()?;
    let user = find(&row["users"], "pid", &json!(process::id()))?;
    check::equal("fd", &user["fd"], &json!(device.raw()))?;
    let said = program::succeeds("vfio-dmabuf", &["devices"])?;
    ensure!(said.contains("0: 1 MiB") && said.contains(&format!("({})", process::id())), "{said}");
    Ok(())
}

fn tool_takes_no_device_from_a_driver_unasked() -> Result<()> {
    let edu = edu()?;
    edu.release()?;
    edu.bind("vfio-pci")?;
    program::refuses(&["bind", edu.address()], 3, "driven by vfio-pci")?;
    check::equal("driver", edu.driver().as_deref(), Some("vfio-pci"))?;

    let said = program::json(&["bind", edu.address(), "--force"], 0)?;
    check::equal("previous", &said["previous"], &json!("vfio-pci"))?;
    check::equal("driver", edu.driver(), Some(driver()))?;
    ensure!(edu.has_override(), "no override");
    let said = program::json(&["bind", edu.address()], 0)?;
    check::equal("changed", &said["changed"], &json!(false))?;

    let said = program::json(&["unbind", edu.address()], 0)?;
    check::equal("driver", &said["driver"], &Value::Null)?;
    check::equal("driver", edu.driver(), None)?;
    ensure!(!edu.has_override(), "the override is left");
    program::refuses(&["unbind", edu.address()], 3, "but none")?;
    program::json(&["bind", edu.address()], 0).map(drop)
}

fn tool_takes_no_device_from_its_users_unasked() -> Result<()> {
    let edu = edu()?;
    let device = open_edu()?;
    let said = program::json(&["unbind", edu.address()], 3)?;
    let me = format!("({})", process::id());
    ensure!(said["error"].as_str().is_some_and(|text| text.contains(&me)), "{said}");
    check::equal("driver", edu.driver(), Some(driver()))?;
    drop(device);
    program::json(&["unbind", edu.address()], 0)?;
    check::equal("driver", edu.driver(), None)
}

fn tool_runs_a_command_that_inherits_the_slice_only() -> Result<()> {
    let bar = format!("{}/0", edu()?.address());
    let tool = program::path("vfio-dmabuf");
    let script = format!(
        "echo fd $VFIO_DMABUF_FD; for fd in /proc/$$/fd/*; do printf 'open %s ' ${{fd##*/}}; \
         readlink $fd || echo; done; {tool} peek fd {ID_AT}; {tool} poke fd {INVERTER} 5; \
         {tool} peek fd {INVERTER}; {tool} peek fd 4096; {tool} map fd"
    );
    // An fd that this process lets its children have must end there, too.
    let open = fs::File::open("/dev/null")?;
    program::keep_in_children(&open)?;
    let args = ["export", &bar, "0", "--", "sh", "-c", &script];
    let output = program::run("vfio-dmabuf", &args)?;
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let number = said.lines().find_map(|line| line.strip_prefix("fd ")).context("no fd")?;
    let name = format!("/dmabuf:{}:{bar}", edu()?.vfio_name()?);
    let mut slices = 0;
    for line in said.lines().filter_map(|line| line.strip_prefix("open ")) {
        let (fd, link) = line.split_once(' ').unwrap_or((line, ""));
        // The shell has the directory open while it looks, and not any more.
        let allowed = fd.parse::<u32>()? < 3 || fd == number || link.is_empty();
        ensure!(allowed, "fd {fd} is {link}:\n{said}");
        slices += u32::from(fd == number && link == name);
    }
    check::equal("fds that are the slice", slices, 1)?;
    for line in [
        format!("0x00000000: {ID:#010x}"),
        "0x00000004: 0x00000005".into(),
        format!("0x00000004: {:#010x}", !5_u32),
    ] {
        ensure!(said.lines().any(|said| said == line), "{line} is not in\n{said}{complained}");
    }
    ensure!(complained.contains("fd has only 4 KiB"), "{complained}");
    ensure!(said.contains("rw-s") && said.contains(&name), "{said}");
    Ok(())
}

fn tool_revokes_the_slice_when_the_command_ends() -> Result<()> {
    let bar = format!("{}/0", edu()?.address());
    let tool = program::path("vfio-dmabuf");
    // A process that the command leaves behind keeps the slice mapped, and gets SIGBUS.
    let script = format!(
        "({tool} --json map fd --watch >/tmp/watch 2>/tmp/watch.err; echo $? >/tmp/watch.status) & \
         while ! grep -q maps /tmp/watch; do sleep 0.1; done; \
         (while ! [ -s /tmp/watch.status ]; do sleep 0.1; done; \
         {tool} peek fd 0; echo $? >/tmp/peek.status) 2>/dev/null &"
    );
    for file in ["/tmp/watch", "/tmp/watch.status", "/tmp/peek.status"] {
        let _ = fs::remove_file(file);
    }
    program::succeeds("vfio-dmabuf", &["export", &bar, "0:8K", "--", "sh", "-c", &script])?;
    for file in ["/tmp/watch.status", "/tmp/peek.status"] {
        let status = || fs::read_to_string(file).unwrap_or_default();
        wait_for(file, || Ok(status().ends_with('\n')))?;
        check::equal(file, status().trim(), "4")?;
    }
    let said = fs::read_to_string("/tmp/watch")?;
    let lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    check::equal("objects", lines.len(), 2)?;
    check::equal("size", &lines[0]["size"], &json!(8192))?;
    check::equal("gone", &lines[1]["gone"], &json!(true))
}

fn tool_ends_as_its_command_ends() -> Result<()> {
    let bar = format!("{}/0", edu()?.address());
    let status = |range: &str, command: &[&str]| -> Result<Option<i32>> {
        let args: Vec<&str> =
            ["export", &bar, range, "--"].iter().chain(command).copied().collect();
        Ok(program::run("vfio-dmabuf", &args)?.status.code())
    };
    check::equal("exit 7", status("0", &["sh", "-c", "exit 7"])?, Some(7))?;
    check::equal("signal 9", status("0", &["sh", "-c", "kill -9 $$"])?, Some(137))?;
    check::equal("no such program", status("0", &["/none"])?, Some(127))?;
    check::equal("no program", status("0", &["/proc"])?, Some(126))?;
    check::equal("no such range", status("1", &["true"])?, Some(125))?;
    // SIGTERM for the tool is for its command; here the command says what it got.
    let term = "trap 'exit 42' TERM; kill -TERM $PPID; while :; do sleep 0.1; done";
    check::equal("SIGTERM is passed on", status("0", &["sh", "-c", term])?, Some(42))
}

fn tool_lists_and_revokes_buffers_of_other_processes() -> Result<()> {
    let (device, buffer) = exported_edu()?;
    let other = Buffer::export(&device, 0, PAGE, PAGE)?;
    let mapping = check::works("mmap", Mapping::new(&buffer, PAGE, mm::RW, 0))?;
    let id = inode(&buffer)?;

    let said = program::json(&["buffers", "--pid", &process::id().to_string()], 0)?;
    let row = find(&said["buffers"], "id", &json!(id))?;
    check::equal("size", &row["size"], &json!(PAGE))?;
    let name = format!("{}:{}/0", edu()?.vfio_name()?, edu()?.address());
    check::equal("name", &row["name"], &json!(name))?;
    check::equal("fd", &row["fds"][0]["fd"], &json!(buffer.raw()))?;
    let at = &row["mappings"][0];
    check::equal("start", &at["start"], &json!(mapping.address()))?;
    check::equal("writable", &at["writable"], &json!(true))?;
    check::equal("status", &row["driver"]["status"], &json!("live"))?;
    check::equal("exporter", &row["driver"]["pid"], &json!(process::id()))?;
    find(&said["buffers"], "id", &json!(inode(&other)?))?;

    check::value("before", mapping.load(ID_AT), ID)?;
    let revoke = |now: bool| -> Result<()> {
        let said = program::json(&["revoke", &id.to_string()], 0)?;
        let want = json!([{"id": id, "name": name, "now": now}]);
        check::equal("revoked", &said["revoked"], &want)
    };
    revoke(true)?;
    check::bus_error("after", mapping.load(ID_AT))?;
    let said = program::json(&["buffers", "--device", edu()?.address()], 0)?;
    let row = find(&said["buffers"], "id", &json!(id))?;
    check::equal("status", &row["driver"]["status"], &json!("revoked"))?;
    revoke(false)?;
    let again = check::works("another buffer", Mapping::new(&other, PAGE, mm::RW, 0))?;
    ensure!(again.load(0).is_ok(), "the other buffer is dead, too");
    program::refuses(&["revoke", "999999999"], 1, "buffer 999999999")?;
    Ok(())
}

fn tool_revokes_what_one_process_holds() -> Result<()> {
    let client = Peer::fork()?;
    let device = open_edu()?;
    let buffers = [export_edu(&device)?, Buffer::export(&device, 0, 0, PAGE)?];
    let mine = check::works("mmap", Mapping::new(&buffers[1], PAGE, mm::RW, 0))?;
    let fd = client.take(&buffers[0])?;
    let theirs = check::works("mmap", client.map(fd, PAGE, mm::RW, 0)?)?;
    check::value("before", client.load(theirs)?, ID)?;
    buffers[0].set_name(c"renamed")?;

    let said = program::json(&["revoke", "--pid", &client.pid().to_string()], 0)?;
    check::equal("buffers", said["revoked"].as_array().map(Vec::len), Some(1))?;
    check::equal("id", &said["revoked"][0]["id"], &json!(inode(&buffers[0])?))?;
    check::bus_error("after", client.load(theirs)?)?;
    check::value("the owner's", mine.load(ID_AT), ID)?;

    // All of the device, under whatever name.
    let said = program::json(&["revoke", "--device", edu()?.address()], 0)?;
    for (buffer, now) in buffers.iter().zip([false, true]) {
        let row = find(&said["revoked"], "id", &json!(inode(buffer)?))?;
        check::equal("now", &row["now"], &json!(now))?;
    }
    check::bus_error("the owner's", mine.load(ID_AT))
}

fn tool_names_the_buffer_that_it_cannot_revoke() -> Result<()> {
    let device = open_edu()?;
    let (kept, closed) = (export_edu(&device)?, export_edu(&device)?);
    let [of_kept, of_closed] = [&kept, &closed].map(|buffer| buffer.map(0, PAGE));
    let (of_kept, of_closed) = (of_kept?, of_closed?);
    let (id, id_of_kept) = (inode(&closed)?, inode(&kept)?);
    drop(closed);

    let output = program::run("vfio-dmabuf", &["--json", "revoke", "--device", edu()?.address()])?;
    check::equal("status", output.status.code(), Some(1))?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let revoked = said["revoked"].as_array().map(Vec::len);
    check::equal("revoked", (revoked, &said["revoked"][0]["id"]), (Some(1), &json!(id_of_kept)))?;
    check::bus_error("the one with an fd", of_kept.load(ID_AT))?;
    let said: Value = serde_json::from_slice(&output.stderr)?;
    for part in [format!("buffer {id} any more"), format!("({})", process::id())] {
        ensure!(said["error"].to_string().contains(&part), "{part:?} is not in {said}");
    }
    check::value("the one without", of_closed.load(ID_AT), ID)?;
    program::refuses(&["revoke", &id.to_string()], 1, &format!("buffer {id} any more"))?;
    drop(device);
    check::bus_error("after the device was closed", of_closed.load(ID_AT))
}

fn tool_says_what_was_refused_and_why() -> Result<()> {
    let address = edu()?.address().to_string();
    let bar = format!("{address}/0");
    let device = open_edu()?;
    let said = program::json(&["peek", &bar, "0"], 1)?;
    check::equal("errno", &said["errno"], &json!(libc::EBUSY))?;
    ensure!(said["error"].to_string().contains("it is already open"), "{said}");
    drop(device);
    let none = "0000:ff:1f.7/0";
    let said = program::json(&["peek", none, "0"], 1)?;
    check::equal("no device", &said["error"], &json!("there is no PCI device 0000:ff:1f.7"))?;
    program::refuses(&["peek", &bar, "1M"], 1, "has only 1 MiB")?;
    program::refuses(&["poke", &bar, "0", "0x100", "-w", "8"], 1, "does not fit into 8 bits")?;
    let said = program::json(&["peek", "fd:99", "0"], 1)?;
    check::equal("errno", &said["errno"], &json!(libc::EBADF))?;
    let usage = program::run("vfio-dmabuf", &["export", &bar, "--", "true"])?;
    check::equal("usage", usage.status.code(), Some(2))?;

    let tool = program::path("vfio-dmabuf");
    let write = [tool.as_str(), "--json", "poke", "fd", "4", "1"];
    let args: Vec<&str> =
        ["export", &bar, "0", "--read-only", "--"].iter().chain(&write).copied().collect();
    let output = program::run("vfio-dmabuf", &args)?;
    check::equal("poke of a read-only slice", output.status.code(), Some(1))?;
    let said: Value = serde_json::from_slice(&output.stderr)?;
    check::equal("errno", &said["errno"], &json!(libc::EACCES))
}

fn tool_reads_and_writes_in_each_width() -> Result<()> {
    let bochs = nth(BOCHS, 0)?;
    let bar = format!("{}/0", bochs.address());
    for (width, value, at) in
        [(8, 0x81, 0x1003), (16, 0x8182, 0x1006), (32, 0x8182_8384_u64, 0x1008)]
    {
        let (at, width) = (at.to_string(), width.to_string());
        let value = value.to_string();
        program::json(&["poke", &bar, &at, &value, "--width", &width], 0)?;
    }
    program::json(&["poke", &bar, "0x1010", "0x8182838485868788", "1", "-w", "64"], 0)?;
    let mut bytes = [0; 32];
    open_bochs()?.read(0, 0x1000, &mut bytes)?;
    check::equal("8 bits", bytes[3], 0x81)?;
    check::equal("16 bits", bytes[6..8].to_vec(), vec![0x82, 0x81])?;
    check::equal("32 bits", bytes[8..12].to_vec(), vec![0x84, 0x83, 0x82, 0x81])?;
    let words = [0x8182_8384_8586_8788_u64.to_le_bytes(), 1_u64.to_le_bytes()];
    check::equal("64 bits", bytes[16..].to_vec(), words.concat())?;
    let said = program::json(&["peek", &bar, "0x1010", "-w", "64", "-n", "2"], 0)?;
    let want = json!([
        {"offset": 0x1010, "value": 0x8182_8384_8586_8788_u64},
        {"offset": 0x1018, "value": 1},
    ]);
    check::equal("64 bits", &said["values"], &want)?;
    let raw =
        program::run("vfio-dmabuf", &["peek", &bar, "0x1008", "-w", "8", "-n", "4", "--raw"])?;
    check::equal("raw", &raw.stdout[..], &[0x84, 0x83, 0x82, 0x81])?;
    let registers = format!("{}/2", bochs.address());
    let said = program::json(&["peek", &registers, &BOCHS_SIZE_AT.to_string()], 0)?;
    check::equal("BAR2", &said["values"][0]["value"], &json!(BOCHS_SIZE))
}
