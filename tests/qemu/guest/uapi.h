/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: this project's header first, then what the guest programs need besides. */
#include <linux/vfio_dmabuf.h>

#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/userfaultfd.h>
