// SPDX-License-Identifier: GPL-2.0
//! The devices: finding them, binding them, and the state that the model begins with.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use guest::host::{self, LinkError};
use guest::kmsg::Log;
use guest::mm::{self, Mapping};
use guest::module::Module;
use guest::pci::{self, Id, Pci};
use guest::timeout::wait_until;
use guest::{uapi, PAGE};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::machine::{self, Content, Func, FuncSpec, Places, FUNCS, PHYSICAL};

/// Where the addresses of BARs are in configuration space, and how many halves of them.
const ADDRESSES: u64 = uapi::PCI_BASE_ADDRESS_0 as u64;
const HALVES: usize = 12;
/// The parameter of the driver without which there are no virtual functions.
const SRIOV: &str = "enable_sriov";
/// How long the kernel may take to recover from an error of a link.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// The machine's devices.
pub struct Hardware {
    /// The functions of [`FUNCS`].
    pub funcs: Vec<Pci>,
    /// The importing device: an edu without a driver.
    pub importing: Pci,
    /// What the model must know of them.
    pub places: Arc<Places>,
    driver: String,
    /// What counts how often each function ended low power (ENTRY_WITH_WAKEUP).
    pub wakeups: Vec<EventFd>,
    /// What configuration space says of the addresses of each function's BARs.
    addresses: Vec<[u16; HALVES]>,
}

impl Hardware {
    /// Finds them.
    pub fn find() -> Result<Hardware> {
        let nth = |id: Id, nth: usize| -> Result<Pci> {
            let found = Pci::find(id)?;
            found.get(nth).cloned().with_context(|| format!("no device {nth} with id {id:x?}"))
        };
        let funcs = vec![
            nth(pci::EDU, 0)?,
            nth(pci::EDU, 2)?,
            nth(pci::EDU, 3)?,
            nth(pci::BOCHS, 0)?,
            nth(pci::IVSHMEM, 0)?,
            nth(pci::IGB, 0)?,
        ];
        let driver = Module::driver();
        driver.load()?;
        guest::testmod::module().load()?;
        let mut hardware = Hardware {
            funcs,
            importing: nth(pci::EDU, 1)?,
            places: Arc::default(),
            driver: driver.name().replace('_', "-"),
            wakeups: FUNCS
                .iter()
                .map(|_| EventFd::from_flags(EfdFlags::EFD_NONBLOCK))
                .collect::<Result<_, _>>()?,
            addresses: Vec::new(),
        };
        hardware.release()?;
        let mut places = Places::default();
        for (pci, spec) in hardware.funcs.iter().zip(&FUNCS) {
            survey(pci, spec, &mut places)?;
            let mut halves = [0; HALVES];
            for (at, half) in (ADDRESSES..).step_by(2).zip(&mut halves) {
                *half = pci.config16(at)?;
            }
            hardware.addresses.push(halves);
        }
        driver.set_parameter(SRIOV, true)?;
        hardware.bind(PHYSICAL)?;
        hardware.set_virtual_functions(PHYSICAL, true)?;
        for (nth, func) in (0..).zip(machine::virtual_functions(PHYSICAL)) {
            let pci = hardware.func(PHYSICAL).virtual_function(nth)?;
            survey(&pci, machine::spec(func), &mut places)?;
            hardware.funcs.push(pci);
        }
        hardware.places = Arc::new(places);
        Ok(hardware)
    }

    /// Unbinds all of them, and takes virtual functions away.
    pub fn release(&self) -> Result<()> {
        self.importing.release()?;
        self.set_virtual_functions(PHYSICAL, false)?;
        Module::driver().set_parameter(SRIOV, false)?;
        self.real().iter().try_for_each(Pci::release)
    }

    /// All functions but virtual ones.
    fn real(&self) -> &[Pci] {
        let is_real = |spec: &&FuncSpec| spec.physical.is_none();
        &self.funcs[..FUNCS.iter().take_while(is_real).count()]
    }

    /// Makes the virtual functions of a function, or takes them away.
    pub fn set_virtual_functions(&self, func: Func, on: bool) -> Result<()> {
        let pci = self.func(func);
        let count = if on { machine::virtual_functions(func).count() } else { 0 };
        // Without a driver it has none.
        if pci.driver().is_some() {
            pci.set_virtual_functions(count as u32).with_context(|| format!("{pci}: {count}"))?;
        }
        Ok(())
    }

    /// Brings all functions into the state that the model begins with: painted, bound, closed.
    pub fn prepare(&self) -> Result<()> {
        for event in &self.wakeups {
            while event.read().is_ok() {}
        }
        self.set_virtual_functions(PHYSICAL, false)?;
        for func in 0..self.real().len() as Func {
            let first = machine::slot_of(func).start;
            if self.func(func).group()? != self.func(first).group()? {
                self.func(first).unbind()?;
                self.replug(first)?;
            }
        }
        for (pci, spec) in self.real().iter().zip(&FUNCS) {
            pci.unbind()?;
            for bar in spec.bars.iter().filter(|bar| bar.content == Content::Memory) {
                with_bar(pci, bar.index.into(), u64::from(bar.pages) * PAGE, |memory| {
                    (0..bar.pages).try_for_each(|page| paint(memory, page))
                })?;
            }
            pci.bind(&self.driver)?;
        }
        Ok(())
    }

    /// Binds a function to the driver under test.
    pub fn bind(&self, func: Func) -> Result<()> {
        self.func(func).bind(&self.driver)
    }

    /// Takes a function off the bus and lets the kernel find it again, without a driver.
    pub fn replug(&self, func: Func) -> Result<()> {
        let pci = self.func(func);
        pci.remove().with_context(|| format!("remove {pci}"))?;
        Pci::rescan().context("rescan")?;
        // The kernel may give it a driver of its own.
        pci.release()?;
        for bar in machine::spec(func).bars {
            let index = usize::from(bar.index);
            let (now, before) =
                (pci.bar_start(index as u32)?, self.places.frames[usize::from(func)][index]);
            ensure!(now == before * PAGE, "{pci}: BAR{index} has moved to {now:#x}");
        }
        Ok(())
    }

    /// Lets the link to a function have an error; returns whether the kernel has recovered from it.
    pub fn link_error(&self, func: Func, fatal: bool) -> Result<bool> {
        let error = if fatal { LinkError::Fatal } else { LinkError::NonFatal };
        let is_bound = |of: &Func| self.func(*of).driver().is_some();
        let bound: Vec<Func> = machine::slot_of(func).filter(is_bound).collect();
        let keep_awake =
            |whether| bound.iter().try_for_each(|&of| self.func(of).keep_awake(whether));
        // What the kernel saves when a function falls asleep, it restores later.
        keep_awake(true)?;
        let mut log = Log::new()?;
        ensure!(host::port_has_error(self.func(func), error)?, "the host injects no errors");
        let mut recovered = None;
        wait_until(RECOVERY_LIMIT, "the end of a recovery", || {
            for message in log.messages()? {
                if let Some((_, result)) = message.split_once("device recovery ") {
                    recovered = Some(result == "successful");
                }
            }
            Ok(recovered.is_some())
        })?;
        if fatal {
            // Nobody gives a function its addresses back that is not open.
            machine::slot_of(func).try_for_each(|of| self.restore(of))?;
        }
        keep_awake(false)?;
        recovered.context("the kernel has not recovered")
    }

    /// Writes the addresses of a function's BARs.
    fn restore(&self, func: Func) -> Result<()> {
        let addresses = &self.addresses[usize::from(func)];
        let mut words = (ADDRESSES..).step_by(2).zip(addresses);
        words.try_for_each(|(at, &half)| self.func(func).set_config16(at, half))
    }

    /// A function.
    pub fn func(&self, func: Func) -> &Pci {
        &self.funcs[usize::from(func)]
    }
}

/// Adds what the model must know of a function.
fn survey(pci: &Pci, spec: &FuncSpec, places: &mut Places) -> Result<()> {
    places.splits.push(pci.group()? != pci.port_group()?);
    let mut frames = [0; 6];
    for bar in spec.bars {
        let index = u32::from(bar.index);
        let (size, want) = (pci.bar_size(index)?, u64::from(bar.pages) * PAGE);
        ensure!(size == want, "{pci}: BAR{index} has {size:#x} bytes, not {want:#x}");
        frames[usize::from(bar.index)] = pci.bar_start(index)? / PAGE;
    }
    places.frames.push(frames);
    Ok(())
}

fn paint(memory: &Mapping, page: u32) -> Result<(), guest::fault::Fault> {
    machine::PAINTED.iter().try_for_each(|&word| {
        let at = u64::from(page) * PAGE + u64::from(word) * 4;
        memory.store(at, machine::colour(page, word))
    })
}

/// Calls `work` with a mapping of a BAR of a function without a driver.
fn with_bar<T>(
    pci: &Pci,
    bar: u32,
    len: u64,
    work: impl FnOnce(&Mapping) -> Result<T, guest::fault::Fault>,
) -> Result<T> {
    let on = uapi::PCI_COMMAND_MEMORY as u16;
    pci.set_config16(uapi::PCI_COMMAND.into(), on)?;
    let result = {
        let memory = Mapping::new(pci.bar_file(bar)?, len, mm::RW, 0)?;
        work(&memory)
    };
    pci.set_config16(uapi::PCI_COMMAND.into(), 0)?;
    result.with_context(|| format!("{pci}: BAR{bar}"))
}
