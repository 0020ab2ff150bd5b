use std::sync::atomic::AtomicBool;

use slat::addr::{GpaRange, Level};

use super::*;

pub(super) fn leaves(number: u64) -> Flush {
    let range = GpaRange::around(Gpa::new(number << 12), 4096);
    Flush::Leaves { range, level: Hint::Level(Level::PAGE) }
}

fn seen_by(core: &mut Attached<'_>) -> Vec<Flush> {
    let mut seen = Vec::new();
    core.enter(|flush| seen.push(flush));
    core.leave();
    seen
}

#[test]
fn every_flush_reaches_every_core_once_and_in_order() {
    let broadcast = Broadcast::new(2);
    let mut cores = [broadcast.attach(0), broadcast.attach(1)];
    let unknown = Flush::Leaves { range: GpaRange::around(Gpa::new(0), 1 << 30), level: Hint::Unknown };
    let tables = Flush::Tables { range: GpaRange::around(Gpa::new(1 << 21), 1 << 21) };
    let flushes = [leaves(3), unknown, tables, Flush::All, leaves(4)];
    for flush in flushes {
        broadcast.wait(&broadcast.post(flush));
    }
    for core in &mut cores {
        assert_eq!(seen_by(core), flushes);
        assert_eq!(seen_by(core), []);
    }
    let counts = FlushCounts { leaves: 3, tables: 1, all: 1, local: 0 };
    assert_eq!(broadcast.counts(), counts);
}

#[test]
fn a_local_flush_reaches_its_core_alone() {
    let broadcast = Broadcast::new(2);
    let (mut first, mut second) = (broadcast.attach(0), broadcast.attach(1));
    broadcast.post_local(1, Gpa::new(0x5000), Hint::Unknown);
    let range = GpaRange::around(Gpa::new(0x5000), 1);
    assert_eq!(seen_by(&mut first), []);
    assert_eq!(seen_by(&mut second), [Flush::Leaves { range, level: Hint::Unknown }]);
    assert_eq!(seen_by(&mut second), []);
    broadcast.post_local(0, Gpa::new(0x5000), Hint::Level(Level::new(2)));
    assert_eq!(seen_by(&mut first), [Flush::Leaves { range, level: Hint::Level(Level::new(2)) }]);
    for _ in 0..2 {
        broadcast.post_local(0, Gpa::new(0x5000), Hint::Unknown);
    }
    assert_eq!(seen_by(&mut first), [Flush::All], "two are more than can wait");
    assert_eq!(broadcast.counts().local, 4);
}

#[test]
fn who_fell_a_ring_behind_drops_everything() {
    let broadcast = Broadcast::new(1);
    let mut core = broadcast.attach(0);
    for number in 0..RING as u64 {
        let _ = broadcast.post(leaves(number));
    }
    assert_eq!(seen_by(&mut core).len(), RING);
    for number in 0..=RING as u64 {
        let _ = broadcast.post(leaves(number));
    }
    assert_eq!(seen_by(&mut core), [Flush::All]);
}

#[test]
fn an_open_window_is_waited_for_and_a_closed_one_is_not() {
    let broadcast = Broadcast::new(2);
    let mut core = broadcast.attach(0);
    let done = AtomicBool::new(false);
    core.enter(|_| ());
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            broadcast.wait(&broadcast.post(Flush::All));
            done.store(true, Relaxed);
        });
        for _ in 0..100 {
            std::thread::yield_now();
            assert!(!done.load(Relaxed), "the window was open before the flush");
        }
        core.leave();
        flusher.join().unwrap();
    });
    broadcast.wait(&broadcast.post(Flush::All));
}

#[test]
fn a_window_that_has_applied_the_flush_is_not_waited_for() {
    let broadcast = Broadcast::new(1);
    let mut core = broadcast.attach(0);
    let pending = broadcast.post(Flush::All);
    core.enter(|_| ());
    broadcast.wait(&pending);
    core.leave();
}

#[test]
#[should_panic(expected = "driven by another")]
fn a_core_has_one_thread() {
    let broadcast = Broadcast::new(1);
    let _first = broadcast.attach(0);
    let _second = broadcast.attach(0);
}
