//! A VM on the machine, as all of these tests use it.

use slat::addr::{Gpa, GpaRange, HostAddress, Level};
use slat::format::Format;
use slat::host::{SlotId, VcpuId};
use slat::vm::{
    Budget, Config, LogError, LogMode, NewSlot, Pages, Progress, RangeError, SlotError, SlotFlags, Statistics,
    Teardown, Vcpu, Vm, Worker,
};
use slat_machine::memory::Source;
use slat_machine::{Machine, MachineConfig, Runner};

use super::subject;

pub(crate) type TestVm<'m> = Vm<&'m Machine, subject::Format>;
pub(crate) type TestVcpu<'v, 'm> = Runner<'m, Vcpu<&'v TestVm<'m>>>;
pub(crate) type TestWorker<'v, 'm> = Worker<&'v TestVm<'m>>;

/// Bytes in a page, and in what a table of pages maps.
pub(crate) const PAGE_SIZE: u64 = 1 << subject::PAGE_SHIFT;
pub(crate) const BLOCK: u64 = PAGE_SIZE * BLOCK_PAGES;
pub(crate) const BLOCK_PAGES: u64 = PAGE_SIZE / 8;
/// Blocks that a test takes where it may have several: they are of 512 MiB where a page has 64 KiB.
pub(crate) const BLOCKS: u64 = if PAGE_SIZE > 16 << 10 { 2 } else { 4 };
/// 256 pages: a mebibyte, where a page has 4 KiB.
pub(crate) const MIB: u64 = 256 * PAGE_SIZE;
pub(crate) const LOGGED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Protect) };
pub(crate) const LOGGED_BY_HARDWARE: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Hardware) };
pub(crate) const LOGGED_INITIALLY_SET: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::InitiallySet) };
pub(crate) const UNLOGGED: SlotFlags = SlotFlags { read_only: false, log: None };

/// As many rounds as a test makes of pages of 4 KiB, or fewer where pages take longer to copy, and blocks to fill.
pub(crate) const fn rounds(of_small_pages: u64) -> u64 {
    let rounds = of_small_pages * 4096 / PAGE_SIZE;
    if rounds > 3 { rounds } else { 3 }
}

/// Pages that one fault maps, where all of them may be mapped: a contiguous group's, if the format has groups.
pub(crate) fn group() -> u64 {
    1 << subject::format().group_bits(Level::PAGE)
}

pub(crate) fn machine(memory: u64, source: Source, cores: u32) -> Machine {
    Machine::new(MachineConfig::new(memory, source, cores), subject::walker()).unwrap()
}

/// A machine whose guest sees the first `movable` bytes, which may come to lie anywhere in its memory.
pub(crate) fn machine_that_moves(memory: u64, movable: u64, source: Source, cores: u32) -> Machine {
    let config = MachineConfig { movable: Some(movable / PAGE_SIZE), ..MachineConfig::new(memory, source, cores) };
    Machine::new(config, subject::walker()).unwrap()
}

pub(crate) fn vm(machine: &Machine) -> TestVm<'_> {
    let config = Config { vcpus: machine.cores(), workers: 4, ..Config::default() };
    Vm::new(machine, subject::format(), config).unwrap()
}

pub(crate) fn vcpu<'v, 'm>(vm: &'v TestVm<'m>, id: u32) -> TestVcpu<'v, 'm> {
    Runner::new(vm.host(), VcpuId(id), vm.root().unwrap(), Vcpu::new(vm, VcpuId(id)).unwrap())
}

pub(crate) fn worker<'v, 'm>(vm: &'v TestVm<'m>) -> TestWorker<'v, 'm> {
    let mut worker = Worker::new(vm).unwrap();
    worker.top_up(64).unwrap();
    worker
}

pub(crate) fn range(start: u64, bytes: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(start), bytes).unwrap()
}

/// A slot at `start` whose memory begins at `offset` of the machine's.
pub(crate) fn slot(start: u64, bytes: u64, offset: u64) -> NewSlot {
    NewSlot { range: range(start, bytes), host: HostAddress::new(offset), flags: UNLOGGED }
}

/// A VM with one slot, number 0, of all the machine's memory at `base`.
pub(crate) fn vm_with_memory<'m>(machine: &'m Machine, base: u64) -> TestVm<'m> {
    let vm = vm(machine);
    worker(&vm).create_slot(SlotId(0), slot(base, machine.memory().len(), 0)).unwrap();
    vm
}

pub(crate) fn all_pages(machine: &Machine) -> Pages {
    Pages { first: 0, count: machine.memory().pages() }
}

pub(crate) fn bitmap_for(pages: Pages) -> Vec<u64> {
    vec![0; pages.count.div_ceil(64) as usize]
}

pub(crate) fn is_set(bitmap: &[u64], page: u64) -> bool {
    bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0
}

/// Calls a change of a slot until it is done, again and again while another thread is changing slots.
fn finish(mut step: impl FnMut() -> Result<Progress, SlotError>) -> u64 {
    let mut changed = 0;
    loop {
        match step() {
            Ok(progress) => {
                changed += progress.changed;
                if progress.is_done() {
                    return changed;
                }
            }
            Err(SlotError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Goes over `range` in steps that each go on where the last one stopped.
pub(crate) fn step_over(range: GpaRange, mut step: impl FnMut(GpaRange) -> Result<Progress, RangeError>) -> u64 {
    let (mut rest, mut changed) = (range, 0);
    loop {
        let progress = step(rest).unwrap();
        changed += progress.changed;
        match progress.next {
            Some(next) => {
                // A step that met somebody else's work may come no further than it began.
                assert!(rest.contains(next), "{range} goes on at {next} after {rest}");
                rest = range.from(next);
            }
            None => return changed,
        }
    }
}

pub(crate) fn set_flags(worker: &mut TestWorker<'_, '_>, id: SlotId, flags: SlotFlags, budget: Budget) -> u64 {
    finish(|| worker.set_flags(id, flags, budget))
}

pub(crate) fn delete_slot(worker: &mut TestWorker<'_, '_>, id: SlotId, budget: Budget) -> u64 {
    finish(|| worker.delete_slot(id, budget))
}

/// Takes the whole log by harvests of at most `budget`; the last one's word on whether it was complete.
pub(crate) fn harvest(
    worker: &mut TestWorker<'_, '_>,
    id: SlotId,
    pages: Pages,
    bitmap: &mut [u64],
    budget: Budget,
) -> Result<bool, LogError> {
    let mut at = pages.first;
    loop {
        let left = Pages { first: at, count: pages.first + pages.count - at };
        let mut part = bitmap_for(left);
        let harvest = worker.harvest(id, left, &mut part, budget)?;
        for page in (0..left.count).filter(|&page| is_set(&part, page)) {
            let page = at - pages.first + page;
            bitmap[(page / 64) as usize] |= 1 << (page % 64);
        }
        match harvest.next {
            Some(next) => at = next,
            None => return Ok(harvest.complete),
        }
    }
}

/// Clears what `bitmap` names, in steps of at most `budget`.
pub(crate) fn clear_dirty(
    worker: &mut TestWorker<'_, '_>,
    id: SlotId,
    pages: Pages,
    bitmap: &[u64],
    budget: Budget,
) -> Result<u64, LogError> {
    let (mut left, mut named, mut protected) = (pages, bitmap, 0);
    loop {
        let progress = worker.clear_dirty(id, left, named, budget)?;
        protected += progress.protected;
        let Some(next) = progress.next else { return Ok(protected) };
        let done = next - left.first;
        assert!(done > 0 && done.is_multiple_of(64), "the rest of the bitmap begins at page {next} after {left:?}");
        named = &named[(done / 64) as usize..];
        left = Pages { first: next, count: left.count - done };
    }
}

pub(crate) fn tear_down(worker: &mut TestWorker<'_, '_>, budget: Budget) {
    while worker.teardown(budget) == Teardown::More {}
}

/// What the VM counts is what the machine gave.
pub(crate) fn assert_tables_agree(vm: &TestVm<'_>) {
    assert_eq!(vm.statistics().tables, vm.host().tables_now(), "the VM and its host count different tables");
}

/// Nothing is held any more.
pub(crate) fn assert_nothing_held(statistics: Statistics, machine: &Machine) {
    assert_eq!((statistics.tables, machine.tables_now()), (0, 0), "tables are left");
    assert!(statistics.leaves.iter().all(|&leaves| leaves == 0), "leaves are left: {statistics:?}");
    assert_eq!(statistics.awaiting, 0, "something awaits a grace period");
}

pub(crate) fn page_gpa(base: u64, page: u64) -> Gpa {
    Gpa::new(base + page * PAGE_SIZE)
}
