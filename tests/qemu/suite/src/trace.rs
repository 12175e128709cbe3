// SPDX-License-Identifier: GPL-2.0
//! Tracepoints: those of the driver, and the kernel's allocations.

use nix::unistd::gettid;

use crate::prelude::*;

const DIR: &str = "/sys/kernel/tracing";

/// Switched on while it lives.
pub struct Trace(PathBuf);

impl Trace {
    /// All tracepoints of the driver, from here on.
    pub fn on() -> Result<Trace> {
        Trace::of("dmabuf_vfio_pci")
    }

    /// `kmalloc()` by this thread, from here on.
    pub fn of_kmalloc() -> Result<Trace> {
        let filter = Path::new(DIR).join("events/kmem/kmalloc/filter");
        fs::write(filter, format!("common_pid == {}", gettid()))?;
        Trace::of("kmem/kmalloc")
    }

    fn of(events: &str) -> Result<Trace> {
        let dir = Path::new(DIR);
        let switch = dir.join("events").join(events).join("enable");
        fs::write(dir.join("trace"), "")?;
        fs::write(&switch, "1")?;
        Ok(Trace(switch))
    }

    /// Switches them off; names and arguments of the events so far.
    pub fn end(self) -> Result<Vec<String>> {
        fs::write(&self.0, "0")?;
        self.take()
    }

    /// Names and arguments of the events since the last call.
    pub fn take(&self) -> Result<Vec<String>> {
        let trace = Path::new(DIR).join("trace");
        let text = fs::read_to_string(&trace)?;
        fs::write(&trace, "")?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // TASK-PID [CPU] FLAGS TIME: NAME: ARGUMENTS
        Ok(lines.filter_map(|line| line.split_once(": ")).map(|(_, event)| event.into()).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "0");
    }
}
