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
mod denial_starved;
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
mod importers_lock;
mod importers_race;
mod importers_reset;
mod independent;
mod info;
mod iommufd;
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
mod race_gate;
mod race_holders;
mod race_orders;
mod race_waits;
mod readme;
mod regions;
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
    macro_rules! cases_of {
        ($($file:ident)+) => { [$($file::CASES),+] };
    }
    let files = cases_of! {
        open independent readme tools_crate tools_cli tools_broker bar_mmap export unclaimed
        feature borders denial denial_mappings denial_starved dmabuf_mmap names observe
        observe_events bytes entries info memory_types gup revoke memory power regions container
        sriov iommufd core_dmabuf importers importers_fences importers_lock importers_again
        importers_reset importers_race signals aer p2p parity_calls parity_events windows race
        race_faults race_gate race_holders race_clients race_waits race_orders fail_calls
        fail_devices lifetime limits charges hostile soak unbound unload drop_in parity
    };
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
