// SPDX-License-Identifier: GPL-2.0
//! The ways in which a VFIO user takes a device's memory away for a while: power states, function
//! and bus resets.

use crate::prelude::*;

impl Device {
    /// Where in configuration space capability `id` is, as VFIO shows it.
    pub fn capability(&self, id: u32) -> Result<Option<u64>> {
        let mut at = u64::from(self.config8(uapi::PCI_CAPABILITY_LIST.into())?);
        while at != 0 {
            if u32::from(self.config8(at)?) == id {
                return Ok(Some(at));
            }
            at = self.config8(at + 1)?.into();
        }
        Ok(None)
    }

    /// Writes the power state (0: D0, 3: D3hot) to the power management capability.
    pub fn set_power_state(&self, state: u16) -> Result<()> {
        let at = self.capability(uapi::PCI_CAP_ID_PM)?.context("no PM capability")?;
        let at = at + u64::from(uapi::PCI_PM_CTRL);
        let mask = uapi::PCI_PM_CTRL_STATE_MASK as u16;
        self.set_config16(at, (self.config16(at)? & !mask) | state)?;
        let now = self.config16(at)? & mask;
        ensure!(now == state, "power state is {now} after writing {state}");
        Ok(())
    }

    /// Starts a function level reset through the PCI Express capability.
    pub fn express_flr(&self) -> Result<()> {
        let (at, control) = self.express_control()?;
        self.set_config16(at, control | uapi::PCI_EXP_DEVCTL_BCR_FLR as u16)
    }

    /// Where the device control register of the PCI Express capability is, and what is in it.
    pub fn express_control(&self) -> Result<(u64, u16)> {
        let at = self.capability(uapi::PCI_CAP_ID_EXP)?.context("no PCI Express capability")?;
        let at = at + u64::from(uapi::PCI_EXP_DEVCTL);
        Ok((at, self.config16(at)?))
    }

    /// VFIO_DEVICE_PCI_HOT_RESET, with the fds of the groups that are concerned; none for a
    /// device that was opened through its cdev.
    pub fn hot_reset(&self, groups: &[RawFd]) -> Result<(), Errno> {
        let size = 12 + 4 * groups.len() as u32;
        let mut words = vec![size, 0, groups.len() as u32];
        words.extend(groups.iter().map(|&fd| fd as u32));
        self.ioctl(uapi::VFIO_DEVICE_PCI_HOT_RESET, words.as_mut_ptr() as usize).map(drop)
    }

    /// The ids that VFIO_DEVICE_GET_PCI_HOT_RESET_INFO tells of the devices that a hot reset
    /// concerns, for a device that was opened through its cdev.
    pub fn hot_reset_ids(&self) -> Result<Vec<i32>, Errno> {
        const ROOM: usize = 16;
        // argsz, flags, count; then id, segment and bus and devfn.
        let mut words = [0u32; 3 + 2 * ROOM];
        words[0] = size_of_val(&words) as u32;
        let address = words.as_mut_ptr() as usize;
        self.ioctl(uapi::VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, address)?;
        let count = (words[2] as usize).min(ROOM);
        Ok(words[3..].chunks(2).take(count).map(|entry| entry[0] as i32).collect())
    }

    /// VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY.
    pub fn enter_low_power(&self) -> Result<(), Errno> {
        feature::set(self, uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, &())
    }

    /// VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, with an eventfd that is signalled when
    /// anyone but the user of the device ends low power.
    pub fn enter_low_power_with(&self, event: impl AsFd) -> Result<(), Errno> {
        let payload = uapi::vfio_device_low_power_entry_with_wakeup {
            wakeup_eventfd: event.as_fd().as_raw_fd(),
            ..Default::default()
        };
        feature::set(self, uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &payload)
    }

    /// VFIO_DEVICE_FEATURE_LOW_POWER_EXIT.
    pub fn leave_low_power(&self) -> Result<(), Errno> {
        feature::set(self, uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, &())
    }

    fn config8(&self, offset: u64) -> Result<u8> {
        let mut byte = [0];
        self.read(uapi::VFIO_PCI_CONFIG_REGION_INDEX, offset, &mut byte)?;
        Ok(byte[0])
    }
}
