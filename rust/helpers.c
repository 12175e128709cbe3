// SPDX-License-Identifier: GPL-2.0
/*
 * Functions for Rust to call in place of inline functions and macros of the kernel. They hold only
 * the call: all decisions are in Rust. Sorted by name; declared in helpers.h.
 */

#include <linux/debugfs.h>
#include <linux/dma-resv.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/sched/signal.h>
#include <linux/vfio_pci_core.h>

#include "helpers.h"

/* Also defines rust_do_trace_*(), which trace.rs calls once a tracepoint is enabled. */
#define CREATE_RUST_TRACE_POINTS
#define CREATE_TRACE_POINTS
#include "trace.h"

struct dentry *kernel_ext_debugfs_create_dir(const char *name, struct dentry *parent)
{
	return debugfs_create_dir(name, parent);
}

struct dentry *kernel_ext_debugfs_create_file(const char *name, umode_t mode,
					      struct dentry *parent, void *data,
					      const struct file_operations *fops)
{
	return debugfs_create_file(name, mode, parent, data, fops);
}

void kernel_ext_debugfs_remove(struct dentry *dentry)
{
	debugfs_remove(dentry);
}

void kernel_ext_dma_fence_put(struct dma_fence *fence)
{
	dma_fence_put(fence);
}

int kernel_ext_dma_resv_lock_interruptible(struct dma_resv *resv)
{
	return dma_resv_lock_interruptible(resv, NULL);
}

bool kernel_ext_dma_resv_trylock(struct dma_resv *resv)
{
	return dma_resv_trylock(resv);
}

bool kernel_ext_exceeds_file(const struct vm_area_struct *vma)
{
	return (vma->vm_flags & VM_MAYWRITE) && !(vma->vm_file->f_mode & FMODE_WRITE);
}

bool kernel_ext_has_pfns(const struct vm_area_struct *vma)
{
	return vma->vm_flags & (VM_PFNMAP | VM_MIXEDMAP);
}

bool kernel_ext_has_write_combining(void)
{
	return pgprot_val(pgprot_writecombine(PAGE_SHARED)) !=
	       pgprot_val(pgprot_noncached(PAGE_SHARED));
}

bool kernel_ext_is_shared(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_MAYSHARE;
}

bool kernel_ext_pmd_has_table(pmd_t pmd)
{
	return !pmd_bad(pmd);
}

bool kernel_ext_pmd_is_table(pmd_t *pmd)
{
	return !pmd_bad(pmdp_get_lockless(pmd));
}

bool kernel_ext_pmd_leaf(pmd_t *pmd)
{
	return pmd_leaf(pmdp_get_lockless(pmd));
}

spinlock_t *kernel_ext_pmd_lock(struct mm_struct *mm, pmd_t *pmd)
{
	return pmd_lock(mm, pmd);
}

bool kernel_ext_pmd_none(pmd_t *pmd)
{
	return pmd_none(*pmd);
}

void kernel_ext_pmd_populate(struct mm_struct *mm, pmd_t *pmd, pgtable_t table)
{
	mm_inc_nr_ptes(mm);
	/* As in pmd_install(): no CPU may see the table before its zeroes. */
	smp_wmb();
	pmd_populate(mm, pmd, table);
}

pmd_t kernel_ext_pmd_read(pmd_t *pmd)
{
	return pmdp_get_lockless(pmd);
}

bool kernel_ext_pmd_same(pmd_t *pmd, pmd_t seen)
{
	return pmd_same(pmdp_get_lockless(pmd), seen);
}

spinlock_t *kernel_ext_pte_lockptr(struct mm_struct *mm, pmd_t *pmd)
{
	return pte_lockptr(mm, pmd);
}

bool kernel_ext_pte_none(pte_t *pte)
{
	return pte_none(ptep_get(pte));
}

pte_t *kernel_ext_pte_offset(pmd_t *pmd, unsigned long addr)
{
	return pte_offset_kernel(pmd, addr);
}

bool kernel_ext_pud_leaf(pud_t *pud)
{
	return pud_leaf(READ_ONCE(*pud));
}

void kernel_ext_read_lock(rwlock_t *lock)
{
	read_lock(lock);
}

void kernel_ext_read_unlock(rwlock_t *lock)
{
	read_unlock(lock);
}

void kernel_ext_release_fault_lock(struct vm_fault *vmf)
{
	release_fault_lock(vmf);
}

void kernel_ext_rwlock_init(rwlock_t *lock, const char *name, struct lock_class_key *key)
{
#if defined(CONFIG_DEBUG_SPINLOCK) && !defined(CONFIG_PREEMPT_RT)
	__rwlock_init(lock, name, key);
#else
	rwlock_init(lock);
#endif
}

void kernel_ext_set_mixedmap_flags(struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED | VM_IO | VM_MIXEDMAP | VM_HUGEPAGE |
			  VM_DONTEXPAND | VM_DONTDUMP);
}

void kernel_ext_set_noncached(struct vm_area_struct *vma)
{
	vma->vm_page_prot = pgprot_decrypted(pgprot_noncached(vma->vm_page_prot));
}

void kernel_ext_set_pfnmap_flags(struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED | VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
}

void kernel_ext_set_special_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *pte,
				unsigned long pfn, bool dirty)
{
	pte_t entry = pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot));

	set_pte_at(vma->vm_mm, addr, pte, dirty ? pte_mkdirty(entry) : entry);
}

void kernel_ext_set_write_combining(struct vm_area_struct *vma)
{
	vma->vm_page_prot = pgprot_decrypted(pgprot_writecombine(vma->vm_page_prot));
}

bool kernel_ext_signal_pending_state(unsigned int state)
{
	return signal_pending_state(state, current);
}

void kernel_ext_write_lock(rwlock_t *lock)
{
	write_lock(lock);
}

void kernel_ext_write_unlock(rwlock_t *lock)
{
	write_unlock(lock);
}
