/* SPDX-License-Identifier: GPL-2.0 */
/* Prototypes of helpers.c, for the C compiler and for bindgen. Sorted by name. */

#ifndef KERNEL_EXT_HELPERS_H
#define KERNEL_EXT_HELPERS_H

#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/mm_types.h>
#include <linux/spinlock.h>

struct dentry *kernel_ext_debugfs_create_dir(const char *name, struct dentry *parent);
struct dentry *kernel_ext_debugfs_create_file(const char *name, umode_t mode,
					      struct dentry *parent, void *data,
					      const struct file_operations *fops);
void kernel_ext_debugfs_remove(struct dentry *dentry);
void kernel_ext_dma_fence_put(struct dma_fence *fence);
int kernel_ext_dma_resv_lock_interruptible(struct dma_resv *resv);
bool kernel_ext_dma_resv_trylock(struct dma_resv *resv);
bool kernel_ext_exceeds_file(const struct vm_area_struct *vma);
bool kernel_ext_has_pfns(const struct vm_area_struct *vma);
bool kernel_ext_has_write_combining(void);
bool kernel_ext_is_shared(const struct vm_area_struct *vma);
bool kernel_ext_pmd_has_table(pmd_t pmd);
bool kernel_ext_pmd_is_table(pmd_t *pmd);
bool kernel_ext_pmd_leaf(pmd_t *pmd);
spinlock_t *kernel_ext_pmd_lock(struct mm_struct *mm, pmd_t *pmd);
bool kernel_ext_pmd_none(pmd_t *pmd);
void kernel_ext_pmd_populate(struct mm_struct *mm, pmd_t *pmd, pgtable_t table);
pmd_t kernel_ext_pmd_read(pmd_t *pmd);
bool kernel_ext_pmd_same(pmd_t *pmd, pmd_t seen);
spinlock_t *kernel_ext_pte_lockptr(struct mm_struct *mm, pmd_t *pmd);
bool kernel_ext_pte_none(pte_t *pte);
pte_t *kernel_ext_pte_offset(pmd_t *pmd, unsigned long addr);
bool kernel_ext_pud_leaf(pud_t *pud);
void kernel_ext_read_lock(rwlock_t *lock);
void kernel_ext_read_unlock(rwlock_t *lock);
void kernel_ext_release_fault_lock(struct vm_fault *vmf);
void kernel_ext_rwlock_init(rwlock_t *lock, const char *name, struct lock_class_key *key);
void kernel_ext_set_mixedmap_flags(struct vm_area_struct *vma);
void kernel_ext_set_noncached(struct vm_area_struct *vma);
void kernel_ext_set_pfnmap_flags(struct vm_area_struct *vma);
void kernel_ext_set_special_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *pte,
				unsigned long pfn, bool dirty);
void kernel_ext_set_write_combining(struct vm_area_struct *vma);
bool kernel_ext_signal_pending_state(unsigned int state);
void kernel_ext_write_lock(rwlock_t *lock);
void kernel_ext_write_unlock(rwlock_t *lock);

#endif
