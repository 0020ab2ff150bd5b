//! The protocol under loom: every interleaving, and every value that fences, acquires and releases allow.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use slat::addr::GpaRange;

use super::*;
use crate::explore::{Model, ModelWord, explore};

/// A page, the entry that maps it, and the machine around them.
struct World {
    broadcast: Broadcast<Model>,
    /// 1 while the page is mapped.
    entry: ModelWord,
    /// loom reports it when a guest's access and what the host does after its flush are not ordered.
    page: UnsafeCell<u64>,
}

// SAFETY: `page` is what the protocol protects; loom checks each access to it.
#[allow(unsafe_code)]
unsafe impl Sync for World {}
// SAFETY: nothing in it is tied to a thread.
#[allow(unsafe_code)]
unsafe impl Send for World {}

impl World {
    fn new(cores: u32) -> Arc<Self> {
        let broadcast = Broadcast::with_ring(cores, 2);
        Arc::new(Self { broadcast, entry: ModelWord::new(1), page: UnsafeCell::new(0) })
    }

    /// A guest that writes to the page in so many windows, as long as it finds it mapped.
    fn guest(&self, core: u32, windows: u32) {
        let mut core = self.broadcast.attach(core);
        let mut cached = false;
        for _ in 0..windows {
            core.enter(|flush| cached &= flush == leaves(ELSEWHERE));
            cached |= self.entry.load(Acquire) == 1;
            if cached {
                self.write_page();
            }
            core.leave();
        }
    }

    /// Unmaps the page, and uses it for something else once the flush is complete.
    fn unmap(&self) {
        self.entry.store(0, Release);
        self.broadcast.wait(&self.broadcast.post(leaves(PAGE)));
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

const PAGE: u64 = 0;
const ELSEWHERE: u64 = 1 << 30;

fn leaves(at: u64) -> Flush {
    Flush::Leaves { range: GpaRange::around(Gpa::new(at), 4096), level: Hint::Unknown }
}

#[test]
fn nobody_is_at_a_page_after_its_flush() {
    explore(4, || {
        let world = World::new(1);
        let guest = world.clone();
        let thread = loom::thread::spawn(move || guest.guest(0, 2));
        world.unmap();
        thread.join().unwrap();
    });
}

#[test]
fn a_flush_is_not_lost_among_others() {
    explore(2, || {
        let world = World::new(1);
        let (guest, other) = (world.clone(), world.clone());
        let threads = [
            loom::thread::spawn(move || guest.guest(0, 2)),
            loom::thread::spawn(move || other.broadcast.wait(&other.broadcast.post(leaves(ELSEWHERE)))),
        ];
        world.unmap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_place_is_read_whole_or_not_at_all() {
    explore(4, || {
        let ring = Arc::new(Ring::<Model>::new(1));
        ring.write(0, leaves(PAGE));
        let other = ring.clone();
        let thread = loom::thread::spawn(move || other.write(1, leaves(ELSEWHERE)));
        assert!([None, Some(leaves(PAGE))].contains(&ring.read(0)));
        thread.join().unwrap();
        assert_eq!(ring.read(1), Some(leaves(ELSEWHERE)));
    });
}

#[test]
fn of_two_who_write_a_place_at_once_none_is_read_in_parts() {
    explore(4, || {
        let ring = Arc::new(Ring::<Model>::new(1));
        let other = ring.clone();
        let thread = loom::thread::spawn(move || other.write(1, leaves(ELSEWHERE)));
        ring.write(0, leaves(PAGE));
        thread.join().unwrap();
        assert!([None, Some(leaves(PAGE))].contains(&ring.read(0)));
        assert!([None, Some(leaves(ELSEWHERE))].contains(&ring.read(1)));
    });
}
