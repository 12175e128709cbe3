// SPDX-License-Identifier: GPL-2.0

//! The module parameters: our own, and those of the in-tree vfio-pci with its meaning, defaults and
//! modes.

use kernel_ext::bool_parameters;

bool_parameters! {
    as_vfio_pci: 0o444, "Register under the name vfio-pci, which DPDK insists on";
    core_dmabuf: 0o644, "Let exports without flags return the in-tree core's dma-buf, for VMMs \
        that map BARs by iommufd";
    nointxmask: 0o644, "Do not mask INTx by the command register (PCI 2.3), for devices on which \
        that does not work";
    #[cfg(CONFIG_VFIO_PCI_VGA)]
    disable_vga: 0o444, "Do not give users the VGA resources";
    disable_idle_d3: 0o644, "Leave devices that nobody uses in D0, not in D3";
    #[cfg(CONFIG_PCI_IOV)]
    enable_sriov: 0o644, "Let sriov_numvfs make virtual functions, which work only as far as the \
        user of the physical function makes them";
    disable_denylist: 0o444, "Bind devices with known errata, by which an untrusted user may \
        harm the host";
}

/// Whether virtual functions may be made.
pub(crate) fn sriov_is_enabled() -> bool {
    #[cfg(CONFIG_PCI_IOV)]
    return enable_sriov.value();
    #[cfg(not(CONFIG_PCI_IOV))]
    false
}

/// Whether users get no VGA resources.
pub(crate) fn vga_is_disabled() -> bool {
    #[cfg(CONFIG_VFIO_PCI_VGA)]
    return disable_vga.value();
    #[cfg(not(CONFIG_VFIO_PCI_VGA))]
    false
}
