// SPDX-License-Identifier: GPL-2.0
//! The broker of `tools/`, one owner and a hundred clients. What is in the device's memory is seen
//! through sysfs, which no slice has a part in.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::prelude::*;
use crate::program;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "the broker: a slice for each client, revoked before it is given anew": [
            broker_serves_a_hundred_clients_that_die_hang_and_leave,
        ];
}

/// The program; it begins errors with its name.
const BROKER: &str = "vfio-dmabuf-broker";
const SOCKET: &str = "/tmp/broker";
/// Slices; each is two pages, the first one begins at page 8.
const SLICES: usize = 100;
const FIRST: u64 = 8;
const PAGES: u64 = 2;
/// How long a client may be silent, and the time between its beats. It looks at its slice as often:
/// so many clients would take all of a slow machine if they did that all the time.
const HEARTBEAT: Duration = Duration::from_secs(2);
const BEAT: Duration = Duration::from_millis(250);
/// Longer than the case takes.
const LINGER: Duration = Duration::from_secs(100);

/// The program, with its output in a file; it does not outlive this object.
struct Running {
    child: Child,
    output: String,
}

impl Running {
    fn start(number: usize, args: &[&str]) -> Result<Running> {
        let output = format!("/tmp/{}.{number}", args[0]);
        let file = File::create(&output)?;
        let child = Command::new(program::path(BROKER))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context(BROKER)?;
        Ok(Running { child, output })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid() as i32), signal)?)
    }

    /// Waits for its end; returns the exit status, or nothing if a signal ended it.
    fn end(&mut self) -> Result<Option<i32>> {
        wait_for("the end of a program", || Ok(self.child.try_wait()?.is_some()))?;
        Ok(self.child.wait()?.code())
    }

    /// The slice that a client says it has.
    fn slice(&self) -> Result<Option<usize>> {
        let said = self.said()?;
        ensure!(!said.contains(BROKER), "client {}: {said}", self.pid());
        Ok(said.lines().find_map(|line| line.strip_prefix("slice ")?.parse().ok()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The broker, and the device's memory past it.
struct Scene {
    broker: Running,
    memory: Mapping,
    started: usize,
}

impl Scene {
    fn new(bochs: &Pci) -> Result<Scene> {
        let pages = FIRST + (SLICES as u64 + 1) * PAGES;
        let memory = Mapping::new(bochs.bar_file(0)?, pages * PAGE, mm::RW, 0)?;
        paint(&memory, pages)?;
        let bar = format!("{}/0", bochs.address());
        let (count, first) = (SLICES.to_string(), (FIRST * PAGE).to_string());
        let heartbeat = scaled(HEARTBEAT).as_millis().to_string();
        let args = [
            &["serve", &bar, SOCKET, "--clear", "--size", "8K", "--heartbeat", &heartbeat],
            &["--count", &count, "--first", &first][..],
        ];
        let broker = Running::start(0, &args.concat())?;
        let scene = Scene { broker, memory, started: 0 };
        wait_for("the broker", || Ok(scene.broker.said()?.contains("serving 100 slices")))?;
        Ok(scene)
    }

    /// Starts clients; `more` are more arguments for them.
    fn clients(&mut self, count: usize, more: &[&str]) -> Result<Vec<Running>> {
        let beat = scaled(BEAT).as_millis().to_string();
        let args = [&["occupy", SOCKET, &beat], more].concat();
        let numbers = self.started..self.started + count;
        self.started += count;
        let start = |number| Running::start(number, &args);
        numbers.map(start).collect()
    }

    /// A word of a slice; the number counts in all of it.
    fn word(&self, slice: usize, number: u64) -> Result<u32> {
        let at = (FIRST + slice as u64 * PAGES) * PAGE + number * 8;
        Ok(self.memory.load(at)?)
    }

    /// Checks that each client's slice has that client's mark in both pages, and that no two have
    /// the same; returns the slices.
    fn owned(&self, clients: &[Running]) -> Result<BTreeSet<usize>> {
        let mut slices = BTreeSet::new();
        for client in clients {
            let slice = client.slice()?.context("it has no slice")?;
            ensure!(slice < SLICES && slices.insert(slice), "slice {slice} is given twice");
            for number in [0, 2, 511, 512, 1023] {
                let found = self.word(slice, number)?;
                check::equal(&format!("word {number} of slice {slice}"), found, client.pid())?;
            }
        }
        Ok(slices)
    }

    /// Checks that nothing was written where no slice is.
    fn borders(&self) -> Result<()> {
        let behind = FIRST + SLICES as u64 * PAGES;
        for page in (0..FIRST).chain(behind..behind + PAGES) {
            let found = self.memory.load(page * PAGE);
            check::value(&format!("page {page}"), found, colour(page))?;
        }
        Ok(())
    }

    /// Waits until each client has counted on.
    fn all_count_on(&self, clients: &[Running]) -> Result<()> {
        let now = |client: &Running| self.word(client.slice()?.context("it has no slice")?, 1);
        let before: Vec<u32> = clients.iter().map(now).collect::<Result<_>>()?;
        for (client, before) in clients.iter().zip(before) {
            let what = format!("client {} to go on", client.pid());
            wait_for(&what, || Ok(now(client)? > before))?;
        }
        Ok(())
    }

    fn count(&self, what: &str) -> Result<usize> {
        Ok(self.broker.said()?.lines().filter(|line| line.contains(what)).count())
    }
}

fn all_have_slices(clients: &[Running]) -> Result<()> {
    clients.iter().try_for_each(|client| {
        wait_for(&format!("a slice for {}", client.pid()), || Ok(client.slice()?.is_some()))
    })
}

fn broker_serves_a_hundred_clients_that_die_hang_and_leave() -> Result<()> {
    let mut scene = Scene::new(&nth(BOCHS, 0)?)?;
    // Some have started a program that keeps their connection when they are killed.
    let linger = format!("sleep {}", scaled(LINGER).as_secs());
    let mut clients = scene.clients(5, &[&linger])?;
    clients.extend(scene.clients(SLICES - 5, &[])?);
    all_have_slices(&clients)?;
    check::equal("slices", scene.owned(&clients)?.len(), SLICES)?;
    scene.borders()?;

    // More than there are slices: these wait, and get what the others lose.
    let late = scene.clients(25, &[])?;
    // All go on through a reset. Before the others lose theirs: it would take their entries, too.
    program::succeeds(BROKER, &["reset", SOCKET])?;
    scene.all_count_on(&clients)?;
    let mut dead: Vec<Running> = clients.drain(..10).collect();
    let mut hung: Vec<Running> = clients.drain(..10).collect();
    let mut left: Vec<Running> = clients.drain(..5).collect();
    let losers = dead.iter().chain(&hung).chain(&left);
    let free: BTreeSet<usize> =
        losers.map(|client| client.slice()?.context("no slice")).collect::<Result<_>>()?;
    sleep(Duration::from_millis(300));
    ensure!(late.iter().all(|client| matches!(client.slice(), Ok(None))), "one too many has one");

    dead.iter().try_for_each(|client| client.signal(Signal::SIGKILL))?;
    hung.iter().try_for_each(|client| client.signal(Signal::SIGSTOP))?;
    left.iter().try_for_each(|client| client.signal(Signal::SIGTERM))?;
    all_have_slices(&late)?;
    check::equal("slices given anew", scene.owned(&late)?, free)?;
    for (event, count) in
        [("Exited", 5), ("TimedOut", 10), ("Disconnected", 10), ("reset: errno 0", 1)]
    {
        check::equal(event, scene.count(event)?, count)?;
    }
    // Who was stopped finds its slice gone, and has not written to it since.
    hung.iter().try_for_each(|client| client.signal(Signal::SIGCONT))?;
    for client in &mut hung {
        check::equal("status of one that hung", client.end()?, Some(4))?;
    }
    for client in &mut left {
        check::equal("status of one that left", client.end()?, Some(0))?;
    }
    for client in &mut dead {
        check::equal("status of one that was killed", client.end()?, None)?;
    }
    clients.extend(late);
    check::equal("slices", scene.owned(&clients)?.len(), SLICES)?;
    scene.all_count_on(&clients)?;
    scene.borders()?;

    // With the owner all slices go, however it ends.
    scene.broker.signal(Signal::SIGKILL)?;
    for client in &mut clients {
        check::equal("status after the broker's end", client.end()?, Some(4))?;
    }
    scene.borders()
}
