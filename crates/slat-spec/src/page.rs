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
    /// Faults that have made it writable and have not marked it yet.
    pub unmarked: u8,
    /// Harvests that have taken its mark and have not protected it yet.
    pub taken: u8,
    /// Workers that have cleared its mark and have not protected it yet, a bit each.
    pub clearing: u8,
    /// Workers that have taken something from it and not flushed it yet, a bit each.
    pub flushing: u8,
}

impl Page {
    /// A page of a slot with these flags, before anything happened.
    pub fn new(flags: impl Into<Flags>) -> Self {
        let flags = flags.into();
        Self { flags, dirty: flags.log == Log::InitiallySet, ..Self::default() }
    }

    /// What the page may be after the operation; nothing, if the operation cannot have had that result here.
    pub fn after(self, operation: Operation) -> Vec<Self> {
        let only = |possible: bool, page: Self| if possible { vec![page] } else { Vec::new() };
        match operation {
            Operation::Mapped { access, writable } => self.mapped_by(access, writable),
            Operation::MappedBeside { access, writable } => self.or(self.mapped_by(access, writable)),
            Operation::Prefaulted { writable } => {
                let changes = !self.mapped || (writable && !self.writable);
                self.or(if changes { vec![self.made(writable, self.flags)] } else { Vec::new() })
            }
            Operation::Relaxed => self.relaxed(),
            Operation::RelaxedBeside => self.or(self.relaxed()),
            Operation::Aged => vec![Self { old: self.mapped, ..self }],
            Operation::Marked => self.marked(),
            Operation::MarkedBeside => self.or(vec![self.with_mark()]),
            Operation::Spurious(access) => only(self.allows(access), self),
            Operation::Refused => only(self.any_flags(|flags| flags.read_only), self),
            Operation::Unmapped { meant: true } => self.unmapped(),
            Operation::Unmapped { meant: false } => self.or(self.unmapped()),
            Operation::Moved => self.moved(),
            Operation::Protected { meant: true } => vec![self.protected()],
            Operation::Protected { meant: false } => self.or(vec![self.protected()]),
            Operation::Flushed => vec![Self { stale: false, ..self }],
            Operation::Harvested { dirty } => only(self.may_be_reported(dirty), self.harvested(dirty)),
            Operation::Secured => self.secured(),
            Operation::Read { dirty, by } => only(self.may_be_reported(dirty), self.collected(dirty, 1 << by)),
            Operation::Cleared { by } => vec![self.cleared(1 << by)],
            Operation::ClearedPerhaps { by } => self.or(vec![self.cleared(1 << by)]),
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
            Operation::Collapsed => self.or(vec![self.protected()]),
            Operation::Dropped => self.or(self.unmapped()),
        }
    }

    /// Whether nothing is half done: what was made writable under a log is
    /// marked, what was noted moved into it, and what was taken from it protected.
    pub(crate) const fn is_settled(self) -> bool {
        self.unmarked == 0 && self.moving == 0 && self.taken == 0 && self.clearing == 0
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

    fn relaxed(self) -> Vec<Self> {
        let may_be = self.mapped && self.may_write && (!self.writable || self.old);
        self.current_flags().filter(|_| may_be).map(|flags| self.made(true, flags)).collect()
    }

    /// Mapped by a fault that went by these flags; if it made the page writable under the log that is now, it has to mark it.
    const fn made(self, writable: bool, flags: Flags) -> Self {
        let marks = writable && flags.is_logged() && self.flags.is_logged();
        let may_write = writable || !flags.read_only;
        Self { mapped: true, writable, may_write, old: false, unmarked: self.unmarked + marks as u8, ..self }
    }

    /// A fault that went by flags without a log has nothing to mark.
    fn marked(self) -> Vec<Self> {
        let need_not = self.any_flags(|flags| !flags.is_logged()).then_some(self);
        let does = (self.flags.is_logged() && self.unmarked > 0).then(|| self.with_mark());
        need_not.into_iter().chain(does).collect()
    }

    const fn with_mark(self) -> Self {
        Self { dirty: self.flags.is_logged(), unmarked: self.unmarked.saturating_sub(1), ..self }
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
        let page = Self { flags, before: Some(self.flags), ..self };
        match (self.flags.is_logged(), flags.is_logged()) {
            (true, true) => page,
            _ => Self { dirty: flags.log == Log::InitiallySet, unmarked: 0, ..page },
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
    /// A mark that is being made may be seen in the entry before it is made, where hardware keeps the log.
    const fn may_be_reported(self, dirty: bool) -> bool {
        let by_hardware = self.flags.is_logged_by_hardware();
        let is_dirty = self.dirty || (by_hardware && self.noted);
        let may_be = is_dirty || (by_hardware && self.unmarked > 0);
        let has_log = self.flags.is_logged() || self.before.is_some();
        has_log && (if dirty { may_be } else { !is_dirty })
    }

    fn harvested(self, dirty: bool) -> Self {
        let page = Self { dirty: false, taken: self.taken + u8::from(dirty), ..self };
        if dirty && self.flags.is_logged_by_hardware() { page.cleaned() } else { page }
    }

    /// A log that hardware keeps is read by taking what it has noted into the log.
    const fn collected(self, dirty: bool, by: u8) -> Self {
        let moves = dirty && self.noted && self.flags.is_logged_by_hardware();
        if moves { Self { dirty: true, flushing: self.flushing | by, ..self.cleaned() } } else { self }
    }

    /// The next write is noted anew; what is cached as written is written through until it is flushed.
    const fn cleaned(self) -> Self {
        Self { noted: false, stale: self.stale || self.writable, ..self }
    }

    fn secured(self) -> Vec<Self> {
        let page = Self { taken: self.taken.saturating_sub(1), ..self };
        if self.taken == 0 { Vec::new() } else { page.withheld() }
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
        if self.dirty { Self { dirty: false, clearing: self.clearing | by, ..self } } else { self }
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
