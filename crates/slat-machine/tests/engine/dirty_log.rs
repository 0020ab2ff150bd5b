//! The dirty log, by the rules of KVM's dirty_log_test, with guests that never stop writing.
//!
//! Guests write the number of the round to pages drawn at random. After each round's harvest, a page that was reported
//! holds this round's number or the one before; a page that was not reported and holds this round's number was written
//! after the harvest, and has to be in the next one. The next round begins when every guest has finished a write of
//! this one, so that no write is older than that.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use slat::addr::Gpa;
use slat::format::Format;
use slat::host::SlotId;
use slat::vm::{Budget, NewSlot, Pages, SlotError, SlotFlags};
use slat_machine::copy::Destination;
use slat_machine::memory::Source;
use slat_machine::program::{Order, Program};

use super::common::*;
use super::stage::Stage;

const BASE: u64 = (1 << 30) + 0x1fd * PAGE_SIZE;
const SLOT: SlotId = SlotId(3);
const VCPUS: u32 = 3;
/// Fewer where pages take longer to copy.
const ROUNDS: u64 = if PAGE_SIZE > 4096 { 5 } else { 16 };
/// An odd tail, as in KVM's test.
const BYTES: u64 = 8 * MIB + 3 * PAGE_SIZE;

/// How the host takes the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Take {
    /// Get, then clear what was got.
    GetAndClear,
    /// The same in steps that cover parts of it.
    InParts,
    /// Both in one.
    Harvest,
}

/// The number of the round, and the last one in which each guest has finished a write.
struct Rounds {
    now: AtomicU64,
    finished: Vec<AtomicU64>,
}

impl Rounds {
    fn new() -> Self {
        Self { now: AtomicU64::new(1), finished: (0..VCPUS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn have_all_finished(&self) -> bool {
        self.finished.iter().all(|finished| finished.load(Acquire) == self.now.load(Relaxed))
    }
}

/// Pages drawn at random, for ever.
fn draw_pages(id: u32) -> impl Iterator<Item = Gpa> {
    let pages = Program {
        base: Gpa::new(BASE),
        page_size: PAGE_SIZE,
        vcpus: 1,
        bytes_per_vcpu: BYTES,
        overlap: true,
        order: Order::Random,
        write_percent: 100,
        seed: 7,
    };
    (0..).flat_map(move |pass| pages.pass(id, pass)).map(|step| step.gpa)
}

fn take(worker: &mut TestWorker<'_, '_>, pages: Pages, how: Take) -> Vec<u64> {
    let mut bitmap = bitmap_for(pages);
    match how {
        Take::GetAndClear => {
            worker.get_dirty(SLOT, pages, &mut bitmap).unwrap();
            clear_dirty(worker, SLOT, pages, &bitmap, Budget::UNLIMITED).unwrap();
        }
        Take::InParts => {
            for first in (0..pages.count).step_by(448) {
                let part = Pages { first, count: (pages.count - first).min(448) };
                let words = &mut bitmap[(first / 64) as usize..][..part.count.div_ceil(64) as usize];
                worker.get_dirty(SLOT, part, words).unwrap();
                clear_dirty(worker, SLOT, part, words, Budget::entries(20)).unwrap();
            }
        }
        Take::Harvest => {
            harvest(worker, SLOT, pages, &mut bitmap, Budget::entries(700)).unwrap();
        }
    }
    bitmap
}

/// KVM's rules for what one round reported; `due` is what has to be reported in the next.
fn check(round: u64, bitmap: &[u64], value_of: impl Fn(u64) -> u64, pages: u64, due: &mut [bool]) {
    for page in 0..pages {
        let value = value_of(page);
        let reported = is_set(bitmap, page);
        assert!(reported || !due[page as usize], "page {page} was written before round {round} and is not reported");
        due[page as usize] = false;
        if reported {
            assert!(value == round || value + 1 == round, "page {page} is reported in round {round} and holds {value}");
        } else {
            assert!(value <= round);
            due[page as usize] = value == round;
        }
    }
}

fn log_is_complete(source: Source, flags: SlotFlags, how: Take) {
    log_is_complete_beside(source, flags, how, |_, _| {});
}

/// `disturb` is called in each round, beside the guests.
fn log_is_complete_beside(
    source: Source,
    flags: SlotFlags,
    how: Take,
    mut disturb: impl FnMut(&mut TestWorker<'_, '_>, u64),
) {
    let machine = machine(BYTES, source, VCPUS);
    let vm = vm(&machine);
    let mut worker = worker(&vm);
    worker.create_slot(SLOT, slot(BASE, BYTES, 0)).unwrap();
    for page in 0..BYTES / PAGE_SIZE / 2 {
        vcpu(&vm, 0).store(page_gpa(BASE, page), 0).unwrap();
    }
    set_flags(&mut worker, SLOT, flags, Budget::entries(100));
    let pages = all_pages(&machine);
    let destination = Destination::with_page_size(BYTES, PAGE_SIZE).unwrap();
    let (stage, rounds) = (Stage::default(), Rounds::new());
    std::thread::scope(|scope| {
        let (_curtain, rounds) = (stage.curtain(), &rounds);
        for id in 0..VCPUS {
            let mut pages = draw_pages(id);
            stage.guest(scope, &vm, id, move |vcpu| {
                let round = rounds.now.load(Acquire);
                vcpu.store(pages.next().unwrap(), round).unwrap();
                rounds.finished[id as usize].store(round, Release);
            });
        }
        destination.copy_everything(machine.memory());
        let mut due = vec![false; pages.count as usize];
        for round in 1..=ROUNDS {
            disturb(&mut worker, round);
            stage.wait_until(|| rounds.have_all_finished());
            let bitmap = take(&mut worker, pages, how);
            destination.copy_named(machine.memory(), 0, &bitmap);
            // An initially set log reports pages that nobody wrote, the first time.
            if round > 1 || flags.log != LOGGED_INITIALLY_SET.log {
                check(round, &bitmap, |page| machine.memory().load(page * PAGE_SIZE), pages.count, &mut due);
            }
            worker.top_up(64).unwrap();
            rounds.now.store(round + 1, Release);
        }
    });
    // The guests are out: one harvest more, and both sides are the same.
    let mut bitmap = bitmap_for(pages);
    assert_eq!(harvest(&mut worker, SLOT, pages, &mut bitmap, Budget::UNLIMITED), Ok(true));
    destination.copy_named(machine.memory(), 0, &bitmap);
    assert_eq!(destination.first_difference(machine.memory()), None);
}

#[test]
fn the_log_of_pages_is_complete_by_get_and_clear() {
    log_is_complete(Source::Anonymous, LOGGED, Take::GetAndClear);
}

#[test]
fn the_log_of_pages_is_complete_by_harvest() {
    log_is_complete(Source::Anonymous, LOGGED, Take::Harvest);
}

#[test]
fn the_log_of_pages_is_complete_in_parts() {
    log_is_complete(Source::Anonymous, LOGGED, Take::InParts);
}

#[test]
fn the_log_of_blocks_is_complete_by_get_and_clear() {
    log_is_complete(Source::AnonymousThp, LOGGED, Take::GetAndClear);
}

#[test]
fn the_log_of_blocks_is_complete_by_harvest() {
    log_is_complete(Source::AnonymousThp, LOGGED, Take::Harvest);
}

#[test]
fn an_initially_set_log_is_complete_by_get_and_clear() {
    log_is_complete(Source::AnonymousThp, LOGGED_INITIALLY_SET, Take::GetAndClear);
}

#[test]
fn an_initially_set_log_is_complete_in_parts() {
    log_is_complete(Source::AnonymousThp, LOGGED_INITIALLY_SET, Take::InParts);
}

/// The tests of a log that hardware keeps, for formats whose hardware can; others have to refuse it.
fn by_hardware(test: impl FnOnce()) {
    if super::subject::format().hardware_dirty() {
        return test();
    }
    let machine = machine(BYTES, Source::Anonymous, VCPUS);
    let vm = vm(&machine);
    let mut worker = worker(&vm);
    let logged = NewSlot { flags: LOGGED_BY_HARDWARE, ..slot(BASE, BYTES, 0) };
    assert_eq!(worker.create_slot(SLOT, logged), Err(SlotError::LogMode));
    worker.create_slot(SLOT, slot(BASE, BYTES, 0)).unwrap();
    assert_eq!(worker.set_flags(SLOT, LOGGED_BY_HARDWARE, Budget::UNLIMITED), Err(SlotError::LogMode));
}

#[test]
fn the_log_that_hardware_keeps_is_complete_by_get_and_clear() {
    by_hardware(|| log_is_complete(Source::AnonymousThp, LOGGED_BY_HARDWARE, Take::GetAndClear));
}

#[test]
fn the_log_that_hardware_keeps_is_complete_by_harvest() {
    by_hardware(|| log_is_complete(Source::Anonymous, LOGGED_BY_HARDWARE, Take::Harvest));
}

#[test]
fn the_log_that_hardware_keeps_is_complete_in_parts() {
    by_hardware(|| log_is_complete(Source::AnonymousThp, LOGGED_BY_HARDWARE, Take::InParts));
}

/// What hardware has noted goes with the entries that are taken away, and must not be lost.
#[test]
fn the_log_that_hardware_keeps_survives_unmapping_and_ageing() {
    by_hardware(|| {
        for how in [Take::Harvest, Take::GetAndClear] {
            log_is_complete_beside(Source::Anonymous, LOGGED_BY_HARDWARE, how, |worker, round| {
                let all = range(BASE, BYTES);
                match round % 4 {
                    0 => assert!(worker.unmap(all, Budget::UNLIMITED).unwrap().is_done()),
                    1 => _ = worker.unmap(range(BASE + round * 64 * PAGE_SIZE, 100 * PAGE_SIZE), Budget::UNLIMITED),
                    2 => _ = worker.age(all, Budget::UNLIMITED).unwrap(),
                    _ => _ = worker.write_protect(all, Budget::UNLIMITED).unwrap(),
                }
                let _ = worker.reclaim(Budget::UNLIMITED);
            });
        }
    });
}

/// Pages 0 to 1,023 are written, each time without a fault but the first; then some are unmapped in one way or another.
#[test]
fn what_hardware_has_noted_is_in_the_next_harvest_whatever_became_of_its_page() {
    by_hardware(|| {
        const PAGES: u64 = 1024;
        type Away = fn(&mut TestWorker<'_, '_>);
        let ways: [Away; 5] = [
            |_| {},
            |worker| assert!(worker.unmap(range(BASE + 3 * PAGE_SIZE, 700 * PAGE_SIZE), Budget::entries(100)).is_ok()),
            |worker| assert!(worker.unmap(range(0, 1 << 32), Budget::UNLIMITED).unwrap().is_done()),
            |worker| assert!(worker.annotate(range(BASE, 900 * PAGE_SIZE), 1, Budget::UNLIMITED).unwrap().is_done()),
            |worker| assert!(worker.write_protect(range(BASE, 900 * PAGE_SIZE), Budget::UNLIMITED).unwrap().is_done()),
        ];
        for (number, away) in ways.into_iter().enumerate() {
            let machine = machine(BYTES, Source::Anonymous, VCPUS);
            let vm = vm(&machine);
            let mut worker = worker(&vm);
            worker.create_slot(SLOT, NewSlot { flags: LOGGED_BY_HARDWARE, ..slot(BASE, BYTES, 0) }).unwrap();
            let pages = all_pages(&machine);
            let mut guest = vcpu(&vm, 0);
            let mut write = |value| (0..PAGES).for_each(|page| guest.store(page_gpa(BASE, page), value).unwrap());
            let mut bitmap = bitmap_for(pages);
            write(1);
            assert_eq!(harvest(&mut worker, SLOT, pages, &mut bitmap, Budget::UNLIMITED), Ok(true));
            let faults = vm.statistics().relaxed + vm.statistics().mapped;
            write(2);
            assert_eq!(vm.statistics().relaxed + vm.statistics().mapped, faults, "hardware needs no fault");
            away(&mut worker);
            bitmap.fill(0);
            assert_eq!(harvest(&mut worker, SLOT, pages, &mut bitmap, Budget::UNLIMITED), Ok(true));
            let reported = (0..pages.count).filter(|&page| is_set(&bitmap, page)).count();
            assert_eq!(reported as u64, PAGES, "way {number}");
            assert!((0..PAGES).all(|page| is_set(&bitmap, page)), "way {number}");
        }
    });
}
