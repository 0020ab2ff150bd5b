//! Words: who changes them, and what of the old ones may be cached.

use slat::addr::{Hpa, Level};

use super::stays::Pointer;
use super::{Change, Checker, Owner};
use crate::checker::discipline::{Class, Meaning};
use crate::checker::event::{How, Thread};
use crate::checker::frames::Status;
use crate::checker::may_tlb::Stale;
use crate::checker::verdict::Verdict;

impl Checker {
    pub(super) fn read(&mut self, thread: Thread, at: u64, value: u64) {
        self.used(thread, at);
        if let Some(frame) = self.frames.get(self.discipline.table_of(at)).filter(|frame| frame.status != Status::Free)
            && let Meaning::Table(table) = self.discipline.meaning(value, frame.level)
            && let Some(below) = self.frames.get(table.get())
        {
            let generation = below.generation;
            self.pointers.insert((thread, table.get()), Pointer { generation, stay: self.stay(thread) });
        }
    }

    /// A thread uses a word of a table: one that is there, and by a pointer to what it is now, read in this stay.
    fn used(&mut self, thread: Thread, at: u64) {
        let table = self.discipline.table_of(at);
        let wrong = match self.frames.get(table) {
            None => true,
            Some(frame) if frame.status == Status::Free => true,
            Some(frame) => self.pointers.get(&(thread, table)).is_some_and(|known| match frame.status {
                Status::Linked => known.generation < frame.generation || known.stay < self.stay(thread),
                Status::Private(Some(owner)) => known.generation == frame.generation && owner != thread,
                _ => false,
            }),
        };
        self.find_if(wrong, Verdict::UseAfterFree);
    }

    pub(super) fn wrote(&mut self, thread: Thread, at: u64, old: u64, new: u64, how: How) {
        self.used(thread, at);
        let table = self.discipline.table_of(at);
        self.recycle(thread, at, old, how);
        let Some(frame) = self.frames.get(table) else { return };
        let (status, level) = (frame.status, frame.level);
        let owner = self.owners.get(&at).cloned();
        let is_back = owner.as_ref().is_some_and(|owner| (owner.thread, owner.before) == (thread, new));
        let meaning = |word| self.discipline.meaning(word, level);
        let change = Change { thread, at, how, old, new, level, was: meaning(old), is: meaning(new) };
        if matches!(status, Status::Linked | Status::Unlinked(_)) {
            self.check_access(change, owner.as_ref().filter(|_| !is_back));
            self.check_owner(change, status);
            self.find_if(change.is == Meaning::Reserved, Verdict::Misconfigured);
            self.note_cause(change, status);
            self.make_stale(change, status);
            self.check_break(change);
            let emptied = change.is.is_nothing() && !change.was.is_nothing();
            self.find_if(emptied && self.may_be_used(at, level), Verdict::EmptyWhileCached);
        }
        self.store(at, new);
        if matches!(status, Status::Linked | Status::Unlinked(_)) {
            self.note_set(at, change.is);
        }
        if let Some(owner) = owner.as_ref().filter(|_| is_back) {
            // Who locked the entry and gives it back as it was has taken nothing.
            self.tlb.owe_at(at, |stale| stale.owed.filter(|_| !owner.unowed.contains(&stale.value)));
        }
        if status == Status::Linked {
            self.follow(change, is_back);
            self.check_notes(change, owner.map(|owner| owner.before));
        }
    }

    /// Hardware notes an access, or a write. It can come only to tables that it still may walk.
    pub(super) fn updated(&mut self, at: u64, old: u64, new: u64) {
        let table = self.discipline.table_of(at);
        let Some(frame) = self.frames.get(table) else { return self.find(Verdict::FreedWhileWalked) };
        let (status, level) = (frame.status, frame.level);
        self.find_if(status != Status::Linked && !self.is_cached(table), Verdict::FreedWhileWalked);
        let meaning = |word| self.discipline.meaning(word, level);
        let (was, is) = (meaning(old), meaning(new));
        // What somebody took is there again: that one cannot know, and flushes it.
        let waiting: Vec<_> = self.tlb.at(at).iter().filter_map(|stale| stale.owed).collect();
        waiting.into_iter().for_each(|thread| self.widen_cause(thread, at, level, is));
        self.make_stale(Change { thread: Thread::MAX, at, how: How::Swap, old, new, level, was, is }, status);
        self.store(at, new);
        self.note_set(at, is);
    }

    fn store(&mut self, at: u64, new: u64) {
        let index = self.discipline.index_of(at);
        if let Some(frame) = self.frames.get_mut(self.discipline.table_of(at)) {
            frame.words[index] = new;
        }
    }

    /// A store to a table that was unlinked makes it its writer's own, to be filled anew; but the last stores of those
    /// who own entries in it.
    fn recycle(&mut self, thread: Thread, at: u64, old: u64, how: How) {
        let table = self.discipline.table_of(at);
        let is_cached = self.is_cached(table);
        let Some(frame) = self.frames.get_mut(table) else { return };
        let is_owners = self.discipline.is_locked(old, frame.level) || self.discipline.is_frozen(old, frame.level);
        match frame.status {
            Status::Unlinked(_) if how == How::Store && !is_owners => {
                frame.status = Status::Private(Some(thread));
                self.pointers.retain(|(user, known), _| *user != thread || *known != table);
                self.find_if(is_cached, Verdict::DoubleUse);
            }
            Status::Private(_) => frame.status = Status::Private(Some(thread)),
            _ => {}
        }
    }

    fn check_owner(&mut self, change: Change, status: Status) {
        let Change { thread, at, how, old, new, level, .. } = change;
        let owner = self.owners.remove(&at);
        if self.discipline.is_locked(new, level) {
            let unowed = self.tlb.at(at).iter().filter(|stale| stale.owed.is_none());
            let unowed = unowed.map(|stale| stale.value).collect();
            self.owners.insert(at, Owner { thread, before: old, unowed, is_beside_accessed: false });
        }
        let was_locked = self.discipline.is_locked(old, level);
        match how {
            How::Swap => self.find_if(was_locked, Verdict::NotOwner),
            How::Exchange if status == Status::Linked => self.find(Verdict::BlindChange),
            How::Exchange => self.find_if(self.is_cached(self.discipline.table_of(at)), Verdict::FreedWhileWalked),
            How::Store if was_locked => {
                self.find_if(owner.is_none_or(|owner| owner.thread != thread), Verdict::NotOwner);
            }
            How::Store if self.discipline.is_frozen(old, level) => {
                let above = self.frames.get(self.discipline.table_of(at)).map_or(0, |frame| frame.above);
                let owns = self.owners.get(&above).is_some_and(|owner| owner.thread == thread);
                self.find_if(!owns, Verdict::NotOwner);
            }
            How::Store => self.find(Verdict::NotOwner),
        }
    }

    /// What hardware may have cached of the word until now, or may cache of it although it is unlinked.
    fn make_stale(&mut self, change: Change, status: Status) {
        let Change { thread, at, old, new, was, is, level, .. } = change;
        let cores = self.discipline.cores;
        let owed = self.discipline.takes_away(was, is).then_some(thread);
        let asked = self.inside.get(&thread).map_or(self.now, |inside| inside.since);
        match status {
            Status::Linked => {
                if owed.is_some() || (was.is_valid() && was.class(is) != Class::Same) {
                    self.tlb.add(at, Stale { value: old, since: self.now, asked, cores, owed });
                }
                self.settle(at, level, is, owed);
                self.check_leaf(at, level, is);
            }
            Status::Unlinked(since) if self.is_walked(self.discipline.table_of(at)) => {
                let discipline = &self.discipline;
                self.tlb.owe_at(at, |stale| match discipline.meaning(stale.value, level).class(is) {
                    Class::Same | Class::Wider => None,
                    _ if stale.value == old => owed,
                    _ => stale.owed,
                });
                self.tlb.ask_at(at, old, asked);
                if is.is_valid() {
                    self.tlb.add(at, Stale { value: new, since, asked: since, cores, owed: None });
                }
            }
            _ => {}
        }
    }

    /// A change that hardware cannot see is a cause for a flush all the same.
    fn note_cause(&mut self, change: Change, status: Status) {
        let Change { thread, at, old, new, was, is, level, .. } = change;
        if status == Status::Linked && Self::is_note(was, is) && old != new {
            self.widen_cause(thread, at, level, is);
        }
    }

    fn widen_cause(&mut self, thread: Thread, at: u64, level: Level, is: Meaning) {
        let (start, reached) = self.discipline.reach(is, self.address_of(at, level).get(), level);
        let (first, end) = self.noted.get(&thread).copied().unwrap_or((start, start));
        self.noted.insert(thread, (first.min(start), end.max(reached)));
    }

    /// Whether a change is one of software's notes, as far as hardware can tell: in a leaf that it uses, or in an old one.
    fn is_note(was: Meaning, is: Meaning) -> bool {
        match (was, is) {
            (Meaning::Leaf(_), Meaning::Leaf(_)) => was.class(is) == Class::Same,
            (Meaning::Old(_), Meaning::Old(_)) => true,
            _ => false,
        }
    }

    /// What the word says again is not stale, and what says less than the word harms nobody. The rest has to be flushed
    /// by who took it away: `taker`, if the word's change took anything away, else whoever it was before.
    pub(super) fn settle(&mut self, at: u64, level: Level, is: Meaning, taker: Option<Thread>) {
        let discipline = &self.discipline;
        self.tlb.retain_at(at, |stale| match discipline.meaning(stale.value, level) {
            Meaning::Old(_) => !is.is_leaf(),
            was => was != is,
        });
        self.tlb.owe_at(at, |stale| match discipline.meaning(stale.value, level).class(is) {
            Class::Same | Class::Wider => None,
            Class::Narrower | Class::Other => stale.owed.or(taker),
        });
    }

    /// A leaf that is new to hardware, held against what was declared.
    fn check_leaf(&mut self, at: u64, level: Level, is: Meaning) {
        let Meaning::Leaf(leaf) = is else { return };
        let start = self.address_of(at, level);
        self.find_if(self.reaches_taken(start, level, leaf), Verdict::ReachesTakenMemory);
        self.find_if(self.writes_where_withdrawn(start, level, leaf), Verdict::WritesWhereWithdrawn);
        if leaf.unnoticed {
            self.declared.expose(self.pages_of(start, level, leaf));
        }
    }

    /// Break-before-make: nobody has cached what contradicts the new value, of this entry, of one of its set, or below.
    fn check_break(&mut self, change: Change) {
        let Change { at, new, was, is, level, .. } = change;
        let cached = self.tlb.at(at).iter().map(|stale| self.discipline.meaning(stale.value, level));
        let words = |table: Hpa| self.frames.get(table.get()).into_iter().flat_map(|frame| frame.words.iter().copied());
        if self.discipline.overlaps(cached.chain([was]), new, level, words) {
            return;
        }
        let contradicts = |stale: &Stale| self.discipline.needs_break(self.discipline.meaning(stale.value, level), is);
        let is_leaf = matches!(is, Meaning::Leaf(_)) && self.discipline.breaks;
        let wrong = self.discipline.needs_break(was, is)
            || self.tlb.at(at).iter().any(contradicts)
            || self.lent_by_others(at, level).any(|other| self.discipline.needs_break(other, is))
            || (is_leaf && level > Level::PAGE && self.has_stale_below(at, level));
        self.find_if(wrong, Verdict::BreakBeforeMake);
    }

    /// Whether hardware may use something for the entry's addresses that it does not say.
    fn may_be_used(&self, at: u64, level: Level) -> bool {
        !self.tlb.at(at).is_empty() || self.lent_by_others(at, level).next().is_some()
    }

    /// Whether smaller leaves are cached for what the entry at `at` covers.
    fn has_stale_below(&self, at: u64, level: Level) -> bool {
        let start = self.address_of(at, level).get();
        let end = start + self.discipline.span(level);
        self.tlb.all().any(|(below, _)| {
            let Some(frame) = self.frames.get(self.discipline.table_of(below)).filter(|frame| frame.level < level)
            else {
                return false;
            };
            (start..end).contains(&self.address_of(below, frame.level).get())
        })
    }

    /// Tables that the change links or unlinks.
    fn follow(&mut self, change: Change, is_back: bool) {
        let Change { thread, at, was, is, level, .. } = change;
        if was == is {
            return;
        }
        if let Meaning::Table(table) = was
            && self.frames.get(table.get()).is_some_and(|frame| frame.above == at)
        {
            self.unlink(table.get(), thread);
        }
        if let Meaning::Table(table) = is {
            self.link(table.get(), at, level, thread, is_back);
        }
    }
}
