//! The life of tables: given out, linked, unlinked, given back.

use slat::addr::{Gpa, Hpa, Level};

use super::stays::Pointer;
use super::{Checker, Stale};
use crate::checker::discipline::Meaning;
use crate::checker::event::Thread;
use crate::checker::frames::{Frame, Status};
use crate::checker::verdict::Verdict;

impl Checker {
    pub(super) fn allocated(&mut self, table: Hpa, tables: usize) {
        let words = self.discipline.table_words();
        let taken = self.discipline.tables(table, tables).filter(|at| !self.frames.allocate(*at, words)).count();
        self.find_if(taken > 0, Verdict::DoubleUse);
    }

    pub(super) fn rooted(&mut self, root: Hpa, tables: usize) {
        let level = self.discipline.root_level;
        let span = self.discipline.table_span(level);
        self.root = self.discipline.tables(root, tables).collect();
        for (number, at) in (0..).zip(self.root.clone()) {
            if let Some(frame) = self.frames.get_mut(at) {
                (frame.status, frame.level, frame.base) = (Status::Linked, level, Gpa::new(number * span));
            }
        }
    }

    pub(super) fn uprooted(&mut self, thread: Thread) {
        self.loaded = Some(self.now);
        self.root.clone().into_iter().for_each(|root| self.unlink(root, thread));
    }

    pub(super) fn freed(&mut self, table: Hpa, tables: usize) {
        for at in self.discipline.tables(table, tables) {
            let status = self.frames.get(at).map_or(Status::Free, |frame| frame.status);
            self.find_if(status == Status::Free, Verdict::DoubleUse);
            self.find_if(status == Status::Linked || self.is_cached(at), Verdict::FreedWhileWalked);
            if let Some(frame) = self.frames.get_mut(at) {
                frame.status = Status::Free;
            }
        }
    }

    /// Whether a walker may still come to a table, or has cached something of it.
    pub(super) fn is_cached(&self, table: u64) -> bool {
        (self.loaded.is_some() && self.root.contains(&table))
            || self.is_walked(table)
            || self.tlb.between(table, table + self.discipline.table_bytes()).next().is_some()
    }

    /// Whether a walker may come to an unlinked table by a pointer that it has cached.
    pub(super) fn is_walked(&self, table: u64) -> bool {
        let Some(frame) = self.frames.get(table) else { return false };
        let Some(level) = frame.level.above() else { return false };
        let pointers = self.tlb.at(frame.above).iter();
        let points_here =
            |stale: &Stale| self.discipline.meaning(stale.value, level) == Meaning::Table(Hpa::new(table));
        frame.status != Status::Free && frame.above != 0 && pointers.into_iter().any(points_here)
    }

    /// A table leaves the tree, with all below it: what it says may stay cached.
    pub(super) fn unlink(&mut self, table: u64, thread: Thread) {
        let now = self.now;
        let Some(frame) = self.frames.get_mut(table).filter(|frame| frame.status == Status::Linked) else { return };
        frame.status = Status::Unlinked(now);
        for (at, value, meaning) in self.valid_words(table) {
            let stale = Stale { value, since: now, asked: now, cores: self.discipline.cores, owed: Some(thread) };
            self.tlb.add(at, stale);
            if let Meaning::Table(below) = meaning {
                self.unlink(below.get(), thread);
            }
        }
    }

    /// A table that was unlinked is in the tree again, as it was.
    pub(super) fn restore(&mut self, table: u64) {
        let is_unlinked = |frame: &Frame| matches!(frame.status, Status::Unlinked(_));
        let Some(frame) = self.frames.get_mut(table).filter(|frame| is_unlinked(frame)) else { return };
        frame.status = Status::Linked;
        let level = frame.level;
        for (at, _, meaning) in self.valid_words(table) {
            self.settle(at, level, meaning, None);
            if let Meaning::Table(below) = meaning {
                self.restore(below.get());
            }
        }
    }

    /// The words of a table that hardware may cache: where, what, and what it means.
    fn valid_words(&self, table: u64) -> Vec<(u64, u64, Meaning)> {
        let Some(frame) = self.frames.get(table) else { return Vec::new() };
        let meaning = |word| self.discipline.meaning(word, frame.level);
        let place = |index: usize| table + 8 * index as u64;
        let words = frame.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let all = words.map(|(index, &word)| (place(index), word, meaning(word)));
        all.filter(|(.., meaning)| meaning.is_valid()).collect()
    }

    /// A word that points to `table` was stored at `at`, whose table's entries are of `level`. `is_back`: the
    /// owner of the word puts back what was there before.
    pub(super) fn link(&mut self, table: u64, at: u64, level: Level, thread: Thread, is_back: bool) {
        let Some(frame) = self.frames.get(table) else { return self.find(Verdict::DoubleUse) };
        match frame.status {
            Status::Unlinked(_) if is_back => return self.restore(table),
            Status::Private(_) => {}
            Status::Unlinked(_) if !self.is_cached(table) => {}
            _ => return self.find(Verdict::DoubleUse),
        }
        let base = self.address_of(at, level);
        let Some(below) = level.below() else { return };
        self.find_if(!self.is_clean(table, below), Verdict::LinkedUnclean);
        if let Some(frame) = self.frames.get_mut(table) {
            frame.status = Status::Linked;
            frame.generation += 1;
            (frame.level, frame.base, frame.above) = (below, base, at);
            let generation = frame.generation;
            self.pointers.insert((thread, table), Pointer { generation, stay: self.stay(thread) });
        }
        self.forget_sets(table);
        for (at, _, meaning) in self.valid_words(table) {
            self.note_set(at, meaning);
        }
    }

    /// A table that is to be linked is empty, full of leaves, or full of one annotation.
    fn is_clean(&self, table: u64, level: Level) -> bool {
        let Some(frame) = self.frames.get(table) else { return false };
        let meaning = |word: &u64| self.discipline.meaning(*word, level);
        let first = frame.words[0];
        let is_uniform = meaning(&first).is_nothing() && frame.words.iter().all(|word| *word == first);
        is_uniform || frame.words.iter().all(|word| meaning(word).is_leaf())
    }

    /// The word at `at`; 0 where there is no table.
    pub(super) fn word(&self, at: u64) -> u64 {
        self.frames.word(at, &self.discipline)
    }

    /// The first guest address that the word at `at` is for.
    pub(super) fn address_of(&self, at: u64, level: Level) -> Gpa {
        let base = self.frames.get(self.discipline.table_of(at)).map_or(0, |frame| frame.base.get());
        Gpa::new(base + self.discipline.index_of(at) as u64 * self.discipline.span(level))
    }
}
