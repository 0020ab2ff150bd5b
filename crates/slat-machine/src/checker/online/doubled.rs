//! Leaves of two sizes for one address, of which a flush by address may spare either.

use super::Checker;
use crate::checker::discipline::Meaning;
use crate::checker::frames::{Frame, Status};
use crate::checker::may_tlb::{MayTlb, Stale};

/// Guest addresses, from the first up to the end.
type Piece = (u64, u64);

impl Checker {
    /// Whether a core that has the stale leaf may have another one of another size for some of its addresses.
    pub(super) fn is_doubled(&self, tlb: &MayTlb, at: u64, stale: &Stale) -> bool {
        let Some(own) = self.piece(at, stale.value).filter(|_| self.discipline.spares_doubled) else { return false };
        let is_beside = |other: Piece| {
            let overlaps = own.0.max(other.0) < own.1.min(other.1);
            overlaps && own.1 - own.0 != other.1 - other.0
        };
        let met = tlb.all().filter(|(_, other)| other.cores & stale.cores != 0);
        let mut met = met.filter_map(|(at, other)| self.piece(at, other.value));
        met.any(is_beside) || self.is_any_linked_leaf(own, is_beside)
    }

    /// The guest addresses of a word that is a leaf, and of all its set.
    fn piece(&self, at: u64, word: u64) -> Option<Piece> {
        let level = self.frames.get(self.discipline.table_of(at))?.level;
        let meaning = self.discipline.meaning(word, level);
        meaning.is_leaf().then(|| self.discipline.reach(meaning, self.address_of(at, level).get(), level))
    }

    /// Whether a leaf in a linked table that is for some of these addresses is one.
    fn is_any_linked_leaf(&self, (first, end): Piece, is_one: impl Fn(Piece) -> bool) -> bool {
        let is_there = |frame: &Frame| {
            let base = frame.base.get();
            base < end && first < base + self.discipline.table_span(frame.level)
        };
        let linked = self.frames.iter().filter(|(_, frame)| frame.status == Status::Linked && is_there(frame));
        let mut leaves = linked.flat_map(|(table, frame)| {
            let words = (table..).step_by(8).zip(frame.words.iter().copied());
            words.filter(|(_, word)| matches!(self.discipline.meaning(*word, frame.level), Meaning::Leaf(_)))
        });
        leaves.any(|(at, word)| self.piece(at, word).is_some_and(&is_one))
    }
}
