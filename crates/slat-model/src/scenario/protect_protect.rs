//! Two protections of one page (R8): who finds nothing to change returns only when the other's change is flushed.

use slat::vm::Pages;

use crate::book::{self, Event};
use crate::oracle::PageSet;
use crate::run::{Scenario, Thread};
use crate::stage::{ALL, LOGGED, PLAIN, SLOT, Stage, WRITE};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Setup, pages};

/// Two workers write-protect the page that a guest writes to through its TLB.
pub const RANGE: Scenario = Scenario::new("protect_protect/range", range::<Loom>, range::<Shuttle>);

/// One worker write-protects a page, another clears its mark: neither write permission nor write outlives either.
pub const CLEAR: Scenario = Scenario::new("protect_protect/clear", clear::<Loom>, clear::<Shuttle>);

fn range<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 1, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let mut second = stage.worker();
    let world = stage.world.clone();
    let protecting = Thread::<T, _>::spawn(move || {
        assert!(second.write_protect(pages(0, 1), ALL).expect("a good range").is_done());
        world.declare(|oracle| oracle.read_only = PageSet::range(0, 1));
        book::note(Event::Note("the second protection is done"));
    });
    // Hardware alone: no fault gives the permission back.
    let using = Thread::<T, _>::spawn(move || {
        guest.try_access(0, WRITE);
        guest.try_access(0, WRITE);
    });
    assert!(worker.write_protect(pages(0, 1), ALL).expect("a good range").is_done());
    stage.world.declare(|oracle| oracle.read_only = PageSet::range(0, 1));
    book::note(Event::Note("the first protection is done"));
    protecting.join();
    using.join();
    drop(worker);
    stage.close();
}

fn clear<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 1, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let mut second = stage.worker();
    let protecting = Thread::<T, _>::spawn(move || {
        assert!(second.write_protect(pages(0, 1), ALL).expect("a good range").is_done());
    });
    let using = Thread::<T, _>::spawn(move || {
        guest.try_access(0, WRITE);
    });
    let page = Pages { first: 0, count: 1 };
    assert!(worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot").is_done());
    // The mark is gone and the page is copied: a write from now on has to fault first.
    stage.world.declare(|oracle| oracle.copied(PageSet::range(0, 1)));
    book::note(Event::Note("the mark is cleared"));
    protecting.join();
    using.join();
    stage.last_harvest(&mut worker, 1);
    drop(worker);
    stage.close();
}
