// SPDX-License-Identifier: GPL-2.0
//! One hostile process: makes a number of calls and judges each answer.

use guest::prelude::*;
use guest::user;
use rand_pcg::rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::op::Op;
use crate::tally::{Count, Tally};
use crate::verdict::{is_ours, judge};
use crate::world::{open_fds, Role, Start, Target, World};

/// The limit of fds of a process.
const FDS: u64 = 200;

/// The task of a process.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its role.
    pub role: Role,
    /// The device that it attacks.
    pub target: Target,
    /// The seed of its random choices.
    pub seed: u64,
    /// The seed of its first choices, and for how many calls.
    pub beginning: Option<(u64, u64)>,
    /// Its slot in the tally.
    pub slot: u64,
    /// The number of its calls.
    pub calls: u64,
}

/// Plays a part in this process.
pub fn play(part: Part, start: Start<'_>, tally: &Tally) -> Result<()> {
    user::limit_fds(FDS)?;
    let mut world = World::new(part.role, part.target, start).context("preparation")?;
    let others = open_fds()?.len() - world.pool.len();
    let memory = world.memory.clone();
    let (fd, fds) = (world.device_fd(), world.pool.iter().map(Buffer::raw).collect::<Vec<_>>());
    thread::scope(|scope| {
        scope.spawn(|| memory.meddle(fd, &mut Pcg64Mcg::seed_from_u64(!part.seed)));
        scope.spawn(|| {
            let mut turn = 0;
            memory.serve(|| {
                turn += 1;
                interfere(fd, fds.get(turn % 8).copied().unwrap_or(-1), turn);
            })
        });
        let done = calls(part, &mut world, tally);
        memory.end();
        done
    })?;
    let open = open_fds()?.len();
    ensure!(open == others + world.pool.len(), "{open} fds are open, {others} were");
    for handle in &world.pool {
        // The file must still be a buffer.
        let Some(device) = world.device.as_ref() else { continue };
        let info = buffer::info(device, handle.raw()).context("INFO of a buffer")?;
        ensure!(info.size % PAGE == 0 && info.size > 0, "INFO says {info:?}");
    }
    Ok(())
}

/// Makes one call that can conflict with a call that waits for its argument.
fn interfere(device: i32, buffer: i32, turn: usize) {
    let command = (7u64 << 40) + 4;
    let value = [2 * (turn as u16 % 2); 1];
    match turn % 3 {
        0 => {
            let words = [16, guest::feature::SET | 0xff0d, buffer as u32];
            let _ = raw::ioctl(device, uapi::VFIO_DEVICE_FEATURE, words.as_ptr() as u64);
        }
        1 => {
            let args = [device as u64, value.as_ptr() as u64, 2, command, 0, 0];
            let _ = raw::call(libc::SYS_pwrite64, args);
        }
        _ => thread::sleep(std::time::Duration::from_millis(turn as u64 % 20)),
    }
}

fn calls(part: Part, world: &mut World, tally: &Tally) -> Result<()> {
    let (first, until) = part.beginning.unwrap_or((part.seed, 0));
    let mut rng = Pcg64Mcg::seed_from_u64(first);
    for number in 0..part.calls {
        if number == until {
            rng = Pcg64Mcg::seed_from_u64(part.seed);
        }
        let op = Op::random(&mut rng, part.role);
        let (answer, made) = world.run(&op);
        tally.add(part.slot, Count::Calls);
        if answer.is_ok() {
            tally.add(part.slot, Count::Good);
        }
        judge(&op, world, answer, made.as_ref()).with_context(|| {
            format!("call {number} of seed {} as {:?}: {op:?}: {answer:?}", part.seed, part.role)
        })?;
        if let Some(buffer) = made.filter(is_ours) {
            tally.add(part.slot, Count::Buffers);
            world.keep(buffer, &mut rng);
        }
    }
    Ok(())
}
