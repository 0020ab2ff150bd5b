//! A page, and what becomes of it.

use slat::host::Access;

use super::{Flags, Log, Operation};

/// A page of a guest, as the specification sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Page {
    /// The flags of its slot.
    pub flags: Flags,
    /// Those before, while a change of them is on its way.
    pub before: Option<Flags>,
    /// Whether anything is mapped.
    pub mapped: bool,
    /// Whether the guest may write without a fault.
    pub writable: bool,
    /// Whether a fault may make it writable as it is mapped.
    pub may_write: bool,
    /// Whether the slot was read-only at any time: leaves near this one may still be mapped as it wanted.
    pub was_read_only: bool,
    /// Whether hardware may still do what was taken from it.
    pub stale: bool,
    /// Whether it was made old since it was last accessed: the next write may find it so.
    pub old: bool,
    /// Whether the log has it.
    pub dirty: bool,
    /// Whether hardware has noted a write in its entry: to a log that hardware keeps, it is dirty.
    pub noted: bool,
    /// Removals that have found that and have not moved it into the log yet.
    pub moving: u8,
    /// Workers that have found that when they read the log and have not moved it there yet, a bit each.
    pub collecting: u8,
    /// Faults that have made it writable and have not marked it yet.
    pub unmarked: u8,
    /// Faults that have marked it where only who reads the log sees it.
    pub half_marked: u8,
    /// Whether its mark is one of these, which who takes marks may miss.
    pub hidden: bool,
    /// Harvests that have taken its mark and have not protected it yet.
    pub taken: u8,
    /// Those of them that have not come to the entry yet, which hardware may have noted a write in.
    pub unclean: u8,
    /// Workers that have cleared its mark and have not protected it yet, a bit each.
    pub clearing: u8,
    /// Workers that have taken something from it and not flushed it yet, a bit each.
    pub flushing: u8,
}

impl Page {
    /// A page of a slot with these flags, before anything happened.
    pub fn new(flags: impl Into<Flags>) -> Self {
        let flags = flags.into();
        Self { flags, dirty: flags.log == Log::InitiallySet, was_read_only: flags.read_only, ..Self::default() }
    }

    /// What the page may be after the operation; nothing, if the operation cannot have had that result here.
    pub fn after(self, operation: Operation) -> Vec<Self> {
        let only = |possible: bool, page: Self| if possible { vec![page] } else { Vec::new() };
        match operation {
            Operation::Mapped { access, writable } => self.mapped_by(access, writable),
            Operation::MappedBeside { access, writable } => self.or(self.mapped_by(access, writable)),
            Operation::Prefaulted { writable } => {
                let changes = !self.mapped || (writable && !self.writable);
                let noted = self.noted || (self.mapped && self.may_write);
                self.or(if changes { vec![Self { noted, ..self.made(writable, self.flags) }] } else { Vec::new() })
            }
            Operation::Relaxed => self.relaxed(),
            Operation::RelaxedBeside => self.or(self.relaxed()),
            Operation::Aged => vec![Self { old: self.mapped, ..self }],
            Operation::Marking => self.marking(),
            Operation::Marked => self.marked(),
            Operation::MarkedBeside => [self, self.with_mark()].into_iter().chain(self.fully_marked()).collect(),
            Operation::Spurious(access) => only(self.allows(access), self),
            Operation::Refused => only(self.any_flags(|flags| flags.read_only), self),
            Operation::Unmapped { meant: true } => self.unmapped(),
            Operation::Unmapped { meant: false } => self.or(self.unmapped()),
            Operation::Moved => self.moved(),
            Operation::Protected { meant: true } => vec![self.protected()],
            Operation::Protected { meant: false } => self.or(vec![self.protected()]),
            Operation::Flushed => vec![Self { stale: false, ..self }],
            Operation::Harvested { dirty } if self.may_be_taken(dirty) => self.harvested(dirty),
            Operation::Harvested { .. } => Vec::new(),
            Operation::Secured => self.secured(),
            Operation::Read { dirty, by } if self.may_be_reported(dirty) => vec![self.read(dirty, 1 << by)],
            Operation::Read { .. } => Vec::new(),
            Operation::Collected { by } => vec![self.collected(1 << by)],
            Operation::Cleared { by } if !self.hidden => vec![self.cleared(1 << by)],
            Operation::Cleared { by } | Operation::ClearedPerhaps { by } => self.or(vec![self.cleared(1 << by)]),
            Operation::TookBeside | Operation::Beside => vec![self],
            Operation::Withheld { by } => self.withheld_by(1 << by),
            Operation::FlushedFor { by } => vec![self.flushed_for(1 << by)],
            Operation::Written { grouped } => self.written(grouped),
            Operation::Noted => self.or(only(self.mapped, self.noted())),
            Operation::Announced(flags) => vec![self.under(flags)],
            Operation::Settled { by } => self.settled(1 << by),
            Operation::NotLogged => only(self.before.is_some() || !self.flags.is_logged(), self),
            Operation::Looked(seen) => only(self.mapped.then_some(self.writable) == seen, self),
            // No fault and no worker makes a leaf of a table under a log.
            Operation::Collapsed if !self.any_flags(|flags| !flags.is_logged()) => vec![self],
            Operation::Collapsed => self.collapsed(),
            Operation::Dropped => self.or(self.unmapped()),
        }
    }

    /// Whether nothing is half done: what was made writable under a log is
    /// marked, what was noted moved into it, and what was taken from it protected.
    pub(crate) const fn is_settled(self) -> bool {
        let of_workers = self.clearing | self.collecting;
        let of_faults = self.unmarked + self.half_marked;
        of_faults == 0 && self.moving == 0 && self.taken == 0 && of_workers == 0
    }

    /// This, or what it may be instead.
    fn or(self, mut others: Vec<Self>) -> Vec<Self> {
        others.push(self);
        others
    }

    /// The flags that a fault may have gone by.
    fn current_flags(self) -> impl Iterator<Item = Flags> {
        [Some(self.flags), self.before].into_iter().flatten()
    }

    fn any_flags(self, are: impl Fn(Flags) -> bool) -> bool {
        self.current_flags().any(are)
    }

    const fn allows(self, access: Access) -> bool {
        self.mapped && (self.writable || !matches!(access, Access::Write))
    }
}

// What faults do.
impl Page {
    /// Mapped anew, or in the place of a leaf that may never be written to.
    fn mapped_by(self, access: Access, writable: bool) -> Vec<Self> {
        let is_missing = !self.mapped || (writable && !self.may_write);
        let is_served = writable || access != Access::Write;
        let flags =
            self.current_flags().filter(|flags| is_missing && is_served && (!writable || flags.let_write(access)));
        flags.map(|flags| self.made(writable, flags)).collect()
    }

    /// Where hardware notes writes, a fault that gives permission back does so in its stead.
    fn relaxed(self) -> Vec<Self> {
        let may_be = self.mapped && self.may_write && (!self.writable || self.old);
        let made = self.current_flags().filter(|_| may_be).map(|flags| self.made(true, flags));
        made.map(Self::noted).collect()
    }

    /// Mapped by a fault that went by these flags; if it made the page writable under the log that is now, it has to mark it.
    const fn made(self, writable: bool, flags: Flags) -> Self {
        let marks = writable && flags.is_logged() && self.flags.is_logged();
        let may_write = writable || !flags.read_only;
        Self { mapped: true, writable, may_write, old: false, unmarked: self.unmarked + marks as u8, ..self }
    }

    /// The mark itself comes first, then where to find it. Another page's fault may have said that already.
    fn marking(self) -> Vec<Self> {
        if !self.flags.is_logged() || self.unmarked == 0 {
            return vec![self];
        }
        let [unmarked, half_marked] = [self.unmarked - 1, self.half_marked + 1];
        vec![self, Self { dirty: true, hidden: self.hidden || !self.dirty, unmarked, half_marked, ..self }]
    }

    /// A fault that went by flags without a log has nothing to mark.
    fn marked(self) -> Vec<Self> {
        let need_not = self.any_flags(|flags| !flags.is_logged()).then_some(self);
        let does = (self.flags.is_logged() && self.unmarked > 0).then(|| self.with_mark());
        need_not.into_iter().chain(does).chain(self.fully_marked()).collect()
    }

    /// By a fault that has marked it half.
    fn fully_marked(self) -> Option<Self> {
        self.half_marked.checked_sub(1).map(|half_marked| Self { hidden: false, half_marked, ..self })
    }

    const fn with_mark(self) -> Self {
        let unmarked = self.unmarked.saturating_sub(1);
        Self { dirty: self.flags.is_logged(), hidden: false, unmarked, ..self }
    }
}

// What takes away.
impl Page {
    const fn protected(self) -> Self {
        Self { writable: false, stale: self.stale || self.writable, ..self }
    }

    /// What hardware has noted may be found in the entry until it is moved, by two removals and a harvest beside them.
    fn unmapped(self) -> Vec<Self> {
        let page = Self { mapped: false, writable: false, may_write: false, old: false, ..self };
        let page = Self { stale: self.stale || self.mapped, ..page };
        let moves = self.noted && self.any_flags(Flags::is_logged_by_hardware);
        let may_drop = !moves || self.any_flags(|flags| !flags.is_logged_by_hardware());
        let moving = moves.then_some(Self { moving: self.moving + 1, ..page });
        moving.into_iter().chain(may_drop.then_some(Self { noted: false, ..page })).collect()
    }

    /// The leaf allows what all of its pages did.
    fn collapsed(self) -> Vec<Self> {
        let protected = self.protected();
        let beside_read_only = self.was_read_only.then_some(Self { may_write: false, ..protected });
        [self, protected].into_iter().chain(beside_read_only).collect()
    }

    /// By one of the removals that have found something; or by one that has not.
    fn moved(self) -> Vec<Self> {
        let page = Self { moving: self.moving.saturating_sub(1), noted: self.noted && self.mapped, ..self };
        let moved = Self { dirty: self.dirty || self.flags.is_logged_by_hardware(), ..page };
        if self.moving > 0 { self.or(vec![moved]) } else { vec![self] }
    }

    /// From now on the slot has these flags. A log that goes is gone with all marks.
    fn under(self, flags: Flags) -> Self {
        if flags == self.flags {
            return self;
        }
        let was_read_only = self.was_read_only || flags.read_only;
        let page = Self { flags, before: Some(self.flags), was_read_only, ..self };
        match (self.flags.is_logged(), flags.is_logged()) {
            (true, true) => page,
            _ => {
                let page = Self { unmarked: 0, half_marked: 0, hidden: false, collecting: 0, ..page };
                Self { dirty: flags.log == Log::InitiallySet, ..page }
            }
        }
    }

    /// Who finds the change settled may take the permission once more: another worker makes the same change.
    fn settled(self, by: u8) -> Vec<Self> {
        let flushing = Self { flushing: self.flushing | by, ..self };
        let Some(before) = self.before else { return self.or(vec![flushing.protected()]) };
        let page = Self { before: None, ..flushing };
        if self.flags.read_only && !before.read_only {
            return vec![Self { may_write: false, ..page.protected() }];
        }
        match (before.log, self.flags.log) {
            (Log::Off, Log::Protect) => vec![page.protected()],
            // Of larger leaves, and of groups, the permission is withheld.
            (Log::Off, Log::Hardware) => vec![page.cleaned(), page.cleaned().protected()],
            _ => vec![Self { before: None, ..self }],
        }
    }

    const fn flushed_for(self, by: u8) -> Self {
        let owed = self.flushing & by != 0;
        Self { stale: self.stale && !owed, flushing: self.flushing & !by, ..self }
    }
}

// What logs do.
impl Page {
    /// What hardware has noted counts where it keeps the log.
    const fn may_be_reported(self, dirty: bool) -> bool {
        let is_dirty = self.dirty || (self.flags.is_logged_by_hardware() && self.noted);
        let has_log = self.flags.is_logged() || self.before.is_some();
        has_log && dirty == is_dirty
    }

    fn may_be_taken(self, dirty: bool) -> bool {
        let unhidden = Self { dirty: self.dirty && !self.hidden, ..self };
        self.may_be_reported(dirty) || unhidden.may_be_reported(dirty)
    }

    /// The mark is taken first, and then what hardware has noted: another harvest may find that in between.
    fn harvested(self, dirty: bool) -> Vec<Self> {
        let page = Self { dirty: false, hidden: false, taken: self.taken + 1, ..self };
        match dirty {
            false => vec![self],
            true if !self.flags.is_logged_by_hardware() => vec![page],
            true => vec![page.cleaned(), Self { unclean: page.unclean + 1, ..page }],
        }
    }

    /// A log that hardware keeps is read by taking what it has noted, and moving it into the log then.
    const fn read(self, dirty: bool, by: u8) -> Self {
        let takes = dirty && self.noted && self.flags.is_logged_by_hardware();
        let [collecting, flushing] = [self.collecting | by, self.flushing | by];
        if takes { Self { collecting, flushing, ..self.cleaned() } } else { self }
    }

    /// Another worker may have taken the mark since it was read: it is there once more.
    const fn collected(self, by: u8) -> Self {
        let owed = self.collecting & by != 0;
        Self { dirty: self.dirty || (owed && self.flags.is_logged()), collecting: self.collecting & !by, ..self }
    }

    /// The next write is noted anew; what is cached as written is written through until it is flushed.
    const fn cleaned(self) -> Self {
        Self { noted: false, stale: self.stale || self.writable, ..self }
    }

    fn secured(self) -> Vec<Self> {
        let clean = (self.taken > self.unclean).then(|| Self { taken: self.taken - 1, ..self });
        let unclean = self.unclean.checked_sub(1);
        let cleaned = unclean.map(|unclean| Self { unclean, taken: self.taken - 1, ..self.cleaned() });
        clean.into_iter().chain(cleaned).flat_map(Self::withheld).collect()
    }

    /// As the log that is now withholds it from a page whose mark was taken.
    fn withheld(self) -> Vec<Self> {
        match self.flags.log {
            Log::Off => self.or(vec![self.protected()]),
            Log::Protect | Log::InitiallySet => vec![self.protected()],
            Log::Hardware => vec![self, self.protected()],
        }
    }

    fn cleared(self, by: u8) -> Self {
        let clearing = self.clearing | by;
        if self.dirty { Self { dirty: false, hidden: false, clearing, ..self } } else { self }
    }

    fn withheld_by(self, by: u8) -> Vec<Self> {
        if self.clearing & by == 0 {
            return vec![self];
        }
        let page = Self { clearing: self.clearing & !by, flushing: self.flushing | by, ..self };
        if self.flags.is_logged_by_hardware() { page.cleaned().withheld() } else { page.withheld() }
    }

    /// What hardware does for a write is either noted, or done through what was taken and is cached.
    fn written(self, grouped: bool) -> Vec<Self> {
        let may_write = if grouped { self.mapped } else { self.writable };
        let noted = may_write.then(|| self.noted());
        noted.into_iter().chain(self.stale.then_some(self)).collect()
    }

    const fn noted(self) -> Self {
        Self { noted: true, ..self }
    }
}

#[cfg(test)]
mod tests;
