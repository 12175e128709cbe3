/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints of the driver, dmabuf_vfio_pci:*. In C, because TRACE_EVENT() is.
 *
 * Offsets and sizes are in bytes. The offset is the buffer's place among the mmap offsets of its
 * device, as /proc/PID/maps shows it.
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM dmabuf_vfio_pci

#if !defined(KERNEL_EXT_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define KERNEL_EXT_TRACE_H

#include <linux/tracepoint.h>

/* Events of all memory of a device. */
DECLARE_EVENT_CLASS(memory,

	TP_PROTO(const char *device),

	TP_ARGS(device),

	TP_STRUCT__entry(
		__string(device, device)
	),

	TP_fast_assign(
		__assign_str(device);
	),

	TP_printk("%s", __get_str(device))
);

/* Importers are invalidated and may not map; in a reset, faults wait, too. */
DEFINE_EVENT(memory, memory_suspend,
	TP_PROTO(const char *device),
	TP_ARGS(device)
);

/* Importers may map again, and faults proceed. */
DEFINE_EVENT(memory, memory_resume,
	TP_PROTO(const char *device),
	TP_ARGS(device)
);

/* Events of one buffer. */
DECLARE_EVENT_CLASS(buffer,

	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),

	TP_ARGS(device, bar, offset, size),

	TP_STRUCT__entry(
		__string(device, device)
		__field(u32, bar)
		__field(u64, offset)
		__field(u64, size)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->bar = bar;
		__entry->offset = offset;
		__entry->size = size;
	),

	TP_printk("%s bar=%u offset=0x%llx size=0x%llx", __get_str(device), __entry->bar,
		  __entry->offset, __entry->size)
);

/* The buffer was exported. */
DEFINE_EVENT(buffer, buffer_export,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* A process maps a part: the offset is that of the part, the size that of the buffer. */
DEFINE_EVENT(buffer, buffer_mmap,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* The buffer was revoked for good; importers may still have to unmap. */
DEFINE_EVENT(buffer, buffer_revoke,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* The last reference to the buffer's file is gone. */
DEFINE_EVENT(buffer, buffer_release,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* Another device attaches to the buffer. */
DEFINE_EVENT(buffer, importer_attach,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* The importers are invalidated: they unmap, or may map again. */
DEFINE_EVENT(buffer, importer_invalidate,
	TP_PROTO(const char *device, u32 bar, u64 offset, u64 size),
	TP_ARGS(device, bar, offset, size)
);

/* A fault at an offset, and how an attempt to map 2^order pages with one entry ended. */
TRACE_EVENT(buffer_fault,

	TP_PROTO(const char *device, u64 offset, u32 order, u32 outcome),

	TP_ARGS(device, offset, order, outcome),

	TP_STRUCT__entry(
		__string(device, device)
		__field(u64, offset)
		__field(u32, order)
		__field(u32, outcome)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->offset = offset;
		__entry->order = order;
		__entry->outcome = outcome;
	),

	TP_printk("%s offset=0x%llx order=%u %s", __get_str(device), __entry->offset,
		  __entry->order,
		  __print_symbolic(__entry->outcome, { 0, "mapped" }, { 1, "retry" },
				   { 2, "fallback" }, { 3, "sigbus" }, { 4, "oom" },
				   { 5, "away" }))
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
