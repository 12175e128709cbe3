// SPDX-License-Identifier: GPL-2.0
//! The windows of the races: each is a function of the kernel in which a thread is stopped between
//! two steps whose order a case is about.
//!
//! No other file names such functions. After code was moved or renamed, edit this one: the case
//! `every_window_is_one_function` says which window has lost its function.

use crate::prelude::*;

/// A moment in the kernel, by the function that begins then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The name of its constant.
    pub name: &'static str,
    function: Function,
}

/// How its function is found in `/proc/kallsyms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    /// A function of the kernel or of another module: the first of these names that exists.
    Kernel(&'static [&'static str]),
    /// A C helper of the driver.
    Helper(&'static str),
    /// A Rust function of the driver: consecutive parts of its path.
    Driver(&'static [&'static str]),
}
use Function::{Driver, Helper, Kernel};

macro_rules! windows {
    ($($(#[$doc:meta])+ $name:ident = $function:expr;)+) => {
        $($(#[$doc])+ pub const $name: Window =
            Window { name: stringify!($name), function: $function };)+
        /// All windows.
        pub const ALL: &[Window] = &[$($name),+];
    };
}

windows! {
    /// A page fault enters the driver: nothing is checked yet.
    /// The trampoline of `vm_operations_struct.fault`, whose address the kernel has.
    FAULT = Driver(&["fault", "fault"]);
    /// A thread is about to enter the gate: after [`FAULT`], a page fault.
    ENTER = Helper("kernel_ext_read_lock");
    /// A thread wants the gate to itself, and comes to wait until nobody is inside. Other locks of
    /// the kernel may make it wait there, too.
    GATE_IS_TAKEN = Kernel(&["queued_write_lock_slowpath"]);
    /// As [`FAULT`], for a fault that may map a block of 2 MiB or 1 GiB.
    /// The trampoline of `vm_operations_struct.huge_fault`.
    HUGE_FAULT = Driver(&["fault", "huge_fault"]);
    /// A page fault has passed the gate's checks; its entries are not in the page table yet. The
    /// same function as [`FAULT_LOOKS_FOR_TABLE`], which comes between. It spins inside the gate.
    FAULT_CHECKED = Helper("kernel_ext_pmd_is_table");
    /// A fault for 2 MiB has passed the gate's checks; its entry is not in the page table yet. It
    /// spins inside the gate.
    HUGE_FAULT_CHECKED = Kernel(&["vmf_insert_pfn_pmd"]);
    /// A page fault is about to look whether a page table is there.
    FAULT_LOOKS_FOR_TABLE = Helper("kernel_ext_pmd_is_table");
    /// A page fault has made a page table; its entries are not in there yet. Only for a fault that
    /// finds none: the function is called with the RCU read lock held later on.
    FAULT_MADE_TABLE = Helper("kernel_ext_pmd_read");
    /// A page fault has made a page table and has seen it there; it is about to lock it. Only for a
    /// fault that finds none, as [`FAULT_MADE_TABLE`].
    FAULT_SAW_TABLE = Helper("kernel_ext_pmd_has_table");
    /// A page fault has found no page table and is about to make one.
    FAULT_MAKES_TABLE = Helper("kernel_ext_pmd_lock");
    /// `mmap()` has been found to be allowed; the VMA is not linked to its file yet.
    /// The driver's last step of `mmap()` on a buffer sets the flags of the VMA.
    MMAP_CHECKED = Helper("kernel_ext_set_mixedmap_flags");
    /// `fork()` or a split has made a VMA, which is not linked to its file yet.
    /// The trampoline of `vm_operations_struct.open`.
    VMA_OPENED = Driver(&["mm", "open"]);
    /// `fork()` has linked the new VMA; its entries are not copied yet.
    FORK_COPIES = Kernel(&["copy_page_range"]);
    /// The new state of a buffer is published; its page table entries are still there.
    ZAP = Kernel(&["unmap_mapping_range"]);
    /// An export has looked at the device; the dma-buf does not exist yet.
    EXPORT_CHECKED = Kernel(&["dma_buf_export"]);
    /// The dma-buf core calls the driver's `attach`: nothing is checked yet.
    ATTACH = Driver(&["dma_buf", "ops", "attach"]);
    /// What an `attach` does after its checks: it locks a mutex.
    /// With lockdep `mutex_lock()` is a macro, and Rust calls a helper of the kernel.
    MUTEX_LOCK = Kernel(&["mutex_lock", "rust_helper_mutex_lock"]);
    /// Memory is about to be charged to the memory cgroup of the task.
    CHARGED = Kernel(&["__memcg_slab_post_alloc_hook"]);
    /// An importer has been found to be allowed to map; its DMA mapping is not there yet.
    IMPORT_CHECKED = Kernel(&["dma_buf_phys_vec_to_sgt"]);
    /// An importer has begun to unmap; its DMA mapping is still there.
    IMPORT_ENDS = Kernel(&["dma_buf_free_sgt"]);
    /// The importers of a buffer are about to be invalidated; its reservation lock is held.
    INVALIDATE = Kernel(&["dma_buf_invalidate_mappings"]);
    /// After the start of `poll()` on a dma-buf, its reservation is locked.
    POLL_LOCKED = Kernel(&["dma_resv_iter_first"]);
    /// The dma-buf core calls the driver's `release`: nothing is taken apart yet.
    RELEASE = Driver(&["dma_buf", "ops", "release"]);
    /// A function is about to be reset; the driver has taken everything away (`reset_prepare`).
    RESET = Kernel(&["__pci_reset_function_locked"]);
    /// The core is about to reset a function, as a write to its config space asks for.
    FUNCTION_RESET = Kernel(&["pci_try_reset_function"]);
    /// VFIO is about to reset all devices of a bus: by a hot reset, or after the last close.
    BUS_RESET = Kernel(&["pci_reset_bus"]);
    /// The link is about to be reset; drivers have been notified (`error_detected`).
    LINK_RESET = Kernel(&["pci_bus_error_reset"]);
    /// A recovery from a link error has failed; drivers are about to be notified.
    RECOVERY_FAILS = Kernel(&["report_perm_failure_detected"]);
    /// User space is about to be notified of a link error. In vfio_pci_core; the driver has handled
    /// it.
    ERROR_EVENT = Kernel(&["vfio_pci_core_aer_err_detected"]);
    /// The link was reset after an error, and works: the driver does not know yet.
    /// The trampoline of `pci_error_handlers.resume`.
    LINK_BACK = Driver(&["pci", "resume"]);
    /// A recovery from a link error is over; all drivers have been notified.
    RECOVERY_ENDS = Kernel(&["pcie_clear_device_status"]);
    /// The last reference to a VFIO device is gone: the driver takes its part of it apart.
    /// The trampoline of `vfio_device_ops.release`.
    DEVICE_RELEASED = Driver(&["DeviceData", "release"]);
    /// The last reference to what a device and its buffers share is gone: the driver drops its
    /// reference to the file system of VFIO. The unbind of VFIO's last device comes here, too.
    MEMORY_RELEASED = Kernel(&["deactivate_super"]);
    /// The last reference to a PCI device is gone.
    PCI_DEVICE_RELEASED = Kernel(&["pci_release_dev"]);
    /// `remove` is about to wait until the device is closed.
    UNREGISTER = Kernel(&["vfio_unregister_group_dev"]);
    /// `remove` has waited until the device was closed; nobody can open it any more.
    UNREGISTERED = Kernel(&["vfio_device_remove_group"]);
    /// A write to configuration space goes to the core; the driver has taken away what it must.
    CONFIG_WRITE = Kernel(&["vfio_pci_core_write"]);
    /// A config write leaves the gate open for a moment, because a fault has lost against others
    /// before it: `fsleep()` of a millisecond.
    CHANGE_LETS_FAULTS_IN = Kernel(&["usleep_range_state"]);
    /// A feature ioctl enters the driver: its arguments are not read yet.
    /// The trampoline of `vfio_device_ops.device_feature`.
    FEATURE = Driver(&["ops", "device_feature"]);
    /// The driver or the core is about to read arguments from user memory.
    /// Architectures have it as one function or the other.
    USER_COPY = Kernel(&["_copy_from_user", "__arch_copy_from_user"]);
    /// The core sets up its copy of configuration space when a device is opened.
    OPEN_CONFIG = Kernel(&["vfio_config_init"]);
    /// The driver makes its part of a device when one is bound.
    DEVICE_INIT = Driver(&["DeviceData", "init"]);
    /// The driver's part of the last close.
    LAST_CLOSE = Driver(&["Operations", "close_device"]);
    /// The core begins to register a device that is being bound; the driver's part is there.
    REGISTER = Kernel(&["vfio_assign_device_set"]);
    /// A wait for the fences of a buffer notes which these are.
    FENCES = Kernel(&["dma_resv_get_fences"]);
}

impl Window {
    /// Whether its threads spin, and then on which of the last CPUs, counted from 1. No other
    /// thread of the case may run there: the scheduler does not move it away for long.
    pub fn spins(self) -> Option<usize> {
        const FAULTS: [Window; 5] = [
            FAULT_CHECKED,
            HUGE_FAULT_CHECKED,
            FAULT_MADE_TABLE,
            FAULT_SAW_TABLE,
            FAULT_MAKES_TABLE,
        ];
        if self == GATE_IS_TAKEN {
            return Some(2);
        }
        FAULTS.iter().any(|window| window.function == self.function).then_some(1)
    }

    /// The name of its function. Looks it up only if it must: reading all symbols takes seconds.
    pub fn function(self) -> Result<String> {
        match self.function {
            Kernel(&[name]) | Helper(name) => Ok(name.into()),
            _ => self.find(&symbols()?),
        }
    }

    /// Finds its function in `symbols`, where it must be the only one.
    pub fn find(self, symbols: &str) -> Result<String> {
        let driver = format!("[{}]", Module::driver().name());
        // The functions in lines with `part`, which is quickly found.
        let functions = |part: &str, fits: &dyn Fn(&str, Option<&str>) -> bool| -> Vec<String> {
            let names = symbols.lines().filter(|line| line.contains(part)).filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                let (kind, name, module) = (words.next()?, words.next()?, words.next());
                // Some kernels pad functions, and name the padding.
                let function = matches!(kind, "t" | "T") && !name.starts_with("__pfx_");
                (function && fits(name, module)).then(|| name.into())
            });
            names.collect()
        };
        let ours = |module: Option<&str>| module == Some(driver.as_str());
        let found = match self.function {
            Kernel(names) => {
                let of_name = |name: &&str| functions(name, &|found, _| found == *name);
                names.iter().map(of_name).find(|found| !found.is_empty()).unwrap_or_default()
            }
            Helper(name) => functions(name, &|found, module| ours(module) && found == name),
            Driver(path) => {
                functions(&driver, &|found, module| ours(module) && is_path(found, path))
            }
        };
        ensure!(found.len() == 1, "window {}, {:?}: {found:?}", self.name, self.function);
        Ok(found[0].clone())
    }
}

/// The symbols of the kernel and its modules.
pub fn symbols() -> Result<String> {
    Ok(fs::read_to_string("/proc/kallsyms")?)
}

/// Whether a mangled name has these parts of a path. `E` ends the name of the type of an `impl`.
fn is_path(mangled: &str, path: &[&str]) -> bool {
    let parts: Vec<String> = path.iter().map(|part| format!("{}{part}", part.len())).collect();
    mangled.contains(&parts.concat()) || mangled.contains(&parts.join("E"))
}
