//! What the threads do by chance.

use slat::format::Format;
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{
    Budget, Collapse, Harvest, LogError, LogMode, LogProgress, Mapping, Pages, Progress, SlotError, SlotFlags, Vcpu,
    Vm, Worker,
};
use slat_machine::Machine;
use slat_machine::cpu::{Cpu, Exit};
use slat_spec::Operation;

use super::notes::{BLOCK_PAGES, MET, Notes, gpa, range, refused};
use crate::play::Dice;
use crate::subject::Subject;

pub(super) const SLOT: SlotId = SlotId(0);
pub(super) const GUESTS: u32 = 2;
const STEPS: usize = 60;
const CHANGES: u64 = 12;
const ALL: Budget = Budget::UNLIMITED;
const PAGES: Pages = Pages { first: 0, count: BLOCK_PAGES };

pub(super) type PlainVm<'m, S> = Vm<&'m Machine, <S as Subject>::Format>;
type Bitmap = [u64; (BLOCK_PAGES / 64) as usize];

fn has(bitmap: &Bitmap, page: u64) -> bool {
    bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0
}

/// A guest that writes, by hardware alone, beside a vCPU that serves faults and looks.
pub(super) fn guest<S: Subject>(machine: &Machine, vm: &PlainVm<'_, S>, notes: &Notes, id: u32, seed: u64) {
    let mut vcpu = Vcpu::new(vm, VcpuId(id)).unwrap();
    let mut cpu = Cpu::new(machine, VcpuId(id), vm.root().unwrap());
    let mut dice = Dice(seed ^ u64::from(id + 1) << 32);
    for step in 0..STEPS {
        notes.go_on(step);
        let page = MET[dice.below(MET.len() as u64) as usize];
        vcpu.top_up(4).unwrap();
        match dice.below(6) {
            0 => {
                let look = |seen: &Option<Mapping>, other| {
                    let looked = Operation::Looked(seen.map(|mapping| mapping.permissions.write()));
                    if other == page { vec![looked] } else { Vec::new() }
                };
                notes.call(|| vcpu.lookup(gpa(page)), look);
            }
            1 | 2 => {
                let done = |did: &Result<(), Exit>, other| notes.written(page, did.is_ok(), other);
                let did = notes.call(|| cpu.store(gpa(page), seed), done);
                assert!(matches!(did, Ok(()) | Err(Exit::Fault(_))), "{did:?}");
            }
            roll => {
                let access = if roll == 3 { Access::Read } else { Access::Write };
                let fault = || vcpu.fault(gpa(page), access);
                let _ = notes.call(fault, |outcome, other| notes.faulted(page, access, *outcome, other));
            }
        }
    }
}

/// A worker, by its number.
pub(super) fn work<S: Subject>(vm: &PlainVm<'_, S>, notes: &Notes, by: u8, seed: u64) {
    let mut hand = Hand::<S> { worker: Worker::new(vm).unwrap(), notes, by };
    let mut dice = Dice(seed);
    for step in 0..STEPS {
        notes.go_on(step);
        let first = MET[dice.below(3) as usize];
        let count = 1 + dice.below(3 - first);
        hand.worker.top_up(dice.below(3) as usize).unwrap();
        match dice.below(8) {
            0 => hand.unmap(first, count),
            1 => hand.protect(first, count),
            2 => hand.harvest(),
            3 | 4 => hand.clear(),
            5 => hand.collapse(Collapse::InPlace),
            6 => hand.collapse(Collapse::Lazily),
            _ if dice.below(2) == 0 => hand.unmap(0, BLOCK_PAGES),
            _ => hand.clear(),
        }
        let _ = hand.worker.reclaim(ALL);
    }
}

/// A worker that changes the slot's flags, by its number, all the time that the others are at work. From one log to another,
/// they come by none.
pub(super) fn change_flags<S: Subject>(vm: &PlainVm<'_, S>, notes: &Notes, by: u8, seed: u64) {
    let mut worker = Worker::new(vm).unwrap();
    let mut dice = Dice(seed);
    let hardware = if S::format().hardware_dirty() { LogMode::Hardware } else { LogMode::Protect };
    let on = |log| SlotFlags { read_only: false, log: Some(log) };
    let others =
        [on(LogMode::Protect), on(LogMode::InitiallySet), on(hardware), SlotFlags { read_only: true, log: None }];
    // Four threads make so many calls, and the clock ticks twice in each.
    let end = 4 * 2 * STEPS as u64;
    for step in 0..CHANGES {
        notes.wait_for(step * end / CHANGES);
        let flags = if step % 2 == 1 { SlotFlags::default() } else { others[dice.below(4) as usize] };
        let changed = |did: &Result<Progress, SlotError>, _| match did {
            Ok(_) => {
                let settled = [Operation::Settled { by }, Operation::FlushedFor { by }];
                [Operation::Announced(flags.into())].into_iter().chain(settled).chain(notes.dissolved()).collect()
            }
            Err(_) => Vec::new(),
        };
        while let Err(error) = notes.call(|| worker.set_flags(SLOT, flags, ALL), changed) {
            assert_eq!(error, SlotError::Busy);
            std::thread::yield_now();
        }
    }
}

struct Hand<'v, 'm, S: Subject> {
    worker: Worker<&'v PlainVm<'m, S>>,
    notes: &'v Notes,
    by: u8,
}

impl<S: Subject> Hand<'_, '_, S> {
    fn unmap(&mut self, first: u64, count: u64) {
        let (worker, notes) = (&mut self.worker, self.notes);
        let meant = |page: u64| (first..first + count).contains(&page);
        let unmapped = |did: &Progress, page| notes.on_range(did, meant(page), |meant| Operation::Unmapped { meant });
        let _ = notes.call(|| worker.unmap(range(first, count), ALL).unwrap(), unmapped);
    }

    fn protect(&mut self, first: u64, count: u64) {
        let (worker, notes) = (&mut self.worker, self.notes);
        let meant = |page: u64| (first..first + count).contains(&page);
        let protected = |did: &Progress, page| notes.on_range(did, meant(page), |meant| Operation::Protected { meant });
        let _ = notes.call(|| worker.write_protect(range(first, count), ALL).unwrap(), protected);
    }

    fn collapse(&mut self, how: Collapse) {
        let (worker, notes) = (&mut self.worker, self.notes);
        let collapsed = match how {
            Collapse::InPlace => Operation::Collapsed,
            Collapse::Lazily => Operation::Dropped,
        };
        let collapse = || worker.collapse(range(0, BLOCK_PAGES), how, ALL).unwrap();
        let moved = notes.if_noted(Operation::Moved);
        let _ = notes.call(collapse, |_, _| [collapsed].into_iter().chain(moved).collect());
    }

    fn harvest(&mut self) {
        let (worker, notes) = (&mut self.worker, self.notes);
        let whole = || {
            let mut bitmap = Bitmap::default();
            (worker.harvest(SLOT, PAGES, &mut bitmap, ALL), bitmap)
        };
        let harvested = |(did, bitmap): &(Result<Harvest, LogError>, Bitmap), page: u64| match did {
            Ok(harvest) => {
                let dirty = has(bitmap, page);
                // Beside another taker it may miss a mark, and says then that it is not complete.
                let taken = (dirty || harvest.complete).then_some(Operation::Harvested { dirty });
                let secured = dirty.then_some([Operation::Secured, Operation::Flushed]);
                let beside = taken.is_none().then_some(Operation::TookBeside);
                taken.into_iter().chain(secured.into_iter().flatten()).chain(beside).chain(notes.dissolved()).collect()
            }
            Err(error) => refused(*error),
        };
        let _ = notes.call(whole, harvested);
    }

    /// Reads the log, and clears what was in it.
    fn clear(&mut self) {
        let (worker, notes, by) = (&mut self.worker, self.notes, self.by);
        let mut bitmap = Bitmap::default();
        let get = || (worker.get_dirty(SLOT, PAGES, &mut bitmap), bitmap);
        let read = |(did, bitmap): &(Result<u64, LogError>, Bitmap), page: u64| match did {
            Ok(_) => {
                let read = notes.read(has(bitmap, page), by);
                let collected = notes.if_noted(Operation::Collected { by });
                let after = collected.into_iter().chain([Operation::FlushedFor { by }]);
                read.into_iter().chain(after).chain(notes.dissolved()).collect()
            }
            Err(error) => refused(*error),
        };
        let (_, bitmap) = notes.call(get, read);
        let cleared = |did: &Result<LogProgress, LogError>, page: u64| match did {
            Ok(progress) => {
                let cleared = match has(&bitmap, page) {
                    true => vec![Operation::Cleared { by }, Operation::Withheld { by }, Operation::FlushedFor { by }],
                    false => vec![Operation::TookBeside],
                };
                let met = progress.widened.then_some(Operation::Protected { meant: false });
                cleared.into_iter().chain(met).chain(notes.dissolved()).collect()
            }
            Err(error) => refused(*error),
        };
        let _ = notes.call(|| worker.clear_dirty(SLOT, PAGES, &bitmap, ALL), cleared);
    }
}
