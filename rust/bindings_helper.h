/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C headers for which kernel_ext has bindings of its own: the kernel crate's lack them.
 * Sorted alphabetically.
 */

#include <linux/dma-buf-mapping.h>
#include <linux/vfio_pci_core.h>

#include "../include/uapi/linux/vfio_dmabuf.h"
#include "helpers.h"
#include "trace.h"

/* Macros of which some architectures make functions, so that bindgen does not see a constant. */
const unsigned int KERNEL_EXT_PMD_SHIFT = PMD_SHIFT;
const unsigned int KERNEL_EXT_PUD_SHIFT = PUD_SHIFT;

/* Whether functions that insert PFNs put a cache mode of their own in place of the VMA's. */
#ifdef __HAVE_PFNMAP_TRACKING
#define KERNEL_EXT_TRACKS_CACHE_MODES 1
#else
#define KERNEL_EXT_TRACKS_CACHE_MODES 0
#endif
