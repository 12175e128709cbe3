// SPDX-License-Identifier: GPL-2.0
//! The cases, by what they are about.

mod aer;
mod bar_mmap;
mod borders;
mod bytes;
mod charges;
mod container;
mod core_dmabuf;
mod denial;
mod denial_mappings;
mod dmabuf_mmap;
mod drop_in;
mod entries;
mod export;
mod fail_calls;
mod fail_devices;
mod feature;
mod gup;
mod hostile;
mod importers;
mod importers_again;
mod importers_fences;
mod importers_race;
mod importers_reset;
mod independent;
mod info;
mod iommufd;
mod kcsan;
mod lifetime;
mod limits;
mod memory;
mod memory_types;
mod names;
mod observe;
mod observe_events;
mod open;
mod p2p;
mod parity;
mod parity_calls;
mod parity_events;
mod power;
mod race;
mod race_clients;
mod race_faults;
mod race_holders;
mod race_orders;
mod race_waits;
mod readme;
mod revoke;
mod signals;
mod soak;
mod sriov;
mod tools_broker;
mod tools_cli;
mod tools_crate;
mod unbound;
mod unclaimed;
mod unload;
mod windows;

use crate::case::Case;

/// All rows with their cases, in the order in which these run: the simple ones first.
fn rows() -> impl Iterator<Item = &'static Case> {
    let files = [
        open::CASES,
        independent::CASES,
        readme::CASES,
        tools_crate::CASES,
        tools_cli::CASES,
        tools_broker::CASES,
        bar_mmap::CASES,
        export::CASES,
        unclaimed::CASES,
        feature::CASES,
        borders::CASES,
        denial::CASES,
        denial_mappings::CASES,
        dmabuf_mmap::CASES,
        names::CASES,
        observe::CASES,
        observe_events::CASES,
        kcsan::CASES,
        bytes::CASES,
        entries::CASES,
        info::CASES,
        memory_types::CASES,
        gup::CASES,
        revoke::CASES,
        memory::CASES,
        power::CASES,
        container::CASES,
        sriov::CASES,
        iommufd::CASES,
        core_dmabuf::CASES,
        importers::CASES,
        importers_fences::CASES,
        importers_again::CASES,
        importers_reset::CASES,
        importers_race::CASES,
        signals::CASES,
        aer::CASES,
        p2p::CASES,
        parity_calls::CASES,
        parity_events::CASES,
        windows::CASES,
        race::CASES,
        race_faults::CASES,
        race_holders::CASES,
        race_clients::CASES,
        race_waits::CASES,
        race_orders::CASES,
        fail_calls::CASES,
        fail_devices::CASES,
        lifetime::CASES,
        limits::CASES,
        charges::CASES,
        hostile::CASES,
        soak::CASES,
        unbound::CASES,
        unload::CASES,
        drop_in::CASES,
        parity::CASES,
    ];
    files.into_iter().flatten()
}

/// All cases.
pub fn all() -> Vec<&'static Case> {
    let mut all: Vec<&Case> = Vec::new();
    for case in rows() {
        match all.iter().find(|other| other.name == case.name) {
            None => all.push(case),
            Some(other) if other.file == case.file => {}
            Some(other) => panic!("{} is in {} and {}", case.name, case.file, other.file),
        }
    }
    all
}

/// The contract as a table: what holds, and the cases that prove it.
pub fn contract() -> String {
    let mut table: Vec<(&str, String)> = Vec::new();
    for case in rows() {
        let name = format!("`{}`", case.name);
        match table.iter_mut().find(|(row, _)| *row == case.row) {
            Some((_, names)) => *names += &format!(" {name}"),
            None => table.push((case.row, name)),
        }
    }
    table.sort_by_key(|(row, _)| row.to_lowercase());
    let lines = table.iter().map(|(row, names)| format!("| {row} | {names} |\n"));
    format!("| behaviour | cases |\n|---|---|\n{}", lines.collect::<String>())
}
