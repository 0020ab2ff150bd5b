use std::sync::atomic::AtomicBool;

use slat::addr::{Gpa, GpaRange};
use slat::host::Hint;

use super::*;

fn leaves() -> Flush {
    Flush::Leaves { range: GpaRange::around(Gpa::new(0x5000), 4096), level: Hint::Unknown }
}

fn access(core: &mut Attached<'_>) -> Vec<Flush> {
    let mut seen = Vec::new();
    core.enter(|flush| seen.push(flush));
    core.leave();
    seen
}

#[test]
fn a_core_that_is_out_of_its_guest_is_not_asked_and_drops_everything_when_it_enters() {
    let requests = <Requests>::new(2);
    let mut cores = [requests.attach(0), requests.attach(1)];
    for flush in [leaves(), leaves(), Flush::Tables { range: GpaRange::around(Gpa::new(0), 4096) }, Flush::All] {
        requests.wait(&requests.post(flush));
    }
    assert_eq!(requests.requests(), RequestCounts { skipped: 8, ..RequestCounts::default() });
    for core in &mut cores {
        assert_eq!(access(core), [Flush::All], "whatever was asked for, INVEPT has no address");
        assert_eq!(access(core), []);
    }
    assert_eq!(requests.requests(), RequestCounts { skipped: 8, invalidations: 2, ..RequestCounts::default() });
    assert_eq!(requests.counts(), FlushCounts { leaves: 2, tables: 1, all: 1, local: 0 });
}

#[test]
fn a_core_that_stays_in_its_guest_is_asked_out_and_waited_for() {
    let requests = <Requests>::new(2);
    let (mut inside, _outside) = (requests.attach(0), requests.attach(1));
    inside.remain(true);
    assert_eq!(access(&mut inside), []);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            requests.wait(&requests.post(leaves()));
            done.store(true, Relaxed);
        });
        while requests.requests().sent == 0 {
            std::thread::yield_now();
        }
        for _ in 0..100 {
            std::thread::yield_now();
            assert!(!done.load(Relaxed), "the core has not been out since");
        }
        assert_eq!(access(&mut inside), [Flush::All]);
        flusher.join().unwrap();
    });
    assert_eq!(requests.requests(), RequestCounts { sent: 1, skipped: 1, acknowledged: 1, invalidations: 1 });
    assert_eq!(access(&mut inside), []);
}

#[test]
fn a_core_that_comes_out_by_itself_has_answered() {
    let requests = <Requests>::new(1);
    let mut core = requests.attach(0);
    core.remain(true);
    access(&mut core);
    let pending = requests.post(leaves());
    core.exit();
    requests.wait(&pending);
    assert_eq!(access(&mut core), [Flush::All]);
    let counts = requests.requests();
    assert_eq!((counts.sent, counts.acknowledged, counts.invalidations), (1, 0, 1), "it entered, and asked itself");
    assert_eq!(access(&mut core), [], "the interrupt was for what is done");
}

#[test]
fn a_core_whose_guest_is_stopped_is_out_of_it() {
    let requests = <Requests>::new(1);
    let mut core = requests.attach(0);
    core.remain(true);
    access(&mut core);
    drop(core);
    requests.wait(&requests.post(leaves()));
    assert_eq!(requests.requests().skipped, 1);
    assert_eq!(access(&mut requests.attach(0)), [], "a core begins with empty caches");
}

#[test]
fn a_flush_of_one_page_on_one_core_waits_for_its_guest_and_concerns_no_other() {
    let requests = <Requests>::new(2);
    let (mut core, mut other) = (requests.attach(0), requests.attach(1));
    requests.post_local(0, Gpa::new(0x5000));
    let page = Flush::Leaves { range: GpaRange::around(Gpa::new(0x5001), 1), level: Hint::Unknown };
    assert_eq!((access(&mut core), access(&mut other)), (vec![page], vec![]));
    assert_eq!(access(&mut core), []);
    requests.post_local(0, Gpa::new(0x5000));
    requests.post_local(0, Gpa::new(0x6000));
    assert_eq!(access(&mut core), [Flush::All], "one page is remembered");
    assert_eq!((requests.counts().local, requests.requests()), (3, RequestCounts::default()));
}

#[test]
#[should_panic(expected = "driven by another")]
fn a_core_has_one_thread() {
    let requests = <Requests>::new(1);
    let _first = requests.attach(0);
    let _second = requests.attach(0);
}
