/* SPDX-License-Identifier: GPL-2.0 */
/* What sys/reset.rs calls. */

#ifndef DMABUF_VFIO_PCI_TEST_RESET_H
#define DMABUF_VFIO_PCI_TEST_RESET_H

int dmabuf_test_reset_register(const char *name);
void dmabuf_test_reset_unregister(void);

#endif
