//! Which TLB maintenance operations a flush takes, and their operands (D8.14, C5.5).
//!
//! Operations by intermediate physical address drop what is cached of stage 2 alone. TLBs may also hold *combined*
//! entries, from a virtual address straight to a physical one, which no operation names by IPA: whoever invalidates by IPA
//! has to wait, and then drop all of the guest's stage 1 ([`Operation::StageOne`]). [`Plan`] never leaves that out.

use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Flush, Hint};

use super::features::Features;

/// One instruction's worth of TLB maintenance, for the VMID in VTTBR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// TLBI IPAS2E1 or IPAS2E1IS with this operand (C5.5.17).
    Ipa(u64),
    /// TLBI RIPAS2E1 or RIPAS2E1IS with this operand (C5.5.29).
    IpaRange(u64),
    /// A barrier (`dsb`) that waits for the operations so far, then TLBI VMALLE1 or VMALLE1IS: stage 1, combined entries
    /// included.
    StageOne,
    /// TLBI VMALLS12E1 or VMALLS12E1IS: everything of this VMID.
    Everything,
}

/// Which CPUs an operation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The one that executes it.
    Local,
    /// All that share memory with it (inner-shareable).
    All,
}

/// More operations by IPA than this are dearer than dropping all of the VMID.
pub const MOST_OPERATIONS: u64 = 64;

const PAGE_SHIFT: u32 = 12;
const LEVEL_INDEX_BITS: u32 = 9;
/// TTL and TG of a 4 KiB granule.
const GRANULE_4K: u64 = 0b01;
/// The largest scale of a range operation.
const TOP_SCALE: u32 = 3;
/// Pages that range operations of all scales cover together, at most.
const RANGE_PAGES: u64 = 1 << (5 * (TOP_SCALE + 1) + 1);

/// The operations that a flush takes, in their order.
#[derive(Clone, Debug)]
pub struct Plan(State);

#[derive(Clone, Debug)]
enum State {
    Everything,
    /// One operation every `step` pages.
    Each {
        page: u64,
        left: u64,
        step: u64,
        hint: u64,
    },
    /// Range operations, small scales first; `page` to `page + left`.
    Ranges {
        page: u64,
        left: u64,
        scale: u32,
        hint: u64,
    },
    StageOne,
    Done,
}

impl Plan {
    /// The operations for `flush` on a CPU that has `features`. Ends with [`Operation::StageOne`] wherever it invalidates
    /// by IPA.
    pub fn new(flush: Flush, features: &Features) -> Self {
        match flush {
            Flush::All => Self(State::Everything),
            // Leaves of any level, and the walk caches above them: no hint.
            Flush::Tables { range } => Self::of(range, None, features),
            Flush::Leaves { range, level: Hint::Unknown } => Self::of(range, None, features),
            Flush::Leaves { range, level: Hint::Level(level) } => Self::of(range, Some(level), features),
        }
    }

    fn of(range: GpaRange, level: Option<Level>, features: &Features) -> Self {
        let (page, left) = (range.start().get() >> PAGE_SHIFT, range.len() >> PAGE_SHIFT);
        // Leaves are found by any address inside them, so one operation a leaf does.
        let leaf = level.filter(|&level| is_aligned(range, level));
        let step = leaf.map_or(1, |level| 1 << (LEVEL_INDEX_BITS * u32::from(level.get())));
        let hint = leaf.filter(|_| features.level_hints).map_or(0, level_hint);
        let operations = left.div_ceil(step);
        if operations == 0 {
            Self(State::Done)
        } else if operations > 1 && features.range_operations && left < RANGE_PAGES {
            Self(State::Ranges { page, left, scale: 0, hint })
        } else if operations <= MOST_OPERATIONS {
            Self(State::Each { page, left, step, hint })
        } else {
            Self(State::Everything)
        }
    }
}

impl Iterator for Plan {
    type Item = Operation;

    #[inline]
    fn next(&mut self) -> Option<Operation> {
        let (operation, state) = match self.0 {
            State::Everything => (Operation::Everything, State::Done),
            State::Each { page, left, step, hint } => {
                let left = left.saturating_sub(step);
                let next = State::Each { page: page + step, left, step, hint };
                (Operation::Ipa(ipa_operand(page, hint)), if left == 0 { State::StageOne } else { next })
            }
            State::Ranges { page, left, scale, hint } => next_of_ranges(page, left, scale, hint),
            State::StageOne => (Operation::StageOne, State::Done),
            State::Done => return None,
        };
        self.0 = state;
        Some(operation)
    }
}

/// The operand of TLBI IPAS2E1 for the one leaf at `page`: what a fault wants that relaxed it. [`Plan`] says the same, at
/// length.
#[inline(always)]
pub fn leaf_operand(page: Gpa, level: Hint, features: &Features) -> u64 {
    let hint = match level {
        Hint::Level(level) if features.level_hints => level_hint(level),
        _ => 0,
    };
    ipa_operand(page.get() >> PAGE_SHIFT, hint)
}

/// A range operation covers (NUM + 1) << (5 * SCALE + 1) pages: an odd page goes alone, then five bits of the rest a scale.
fn next_of_ranges(page: u64, left: u64, scale: u32, hint: u64) -> (Operation, State) {
    if left & 1 == 1 {
        let next = rest_of_ranges(page + 1, left - 1, 0, hint);
        return (Operation::Ipa(ipa_operand(page, hint)), next);
    }
    let (mut scale, mut units) = (scale, 0);
    while scale <= TOP_SCALE {
        units = (left >> (5 * scale + 1)) & 0x1f;
        if units > 0 {
            break;
        }
        scale += 1;
    }
    let pages = units << (5 * scale + 1);
    let next = rest_of_ranges(page + pages, left - pages, scale + 1, hint);
    (Operation::IpaRange(range_operand(page, units, scale, hint)), next)
}

fn rest_of_ranges(page: u64, left: u64, scale: u32, hint: u64) -> State {
    if left == 0 { State::StageOne } else { State::Ranges { page, left, scale, hint } }
}

fn is_aligned(range: GpaRange, level: Level) -> bool {
    range.is_aligned(1 << (PAGE_SHIFT + LEVEL_INDEX_BITS * u32::from(level.get())))
}

/// TTL for leaves of `level`: the granule, and the level as the architecture counts, down to 3 for a page. 0 says nothing.
fn level_hint(level: Level) -> u64 {
    match level.get() {
        level @ 0..=2 => GRANULE_4K << 2 | (3 - u64::from(level)),
        _ => 0,
    }
}

/// IPA[47:12] in bits 35:0, TTL in 47:44.
const fn ipa_operand(page: u64, hint: u64) -> u64 {
    page & 0xf_ffff_ffff | hint << 44
}

/// IPA[48:12] in bits 36:0, the level in 38:37, NUM in 43:39, SCALE in 45:44, TG in 47:46.
const fn range_operand(page: u64, units: u64, scale: u32, hint: u64) -> u64 {
    page & 0x1f_ffff_ffff | (hint & 0b11) << 37 | (units - 1) << 39 | (scale as u64) << 44 | GRANULE_4K << 46
}

#[cfg(test)]
mod tests;
