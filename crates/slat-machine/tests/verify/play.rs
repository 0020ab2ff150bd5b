//! What workers do to a VM whose steps are checked, and what the host declares meanwhile.

use std::ops::Range;

use slat::addr::{Gpa, GpaRange, HostAddress, HostRange, Hpa};
use slat::format::Format;
use slat::host::{Access, SlotId};
use slat::vm::{Budget, Collapse, LogMode, NewSlot, Pages, Progress, SlotError, SlotFlags, Teardown, Vm, Worker};
use slat_machine::checker::{Event, Thread};
use slat_machine::memory::Replacement;
use slat_machine::physical::GUEST_BASE;
use slat_machine::trace::{Recorder, Watched};

use crate::subject::{PAGE, Subject};

pub(crate) const BASE: u64 = (3 << 30) - (4 << 20);
pub(crate) const BYTES: u64 = 6 << 20;
const SLOT: SlotId = SlotId(0);

pub(crate) type TracedVm<'m, S> = Vm<Watched<'m>, <S as Subject>::Format>;

/// What one round plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Play {
    /// The log is on: harvests, protections, unmaps.
    Logged,
    /// The same, and hardware keeps the log.
    Hardware,
    /// The log is off: blocks are split, collapsed, aged.
    Blocks,
    /// The host moves pages.
    Moving,
    /// The slot is deleted and made again, and its flags change.
    Slots,
    /// Pages are annotated, and cleared, beside all that must not take annotations away.
    Notes,
}

impl Play {
    /// What can be played with a format.
    pub(crate) fn all<S: Subject>() -> impl Iterator<Item = Self> {
        let all = [Self::Logged, Self::Hardware, Self::Blocks, Self::Moving, Self::Slots, Self::Notes];
        all.into_iter().filter(|play| *play != Self::Hardware || S::format().hardware_dirty())
    }

    const fn log(self) -> Option<LogMode> {
        match self {
            Self::Logged => Some(LogMode::Protect),
            Self::Hardware => Some(LogMode::Hardware),
            _ => None,
        }
    }
}

/// Pages of the guest.
pub(crate) fn page_count<S: Subject>() -> u64 {
    BYTES / S::size(PAGE)
}

/// Choices by seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn budget(&mut self) -> Budget {
        [Budget::entries(1), Budget::entries(50), Budget::UNLIMITED][self.below(3) as usize]
    }

    fn access(&mut self) -> Access {
        if self.below(2) == 0 { Access::Read } else { Access::Write }
    }

    /// A part of a slot of so many pages.
    fn pages(&mut self, all: u64) -> Pages {
        let first = self.below(all);
        let most = 1 + self.below(all);
        Pages { first, count: 1 + self.below(most.min(all - first)) }
    }
}

fn range<S: Subject>(pages: Pages) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + pages.first * S::size(PAGE)), pages.count * S::size(PAGE)).unwrap()
}

fn all_pages<S: Subject>() -> Pages {
    Pages { first: 0, count: page_count::<S>() }
}

const fn flags(read_only: bool, log: Option<LogMode>) -> SlotFlags {
    SlotFlags { read_only, log }
}

/// A worker, and what it does by chance.
pub(crate) struct Hand<'v, 'm, S: Subject> {
    vm: &'v TracedVm<'m, S>,
    worker: Worker<&'v TracedVm<'m, S>>,
    dice: Dice,
    pub(crate) play: Play,
}

impl<'v, 'm, S: Subject> Hand<'v, 'm, S> {
    pub(crate) fn new(vm: &'v TracedVm<'m, S>, seed: u64, play: Play) -> Self {
        let mut worker = Worker::new(vm).unwrap();
        worker.top_up(16).unwrap();
        Self { vm, worker, dice: Dice(seed), play }
    }

    fn note(&self, event: Event) {
        self.vm.host().recorder().note(event);
    }

    /// The slot is made.
    pub(crate) fn begin(&mut self) {
        let log = self.play.log();
        self.create_slot(flags(false, log));
        if log.is_some() {
            self.note(Event::Logged(range::<S>(all_pages::<S>())));
        }
    }

    /// The last harvest, and teardown by the thread that is given.
    pub(crate) fn end(mut self, thread: Thread) {
        if self.play.log().is_some() {
            while !self.harvest(all_pages::<S>(), Budget::UNLIMITED) {}
            self.note(Event::Complete(range::<S>(all_pages::<S>())));
        }
        Recorder::call(|| {
            self.note(Event::Uprooted { thread });
            while self.worker.teardown(Budget::entries(500)) == Teardown::More {}
        });
    }

    /// One operation. Some are for one of the workers alone.
    pub(crate) fn disturb(&mut self, is_first: bool) {
        let pages = self.dice.pages(page_count::<S>());
        let (part, budget) = (range::<S>(pages), self.dice.budget());
        let all = range::<S>(all_pages::<S>());
        match (self.play, self.dice.below(8)) {
            (Play::Logged | Play::Hardware, 0 | 1) => self.unmap(part, budget),
            (Play::Logged | Play::Hardware, 2) => self.protect(part, budget),
            (Play::Logged | Play::Hardware, 3 | 4) => _ = self.harvest(pages, budget),
            (Play::Logged | Play::Hardware, 5) => self.clear(pages),
            (Play::Logged | Play::Hardware | Play::Blocks | Play::Notes, 6) => self.prefault(part, budget),
            (Play::Notes, 0 | 1) if is_first => self.annotate(part, budget),
            (Play::Notes, 2 | 3) if is_first => self.clear_notes(part, budget),
            (Play::Blocks | Play::Notes, 0) => self.unmap(part, budget),
            (Play::Blocks | Play::Notes, 1 | 2) => self.protect(part, budget),
            (Play::Blocks | Play::Notes, 3 | 4) => self.collapse(all, Collapse::InPlace, Budget::UNLIMITED),
            (Play::Blocks | Play::Notes, 5) => self.collapse(part, Collapse::Lazily, budget),
            (Play::Moving, 0..=3) if is_first => self.move_pages(pages, budget),
            (Play::Moving, 4 | 5) => self.protect(part, budget),
            (Play::Moving, 6) => self.collapse(all, Collapse::InPlace, Budget::UNLIMITED),
            (Play::Slots, _) if is_first => self.change_slot(budget),
            (Play::Slots, 0 | 1) => self.unmap(part, budget),
            (Play::Slots, 2 | 3) => self.protect(part, budget),
            _ => self.housekeeping(part, budget),
        }
    }

    fn housekeeping(&mut self, part: GpaRange, budget: Budget) {
        match self.dice.below(3) {
            0 => _ = self.worker.top_up(self.dice.below(20) as usize),
            1 => _ = Recorder::call(|| self.worker.age(part, budget)).unwrap(),
            _ => _ = Recorder::call(|| self.worker.reclaim(budget)),
        }
    }

    fn unmap(&mut self, part: GpaRange, budget: Budget) {
        let mut rest = part;
        while let Some(next) = Recorder::call(|| self.worker.unmap(rest, budget)).unwrap().next {
            rest = rest.from(next);
        }
    }

    fn protect(&mut self, part: GpaRange, budget: Budget) {
        let mut rest = part;
        while let Some(next) = Recorder::call(|| self.worker.write_protect(rest, budget)).unwrap().next {
            rest = rest.from(next);
        }
    }

    fn prefault(&mut self, part: GpaRange, budget: Budget) {
        let access = self.dice.access();
        let _ = Recorder::call(|| self.worker.prefault(part, access, budget));
    }

    /// Until its end nobody relies on what stood there before.
    fn annotate(&mut self, part: GpaRange, budget: Budget) {
        let annotation = 1 + self.dice.below(3);
        self.note(Event::Cleared(part));
        let mut rest = part;
        while let Some(next) = Recorder::call(|| self.worker.annotate(rest, annotation, budget)).unwrap().next {
            rest = rest.from(next);
        }
        self.note(Event::Annotated { range: part, word: S::Format::ANNOTATION.word(annotation) });
    }

    fn clear_notes(&mut self, part: GpaRange, budget: Budget) {
        self.note(Event::Cleared(part));
        let mut rest = part;
        while let Some(next) = Recorder::call(|| self.worker.clear_annotations(rest, budget)).unwrap().next {
            rest = rest.from(next);
        }
    }

    fn collapse(&mut self, part: GpaRange, how: Collapse, budget: Budget) {
        let _ = Recorder::call(|| self.worker.collapse(part, how, budget)).unwrap();
    }

    /// Takes the log of `pages` and copies what it names; whether it was complete.
    fn harvest(&mut self, pages: Pages, budget: Budget) -> bool {
        let mut left = pages;
        loop {
            let mut bitmap = vec![0; left.count.div_ceil(64) as usize];
            let harvest = Recorder::call(|| self.worker.harvest(SLOT, left, &mut bitmap, budget)).unwrap();
            self.copied(left, &bitmap);
            let Some(next) = harvest.next else { return harvest.complete };
            left = Pages { first: next, count: pages.first + pages.count - next };
        }
    }

    /// Reads the log of `pages`, clears what it names, and copies it.
    fn clear(&mut self, pages: Pages) {
        let mut bitmap = vec![0; pages.count.div_ceil(64) as usize];
        Recorder::call(|| self.worker.get_dirty(SLOT, pages, &mut bitmap)).unwrap();
        let cleared = Recorder::call(|| self.worker.clear_dirty(SLOT, pages, &bitmap, Budget::UNLIMITED)).unwrap();
        assert!(cleared.is_done());
        self.copied(pages, &bitmap);
    }

    fn copied(&self, pages: Pages, bitmap: &[u64]) {
        let named = (0..pages.count).filter(|page| bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0);
        for run in runs(named) {
            let pages = Pages { first: pages.first + run.start, count: run.end - run.start };
            self.note(Event::Copied(range::<S>(pages)));
        }
    }

    /// The host gives the pages other places and takes the old ones back.
    fn move_pages(&mut self, pages: Pages, budget: Budget) {
        let machine = self.vm.host().machine();
        let recorder = self.vm.host().recorder();
        let Some(places) = machine.places() else { return };
        let all = pages.first..pages.first + pages.count;
        let frames = || runs(all.clone().map(|page| places.frame(page)));
        let size = S::size(PAGE);
        let memory = |frames: &Range<u64>| {
            (Hpa::new(GUEST_BASE.get() + frames.start * size), (frames.end - frames.start) * size)
        };
        let take_and_give = || {
            for (start, len) in frames().iter().map(memory) {
                recorder.note(Event::Taken { start, len });
            }
            places.replace(machine.memory(), all.clone(), Replacement::Move).unwrap();
            for (start, len) in frames().iter().map(memory) {
                recorder.note(Event::Given { start, len });
            }
        };
        // By the guest's addresses, or by the host's, of which a slot's begin at 0.
        if self.dice.below(2) == 0 {
            let mut open = self.worker.invalidate(range::<S>(pages)).unwrap();
            while !Recorder::call(|| open.unmap(budget)).is_done() {}
            take_and_give();
        } else {
            let host = HostRange::with_len(HostAddress::new(pages.first * size), pages.count * size).unwrap();
            let mut open = Recorder::call(|| self.worker.invalidate_host(host)).unwrap();
            while !Recorder::call(|| open.unmap(budget)).is_done() {}
            take_and_give();
        }
    }

    fn change_slot(&mut self, budget: Budget) {
        let all = range::<S>(all_pages::<S>());
        let memory = GUEST_BASE;
        match self.dice.below(4) {
            0 => self.set_flags(flags(false, Some(LogMode::Protect)), budget),
            1 => self.set_flags(flags(false, None), budget),
            2 => {
                self.set_flags(flags(true, None), budget);
                self.note(Event::Withdrawn(all));
                self.note(Event::Granted(all));
            }
            _ => {
                finish(|| Recorder::call(|| self.worker.delete_slot(SLOT, budget)));
                self.note(Event::Taken { start: memory, len: BYTES });
                self.note(Event::Given { start: memory, len: BYTES });
                self.create_slot(flags(false, None));
            }
        }
    }

    fn set_flags(&mut self, flags: SlotFlags, budget: Budget) {
        finish(|| Recorder::call(|| self.worker.set_flags(SLOT, flags, budget)));
    }

    fn create_slot(&mut self, flags: SlotFlags) {
        let slot = NewSlot { range: range::<S>(all_pages::<S>()), host: HostAddress::new(0), flags };
        while let Err(error) = Recorder::call(|| self.worker.create_slot(SLOT, slot)) {
            assert_eq!(error, SlotError::Busy);
            let _ = self.worker.reclaim(Budget::UNLIMITED);
        }
    }
}

/// Calls a change of a slot until it is done.
fn finish(mut step: impl FnMut() -> Result<Progress, SlotError>) {
    loop {
        match step() {
            Ok(progress) if progress.is_done() => return,
            Ok(_) => {}
            Err(SlotError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Numbers that follow each other, put together.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    numbers.fold(Vec::new(), |mut runs: Vec<Range<u64>>, number| {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
        runs
    })
}
