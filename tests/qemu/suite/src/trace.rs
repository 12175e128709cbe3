// SPDX-License-Identifier: GPL-2.0
//! The tracepoints of the driver.

use crate::prelude::*;

/// Switched on while it lives.
pub struct Trace(PathBuf);

impl Trace {
    /// All tracepoints, from here on.
    pub fn on() -> Result<Trace> {
        let dir = PathBuf::from("/sys/kernel/tracing");
        fs::write(dir.join("trace"), "")?;
        fs::write(dir.join("events/dmabuf_vfio_pci/enable"), "1")?;
        Ok(Trace(dir))
    }

    /// Names and arguments of the events since the last call.
    pub fn take(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        fs::write(self.0.join("trace"), "")?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // TASK-PID [CPU] FLAGS TIME: NAME: ARGUMENTS
        Ok(lines.filter_map(|line| line.split_once(": ")).map(|(_, event)| event.into()).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/dmabuf_vfio_pci/enable"), "0");
    }
}
