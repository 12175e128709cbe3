// SPDX-License-Identifier: GPL-2.0
/*
 * Adds up the coverage counters of all lives of the driver: whenever the driver is unloaded, and
 * when the file `dmabuf-coverage` in debugfs is read. Loaded before the driver, which needs nothing
 * of it.
 */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

/* All loads of a boot are of one file, so they have the same counters. */
static DEFINE_MUTEX(lock);
static struct module *driver;
static u64 *total;
static size_t number;
static struct dentry *file;

static u64 *symbol(const struct module *mod, const char *name)
{
	const struct mod_kallsyms *symbols = &mod->core_kallsyms;

	for (unsigned int i = 1; i < symbols->num_symtab; i++) {
		if (!strcmp(symbols->strtab + symbols->symtab[i].st_name, name))
			return (u64 *)symbols->symtab[i].st_value;
	}
	return NULL;
}

static void add_up(const struct module *mod, bool reset)
{
	u64 *begin = symbol(mod, "dmabuf_coverage_begin");
	u64 *end = symbol(mod, "dmabuf_coverage_end");

	if (WARN_ON(!begin || !end || begin >= end))
		return;
	if (!total) {
		number = end - begin;
		total = vcalloc(number, sizeof(*total));
	}
	if (WARN_ON(!total || number != end - begin))
		return;
	for (size_t i = 0; i < number; i++) {
		total[i] += READ_ONCE(begin[i]);
		if (reset)
			WRITE_ONCE(begin[i], 0);
	}
}

static int on_module(struct notifier_block *nb, unsigned long state, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, "dmabuf_vfio_pci"))
		return NOTIFY_DONE;
	mutex_lock(&lock);
	if (state == MODULE_STATE_COMING) {
		driver = mod;
	} else if (state == MODULE_STATE_GOING) {
		add_up(mod, false);
		driver = NULL;
	}
	mutex_unlock(&lock);
	return NOTIFY_OK;
}

static int dmabuf_coverage_show(struct seq_file *out, void *unused)
{
	mutex_lock(&lock);
	if (driver)
		add_up(driver, true);
	for (size_t i = 0; i < number; i++)
		seq_printf(out, "%llu\n", total[i]);
	mutex_unlock(&lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(dmabuf_coverage);

static struct notifier_block notifier = { .notifier_call = on_module };

static int __init collect_init(void)
{
	int err = register_module_notifier(&notifier);

	if (!err)
		file = debugfs_create_file("dmabuf-coverage", 0400, NULL, NULL,
					   &dmabuf_coverage_fops);
	return err;
}
module_init(collect_init);

static void __exit collect_exit(void)
{
	debugfs_remove(file);
	unregister_module_notifier(&notifier);
	vfree(total);
}
module_exit(collect_exit);

MODULE_AUTHOR("The dmabuf-vfio-pci authors");
MODULE_DESCRIPTION("Collects which code of dmabuf-vfio-pci has run");
MODULE_LICENSE("GPL");
