//! Checkers that are blind in one way: the cases notice each.

use slat::host::{Flush, Hint};
use slat_machine::checker::{Event, How};

use crate::cases::play_all;
use crate::script::{ONE, all_cores};
use crate::subject::{Arm, VMID, X86};
use crate::tally::Tally;

/// Takes an event for another.
pub(crate) type Blindness = fn(Event) -> Event;

/// Ways for a checker to be blind.
const BLINDNESSES: [(&str, Blindness); 9] = [
    ("every flush drops everything", |event| with_flush(event, |_| Flush::All)),
    ("a level hint is not read", |event| {
        with_flush(event, |flush| match flush {
            Flush::Leaves { range, .. } => Flush::Leaves { range, level: Hint::Unknown },
            other => other,
        })
    }),
    ("a flush of leaves drops walks, too", |event| {
        with_flush(event, |flush| match flush {
            Flush::Leaves { range, .. } => Flush::Tables { range },
            other => other,
        })
    }),
    ("a flush of tables keeps walks", |event| {
        with_flush(event, |flush| match flush {
            Flush::Tables { range } => Flush::Leaves { range, level: Hint::Unknown },
            other => other,
        })
    }),
    ("a flush is for every guest", |event| match event {
        Event::FlushBegun { thread, id, flush, cores, .. } => {
            Event::FlushBegun { thread, id, flush, vmid: VMID, cores }
        }
        other => other,
    }),
    ("a flush reaches every core", |event| match event {
        Event::FlushBegun { thread, id, flush, vmid, .. } => {
            Event::FlushBegun { thread, id, flush, vmid, cores: all_cores() }
        }
        other => other,
    }),
    ("every change is a compare-and-swap", |event| with_how(event, How::Swap)),
    ("every change is a store", |event| with_how(event, How::Store)),
    ("one thread does it all", |event| match event {
        Event::Wrote { at, old, new, how, .. } => Event::Wrote { thread: ONE, at, old, new, how },
        Event::Read { at, value, .. } => Event::Read { thread: ONE, at, value },
        other => other,
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

#[test]
fn a_blind_checker_is_noticed_by_the_cases() {
    for (name, blindness) in BLINDNESSES {
        let mut tally = Tally { blindness: Some(blindness), ..Tally::default() };
        play_all::<Arm>(&mut tally);
        play_all::<X86>(&mut tally);
        println!("blind|{name}|{}", tally.noticed);
        assert!(tally.noticed > 0, "no case notices that {name}");
    }
}
