//! The protocol under loom.

use loom::cell::UnsafeCell;
use loom::sync::Arc;

use super::*;
use crate::explore::{Model, WithoutFences, explore};

/// A page, the entry that maps it, and the machine around them.
struct World<A: Atomics> {
    requests: Requests<A>,
    /// 1 while the page is mapped.
    entry: A::Word,
    /// loom reports it when a guest's access and what the host does after its flush are not ordered.
    page: UnsafeCell<u64>,
}

// SAFETY: `page` is what the protocol protects; loom checks each access to it.
#[allow(unsafe_code)]
unsafe impl<A: Atomics> Sync for World<A> {}
// SAFETY: nothing in it is tied to a thread.
#[allow(unsafe_code)]
unsafe impl<A: Atomics> Send for World<A> {}

impl<A: Atomics> World<A> {
    fn new(cores: u32) -> Arc<Self> {
        Arc::new(Self { requests: Requests::new(cores), entry: A::Word::new(1), page: UnsafeCell::new(0) })
    }

    /// A guest that writes to the page so often, as long as it finds it mapped, in stays of the length that is asked for.
    fn guest(&self, core: u32, accesses: u32, remains: bool) {
        let mut core = self.requests.attach(core);
        core.remain(remains);
        let mut cached = false;
        for _ in 0..accesses {
            core.enter(|_| cached = false);
            cached |= self.entry.load(Acquire) == 1;
            if cached {
                self.write_page();
            }
            core.leave();
        }
    }

    fn flush(&self) {
        self.requests.wait(&self.requests.post(Flush::All));
    }

    /// Unmaps the page, and uses it for something else once the flush is complete.
    fn unmap(&self) {
        self.entry.store(0, Release);
        self.flush();
        self.write_page();
    }

    #[allow(unsafe_code)]
    fn write_page(&self) {
        self.page.with_mut(|page| {
            // SAFETY: loom has just checked that nobody else is at the page.
            unsafe { *page += 1 }
        });
    }
}

fn guest_and_host<A: Atomics>(preemptions: usize, accesses: u32, remains: bool) {
    explore(preemptions, move || {
        let world = World::<A>::new(1);
        let guest = world.clone();
        let thread = loom::thread::spawn(move || guest.guest(0, accesses, remains));
        world.unmap();
        thread.join().unwrap();
    });
}

#[test]
fn nobody_is_at_a_page_after_its_flush() {
    guest_and_host::<Model>(4, 2, false);
}

#[test]
fn nobody_who_stays_in_its_guest_is_at_a_page_after_its_flush() {
    guest_and_host::<Model>(4, 3, true);
}

#[test]
fn a_flush_is_not_lost_among_others() {
    explore(2, || {
        let world = World::<Model>::new(1);
        let (guest, other) = (world.clone(), world.clone());
        let threads =
            [loom::thread::spawn(move || guest.guest(0, 2, true)), loom::thread::spawn(move || other.flush())];
        world.unmap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// A guest that never comes out by itself answers everybody who has asked it. Two at once set one interrupt: whoever
/// clears it has to see both tickets, or one of them waits for ever.
#[test]
fn an_interrupt_that_two_have_sent_is_an_answer_to_both() {
    explore(3, || {
        let world = World::<Model>::new(1);
        let mut core = world.requests.attach(0);
        core.remain(true);
        core.enter(|_| ());
        let threads = [0, 1].map(|_| {
            let other = world.clone();
            loom::thread::spawn(move || other.requests.post(Flush::All).ticket)
        });
        core.enter(|_| ());
        let tickets = threads.map(|thread| thread.join().unwrap());
        core.enter(|_| ());
        let word = world.requests.lines[0].word.load(Acquire);
        assert!(tickets.into_iter().all(|ticket| State::of(word).has_done(ticket)), "a request was lost");
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_missing_fences_are_found() {
    guest_and_host::<WithoutFences>(4, 2, false);
}
