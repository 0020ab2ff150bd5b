//! What has happened so far, kept whole: every version of every word, every phase of every table, every flush.

mod cached;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use slat::addr::{Hpa, Level};
use slat::host::Flush;

use super::discipline::{Discipline, Leaf, Meaning};
use super::event::Thread;

/// The history.
pub(super) struct History {
    pub(super) discipline: Discipline,
    /// The event that is being looked at.
    pub(super) now: usize,
    words: BTreeMap<u64, Word>,
    /// Words of which something may be cached that they do not say. Of the others nothing is, until they are written to or
    /// their table comes or goes.
    open: RefCell<BTreeSet<u64>>,
    /// Words that somebody has locked.
    locked: BTreeSet<u64>,
    tables: HashMap<u64, Vec<Phase>>,
    /// How often each table was linked.
    links: HashMap<u64, usize>,
    begun: HashMap<u64, Begun>,
    /// In the order in which they were complete.
    flushes: Vec<Begun>,
    /// What flushes may have spared, by their number, the word and its value.
    spared: BTreeSet<(usize, u64, u64)>,
    pub(super) root: Vec<u64>,
    uprooted: Option<usize>,
    /// When each thread came and went.
    calls: HashMap<Thread, Vec<(usize, bool)>>,
    /// Whether there ever was a set of leaves.
    pub(super) has_sets: bool,
}

/// What a word held, one after the other.
#[derive(Default)]
struct Word {
    versions: Vec<Version>,
    /// The numbers of those that may be cached, or come back: the others are forgotten for ever.
    alive: RefCell<Vec<usize>>,
}

/// A value that a word held.
struct Version {
    value: u64,
    from: usize,
    by: Thread,
    /// How many flushes were complete when it was written.
    born: usize,
    seen: Cell<Seen>,
}

/// How far flushes have been looked at, for a version that a walk could come to until some time.
#[derive(Clone, Copy, Default)]
struct Seen {
    until: usize,
    flushes: usize,
    /// The cores that they reached.
    reached: u64,
}

/// How a table hangs in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) above: u64,
    pub(super) level: Level,
    pub(super) base: u64,
}

/// A time in a table's life.
#[derive(Clone, Copy)]
struct Phase {
    from: usize,
    kind: Kind,
    link: Option<Link>,
    /// Who brought it into this phase.
    by: Option<Thread>,
}

/// Kinds of phases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Free,
    Private,
    Linked,
    Unlinked,
}

/// A flush.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) flush: Flush,
    pub(super) at: usize,
    pub(super) cores: u64,
    /// When it was complete.
    pub(super) done: usize,
}

impl History {
    pub(super) fn new(discipline: Discipline) -> Self {
        Self {
            discipline,
            now: 0,
            words: BTreeMap::new(),
            open: RefCell::default(),
            locked: BTreeSet::new(),
            tables: HashMap::new(),
            links: HashMap::new(),
            begun: HashMap::new(),
            flushes: Vec::new(),
            spared: BTreeSet::new(),
            root: Vec::new(),
            uprooted: None,
            calls: HashMap::new(),
            has_sets: false,
        }
    }

    pub(super) fn begin(&mut self, id: u64, begun: Begun) {
        self.begun.insert(id, begun);
    }

    /// A thread comes, or goes.
    pub(super) fn call(&mut self, thread: Thread, comes: bool) {
        self.calls.entry(thread).or_default().push((self.now, comes));
    }

    /// When the call began in which the thread did something then; that very event, if it was in none.
    fn call_began(&self, thread: Thread, then: usize) -> usize {
        let calls = self.calls.get(&thread).map_or(&[][..], Vec::as_slice);
        let last = calls[..calls.partition_point(|(event, _)| *event <= then)].last();
        last.filter(|(_, comes)| *comes).map_or(then, |(event, _)| *event)
    }

    /// A flush is complete: what it reaches is worked out now, from what is known before it.
    pub(super) fn finish(&mut self, id: u64) {
        let Some(begun) = self.begun.remove(&id) else { return };
        let number = self.flushes.len();
        let doubled = if begun.flush == Flush::All { Vec::new() } else { self.doubled() };
        self.spared.extend(doubled.into_iter().map(|(at, word)| (number, at, word)));
        self.flushes.push(Begun { done: self.now, ..begun });
        let _ = self.all_cached();
    }
}

// Tables.
impl History {
    fn enter_phase(&mut self, table: u64, kind: Kind, link: Option<Link>, by: Option<Thread>, is_new: bool) {
        let phase = Phase { from: self.now, kind, link, by };
        self.tables.entry(table).or_default().push(phase);
        *self.links.entry(table).or_default() += usize::from(is_new);
        let words = self.words.range(table..table + self.discipline.table_bytes());
        self.open.get_mut().extend(words.map(|(at, _)| *at));
    }

    /// The table's phase at the time of an event.
    pub(super) fn kind_at(&self, table: u64, then: usize) -> Kind {
        let phases = self.tables.get(&table).map_or(&[][..], Vec::as_slice);
        let last = phases[..phases.partition_point(|phase| phase.from <= then)].last();
        last.map_or(Kind::Free, |phase| phase.kind)
    }

    /// Who has cut the table off, and when, if it is cut off.
    pub(super) fn unlinked_by(&self, table: u64) -> Option<(Thread, usize)> {
        let phase = self.phase(table).filter(|phase| phase.kind == Kind::Unlinked)?;
        Some((phase.by?, phase.from))
    }

    fn phase(&self, table: u64) -> Option<&Phase> {
        self.tables.get(&table)?.last()
    }

    pub(super) fn kind(&self, table: u64) -> Kind {
        self.phase(table).map_or(Kind::Free, |phase| phase.kind)
    }

    pub(super) fn exists(&self, table: u64) -> bool {
        self.tables.contains_key(&table)
    }

    /// How the table hangs in the tree, or did last.
    pub(super) fn last_link(&self, table: u64) -> Option<Link> {
        self.phase(table)?.link
    }

    /// How often the table was linked.
    pub(super) fn links(&self, table: u64) -> usize {
        self.links.get(&table).copied().unwrap_or(0)
    }

    /// Who has made the table its own.
    pub(super) fn taker(&self, table: u64) -> Option<Thread> {
        self.phase(table)?.by
    }

    pub(super) fn allocate(&mut self, table: Hpa, tables: usize) {
        for table in self.discipline.tables(table, tables) {
            let written: Vec<_> = self.written_words(table).filter(|(_, word)| *word != 0).collect();
            written.into_iter().for_each(|(at, _)| self.write(at, 0, 0));
            self.enter_phase(table, Kind::Private, None, None, false);
        }
    }

    pub(super) fn free(&mut self, table: Hpa, tables: usize) {
        for table in self.discipline.tables(table, tables) {
            self.enter_phase(table, Kind::Free, self.last_link(table), None, false);
        }
    }

    pub(super) fn root(&mut self, root: Hpa, tables: usize) {
        self.root = self.discipline.tables(root, tables).collect();
        let level = self.discipline.root_level;
        for (number, table) in (0..).zip(self.root.clone()) {
            let link = Link { above: 0, level, base: number * self.discipline.table_span(level) };
            self.enter_phase(table, Kind::Linked, Some(link), None, false);
        }
    }

    pub(super) fn uproot(&mut self, thread: Thread) {
        self.uprooted = Some(self.now);
        self.root.clone().into_iter().for_each(|table| self.unlink(table, thread));
    }

    /// A thread writes to a table that is in nobody's tree.
    pub(super) fn recycle(&mut self, table: u64, thread: Thread) {
        if let Some(phase) = self.tables.get_mut(&table).and_then(|phases| phases.last_mut())
            && phase.kind == Kind::Private
        {
            phase.by = Some(thread);
            return;
        }
        self.enter_phase(table, Kind::Private, self.last_link(table), Some(thread), false);
    }

    pub(super) fn link(&mut self, table: u64, link: Link) {
        self.enter_phase(table, Kind::Linked, Some(link), None, true);
    }

    /// The table leaves the tree, with all below it.
    pub(super) fn unlink(&mut self, table: u64, thread: Thread) {
        if self.kind(table) == Kind::Linked {
            self.enter_phase(table, Kind::Unlinked, self.last_link(table), Some(thread), false);
            self.tables_below(table).into_iter().for_each(|below| self.unlink(below, thread));
        }
    }

    pub(super) fn restore(&mut self, table: u64) {
        if self.kind(table) == Kind::Unlinked {
            self.enter_phase(table, Kind::Linked, self.last_link(table), None, false);
            self.tables_below(table).into_iter().for_each(|below| self.restore(below));
        }
    }

    fn tables_below(&self, table: u64) -> Vec<u64> {
        let Some(link) = self.last_link(table) else { return Vec::new() };
        let below = |(_, word)| match self.discipline.meaning(word, link.level) {
            Meaning::Table(below) => Some(below.get()),
            _ => None,
        };
        self.written_words(table).filter_map(below).collect()
    }

    pub(super) fn any_table_left(&self) -> bool {
        self.tables.keys().any(|&table| self.kind(table) != Kind::Free)
    }

    /// A table that is to be linked is empty, full of leaves, or full of one annotation.
    pub(super) fn is_clean(&self, table: u64, level: Level) -> bool {
        let words: Vec<_> = self.written_words(table).map(|(_, word)| word).filter(|word| *word != 0).collect();
        let meaning = |word: &u64| self.discipline.meaning(*word, level);
        let is_uniform = words.iter().all(|word| *word == words[0] && meaning(word).is_nothing());
        words.is_empty()
            || words.len() == self.discipline.table_words()
                && (is_uniform || words.iter().all(|word| meaning(word).is_leaf()))
    }
}

// Words.
impl History {
    pub(super) fn word(&self, at: u64) -> u64 {
        self.versions(at).last().map_or(0, |version| version.value)
    }

    fn versions(&self, at: u64) -> &[Version] {
        self.words.get(&at).map_or(&[], |word| &word.versions)
    }

    pub(super) fn write(&mut self, at: u64, value: u64, by: Thread) {
        let version = Version { value, from: self.now, by, born: self.flushes.len(), seen: Cell::default() };
        let word = self.words.entry(at).or_default();
        word.alive.get_mut().push(word.versions.len());
        word.versions.push(version);
        self.open.get_mut().insert(at);
        match self.is_locked(at, value) {
            true => self.locked.insert(at),
            false => self.locked.remove(&at),
        };
    }

    /// Who has locked the word, and what it held before.
    pub(super) fn before_locked(&self, at: u64) -> Option<(Thread, u64)> {
        let (last, before) = self.versions(at).split_last()?;
        let before = before.last().map_or(0, |version| version.value);
        self.is_locked(at, last.value).then_some((last.by, before))
    }

    /// Since when the word is locked.
    pub(super) fn locked_since(&self, at: u64) -> Option<usize> {
        self.versions(at).last().filter(|last| self.is_locked(at, last.value)).map(|last| last.from)
    }

    /// What the word held whenever `thread` had it locked at some time after `then`, but for times when it was given back as
    /// it was.
    pub(super) fn held_before(&self, at: u64, thread: Thread, then: usize) -> impl Iterator<Item = u64> {
        let versions = self.versions(at);
        let spans = (1..versions.len()).rev().map(|number| (&versions[number - 1..=number], versions.get(number + 1)));
        let late = spans.take_while(move |(_, end)| end.is_none_or(|end| end.from > then));
        late.filter_map(move |(pair, end)| {
            let (before, held) = (pair[0].value, &pair[1]);
            let is_held = held.by == thread && self.is_locked(at, held.value);
            (is_held && end.is_none_or(|end| end.value != before)).then_some(before)
        })
    }

    /// What the word held before it was frozen, if it is.
    pub(super) fn before_frozen(&self, at: u64, level: Level) -> Option<u64> {
        let is_frozen = |version: &&Version| self.discipline.is_frozen(version.value, level);
        let mut past = self.versions(at).iter().rev();
        past.next().filter(is_frozen)?;
        past.find(|version| !is_frozen(version)).map(|version| version.value)
    }

    fn is_locked(&self, at: u64, word: u64) -> bool {
        self.discipline.is_locked(word, self.level_of(at))
    }

    /// Whether the word at `at`, if it is `word`, is one thread's.
    pub(super) fn is_owned(&self, at: u64, word: u64) -> bool {
        self.is_locked(at, word) || self.discipline.is_frozen(word, self.level_of(at))
    }

    fn level_of(&self, at: u64) -> Level {
        self.last_link(self.discipline.table_of(at)).map_or(Level::PAGE, |link| link.level)
    }

    /// What the word held at the time of an event, and since when.
    pub(super) fn word_at(&self, at: u64, then: usize) -> Option<(u64, usize)> {
        let versions = self.versions(at);
        let last = versions[..versions.partition_point(|version| version.from <= then)].last();
        last.map(|version| (version.value, version.from))
    }

    /// Every word that is locked: by whom, since when.
    pub(super) fn locked_words(&self) -> impl Iterator<Item = (Thread, usize)> {
        let last = self.locked.iter().filter_map(|&at| Some((at, self.versions(at).last()?)));
        last.filter(|(at, version)| self.is_locked(*at, version.value)).map(|(_, version)| (version.by, version.from))
    }

    /// The words of a table that were ever written.
    pub(super) fn written_words(&self, table: u64) -> impl Iterator<Item = (u64, u64)> {
        let words = self.words.range(table..table + self.discipline.table_bytes());
        words.filter_map(|(at, word)| Some((*at, word.versions.last()?.value)))
    }

    /// The words of linked tables.
    pub(super) fn linked_words(&self) -> impl Iterator<Item = (u64, u64)> {
        let linked = self.tables.keys().filter(|&&table| self.kind(table) == Kind::Linked);
        linked.flat_map(|&table| self.written_words(table))
    }

    pub(super) fn address(&self, at: u64, link: Link) -> u64 {
        link.base + self.discipline.index_of(at) as u64 * self.discipline.span(link.level)
    }

    /// Every leaf that hardware may use: current or cached.
    pub(super) fn leaves(&self) -> Vec<(u64, Leaf, Link)> {
        let leaf = |(at, word, link): (u64, u64, Link)| match self.discipline.meaning(word, link.level) {
            Meaning::Leaf(leaf) => Some((at, leaf, link)),
            _ => None,
        };
        let linked = self.linked_words();
        let current = linked.filter_map(|(at, word)| Some((at, word, self.last_link(self.discipline.table_of(at))?)));
        current.chain(self.all_cached()).filter_map(leaf).collect()
    }
}
