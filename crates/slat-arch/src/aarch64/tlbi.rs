//! Which TLB maintenance operations a flush takes, and their operands (D8.14, C5.5).
//!
//! Operations by intermediate physical address drop what is cached of stage 2 alone. TLBs may also hold *combined*
//! entries, from a virtual address straight to a physical one, which no operation names by IPA: whoever invalidates by IPA
//! has to wait, and then drop all of the guest's stage 1 ([`Operation::StageOne`]). [`Plan`] never leaves that out.

use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Flush, Hint};

use super::control::Layout;
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

/// Operands by IPA have bits 51:12 of it, whatever the granule.
const OPERAND_SHIFT: u32 = 12;
/// Range operands have bits from 16 up only under FEAT_LPA2's descriptors.
const WIDE_BASE_SHIFT: u32 = 16;
/// The largest scale of a range operation.
const TOP_SCALE: u32 = 3;
/// Pages that range operations of all scales cover together, at most.
const RANGE_PAGES: u64 = 1 << (5 * (TOP_SCALE + 1) + 1);

/// The operations that a flush takes, in their order.
#[derive(Clone, Debug)]
pub struct Plan {
    state: State,
    layout: Layout,
    /// TTL for the leaves that are flushed; 0 says nothing.
    hint: u64,
}

/// Pages are numbered in the tree's own granule.
#[derive(Clone, Debug)]
enum State {
    Everything,
    /// One operation every `step` pages.
    Each {
        page: u64,
        left: u64,
        step: u64,
    },
    /// Range operations, large scales first; `page` to `page + left`.
    Ranges {
        page: u64,
        left: u64,
    },
    StageOne,
    Done,
}

impl Plan {
    /// The operations for `flush` of a tree of this layout, on a CPU that has `features`. Ends with [`Operation::StageOne`]
    /// wherever it invalidates by IPA.
    pub fn new(flush: Flush, layout: Layout, features: &Features) -> Self {
        match flush {
            Flush::All => Self { state: State::Everything, layout, hint: 0 },
            // Leaves of any level, and the walk caches above them: no hint.
            Flush::Tables { range } => Self::of(range, None, layout, features),
            Flush::Leaves { range, level: Hint::Unknown } => Self::of(range, None, layout, features),
            Flush::Leaves { range, level: Hint::Level(level) } => Self::of(range, Some(level), layout, features),
        }
    }

    fn of(range: GpaRange, level: Option<Level>, layout: Layout, features: &Features) -> Self {
        let (page, left) = (range.start().get() >> layout.page_shift, range.len() >> layout.page_shift);
        // Leaves are found by any address inside them, so one operation a leaf does.
        let leaf_pages = |level: Level| 1 << ((layout.page_shift - 3) * u32::from(level.get()));
        let leaf = level.filter(|&level| range.is_aligned(leaf_pages(level) << layout.page_shift));
        let step = leaf.map_or(1, leaf_pages);
        let hint = leaf.filter(|_| features.level_hints).map_or(0, |level| level_hint(layout, level));
        let operations = left.div_ceil(step);
        let may_range = features.range_operations && left < RANGE_PAGES && is_base(layout, page);
        let state = if operations == 0 {
            State::Done
        } else if operations > 1 && may_range {
            State::Ranges { page, left }
        } else if operations <= MOST_OPERATIONS {
            State::Each { page, left, step }
        } else {
            State::Everything
        };
        Self { state, layout, hint }
    }

    /// A range operation covers (NUM + 1) << (5 * SCALE + 1) pages: five bits of their number a scale, the large ones first,
    /// so that each begins where leaves and bases may; an odd page goes alone.
    fn next_of_ranges(&self, page: u64, left: u64) -> (Operation, State) {
        let scales = (0..=TOP_SCALE).rev().map(|scale| (scale, (left >> (5 * scale + 1)) & 0x1f));
        let (operation, pages) = match scales.into_iter().find(|&(_, units)| units > 0) {
            Some((scale, units)) => {
                let operand = range_operand(self.layout, page, units, scale, self.hint);
                (Operation::IpaRange(operand), units << (5 * scale + 1))
            }
            None => (Operation::Ipa(ipa_operand(self.layout, page, self.hint)), 1),
        };
        let (page, left) = (page + pages, left - pages);
        (operation, if left == 0 { State::StageOne } else { State::Ranges { page, left } })
    }
}

impl Iterator for Plan {
    type Item = Operation;

    #[inline]
    fn next(&mut self) -> Option<Operation> {
        let (operation, state) = match self.state {
            State::Everything => (Operation::Everything, State::Done),
            State::Each { page, left, step } => {
                let left = left.saturating_sub(step);
                let next = if left == 0 { State::StageOne } else { State::Each { page: page + step, left, step } };
                (Operation::Ipa(ipa_operand(self.layout, page, self.hint)), next)
            }
            State::Ranges { page, left } => self.next_of_ranges(page, left),
            State::StageOne => (Operation::StageOne, State::Done),
            State::Done => return None,
        };
        self.state = state;
        Some(operation)
    }
}

/// The operand of TLBI IPAS2E1 for the one leaf at `page`: what a fault wants that relaxed it. [`Plan`] says the same, at
/// length.
#[inline(always)]
pub fn leaf_operand(page: Gpa, level: Hint, layout: Layout, features: &Features) -> u64 {
    let hint = match level {
        Hint::Level(level) if features.level_hints => level_hint(layout, level),
        _ => 0,
    };
    ipa_operand(layout, page.get() >> layout.page_shift, hint)
}

/// Whether a range operation may begin at this page.
fn is_base(layout: Layout, page: u64) -> bool {
    let unit = 1 << WIDE_BASE_SHIFT.saturating_sub(layout.page_shift);
    !layout.wide || page.is_multiple_of(unit)
}

/// TTL for leaves of `level`: the granule (4 KiB is 1, 64 KiB is 3), and the level as the architecture counts, down to 3 for
/// a page. 0, which says nothing, where a leaf of that level is rare enough not to have its own encoding everywhere.
#[inline(always)]
fn level_hint(layout: Layout, level: Level) -> u64 {
    let most = if layout.page_shift == 12 { 2 } else { 1 };
    match level.get() {
        level if level <= most => granule(layout) << 2 | (3 - u64::from(level)),
        _ => 0,
    }
}

/// The granule as TLB maintenance says it: TG, and the upper half of TTL.
const fn granule(layout: Layout) -> u64 {
    match layout.page_shift {
        14 => 0b10,
        16 => 0b11,
        _ => 0b01,
    }
}

/// Bits 51:12 of the address in bits 39:0, TTL in 47:44.
const fn ipa_operand(layout: Layout, page: u64, hint: u64) -> u64 {
    (page << (layout.page_shift - OPERAND_SHIFT)) & 0xff_ffff_ffff | hint << 44
}

/// The address in pages (under FEAT_LPA2's descriptors in units of 64 KiB) in bits 36:0, the level in 38:37, NUM in 43:39,
/// SCALE in 45:44, TG in 47:46.
const fn range_operand(layout: Layout, page: u64, units: u64, scale: u32, hint: u64) -> u64 {
    let base = if layout.wide { page >> (WIDE_BASE_SHIFT - layout.page_shift) } else { page };
    base & 0x1f_ffff_ffff | (hint & 0b11) << 37 | (units - 1) << 39 | (scale as u64) << 44 | granule(layout) << 46
}

#[cfg(test)]
mod tests;
