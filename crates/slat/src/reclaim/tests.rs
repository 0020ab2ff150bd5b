//! Grace periods and records, by one thread: who is waited for, and who is not. What orders the accesses is for models.

use super::*;
use crate::sync::Core;
use alloc::vec::Vec;

fn domain(readers: usize) -> Domain<Core> {
    Domain::new(readers).unwrap()
}

#[test]
fn r2_what_was_unlinked_waits_for_those_inside_and_for_nobody_else() {
    let domain = domain(2);
    let (mut early, mut late) = (domain.join().unwrap(), domain.join().unwrap());
    for _ in 0..3 {
        assert!(domain.is_over(domain.tag()), "nobody is inside");
        let inside = domain.enter(&mut early);
        let tag = domain.tag();
        for _ in 0..3 {
            assert!(!domain.is_over(tag), "somebody may see it");
            drop(domain.enter(&mut late));
        }
        drop(inside);
        assert!(domain.is_over(tag));
    }
}

#[test]
fn r2_one_who_comes_and_goes_holds_nothing_up() {
    let domain = domain(1);
    let mut reader = domain.join().unwrap();
    for _ in 0..3 {
        let tag = domain.tag();
        let rounds = (0..9).take_while(|_| {
            let _inside = domain.enter(&mut reader);
            !domain.is_over(tag)
        });
        assert_eq!(
            rounds.count(),
            1,
            "those that began after the unlinking saw nothing of it, and the second shows it"
        );
    }
}

#[test]
fn r2_a_section_can_be_left_for_a_while() {
    let domain = domain(1);
    let mut reader = domain.join().unwrap();
    let mut section = domain.enter(&mut reader);
    let tag = domain.tag();
    assert!(!domain.is_over(tag));
    assert!(section.outside(|_| domain.is_over(tag)));
    let tag = domain.tag();
    assert!(!domain.is_over(tag), "and is one again");
}

#[test]
fn records_are_bounded_and_given_again() {
    let domain = domain(3);
    let mut readers: Vec<_> = (0..3).map(|_| domain.join().unwrap()).collect();
    assert!(domain.join().is_none());
    assert_eq!(domain.tallies().count(), 3);
    let distinct = |a: usize, b: usize| !core::ptr::eq(domain.tally(&readers[a]), domain.tally(&readers[b]));
    assert!(distinct(0, 1) && distinct(1, 2) && distinct(0, 2));
    domain.leave(&mut readers[1]);
    assert!(domain.join().is_some() && domain.join().is_none());
}

#[test]
fn r2_what_a_reader_left_is_found_and_what_has_an_owner_is_let_alone() {
    let domain = domain(2);
    let (mut one, mut other) = (domain.join().unwrap(), domain.join().unwrap());
    let subtree = Subtree::new(crate::format::Fake::new(3), crate::addr::Hpa::new(0), crate::addr::Level::PAGE);
    domain.limbo(&mut one).push(subtree, domain.tag());
    let found = || {
        let mut found = Vec::new();
        domain.for_each_abandoned(|reader| found.push(domain.limbo(reader).len()));
        found
    };
    domain.leave(&mut other);
    assert_eq!(found(), [], "one has an owner, the other nothing");
    domain.leave(&mut one);
    assert_eq!(found(), [1]);
    assert_eq!(found(), [1], "and was given back");
    let mut next = domain.join().unwrap();
    assert_eq!(domain.limbo(&mut next).len(), 1, "the next owner goes on with it");
    assert_eq!(found(), []);
}

#[test]
fn r2_shared_values_are_dropped_with_their_last_owner() {
    let (count, counter) = (core::cell::Cell::new(0), alloc::rc::Rc::new(()));
    let shared = Shared::<_, Core>::new(counter.clone()).ok().unwrap();
    let owners: Vec<_> = (0..3).map(|_| shared.clone()).collect();
    drop(shared);
    for owner in owners {
        assert_eq!(alloc::rc::Rc::strong_count(&owner), 2, "all have one value");
        count.set(count.get() + 1);
    }
    assert_eq!((count.get(), alloc::rc::Rc::strong_count(&counter)), (3, 1));
}

#[test]
fn r2_a_version_is_freed_when_its_readers_are_gone() {
    let mut domain = domain(1);
    let mut reader = domain.join().unwrap();
    let value = alloc::sync::Arc::new(());
    let versions = || alloc::sync::Arc::strong_count(&value) - 1;
    let (published, mut publisher) = Published::<_, Core>::new((1, value.clone())).unwrap();
    let mut replace = |number| {
        let version = Prepared::new((number, value.clone())).unwrap();
        published.replace(version, &mut publisher, &domain)
    };
    let section = domain.enter(&mut reader);
    let read = published.read(section.inside());
    let retired = replace(2).try_free(&domain).expect_err("it is being read");
    assert_eq!((read.0, published.read(section.inside()).0, versions()), (1, 2, 2));
    drop(section);
    assert!(retired.try_free(&domain).is_ok());
    assert_eq!(versions(), 1);
    let retired = replace(3);
    assert_eq!(versions(), 2);
    retired.free_exclusive(&mut domain);
    assert_eq!(versions(), 1, "nobody is left to wait for");
    drop(published);
    assert_eq!(versions(), 0);
}

#[test]
fn r2_a_part_is_remembered_as_long_as_its_version_is_read() {
    let domain = domain(1);
    let mut reader = domain.join().unwrap();
    let (published, mut publisher) = Published::<_, Core>::new([10, 20]).unwrap();
    let mut remembered = Remembered::default();
    {
        let section = domain.enter(&mut reader);
        let version = published.read(section.inside());
        assert_eq!(version.recall(remembered), None);
        assert_eq!(version.remember(&mut remembered, |all| all.get(1)), Some(&20));
        assert_eq!(version.remember(&mut remembered, |all| all.get(2)), None);
        assert_eq!(version.recall(remembered), Some(&20), "what is not found is not remembered");
    }
    let retired = published.replace(Prepared::new([11, 21]).unwrap(), &mut publisher, &domain);
    assert!(retired.try_free(&domain).is_ok());
    let section = domain.enter(&mut reader);
    let version = published.read(section.inside());
    assert_eq!(version.recall(remembered), None, "another version has parts of its own");
    assert_eq!(version.remember(&mut remembered, |all| all.get(1)), Some(&21));
    assert_eq!(version.recall(remembered), Some(&21));
}

#[test]
fn one_at_a_time_has_the_lock() {
    let lock = TryLock::<u64, Core>::new(7);
    let mut guard = lock.try_lock().unwrap();
    assert!(lock.try_lock().is_none());
    *guard += 1;
    drop(guard);
    assert_eq!(lock.try_lock().map(|guard| *guard), Some(8));
}

#[test]
fn a_shortage_says_what_it_is() {
    assert_eq!(alloc::format!("{OutOfMemory}"), "out of memory");
}

#[test]
fn numbers_are_folded_into_a_power_of_two() {
    let next = core::cell::Cell::new(0);
    let folded = Folded::new(4, || next.replace(next.get() + 1)).unwrap();
    assert!((0..20).all(|number| *folded.at(number) == number % 4));
    assert_eq!(*folded.at(usize::MAX), 3);
}
