//! Finding out what a guest has used lately, and forgetting it.

use super::{Reached, Visit};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Kind};
use crate::host::Host;

impl<H: Host, F: Format> Visit<'_, H, F> {
    /// Visits at most `budget` entries (and at least one) of `range`: counts pages and blocks that were accessed since
    /// they were last made old, and makes them old if `forget` says so; a contiguous group is one of them. Locked entries are passed over (R4): somebody is
    /// using them.
    pub(crate) fn age(self, range: GpaRange, forget: bool, budget: u64, young: &mut u64) -> Reached {
        let format = self.space.format;
        let (mut at, mut visited) = (range.start(), 0);
        while at < range.end() {
            if visited >= budget {
                return Reached { next: Some(at), visited };
            }
            let Some(position) = self.walk(at, Level::PAGE) else { break };
            visited += 1;
            if format.is_grouped(position.raw, position.level) {
                *young += u64::from(self.age_group(position, forget));
                at = self.group_span(at, position.level).end();
                continue;
            }
            let mut raw = position.raw;
            while format.kind(raw, position.level) == Kind::Leaf && format.decode(raw, position.level).accessed {
                let old = format.made_old(raw, position.level);
                match if forget { position.entry().change(raw, old) } else { Ok(()) } {
                    Ok(()) => {
                        *young += 1;
                        break;
                    }
                    Err(found) => raw = found,
                }
            }
            at = self.span(at, position.level).end().max(Gpa::new(at.get() + 1));
        }
        Reached { next: None, visited }
    }
}
