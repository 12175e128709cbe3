// SPDX-License-Identifier: GPL-2.0

//! The importer: one attachment per open file, with the policy that user space chose.
//!
//! Lock order: [`Importer::attachment`], then the reservation lock of the dma-buf. The exporter
//! tells us that a mapping is void with the reservation lock held, so nothing there takes the
//! former.

use crate::{
    ioctl::{
        self,
        *, //
    },
    sys::{
        dma_buf::{
            Attachment,
            Direction,
            Invalidate,
            Locked,
            Manners,
            Usage, //
        },
        pci,
        time,
        work, //
    },
    uapi, //
};
use kernel::{
    device::Device,
    mm::virt::VmaNew,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    },
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta, //
    },
    workqueue::{
        self,
        new_delayed_work,
        DelayedWork,
        WorkItem, //
    }, //
};
use kernel_ext::errno::{
    EALREADY,
    ENOTCONN, //
};

/// An open file.
#[pin_data]
pub(crate) struct Importer {
    /// The misc device, as an importing device that is not a PCI device.
    misc: ARef<Device>,
    #[pin]
    attachment: Mutex<Option<Attachment<Importer>>>,
    /// Unmaps late. Queued only while there is an attachment.
    #[pin]
    pub(crate) work: DelayedWork<Importer>,
    /// The rest is set by ATTACH, before the exporter knows us.
    policy: Atomic<u32>,
    delay_ms: Atomic<u32>,
    invalidations: Atomic<u32>,
    hits: Atomic<u32>,
    hit_at: Atomic<u64>,
    unmapped_at: Atomic<u64>,
}

impl Importer {
    fn new(misc: ARef<Device>) -> impl PinInit<Self> {
        pin_init!(Self {
            misc,
            attachment <- new_mutex!(None, "Importer::attachment"),
            work <- new_delayed_work!("Importer::work"),
            policy: Atomic::new(uapi::AT_ONCE),
            delay_ms: Atomic::new(0),
            invalidations: Atomic::new(0),
            hits: Atomic::new(0),
            hit_at: Atomic::new(0),
            unmapped_at: Atomic::new(0),
        })
    }

    fn attach(this: ArcBorrow<'_, Self>, arg: &uapi::Attach) -> Result {
        let known = uapi::PEER_TO_PEER | uapi::REVOCABLE | uapi::STATIC | uapi::NOT_PCI;
        if arg.flags & !known != 0 || arg.policy > uapi::AGAIN {
            return Err(EINVAL);
        }
        let has = |flag| arg.flags & flag != 0;
        let device = if has(uapi::NOT_PCI) {
            this.misc.clone()
        } else {
            pci::find(arg.domain, arg.bus, arg.devfn).ok_or(ENXIO)?
        };
        let manners = if has(uapi::STATIC) {
            Manners::Static
        } else {
            Manners::Dynamic {
                peer_to_peer: has(uapi::PEER_TO_PEER),
                revocable: has(uapi::REVOCABLE),
            }
        };
        let mut attachment = this.attachment.lock();
        if attachment.is_some() {
            return Err(EBUSY);
        }
        this.policy.store(arg.policy, Relaxed);
        this.delay_ms.store(arg.delay_ms, Relaxed);
        for counter in [&this.invalidations, &this.hits] {
            counter.store(0, Relaxed);
        }
        for time in [&this.hit_at, &this.unmapped_at] {
            time.store(0, Relaxed);
        }
        let new = Attachment::new(arg.dmabuf_fd, device, manners, this.into())?;
        *attachment = Some(new);
        Ok(())
    }

    fn map(&self, arg: &mut uapi::Map) -> Result {
        let direction = match arg.direction {
            uapi::BOTH_WAYS => Direction::BothWays,
            uapi::TO_DEVICE => Direction::ToDevice,
            uapi::FROM_DEVICE => Direction::FromDevice,
            _ => return Err(EINVAL),
        };
        self.with_lock(|mut locked| {
            if locked.is_mapped() {
                return Err(EBUSY);
            }
            locked.map(direction)?;
            let mut count = 0;
            locked.for_each_entry(|address, length| {
                if let Some(slot) = arg.entries.get_mut(count) {
                    *slot = uapi::Entry { address, length };
                }
                count += 1;
            });
            arg.count = u32::try_from(count)?;
            Ok(())
        })
    }

    fn unmap(&self) -> Result {
        self.with_lock(|mut locked| {
            if self.unmap_locked(&mut locked) {
                Ok(())
            } else {
                Err(EALREADY)
            }
        })
    }

    /// Adds a fence to the dma-buf.
    fn add_fence(&self, arg: &uapi::Fence) -> Result {
        let usage = match arg.usage {
            uapi::USAGE_KERNEL => Usage::Kernel,
            uapi::USAGE_WRITE => Usage::Write,
            uapi::USAGE_READ => Usage::Read,
            uapi::USAGE_BOOKKEEP => Usage::Bookkeep,
            _ => return Err(EINVAL),
        };
        if arg.manners > uapi::FENCE_REFUSING {
            return Err(EINVAL);
        }
        self.with_lock(|locked| locked.add_fence(arg.sync_file, usage, arg.manners))
    }

    /// Undoes [`Importer::attach`]; returns whether there was an attachment.
    fn detach(this: ArcBorrow<'_, Self>) -> bool {
        let attachment = this.attachment.lock().take();
        // Not with the lock held, which the work takes.
        let found = attachment.is_some();
        drop(attachment);
        // It cannot be queued any more.
        work::cancel(this);
        found
    }

    fn stats(&self) -> uapi::Stats {
        let mapped = self.with_lock(|locked| Ok(locked.is_mapped()));
        uapi::Stats {
            attached: mapped.is_ok().into(),
            mapped: mapped.unwrap_or(false).into(),
            invalidations: self.invalidations.load(Relaxed),
            hits: self.hits.load(Relaxed),
            hit_at: self.hit_at.load(Relaxed),
            unmapped_at: self.unmapped_at.load(Relaxed),
        }
    }

    /// Calls `f` with the reservation lock held, or fails with `ENOTCONN`.
    fn with_lock<R>(&self, f: impl FnOnce(Locked<'_, Self>) -> Result<R>) -> Result<R> {
        match &*self.attachment.lock() {
            Some(attachment) => attachment.with_lock(f),
            None => Err(ENOTCONN),
        }
    }

    /// Unmaps if it is mapped; returns whether it was.
    fn unmap_locked(&self, locked: &mut Locked<'_, Self>) -> bool {
        if locked.is_mapped() {
            // Before it: a waiter for the unmapping may read this at once.
            self.unmapped_at.store(time::now(), Relaxed);
        }
        locked.unmap()
    }

    /// Maps it from the invalidate callback, if the exporter lets it.
    fn map_again(&self, locked: &mut Locked<'_, Self>) {
        let _ = locked.map(Direction::BothWays);
    }
}

impl Invalidate for Importer {
    fn invalidate(this: ArcBorrow<'_, Self>, mut locked: Locked<'_, Self>) {
        this.invalidations.add(1, Relaxed);
        if !locked.is_mapped() {
            if this.policy.load(Relaxed) == uapi::AGAIN {
                this.map_again(&mut locked);
            }
            return;
        }
        this.hits.add(1, Relaxed);
        this.hit_at.store(time::now(), Relaxed);
        match this.policy.load(Relaxed) {
            uapi::AT_ONCE => {
                this.unmap_locked(&mut locked);
            }
            uapi::AGAIN => {
                this.unmap_locked(&mut locked);
                this.map_again(&mut locked);
            }
            uapi::LATER => {
                let delay = msecs_to_jiffies(this.delay_ms.load(Relaxed));
                // It may be queued already.
                let _ = workqueue::system().enqueue_delayed(Arc::from(this), delay);
            }
            _ => {}
        }
    }
}

impl WorkItem for Importer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // Ticks that were late leave too few until the end.
        let due = this.hit_at.load(Relaxed) + u64::from(this.delay_ms.load(Relaxed)) * 1_000_000;
        while time::now() < due {
            fsleep(Delta::from_millis(1));
        }
        // It may be unmapped already.
        let _ = this.unmap();
    }
}

#[vtable]
impl MiscDevice for Importer {
    type Ptr = Arc<Self>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        Arc::pin_init(Importer::new(misc.device().into()), GFP_KERNEL)
    }

    fn release(this: Arc<Self>, _file: &File) {
        Self::detach(this.as_arc_borrow());
    }

    fn mmap(this: ArcBorrow<'_, Self>, _file: &File, vma: &VmaNew) -> Result {
        this.attachment.lock().as_ref().ok_or(ENOTCONN)?.mmap(vma)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::ATTACH => Self::attach(this, &ioctl::read(arg)?)?,
            uapi::MAP => {
                let mut map = ioctl::read(arg)?;
                this.map(&mut map)?;
                ioctl::write(arg, &map)?;
            }
            uapi::UNMAP => this.unmap()?,
            uapi::DETACH => {
                if !Self::detach(this) {
                    return Err(ENOTCONN);
                }
            }
            uapi::ADD_FENCE => {
                this.add_fence(&ioctl::read(arg)?)?;
            }
            uapi::STATS => ioctl::write(arg, &this.stats())?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}
