// SPDX-License-Identifier: GPL-2.0
//! Tests of the model with well-known sequences.

use std::sync::Arc;

use guest::{uapi, Errno};

use super::{Entry, Expect, Model};
use crate::generate::Generator;
use crate::machine::{colour, Places, FUNCS};
use crate::op::{
    Area, FdRef, Oddity, Op, Outcome, Part, Policy, Proc, Prot, Pte, Signal, Spec, Step, Via, Word,
};
use crate::session::Source;

const BOCHS: u8 = 3;
const IGB: u8 = 5;

fn model() -> Model {
    let frames = (1..).map(|at| [at << 20; 6]).take(FUNCS.len()).collect();
    Model::new(Arc::new(Places { frames, splits: vec![true; FUNCS.len()] }))
}

fn apply(model: &mut Model, by: Proc, op: Op) -> Expect {
    let step = Step { by, op };
    model.apply(&step).unwrap_or_else(|| panic!("{step} is impossible"))
}

fn works(model: &mut Model, by: Proc, op: Op) {
    let shown = format!("{op:?}");
    assert_eq!(apply(model, by, op), Expect::Is(Outcome::OK), "{shown}");
}

fn fails(model: &mut Model, by: Proc, op: Op, errno: Errno) {
    assert_eq!(apply(model, by, op), Expect::Is(Outcome::Errno(errno as i32)));
}

const fn area(page: u32, pages: u32) -> Area {
    Area { page, pages, prot: Prot::Write, shared: true, skew: 0 }
}

const fn load(map: u8, page: u32) -> Op {
    Op::Load { word: Word { map, page, word: 0 } }
}

fn export(ranges: &[(u32, u32)]) -> Op {
    let spec = Spec { bar: 0, ranges: ranges.to_vec(), read_only: false, wc: false, flaw: None };
    Op::Export { func: BOCHS, to: 0, spec }
}

/// bochs is open in process 0, which has exported pages 7, 8 and 2 and mapped them.
fn mapped() -> Model {
    let mut model = model();
    works(&mut model, 0, Op::Open { func: BOCHS, via: Via::Cdev });
    works(&mut model, 0, export(&[(7, 2), (2, 1)]));
    works(&mut model, 0, Op::Map { fd: 0, map: 0, area: area(0, 3) });
    model
}

fn value(page: u32) -> Expect {
    Expect::Is(Outcome::Done(colour(page, 0).into()))
}

const BUS: Expect = Expect::Is(Outcome::Fault(Signal::Bus));
const SEGV: Expect = Expect::Is(Outcome::Fault(Signal::Segv));

#[test]
fn pages_are_those_of_the_ranges_in_order() {
    let mut model = mapped();
    for (page, place) in [7, 8, 2].into_iter().enumerate() {
        assert_eq!(apply(&mut model, 0, load(0, page as u32)), value(place));
    }
    assert_eq!(apply(&mut model, 0, load(0, 3)), SEGV);
}

#[test]
fn stores_are_seen_through_every_mapping() {
    let mut model = mapped();
    works(&mut model, 0, Op::MapBar { func: BOCHS, bar: 0, map: 1, area: area(8, 1) });
    let word = Word { map: 0, page: 1, word: 0 };
    works(&mut model, 0, Op::Store { word, value: 17 });
    assert_eq!(apply(&mut model, 0, load(1, 0)), Expect::Is(Outcome::Done(17)));
}

#[test]
fn memory_off_is_sigbus_and_heals_and_revoke_does_not() {
    let mut model = mapped();
    works(&mut model, 0, Op::MapBar { func: BOCHS, bar: 0, map: 1, area: area(7, 1) });
    works(&mut model, 0, Op::Memory { func: BOCHS, on: false });
    assert_eq!(apply(&mut model, 0, load(0, 0)), BUS);
    works(&mut model, 0, Op::Memory { func: BOCHS, on: true });
    assert_eq!(apply(&mut model, 0, load(0, 0)), value(7));
    let revoke = Op::Revoke { func: BOCHS, fd: FdRef::Slot(0), ioctl: false };
    works(&mut model, 0, revoke.clone());
    assert_eq!(apply(&mut model, 0, load(0, 0)), BUS);
    assert_eq!(apply(&mut model, 0, load(1, 0)), value(7));
    fails(&mut model, 0, revoke, Errno::EBADFD);
    fails(&mut model, 0, Op::Map { fd: 0, map: 2, area: area(0, 1) }, Errno::ENODEV);
}

#[test]
fn holes_and_protection_are_of_their_pages_only() {
    let mut model = mapped();
    works(&mut model, 0, Op::Unmap { part: Part { map: 0, at: 1, pages: 1 } });
    let last = Part { map: 0, at: 2, pages: 1 };
    works(&mut model, 0, Op::Protect { part: last, prot: Prot::None });
    assert_eq!(apply(&mut model, 0, load(0, 0)), value(7));
    assert_eq!(apply(&mut model, 0, load(0, 1)), SEGV);
    assert_eq!(apply(&mut model, 0, load(0, 2)), SEGV);
    works(&mut model, 0, Op::Protect { part: last, prot: Prot::Read });
    works(&mut model, 0, Op::Move { part: last, to: 5, skew: 3 });
    assert_eq!(apply(&mut model, 0, load(5, 0)), value(2));
    assert_eq!(apply(&mut model, 0, load(0, 2)), SEGV);
}

#[test]
fn a_bar_mapping_of_a_forked_process_keeps_the_device_open() {
    let mut model = mapped();
    works(&mut model, 0, Op::MapBar { func: BOCHS, bar: 0, map: 1, area: area(7, 1) });
    works(&mut model, 0, Op::Fork { to: 3 });
    works(&mut model, 3, Op::Close { func: BOCHS });
    works(&mut model, 0, Op::Kill);
    assert_eq!(apply(&mut model, 3, load(0, 0)), value(7));
    fails(&mut model, 2, Op::Open { func: BOCHS, via: Via::Group }, Errno::EBUSY);
    works(&mut model, 3, Op::Unmap { part: Part { map: 1, at: 0, pages: 1 } });
    assert_eq!(apply(&mut model, 3, load(0, 0)), BUS);
    works(&mut model, 2, Op::Open { func: BOCHS, via: Via::Group });
    assert_eq!(apply(&mut model, 3, load(0, 0)), BUS);
}

#[test]
fn importers_lose_their_mapping_with_memory_and_with_the_buffer() {
    let mut model = mapped();
    works(&mut model, 0, Op::Attach { importer: 1, fd: 0, policy: Policy::AtOnce });
    let map = Op::ImporterMap { importer: 1, reads: false };
    let stats = |mapped, hits| Expect::Importer {
        attached: true,
        mapped: Some(mapped),
        hits: (hits, hits),
    };
    assert_eq!(apply(&mut model, 0, map.clone()), Expect::Is(Outcome::Done(3 * 4096)));
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(true, 0));
    works(&mut model, 0, Op::Reset { func: BOCHS });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(false, 1));
    apply(&mut model, 0, map.clone());
    works(&mut model, 0, Op::Close { func: BOCHS });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(false, 2));
    fails(&mut model, 0, map, Errno::ENODEV);
}

#[test]
fn attributes_are_of_later_mappings() {
    let mut model = mapped();
    let fd = FdRef::Slot(0);
    works(&mut model, 0, Op::SetMemattr { func: BOCHS, fd, value: 1 });
    works(&mut model, 0, Op::Map { fd: 0, map: 1, area: area(0, 3) });
    for (map, memory) in [(0, 0), (1, 1)] {
        let word = Word { map, page: 2, word: 0 };
        let pte = Pte { frame: (4 << 20) + 2, writable: true, memory };
        let want = Expect::Entry { load: Some(Ok(Some(colour(2, 0)))), pte: Entry::Present(pte) };
        assert_eq!(apply(&mut model, 0, Op::Entry { word, load: true }), want);
    }
}

#[test]
fn buffers_of_another_binding_are_no_buffers_of_the_device() {
    let mut model = mapped();
    let info = Op::Info { func: BOCHS, fd: FdRef::Slot(0) };
    let status =
        |status| Expect::Is(Outcome::Info { status, memattr: 0, ranges: 2, size: 3 * 4096 });
    works(&mut model, 0, Op::Close { func: BOCHS });
    works(&mut model, 0, Op::Open { func: BOCHS, via: Via::Cdev });
    let closed = status(uapi::VFIO_DMABUF_STATUS_CLOSED);
    assert_eq!(apply(&mut model, 0, info.clone()), closed);
    works(&mut model, 0, Op::Close { func: BOCHS });
    works(&mut model, 0, Op::Unbind { func: BOCHS });
    works(&mut model, 0, Op::Bind { func: BOCHS });
    works(&mut model, 0, Op::Open { func: BOCHS, via: Via::Cdev });
    fails(&mut model, 0, info, Errno::ENODEV);
}

/// Both functions of the slot are open in process 0.
fn pair() -> Model {
    let mut model = model();
    works(&mut model, 0, Op::Open { func: 1, via: Via::Group });
    works(&mut model, 0, Op::Open { func: 2, via: Via::Cdev });
    model
}

#[test]
fn hot_reset_needs_all_functions_of_the_slot() {
    let mut model = pair();
    let reset = Op::HotReset { func: 1 };
    works(&mut model, 0, reset.clone());
    works(&mut model, 0, Op::Close { func: 2 });
    works(&mut model, 0, reset.clone());
    works(&mut model, 0, Op::Unbind { func: 2 });
    fails(&mut model, 0, reset.clone(), Errno::EINVAL);
    works(&mut model, 0, Op::Bind { func: 2 });
    works(&mut model, 0, reset);
}

#[test]
fn hot_reset_needs_all_groups_of_the_slot() {
    let mut model = pair();
    let reset = Op::HotReset { func: 1 };
    works(&mut model, 0, Op::Close { func: 2 });
    works(&mut model, 0, Op::Replug { func: 2 });
    works(&mut model, 0, Op::Bind { func: 2 });
    fails(&mut model, 0, reset.clone(), Errno::EINVAL);
    works(&mut model, 1, Op::Open { func: 2, via: Via::Group });
    fails(&mut model, 0, reset.clone(), Errno::EINVAL);
    works(&mut model, 1, Op::Close { func: 2 });
    works(&mut model, 0, Op::Open { func: 2, via: Via::Group });
    works(&mut model, 0, reset);
}

#[test]
fn end_of_low_power_invalidates_and_does_not_wait() {
    for (policy, mapped) in [(Policy::AtOnce, Some(false)), (Policy::Later, None)] {
        let mut model = mapped_by(policy);
        works(&mut model, 0, Op::LowPower { func: BOCHS, enter: false });
        let stats = Expect::Importer { attached: true, mapped, hits: (1, 1) };
        assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats);
        works(&mut model, 0, Op::Memory { func: BOCHS, on: false });
        let hits = (1, if policy == Policy::Later { 2 } else { 1 });
        let stats = Expect::Importer { attached: true, mapped: Some(false), hits };
        assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats);
    }
}

/// As [`mapped`], with an importer that has mapped the buffer.
fn mapped_by(policy: Policy) -> Model {
    let mut model = mapped();
    works(&mut model, 0, Op::Attach { importer: 1, fd: 0, policy });
    apply(&mut model, 0, Op::ImporterMap { importer: 1, reads: false });
    model
}

/// The model of a device that has gone to sleep in D3hot.
#[test]
fn a_call_wakes_a_device_and_leaves_it_in_d0() {
    let mut model = model();
    works(&mut model, 0, Op::Open { func: IGB, via: Via::Cdev });
    works(&mut model, 0, Op::MapBar { func: IGB, bar: 0, map: 0, area: area(0, 1) });
    works(&mut model, 0, Op::Power { func: IGB, d3: true });
    works(&mut model, 0, Op::Sleep { func: IGB });
    assert_eq!(apply(&mut model, 0, load(0, 0)), BUS);
    assert_eq!(apply(&mut model, 0, Op::Wakeups { func: IGB }), Expect::Is(Outcome::OK));
    works(&mut model, 0, Op::Odd { func: IGB, oddity: Oddity::Probe });
    assert_eq!(apply(&mut model, 0, load(0, 0)), Expect::AnyValue);
    assert_eq!(apply(&mut model, 0, Op::Wakeups { func: IGB }), Expect::Is(Outcome::Done(1)));
}

#[test]
fn a_lost_device_is_back_with_its_memory_and_half_back_after_a_reset() {
    let mut model = mapped();
    let error = Op::LinkError { func: BOCHS, fatal: true };
    works(&mut model, 0, error.clone());
    assert_eq!(apply(&mut model, 0, load(0, 0)), BUS);
    works(&mut model, 0, Op::SysfsReset { func: BOCHS });
    assert_eq!(apply(&mut model, 0, load(0, 0)), BUS);
    works(&mut model, 0, Op::Reset { func: BOCHS });
    assert_eq!(apply(&mut model, 0, load(0, 0)), Expect::AnyValue);
    works(&mut model, 0, Op::Memory { func: BOCHS, on: true });
    assert_eq!(apply(&mut model, 0, load(0, 0)), value(7));
    works(&mut model, 0, Op::LinkError { func: BOCHS, fatal: false });
    assert_eq!(apply(&mut model, 0, load(0, 0)), value(7));
}

#[test]
fn virtual_functions_come_with_a_driver_and_need_the_token() {
    let mut model = model();
    let open = |func, via| Op::Open { func, via };
    let make = |on| Op::VirtualFunctions { func: IGB, on };
    fails(&mut model, 0, open(IGB + 1, Via::Group), Errno::ENOENT);
    works(&mut model, 0, make(true));
    fails(&mut model, 0, open(IGB + 1, Via::Group), Errno::EACCES);
    works(&mut model, 0, open(IGB, Via::Group));
    works(&mut model, 1, open(IGB + 1, Via::Group));
    let map = Op::MapBar { func: IGB + 1, bar: 0, map: 0, area: area(0, 1) };
    works(&mut model, 1, map);
    works(&mut model, 1, Op::Memory { func: IGB + 1, on: false });
    works(&mut model, 0, Op::Reset { func: IGB });
    assert_eq!(apply(&mut model, 1, load(0, 0)), Expect::AnyValue);
    assert_eq!(model.apply(&Step { by: 0, op: make(false) }), None);
    works(&mut model, 1, Op::Kill);
    works(&mut model, 0, make(false));
    fails(&mut model, 1, open(IGB + 1, Via::Group), Errno::ENOENT);
}

#[test]
fn an_importer_that_maps_again_does_so_when_memory_is_back_and_it_is_told() {
    let mut model = mapped_by(Policy::Again);
    let stats = |mapped, hits| Expect::Importer {
        attached: true,
        mapped: Some(mapped),
        hits: (hits, hits),
    };
    works(&mut model, 0, Op::Reset { func: BOCHS });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(true, 1));
    works(&mut model, 0, Op::Sleep { func: BOCHS });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(false, 2));
    works(&mut model, 0, Op::Odd { func: BOCHS, oddity: Oddity::Probe });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(false, 2));
    works(&mut model, 0, Op::LowPower { func: BOCHS, enter: false });
    assert_eq!(apply(&mut model, 0, Op::Stats { importer: 1 }), stats(true, 2));
}

#[test]
fn an_importer_that_does_not_unmap_holds_up_what_concerns_its_buffer() {
    let mut model = mapped();
    works(&mut model, 0, Op::Pass { fd: 0, to: 1, slot: 3 });
    let held_up = |op| Op::HeldUp { op: Box::new(op), holder: 1, fd: 3 };
    let info = held_up(Op::Odd { func: BOCHS, oddity: Oddity::Probe });
    assert_eq!(model.apply(&Step { by: 0, op: info }), None);
    for (op, waits) in [
        (Op::Unmap { part: Part { map: 0, at: 0, pages: 1 } }, false),
        (Op::Memory { func: BOCHS, on: true }, true),
        (Op::Close { func: BOCHS }, true),
    ] {
        let outcome = Box::new(Expect::Is(Outcome::OK));
        assert_eq!(apply(&mut model, 0, held_up(op)), Expect::HeldUp { outcome, waits });
    }
}

/// A buffer and a function that two processes have.
fn shared() -> Model {
    let mut model = mapped();
    works(&mut model, 0, Op::Fork { to: 1 });
    model
}

fn at_once(model: &mut Model, ops: [Op; 2], then: &[Op]) -> Option<Expect> {
    let steps = (0..).zip(ops).map(|(by, op)| Step { by, op }).collect();
    let then = then.iter().map(|op| Step { by: 1, op: op.clone() }).collect();
    model.apply(&Step { by: 0, op: Op::Together { steps, then } })
}

#[test]
fn revokes_at_once_all_work_or_all_but_the_first_fail() {
    let revoke = Op::Revoke { func: BOCHS, fd: FdRef::Slot(0), ioctl: false };
    let Some(expect) = at_once(&mut shared(), [revoke.clone(), revoke], &[]) else { panic!() };
    let ok = Outcome::OK;
    let done = Outcome::Errno(Errno::EBADFD as i32);
    for (outcomes, want) in [
        (vec![ok.clone(), ok.clone()], true),
        (vec![ok.clone(), done.clone()], true),
        (vec![done.clone(), ok], true),
        (vec![done.clone(), done], false),
    ] {
        assert_eq!(expect.allows(&Outcome::Together(outcomes.clone())), want, "{outcomes:?}");
    }
}

#[test]
fn orders_must_lead_to_the_same_state() {
    let off = Op::Memory { func: BOCHS, on: false };
    let on = Op::Memory { func: BOCHS, on: true };
    assert_eq!(at_once(&mut shared(), [off.clone(), on.clone()], &[]), None);
    assert!(at_once(&mut shared(), [off, on.clone()], &[on]).is_some());
}

#[test]
fn status_while_memory_is_disabled_is_seen_amid_an_operation() {
    let info = Op::Info { func: BOCHS, fd: FdRef::Slot(0) };
    let reset = Op::Reset { func: BOCHS };
    let Some(expect) = at_once(&mut shared(), [reset, info], &[]) else { panic!() };
    let Expect::Together(orders) = expect else { panic!("{expect}") };
    let live = |order: &Vec<Expect>| {
        matches!(order[1], Expect::Is(Outcome::Info { status, .. })
        if status == uapi::VFIO_DMABUF_STATUS_LIVE)
    };
    assert_eq!((orders.len(), orders.iter().filter(|order| live(order)).count()), (2, 1));
}

/// Most steps of the generator are possible, and a seed always yields the same ones.
#[test]
fn random_steps_are_possible_and_repeat() {
    let steps = |seed| {
        let (mut model, mut source) = (model(), Generator::new(seed, 20_000, true));
        let mut steps = Vec::new();
        let mut possible = 0;
        while let Some(step) = source.next(&model) {
            possible += u32::from(model.apply(&step).is_some());
            steps.push(step);
        }
        assert!(possible > 18_000, "only {possible} of 20,000 steps are possible");
        steps
    };
    assert_eq!(steps(7), steps(7));
    assert_ne!(steps(7), steps(8));
}
