//! Checkers that are blind in one way: the cases notice each.

use std::sync::Arc;

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Flush, Hint};
use slat_machine::checker::{Discipline, Event, How};
use slat_machine::maintenance::Maintenance;
use slat_machine::walk::{Fault, Step, Translation, Walker};

use crate::cases::play_all;
use crate::script::{ONE, all_cores};
use crate::subject::{ArmBbm2, ArmContiguous, ArmHd, VMID, X86};
use crate::tally::Tally;

/// A way for a checker to be blind.
#[derive(Clone, Copy)]
pub(crate) struct Blindness {
    name: &'static str,
    /// Takes an event for another.
    pub(crate) event: fn(Event) -> Event,
    /// Reads words in another way.
    pub(crate) discipline: fn(Discipline) -> Discipline,
}

const fn of_events(name: &'static str, event: fn(Event) -> Event) -> Blindness {
    Blindness { name, event, discipline: |discipline| discipline }
}

const fn of_words(name: &'static str, discipline: fn(Discipline) -> Discipline) -> Blindness {
    Blindness { name, event: |event| event, discipline }
}

const BLINDNESSES: [Blindness; 17] = [
    of_events("every flush drops everything", |event| with_flush(event, |_| Flush::All)),
    of_events("a level hint is not read", |event| {
        with_flush(event, |flush| match flush {
            Flush::Leaves { range, .. } => Flush::Leaves { range, level: Hint::Unknown },
            other => other,
        })
    }),
    of_events("a flush of leaves drops walks, too", |event| {
        with_flush(event, |flush| match flush {
            Flush::Leaves { range, .. } => Flush::Tables { range },
            other => other,
        })
    }),
    of_events("a flush of tables keeps walks", |event| {
        with_flush(event, |flush| match flush {
            Flush::Tables { range } => Flush::Leaves { range, level: Hint::Unknown },
            other => other,
        })
    }),
    of_events("a flush is for every guest", |event| match event {
        Event::FlushBegun { thread, id, flush, cores, .. } => {
            Event::FlushBegun { thread, id, flush, vmid: VMID, cores }
        }
        other => other,
    }),
    of_events("a flush reaches every core", |event| match event {
        Event::FlushBegun { thread, id, flush, vmid, .. } => {
            Event::FlushBegun { thread, id, flush, vmid, cores: all_cores() }
        }
        other => other,
    }),
    of_events("every change is a compare-and-swap", |event| with_how(event, How::Swap)),
    of_events("every change is a store", |event| with_how(event, How::Store)),
    of_events("one thread does it all", |event| match event {
        Event::Wrote { at, old, new, how, .. } => Event::Wrote { thread: ONE, at, old, new, how },
        Event::Read { at, value, .. } => Event::Read { thread: ONE, at, value },
        other => other,
    }),
    of_events("hardware's notes are not seen", |event| match event {
        Event::Updated { thread, at, old, .. } => Event::Read { thread, at, value: old },
        other => other,
    }),
    of_events("nothing is annotated", |event| match event {
        Event::Annotated { range, .. } => Event::Cleared(range),
        other => other,
    }),
    of_events("a vCPU never enters its guest again", |event| match event {
        Event::Entered { thread } => Event::Read { thread, at: Hpa::new(4 << 30), value: 0 },
        other => other,
    }),
    of_words("every pointer is marked for annotations", |discipline| Discipline { kept: u64::MAX, ..discipline }),
    of_words("every leaf stands for itself", |discipline| through(discipline, |leaf, _| leaf.set_bits = 0)),
    of_words("every write is noticed", |discipline| through(discipline, |leaf, _| leaf.dirty = false)),
    of_words("no leaf was ever accessed", |discipline| through(discipline, |_, update| *update = Some(0))),
    of_words("a flush by address drops leaves of both sizes", |discipline| Discipline {
        spares_doubled: false,
        ..discipline
    }),
];

fn with_flush(event: Event, change: impl Fn(Flush) -> Flush) -> Event {
    match event {
        Event::FlushBegun { thread, id, flush, vmid, cores } => {
            Event::FlushBegun { thread, id, flush: change(flush), vmid, cores }
        }
        other => other,
    }
}

fn with_how(event: Event, how: How) -> Event {
    match event {
        Event::Wrote { thread, at, old, new, .. } => Event::Wrote { thread, at, old, new, how },
        other => other,
    }
}

/// A walker whose leaves are taken for others.
#[derive(Debug)]
struct Through {
    walker: Arc<dyn Walker>,
    change: Changed,
}

/// What a leaf is taken for: its translation, and what hardware would make of it before it uses it.
type Changed = fn(&mut Translation, &mut Option<u64>);

fn through(discipline: Discipline, change: Changed) -> Discipline {
    let walker = Arc::new(Through { walker: discipline.walker.clone(), change });
    Discipline { walker, ..discipline }
}

impl Walker for Through {
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        self.walker.start(gpa)
    }

    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        self.walker.root(register)
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        self.walker.descriptor(table, level, gpa)
    }

    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let mut step = self.walker.resolve(descriptor, level);
        if let Step::Leaf { translation, update } = &mut step {
            (self.change)(translation, update);
        }
        step
    }

    fn shift(&self, level: Level) -> u32 {
        self.walker.shift(level)
    }

    fn maintenance(&self) -> Maintenance {
        self.walker.maintenance()
    }

    fn mixes_sizes(&self) -> bool {
        self.walker.mixes_sizes()
    }
}

#[test]
fn a_blind_checker_is_noticed_by_the_cases() {
    for blindness in BLINDNESSES {
        let name = blindness.name;
        let mut tally = Tally { blindness: Some(blindness), ..Tally::default() };
        play_all::<ArmContiguous>(&mut tally);
        play_all::<ArmHd>(&mut tally);
        play_all::<ArmBbm2>(&mut tally);
        play_all::<X86>(&mut tally);
        println!("blind|{name}|{}", tally.noticed);
        assert!(tally.noticed > 0, "no case notices that {name}");
    }
}
