// SPDX-License-Identifier: GPL-2.0
//! What the model knows of the machine: its devices, their abilities and their registers.
//!
//! Pure. A hot reset affects all functions of a slot. At first each slot is one IOMMU group. Pages
//! are 4 KiB, words 4 bytes.

use std::ops::Range;

/// A function, by its place in [`FUNCS`].
pub type Func = u8;

/// The content of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Memory: each word keeps the last value written. [`PAINTED`] words are known from the start.
    Memory,
    /// edu's registers, on page 0. All other pages read as ones.
    Edu,
    /// bochs-display's registers, of which one is known.
    BochsRegisters,
    /// igb's registers, of which one is known, and none is written.
    Igb,
    /// Those of one of its virtual functions: nothing is known. They read as ones while the
    /// physical function is being reset.
    Virtual,
}

/// A BAR.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Its number.
    pub index: u8,
    /// Its size, pages.
    pub pages: u32,
    /// Its content.
    pub content: Content,
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub struct FuncSpec {
    /// Its name in reports.
    pub name: &'static str,
    /// Its slot.
    pub slot: u8,
    /// The BARs that can be mapped.
    pub bars: &'static [Bar],
    /// A BAR that it does not have.
    pub no_bar: u8,
    /// Whether it can be reset by itself.
    pub resets: bool,
    /// Whether a hot reset of it works: QEMU's igb is not ready in time for the kernel.
    pub hot_resets: bool,
    /// Whether it has a function level reset.
    pub flr: bool,
    /// Whether it has power states.
    pub d3: bool,
    /// The physical function of a virtual one.
    pub physical: Option<Func>,
    /// Whether it may be removed and rescanned. The kernel knows at once that function 0 has
    /// siblings and puts it into their IOMMU group. Any other function may get a group of its own
    /// ([`Places::splits`]).
    pub replugs: bool,
}

/// Words of each page of memory whose content is known from the start.
pub const PAINTED: [u16; 4] = [0, 1, 511, 1023];

const fn bar(index: u8, pages: u32, content: Content) -> Bar {
    Bar { index, pages, content }
}

const VIRTUAL_BARS: &[Bar] = &[bar(0, 4, Content::Virtual)];
const EDU_BARS: &[Bar] = &[bar(0, 256, Content::Edu)];

const fn edu(name: &'static str, slot: u8, resets: bool) -> FuncSpec {
    FuncSpec {
        name,
        slot,
        bars: EDU_BARS,
        no_bar: 1,
        resets,
        hot_resets: true,
        flr: false,
        d3: false,
        physical: None,
        replugs: true,
    }
}

/// The function that can have virtual functions.
pub const PHYSICAL: Func = 5;

const fn virtual_function(name: &'static str, slot: u8) -> FuncSpec {
    FuncSpec {
        name,
        slot,
        bars: VIRTUAL_BARS,
        no_bar: 1,
        resets: true,
        hot_resets: false,
        flr: true,
        d3: false,
        physical: Some(PHYSICAL),
        replugs: false,
    }
}

/// The functions.
pub const FUNCS: [FuncSpec; 8] = [
    edu("edu", 0, true),
    edu("pair.0", 1, false),
    edu("pair.1", 1, false),
    FuncSpec {
        name: "bochs",
        slot: 2,
        bars: &[bar(0, 4096, Content::Memory), bar(2, 1, Content::BochsRegisters)],
        no_bar: 4,
        resets: true,
        hot_resets: true,
        flr: false,
        d3: false,
        physical: None,
        replugs: false,
    },
    FuncSpec {
        name: "ivshmem",
        slot: 3,
        bars: &[bar(2, 256, Content::Memory)],
        no_bar: 4,
        resets: true,
        hot_resets: true,
        flr: false,
        d3: false,
        physical: None,
        replugs: false,
    },
    FuncSpec {
        name: "igb",
        slot: 4,
        bars: &[bar(0, 32, Content::Igb)],
        no_bar: 4,
        resets: true,
        hot_resets: false,
        flr: true,
        d3: true,
        physical: None,
        replugs: false,
    },
    virtual_function("igb.vf0", 5),
    virtual_function("igb.vf1", 6),
];

/// Whether a function is the first one of its slot.
pub fn is_first(func: Func) -> bool {
    slot_of(func).start == func
}

/// The functions of the slot of a function, itself included.
pub fn slot_of(func: Func) -> Range<Func> {
    let in_slot = |of: &FuncSpec| of.slot == spec(func).slot;
    let first = FUNCS.iter().position(in_slot).unwrap_or_default() as Func;
    let count = FUNCS.iter().filter(|of| in_slot(of)).count() as Func;
    first..first + count
}

/// The virtual functions that a function can have.
pub fn virtual_functions(of: Func) -> impl Iterator<Item = Func> {
    (0..FUNCS.len() as Func).filter(move |&func| spec(func).physical == Some(of))
}

/// The description of a function.
pub fn spec(func: Func) -> &'static FuncSpec {
    &FUNCS[usize::from(func)]
}

/// The description of BAR `index` of a function, which must have it.
pub fn bar_of(func: Func, index: u8) -> &'static Bar {
    let bar = spec(func).bars.iter().find(|bar| bar.index == index);
    bar.expect("operations name BARs that the function has")
}

/// The value that is painted into a word of memory.
pub fn colour(page: u32, word: u16) -> u32 {
    ((page << 10) | u32::from(word)).wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995
}

/// edu's id register.
pub const EDU_ID: u32 = 0x0100_00ed;
/// edu's inverter, a word of page 0.
pub const EDU_INVERTER: u16 = 1;
/// In bochs-display's BAR2, a word with the length of the block that it starts.
pub const BOCHS_SIZE: (u16, u32) = (0x600 / 4, 8);
/// igb's VLAN type register, and what it has after each reset.
pub const IGB_VLAN: (u16, u32) = (0x38 / 4, 0x8100_8100);

/// What only the machine itself knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    /// Page frame of the start of each BAR of each function.
    pub frames: Vec<[u64; 6]>,
    /// Whether a function that comes back alone gets an IOMMU group of its own: not if its group
    /// has the port above it, too.
    pub splits: Vec<bool>,
}

/// Content of a word that was never written; `None` if that is not known.
pub fn untouched(content: Content, page: u32, word: u16) -> Option<u32> {
    match content {
        Content::Memory => PAINTED.contains(&word).then(|| colour(page, word)),
        Content::Edu => match (page, word) {
            (0, 0) => Some(EDU_ID),
            // Registers end at 0xa0; the rest, and what is no register, reads as ones.
            (0, 0x28..) | (1.., _) => Some(u32::MAX),
            _ => None,
        },
        Content::BochsRegisters => (word == BOCHS_SIZE.0).then_some(BOCHS_SIZE.1),
        Content::Igb => ((page, word) == (0, IGB_VLAN.0)).then_some(IGB_VLAN.1),
        Content::Virtual => None,
    }
}

/// The value that a word has after a store; `Some(None)` if the store changes nothing. `None` if
/// the store could have side effects.
pub fn stored(content: Content, page: u32, word: u16, value: u32) -> Option<Option<u32>> {
    match content {
        Content::Memory => Some(Some(value)),
        Content::Edu if (page, word) == (0, EDU_INVERTER) => Some(Some(!value)),
        Content::Edu if page > 0 => Some(None),
        _ => None,
    }
}
