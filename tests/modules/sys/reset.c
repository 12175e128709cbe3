// SPDX-License-Identifier: GPL-2.0
/* A PCI driver with error handlers, which Rust has no bindings for: see reset.rs. */

#include <linux/pci.h>

#include "reset.h"

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return 0;
}

static pci_ers_result_t error_detected(struct pci_dev *pdev, pci_channel_state_t state)
{
	return PCI_ERS_RESULT_NEED_RESET;
}

static pci_ers_result_t slot_reset(struct pci_dev *pdev)
{
	return PCI_ERS_RESULT_RECOVERED;
}

static const struct pci_error_handlers handlers = {
	.error_detected = error_detected,
	.slot_reset = slot_reset,
};

/* Makes no DMA, so it may have a device of a group that a user owns. */
static struct pci_driver driver = {
	.probe = probe,
	.err_handler = &handlers,
	.driver_managed_dma = true,
};

int dmabuf_test_reset_register(const char *name)
{
	driver.name = name;
	return pci_register_driver(&driver);
}

void dmabuf_test_reset_unregister(void)
{
	pci_unregister_driver(&driver);
}
