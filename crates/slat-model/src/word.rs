//! The families of atomics that the engine runs on, and their word: tracked by the tool, and guarded against use after
//! its end.

use std::any::Any;
use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};

use slat::format::{Fake, Format};
use slat::sync::{Atomics, Ordering, Word};

use crate::book;
use crate::plant::{Plant, Shape};
use crate::reorder::Change;
use crate::tool::{Life, Raw, Tool};

/// The engine's atomics under a tool.
#[derive(Debug)]
pub struct Family<T: Tool>(PhantomData<fn() -> T>);

impl<T: Tool> Atomics for Family<T> {
    type Word = Checked<T>;
    /// Counting adds no interleavings.
    type Statistic = AtomicU64;

    fn full_fence() {
        if !Plant::NoFullFence.is_planted() && !std::thread::panicking() {
            T::fence(Ordering::SeqCst);
        }
    }

    fn full_fence_after_rmw() {
        if !Plant::NoFenceAfter(Shape::last()).is_planted() && !std::thread::panicking() {
            T::fence(Ordering::SeqCst);
        }
    }

    fn acquire_fence() {
        if !std::thread::panicking() {
            T::fence(Ordering::Acquire);
        }
    }

    fn spin_hint() {
        T::yield_now();
    }
}

/// Which word of which table of the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The table's number.
    pub table: usize,
    /// The word's number in it.
    pub index: usize,
}

/// A word that the tool tracks, and whose uses after its end are errors.
pub struct Checked<T: Tool> {
    raw: T::Raw,
    life: T::Life,
    ended: AtomicBool,
    /// The last value in the order of execution: for the checks, and for unwinding, where nothing may switch.
    last: AtomicU64,
    site: Option<Site>,
    /// A planted bug has left a count out: it is not taken back either.
    unmade: AtomicBool,
}

/// What is left in the words of a table that was freed.
const POISON: u64 = 0xdead_dead_0000;
/// One event, and one open invalidation, in a shard's word.
const EVENT: u64 = 1 << 16;
const OPENING: u64 = EVENT + 1;

impl<T: Tool> Checked<T> {
    fn with_site(value: u64, site: Option<Site>) -> Self {
        let last = AtomicU64::new(value);
        Self {
            raw: T::Raw::new(value),
            life: T::Life::begin(),
            ended: AtomicBool::new(false),
            last,
            site,
            unmade: AtomicBool::new(false),
        }
    }

    /// A word of a table.
    pub fn in_table(value: u64, site: Site) -> Self {
        Self::with_site(value, Some(site))
    }

    /// What a hardware walker reads, and whether the table is freed. Walkers take no part in grace periods: it is for
    /// the caller to say whether it may still be here.
    pub fn load_as_hardware(&self) -> (u64, bool) {
        (self.raw.load(Ordering::Acquire), self.ended.load(Ordering::Relaxed))
    }

    /// Hardware notes something in an entry that it found saying `seen`; whether it still did.
    pub fn change_as_hardware(&self, seen: u64, new: u64) -> bool {
        let changed = self.raw.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if changed {
            self.last.store(new, Ordering::Relaxed);
            let site = self.site;
            book::with(|book| site.into_iter().for_each(|site| book.note(book::Event::Entry { site, old: seen, new })));
        }
        changed
    }

    /// The last value in the order of execution. No step of its own.
    pub fn peek(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The table is freed: whoever uses the word from now on is late.
    pub fn end(&self) {
        if std::thread::panicking() {
            return;
        }
        // A tracked store: that a walker's load comes before it or after it makes two different executions.
        self.raw.store(POISON, Ordering::Relaxed);
        report_race(|| self.life.end());
        self.ended.store(true, Ordering::Relaxed);
    }

    /// `order`, unless the bug for this kind of word is planted.
    fn order(&self, order: Ordering, in_table: Option<Plant>, elsewhere: Option<Plant>) -> Ordering {
        let plant = if self.site.is_some() { in_table } else { elsewhere };
        if plant.is_some_and(Plant::is_planted) { Ordering::Relaxed } else { order }
    }

    /// One operation: on the tool's word, unless the thread is unwinding.
    fn operation<R>(&self, tracked: impl FnOnce(&T::Raw) -> R, unwinding: impl FnOnce(&AtomicU64) -> R) -> R {
        if std::thread::panicking() {
            return unwinding(&self.last);
        }
        // Before the operation: one that releases what was used so far releases this use, too.
        report_race(|| self.life.touch());
        let Some(result) = report_race(|| tracked(&self.raw)) else { return unwinding(&self.last) };
        if self.ended.load(Ordering::Relaxed) {
            book::report(format_args!("M1: use of a word that was freed, {:?}", self.site));
        }
        result
    }

    /// Notes a change that was made.
    fn changed(&self, old: u64, new: u64, shape: Shape) {
        shape.done();
        if matches!(Plant::current(), Plant::NoRecheck | Plant::SummaryUnset) {
            book::with(|book| _ = book.threads.has_changed(T::me(), shape));
        }
        self.last.store(new, Ordering::Relaxed);
        if let Some(site) = self.site
            && !std::thread::panicking()
        {
            book::with(|book| book.entry_changed(site, old, new));
        }
    }

    fn shape_of_exchange(&self, current: u64, new: u64) -> Shape {
        match self.site {
            Some(_) if new == Fake::LOCKED => Shape::Lock,
            Some(_) => Shape::Change,
            None if new == current.wrapping_add(OPENING) => Shape::Open,
            None => Shape::Other,
        }
    }

    /// Whether the change is one that a planted bug makes later: a leaf is relaxed, and the mark comes first.
    fn puts_off(&self, old: u64, new: u64) -> bool {
        let is_leaf = |word| crate::format::kind_of(word) == slat::format::Kind::Leaf;
        let Some(site) = self.site.filter(|_| Plant::MarksFirst.is_planted() && is_leaf(old) && is_leaf(new)) else {
            return false;
        };
        let relaxes = Fake::new(4).is_writable(new, crate::format::level_of(new)) && self.peek() == old;
        if relaxes {
            book::with(|book| book.threads.put_off(T::me(), Change { site, old, new }));
        }
        relaxes
    }

    /// A compare-and-swap as it should be.
    pub fn exchange(
        &self,
        shape: Shape,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let success = self.order(success, Some(Plant::RelaxedEntryChanges), None);
        let tracked = |raw: &T::Raw| raw.compare_exchange(current, new, success, failure);
        let result = self.operation(tracked, |last| match last.load(Ordering::Relaxed) {
            found if found == current => Ok(found),
            found => Err(found),
        });
        if let Ok(old) = result {
            self.changed(old, new, shape);
        }
        result
    }

    fn read_modify_write(
        &self,
        shape: Shape,
        new: impl FnOnce(u64) -> u64 + Copy,
        tracked: impl FnOnce(&T::Raw) -> u64,
    ) -> u64 {
        if Plant::Unmade(shape).is_planted() || self.unmade.load(Ordering::Relaxed) {
            self.unmade.store(true, Ordering::Relaxed);
            return self.load(Ordering::Acquire);
        }
        let old = self.operation(tracked, |last| last.load(Ordering::Relaxed));
        self.changed(old, new(old), shape);
        old
    }
}

impl<T: Tool> Word for Checked<T> {
    fn new(value: u64) -> Self {
        Self::with_site(value, None)
    }

    fn load(&self, order: Ordering) -> u64 {
        let order = self.order(order, Some(Plant::RelaxedEntryLoads), Some(Plant::RelaxedLoads));
        let load = || self.operation(|raw| raw.load(order), |last| last.load(Ordering::Relaxed));
        if !Plant::NoRecheck.is_planted() || self.site.is_some() || std::thread::panicking() {
            return load();
        }
        let (me, word) = (T::me(), std::ptr::from_ref(self).addr());
        let remembered = book::with(|book| book.threads.remembered(me, word));
        remembered.unwrap_or_else(|| {
            let value = load();
            book::with(|book| book.threads.has_read(me, word, value));
            value
        })
    }

    fn store(&self, value: u64, order: Ordering) {
        let order = self.order(order, Some(Plant::RelaxedEntryStores), Some(Plant::RelaxedStores));
        let old = self.peek();
        if Plant::LeavesLocked.is_planted() && self.site.is_some() && old == Fake::LOCKED && value == 0 {
            return;
        }
        self.operation(|raw| raw.store(value, order), |_| ());
        self.changed(old, value, Shape::Other);
    }

    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        let shape = self.shape_of_exchange(current, new);
        if Plant::Unmade(shape).is_planted() {
            self.unmade.store(true, Ordering::Relaxed);
            return Ok(current);
        }
        if self.site.is_some() && Plant::TornEntryChanges.is_planted() {
            let found = self.load(Ordering::Acquire);
            if found == current {
                self.store(new, order_of_store(success));
            }
            return if found == current { Ok(found) } else { Err(found) };
        }
        if self.puts_off(current, new) {
            return Ok(current);
        }
        let exchanges = |word, plant: Plant| self.site.is_some() && new == word && plant.is_planted();
        if exchanges(Fake::LOCKED, Plant::LocksByExchange) || exchanges(Fake::FROZEN, Plant::FreezesByExchange) {
            self.read_modify_write(shape, |_| new, |raw| raw.swap(new, success));
            return Ok(current);
        }
        self.exchange(shape, current, new, success, failure)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        if self.site.is_none() && Plant::TornSwaps.is_planted() {
            let found = self.load(Ordering::Acquire);
            self.store(value, order_of_store(order));
            return found;
        }
        let order = self.order(order, None, Some(Plant::RelaxedSwaps));
        let shape = if self.peek() == 0 && value & 1 != 0 { Shape::Section } else { Shape::Other };
        self.read_modify_write(shape, |_| value, |raw| raw.swap(value, order))
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        let shape = match value {
            EVENT => Shape::Event,
            1 if order == Ordering::AcqRel => Shape::Count,
            _ => Shape::Other,
        };
        self.read_modify_write(shape, |old| old.wrapping_add(value), |raw| raw.fetch_add(value, order))
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.read_modify_write(Shape::Other, |old| old.wrapping_sub(value), |raw| raw.fetch_sub(value, order))
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        if Plant::TestBeforeSet.is_planted() {
            let seen = self.load(Ordering::Acquire);
            if seen & bits == bits {
                Shape::Mark.done();
                return seen;
            }
        }
        let is_summary =
            Plant::SummaryUnset.is_planted() && book::with(|book| book.threads.has_changed(T::me(), Shape::Other));
        if is_summary {
            return self.load(Ordering::Acquire);
        }
        let old = self.read_modify_write(Shape::Mark, |old| old | bits, |raw| raw.fetch_or(bits, order));
        if let Some(change) = book::with(|book| book.threads.take_put_off(T::me())) {
            apply(change);
        }
        old
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.read_modify_write(Shape::Take, |old| old & bits, |raw| raw.fetch_and(bits, order))
    }
}

/// How a change of an entry is made after all.
type Tables = Box<dyn Fn(Change)>;

std::thread_local! {
    static TABLES: RefCell<Option<Tables>> = const { RefCell::new(None) };
}

/// From now on changes that were put off are made by `tables`.
pub fn set_tables(tables: impl Fn(Change) + 'static) {
    TABLES.set(Some(Box::new(tables)));
}

/// Makes a change that was put off.
fn apply(change: Change) {
    let tables = TABLES.take();
    if let Some(tables) = &tables {
        tables(change);
    }
    TABLES.set(tables);
}

/// What is left of the order of a read-modify-write for its store alone.
fn order_of_store(order: Ordering) -> Ordering {
    match order {
        Ordering::AcqRel | Ordering::Release => Ordering::Release,
        Ordering::Acquire => Ordering::Relaxed,
        order => order,
    }
}

impl<T: Tool> Drop for Checked<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.ended.swap(true, Ordering::Relaxed) {
            report_race(|| self.life.end());
        }
    }
}

impl<T: Tool> std::fmt::Debug for Checked<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked").field("last", &self.peek()).field("site", &self.site).finish_non_exhaustive()
    }
}

/// Runs one operation of the tool's. A race that it finds goes into the book, and the engine goes on: unwinding out of
/// the middle of an operation would drop what is locked half way.
fn report_race<R>(operation: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(operation)).map_err(report_or_resume).ok()
}

#[cold]
fn report_or_resume(panic: Box<dyn Any + Send>) {
    let message = book::message(&*panic);
    let message = message.lines().next().unwrap_or_default();
    if message.contains("Causality violation") {
        return book::report(format_args!("M4: a race with the making or the end of an object: {message}"));
    }
    book::report(format_args!("L1: the tool gives up: {message}"));
    // Unwinding drops what the engine holds half way, which may end the process: say what is known, past any capture.
    let known = book::with(|book| book.text());
    let _ = std::io::stderr().write_all(known.as_bytes());
    resume_unwind(panic);
}
