//! What an embedder notes in empty entries, and the tables that hold such notes.

use super::{Reached, Visit};
use crate::addr::{Gpa, GpaRange};
use crate::format::{Format, Kind};
use crate::host::Host;
use crate::table::{Cache, Position, Unlinked};

/// What became of an empty entry that was to be divided.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Divide {
    /// A table is there now.
    Done,
    /// Somebody else changed the entry first.
    Lost,
    /// The handle carries no table for it.
    NoTable,
}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Notes in a table entry that annotations lie below: it is not cut any more (R7). False if somebody else changed the
    /// entry: look again.
    pub(super) fn keep(self, position: Position<'s, H>) -> bool {
        let format = self.space.format;
        format.is_kept(position.raw) || position.entry().change(position.raw, position.raw | F::KEPT).is_ok()
    }

    /// Makes a table of an empty entry above the page level, all of whose entries say what it said.
    #[cold]
    pub(crate) fn divide(self, position: Position<'s, H>, cache: &mut Cache) -> Divide {
        let format = self.space.format;
        let Some(table) = cache.pop() else { return Divide::NoTable };
        let linked = format.table(table, position.level);
        let linked = if position.raw == 0 { linked } else { linked | F::KEPT };
        let mut child = Unlinked::new(&self.space.host, table);
        child.write_series(position.raw, 0);
        // Release: the table's entries before the link.
        if position.entry().change(position.raw, linked).is_err() {
            child.write_series(0, 0);
            cache.push(table);
            return Divide::Lost;
        }
        Divide::Done
    }

    /// Clears the annotations of `range`, visiting at most `budget` entries (and at least one); `shortage` is how many
    /// tables are missing where it stopped for that. The caller owns nothing that is locked.
    pub(crate) fn clear_annotations(
        self,
        range: GpaRange,
        cache: &mut Cache,
        budget: u64,
        (changed, shortage): (&mut u64, &mut Option<usize>),
    ) -> Reached {
        let (mut at, mut visited) = (range.start(), 0);
        while at < range.end() {
            if visited >= budget {
                return Reached { next: Some(at), visited };
            }
            let Some(position) = self.walk_kept(at) else { break };
            visited += 1;
            let span = self.span(at, position.level);
            let is_annotated = position.raw != 0;
            at = match self.space.format.kind(position.raw, position.level) {
                Kind::Empty if is_annotated && range.covers(span) => {
                    let cleared = position.entry().change(position.raw, 0).is_ok();
                    *changed += u64::from(cleared);
                    if cleared { span.end() } else { at }
                }
                Kind::Empty if is_annotated => match self.divide(position, cache) {
                    Divide::Done | Divide::Lost => at,
                    Divide::NoTable => {
                        *shortage = Some(position.level.get().into());
                        return Reached { next: Some(at), visited };
                    }
                },
                // Its owner may put annotated entries back that lie below: a collapse that gives up.
                Kind::Locked => {
                    self.wait_unlocked(position);
                    at
                }
                Kind::Frozen => at,
                Kind::Empty | Kind::Table | Kind::Leaf => span.end(),
            };
        }
        Reached { next: None, visited }
    }

    /// Down through the tables that have annotations below.
    fn walk_kept(self, gpa: Gpa) -> Option<Position<'s, H>> {
        let format = self.space.format;
        let mut position = self.at_root(gpa)?;
        while format.is_table(position.raw, position.level) && format.is_kept(position.raw) {
            position = self.below(position, gpa);
        }
        Some(position)
    }
}
