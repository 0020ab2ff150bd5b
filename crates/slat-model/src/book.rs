//! What is known of the execution that runs now: what happened in it, and the first thing that was wrong.
//!
//! All of it is plain state. The threads of an execution are coroutines of one operating-system thread and switch only
//! at tracked operations, of which there are none in here.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::Once;

use slat::addr::Hpa;
use slat::format::{Change, Fake, Format, Kind};
use slat::host::{Access, Flush, VcpuId};
use slat::vm::Outcome;

use crate::hardware::Hardware;
use crate::oracle::Oracle;
use crate::word::Site;

/// The book of one execution.
#[derive(Default)]
pub struct Book {
    /// What the vCPUs have cached.
    pub hardware: Hardware,
    /// What the guest may do.
    pub oracle: Oracle,
    /// The table at which hardware walks begin.
    pub root: usize,
    /// Whether hardware may have cached leaves of two sizes for one address.
    pub overlaps: bool,
    /// Tables allocated and not freed.
    pub live_tables: usize,
    /// A flush that a planted bug keeps back.
    pub late_flush: Option<Flush>,
    /// What threads have done last, for bugs that change the order of things.
    pub threads: crate::reorder::Threads,
    /// Turns of waits inside the engine.
    pub relaxed: u32,
    /// What calls did to pages, for the specification.
    pub calls: crate::history::History,
    history: Vec<Event>,
    verdict: Option<String>,
}

/// Something that happened.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Event {
    Note(&'static str),
    Fault { vcpu: VcpuId, page: u64, access: Access, outcome: Outcome },
    Entry { site: Site, old: u64, new: u64 },
    Flush { flush: Flush },
    LocalFlush { vcpu: VcpuId, page: u64 },
    Accessed { vcpu: VcpuId, page: u64, access: Access, hpa: Hpa },
    Cached { vcpu: VcpuId, site: Site, raw: u64 },
    Allocated { table: usize },
    Freed { table: usize },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Note(note) => f.write_str(note),
            Self::Fault { vcpu, page, access, outcome } => {
                write!(f, "vcpu {}: fault at page {page}, {access:?}: {outcome:?}", vcpu.0)
            }
            Self::Entry { site, old, new } => {
                let (old, new) = (Entry(old), Entry(new));
                write!(f, "table {}, entry {}: {old} -> {new}", site.table, site.index)
            }
            Self::Flush { flush } => write!(f, "flush {flush:?}"),
            Self::LocalFlush { vcpu, page } => write!(f, "vcpu {}: local flush of page {page}", vcpu.0),
            Self::Accessed { vcpu, page, access, hpa } => {
                write!(f, "vcpu {}: {access:?} of page {page} through {hpa}", vcpu.0)
            }
            Self::Cached { vcpu, site, raw } => {
                write!(f, "vcpu {}: caches table {}, entry {}: {}", vcpu.0, site.table, site.index, Entry(raw))
            }
            Self::Allocated { table } => write!(f, "table {table} allocated"),
            Self::Freed { table } => write!(f, "table {table} freed"),
        }
    }
}

/// An entry's value, to be read by people.
struct Entry(u64);

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (format, level) = (Fake::new(4), crate::format::level_of(self.0));
        match crate::format::kind_of(self.0) {
            Kind::Leaf => {
                let leaf = format.decode(self.0, level);
                let may = if leaf.may_write { "+" } else { "" };
                write!(f, "leaf {} {:?}{may}", leaf.hpa, leaf.permissions)
            }
            Kind::Table => write!(f, "table {}", crate::world::number_of(format.table_address(self.0, level))),
            kind => write!(f, "{kind:?}"),
        }
    }
}

thread_local! {
    static BOOK: RefCell<Book> = RefCell::default();
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Works on the book of the execution that runs now.
pub fn with<R>(work: impl FnOnce(&mut Book) -> R) -> R {
    BOOK.with_borrow_mut(work)
}

/// Begins the book of a new execution.
pub fn begin() {
    BOOK.take();
}

/// Something is wrong. The first report counts; the execution goes on, for unwinding would drop what the engine holds
/// half way.
pub fn report(what: impl fmt::Display) {
    with(|book| book.report(what));
}

/// Notes something that happened.
pub fn note(event: Event) {
    with(|book| book.history.push(event));
}

/// What was wrong, and what had happened, if anything was.
pub fn verdict() -> Option<String> {
    with(|book| (!book.is_clean()).then(|| book.text()))
}

impl Book {
    /// As [`report`].
    pub fn report(&mut self, what: impl fmt::Display) {
        if self.verdict.is_none() {
            self.verdict = Some(what.to_string());
            self.history.push(Event::Note("^^^ here"));
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_none()
    }

    /// What is wrong, and what has happened so far.
    pub fn text(&self) -> String {
        let wrong = self.verdict.as_deref().unwrap_or("nothing is wrong");
        self.history.iter().fold(format!("{wrong}\n"), |text, event| text + &format!("    {event}\n"))
    }

    /// As [`note`].
    pub fn note(&mut self, event: Event) {
        self.history.push(event);
    }

    /// Whether the change of a valid entry needs break-before-make. The format's own word for it, not the planted one.
    fn breaks(&self, old: u64, new: u64) -> bool {
        let format = if self.overlaps { Fake::new(4).with_overlaps() } else { Fake::new(4) };
        let level = crate::format::level_of(old);
        level != crate::format::level_of(new) || format.change(old, new, level) == Change::Break
    }

    /// The word of a linked table, or of one that will be, has changed: the discipline that every change has to keep.
    pub fn entry_changed(&mut self, site: Site, old: u64, new: u64) {
        self.history.push(Event::Entry { site, old, new });
        let (was, is) = (crate::format::kind_of(old), crate::format::kind_of(new));
        let valid = |kind| matches!(kind, Kind::Table | Kind::Leaf);
        if valid(was) && valid(is) && self.breaks(old, new) {
            self.report("T1: a valid entry was changed in a way that needs break-before-make");
        }
        let mut cached = self.hardware.cached_from(site);
        let wrong = match is {
            Kind::Empty => cached.next().map(|_| "R8: an entry became empty while something of it was cached"),
            Kind::Table | Kind::Leaf if was == Kind::Locked => {
                let is_older = |cached: u64| crate::format::kind_of(cached) != is || self.breaks(cached, new);
                cached.any(is_older).then_some("T1: an entry was made anew while what it said before was cached")
            }
            Kind::Table | Kind::Leaf => {
                let contradicts = |cached: u64| self.breaks(cached, new);
                cached.any(contradicts).then_some("T1: an entry was changed while what it said before was cached")
            }
            _ => None,
        };
        drop(cached);
        if let Some(wrong) = wrong {
            self.report(wrong);
        }
    }
}

/// Keeps this thread's panics from being printed: they are caught and go into the book.
#[derive(Debug)]
pub struct Quiet;

impl Quiet {
    /// Quiet from now on, until it is dropped.
    ///
    /// Both tools hook into panics when they first run, loom's coroutines even end with one: `others`, called once, lets
    /// them do that before this hook goes over theirs.
    pub fn now(others: impl FnOnce()) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            others();
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| if QUIET.get() { remember(info) } else { loud(info) }));
        });
        QUIET.set(true);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

fn remember(info: &PanicHookInfo<'_>) {
    PANICKED_AT.set(info.location().map_or(String::new(), |location| format!(" at {location}")));
}

/// Where the last panic came from that was kept from being printed.
pub fn panicked_at() -> String {
    PANICKED_AT.take()
}

/// A panic's message.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
