//! Operations, words and texts by chance: sequences of operations against the specification, every encoder and decoder on
//! any word, every parser on any text. A failure is shrunk to the shortest that fails.

#[allow(dead_code, unused_imports, unused_macros)] // the checker's tests use all of it
#[path = "verify/subject.rs"]
mod subject;

use proptest::collection::vec;
use proptest::prelude::*;
use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use slat::format::{Change, Format, Kind, Leaf};
use slat::host::{Access, MemoryType, Permissions, SlotId, VcpuId};
use slat::vm::{Budget, Collapse, Config, LogMode, NewSlot, Pages, SlotFlags, Teardown, Vcpu, Vm, Worker};
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::walk::arm64::Vtcr;
use slat_machine::walk::ept;
use slat_machine::{Machine, MachineConfig};
use slat_spec::{Call, Fault, Operation, Page, Place, explain};

use subject::{Arm, Subject, X86, with_every_subject};

const BASE: u64 = 1 << 30;
const PAGES: u64 = 1024;
/// Pages that are watched: both ends of two regions.
const WATCHED: [u64; 5] = [0, 1, 511, 512, 1023];
const SLOT: SlotId = SlotId(0);
const CASES: u32 = 1_500;

const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };
const FLAGS: [SlotFlags; 4] = [
    PLAIN,
    SlotFlags { read_only: true, log: None },
    SlotFlags { read_only: false, log: Some(LogMode::Protect) },
    SlotFlags { read_only: false, log: Some(LogMode::InitiallySet) },
];

#[derive(Clone, Copy, Debug)]
enum Op {
    Fault(usize, bool),
    Unmap(u64, u64),
    Protect(u64, u64),
    Prefault(u64, u64, bool),
    Harvest(u64, u64),
    Clear(u64, u64),
    Flags(SlotFlags),
    Collapse(bool),
    Age(u64, u64),
    TopUp(usize),
    Reclaim,
}

fn part() -> impl Strategy<Value = (u64, u64)> {
    let at = prop_oneof![Just(0), Just(1), Just(2), Just(511), Just(512), Just(513), 0..PAGES];
    (at, prop_oneof![Just(1), Just(2), Just(512), 1..PAGES])
        .prop_map(|(first, count)| (first, count.min(PAGES - first)))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..WATCHED.len(), any::<bool>()).prop_map(|(page, write)| Op::Fault(page, write)),
        2 => part().prop_map(|(first, count)| Op::Unmap(first, count)),
        2 => part().prop_map(|(first, count)| Op::Protect(first, count)),
        1 => (part(), any::<bool>()).prop_map(|((first, count), write)| Op::Prefault(first, count, write)),
        2 => part().prop_map(|(first, count)| Op::Harvest(first, count)),
        2 => part().prop_map(|(first, count)| Op::Clear(first, count)),
        1 => (0..FLAGS.len()).prop_map(|flags| Op::Flags(FLAGS[flags])),
        1 => any::<bool>().prop_map(Op::Collapse),
        1 => part().prop_map(|(first, count)| Op::Age(first, count)),
        1 => (0usize..4).prop_map(Op::TopUp),
        1 => Just(Op::Reclaim),
    ]
}

fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + first * PAGE_SIZE), count * PAGE_SIZE).unwrap()
}

/// One VM under one thread, and what each watched page has seen.
struct Play<'v, 'm, F: Format> {
    vcpu: Vcpu<&'v Vm<&'m Machine, F>>,
    worker: Worker<&'v Vm<&'m Machine, F>>,
    flags: SlotFlags,
    clock: u64,
    seen: [Vec<Call>; WATCHED.len()],
}

impl<F: Format> Play<'_, '_, F> {
    fn note(&mut self, operations: impl Fn(u64) -> Vec<Operation>) {
        for (page, seen) in WATCHED.iter().zip(&mut self.seen) {
            let call = |operation| Call { from: self.clock, to: self.clock + 1, operation };
            seen.extend(operations(*page).into_iter().map(call));
        }
        self.clock += 2;
    }

    fn run(&mut self, op: Op) {
        let all = Budget::UNLIMITED;
        let meant = |first: u64, count: u64, page: u64| (first..first + count).contains(&page);
        match op {
            Op::Fault(index, write) => self.fault(WATCHED[index], if write { Access::Write } else { Access::Read }),
            Op::Unmap(first, count) => {
                let progress = self.worker.unmap(range(first, count), all).unwrap();
                self.note(|page| match meant(first, count, page) {
                    false if !progress.widened => Vec::new(),
                    meant => vec![Operation::Unmapped { meant }],
                });
            }
            Op::Protect(first, count) => {
                let progress = self.worker.write_protect(range(first, count), all).unwrap();
                self.note(|page| match meant(first, count, page) {
                    false if !progress.widened => Vec::new(),
                    meant => vec![Operation::Protected { meant }],
                });
            }
            // What a prefault maps under the log it marks in ways that only a harvest shows.
            Op::Prefault(first, count, write) if self.flags.log.is_none() => {
                let access = if write { Access::Write } else { Access::Read };
                let _ = self.worker.prefault(range(first, count), access, all);
                let writable = !self.flags.read_only;
                self.note(|page| {
                    let near = meant(first / 512 * 512, (first + count).div_ceil(512) * 512 - first / 512 * 512, page);
                    near.then_some(Operation::Prefaulted { writable }).into_iter().collect()
                });
            }
            Op::Harvest(first, count) if self.flags.log.is_some() => self.harvest(first, count),
            Op::Clear(first, count) if self.flags.log.is_some() => self.clear(first, count),
            Op::Flags(flags) => [PLAIN, flags].into_iter().for_each(|flags| self.change_flags(flags)),
            Op::Collapse(lazily) if self.flags.log.is_none() => {
                let how = if lazily { Collapse::Lazily } else { Collapse::InPlace };
                let _ = self.worker.collapse(range(0, PAGES), how, all).unwrap();
                self.note(|_| vec![if lazily { Operation::Dropped } else { Operation::Collapsed }]);
            }
            Op::TopUp(tables) => self.worker.top_up(tables).unwrap(),
            Op::Reclaim => _ = self.worker.reclaim(all),
            Op::Age(first, count) => {
                let _ = self.worker.age(range(first, count), all).unwrap();
                // A block is aged as a whole.
                let (first, end) = (first / 512 * 512, (first + count).div_ceil(512) * 512);
                self.note(|page| meant(first, end - first, page).then_some(Operation::Aged).into_iter().collect());
            }
            Op::Prefault(..) | Op::Harvest(..) | Op::Clear(..) | Op::Collapse(_) => {}
        }
        for (page, seen) in WATCHED.iter().zip(&mut self.seen) {
            let mapping = self.vcpu.lookup(Gpa::new(BASE + page * PAGE_SIZE));
            let looked = Operation::Looked(mapping.map(|mapping| mapping.permissions.write()));
            seen.push(Call { from: self.clock, to: self.clock + 1, operation: looked });
        }
        self.clock += 2;
    }

    fn fault(&mut self, page: u64, access: Access) {
        self.vcpu.top_up(4).unwrap();
        let outcome = self.vcpu.fault(Gpa::new(BASE + page * PAGE_SIZE), access);
        self.note(|other| {
            let place = if other == page { Place::Here { grouped: false } } else { Place::Elsewhere };
            Fault { access, outcome, place }.operations(|_| other / 512 == page / 512).collect()
        });
    }

    fn change_flags(&mut self, flags: SlotFlags) {
        assert!(self.worker.set_flags(SLOT, flags, Budget::UNLIMITED).unwrap().is_done());
        self.note(|_| vec![Operation::Announced(flags.into())]);
        self.note(|_| vec![Operation::Settled { by: 0 }]);
        self.flags = flags;
    }

    /// Reads the log, and clears every second mark of what was in it.
    fn clear(&mut self, first: u64, count: u64) {
        let (pages, mut bitmap) = (Pages { first, count }, vec![0; count.div_ceil(64) as usize]);
        self.worker.get_dirty(SLOT, pages, &mut bitmap).unwrap();
        let is_in = |page: u64| (first..first + count).contains(&page);
        let has = |bitmap: &[u64], page: u64| bitmap[((page - first) / 64) as usize] >> ((page - first) % 64) & 1 != 0;
        self.note(|page| match is_in(page) {
            true => vec![Operation::Read { dirty: has(&bitmap, page), by: 0 }],
            false => Vec::new(),
        });
        self.note(|_| vec![Operation::Collected { by: 0 }]);
        bitmap.iter_mut().for_each(|word| *word &= 0x5555_5555_5555_5555);
        let progress = self.worker.clear_dirty(SLOT, pages, &bitmap, Budget::UNLIMITED).unwrap();
        assert!(progress.is_done());
        self.note(|page| match is_in(page) && has(&bitmap, page) {
            true => vec![Operation::Cleared { by: 0 }],
            false => Vec::new(),
        });
        self.note(|page| match is_in(page) && has(&bitmap, page) {
            true => vec![Operation::Withheld { by: 0 }],
            false if progress.widened => vec![Operation::Protected { meant: false }],
            false => Vec::new(),
        });
    }

    fn harvest(&mut self, first: u64, count: u64) {
        let mut bitmap = vec![0; count.div_ceil(64) as usize];
        let harvest = self.worker.harvest(SLOT, Pages { first, count }, &mut bitmap, Budget::UNLIMITED).unwrap();
        assert!(harvest.is_done() && harvest.complete);
        self.note(|page| {
            if !(first..first + count).contains(&page) {
                return if harvest.widened { vec![Operation::Protected { meant: false }] } else { Vec::new() };
            }
            let at = page - first;
            let dirty = bitmap[(at / 64) as usize] >> (at % 64) & 1 != 0;
            [Operation::Harvested { dirty }].into_iter().chain(dirty.then_some(Operation::Secured)).collect()
        });
    }
}

/// Runs a sequence on a fresh VM: the specification explains it, and nothing is left.
fn sequence<S: Subject>(ops: &[Op], logged: bool) -> Result<(), TestCaseError> {
    let (format, walker) = (S::format(), S::boxed_walker());
    let config = MachineConfig { table_limit: 256, ..MachineConfig::new(PAGES * PAGE_SIZE, Source::AnonymousThp, 1) };
    let machine = Machine::new(config, walker).unwrap();
    let vm = Vm::new(&machine, format, Config { vcpus: 1, workers: 1, ..Config::default() }).unwrap();
    let mut worker = Worker::new(&vm).unwrap();
    let flags = SlotFlags { read_only: false, log: logged.then_some(LogMode::Protect) };
    worker.create_slot(SLOT, NewSlot { range: range(0, PAGES), host: HostAddress::new(0), flags }).unwrap();
    let vcpu = Vcpu::new(&vm, VcpuId(0)).unwrap();
    let mut play = Play { vcpu, worker, flags, clock: 0, seen: Default::default() };
    ops.iter().for_each(|op| play.run(*op));
    for (page, seen) in WATCHED.iter().zip(&play.seen) {
        let explained = explain(Page::new(flags), seen);
        prop_assert!(explained.is_ok(), "page {}: {:?}", page, explained);
    }
    let Play { vcpu, mut worker, .. } = play;
    drop(vcpu);
    while worker.teardown(Budget::UNLIMITED) == Teardown::More {}
    drop(worker);
    prop_assert_eq!((machine.tables_now(), vm.statistics().awaiting), (0, 0));
    Ok(())
}

fn levels(format: impl Format) -> impl Iterator<Item = Level> {
    (0..=format.geometry().root_level().get()).map(Level::new)
}

/// A decoder says something of any word, at any level, and says the same of what is encoded from what it said.
fn any_word<S: Subject>(raw: u64) {
    let (format, walker) = (S::format(), S::boxed_walker());
    for level in levels(format) {
        let _ = (walker.resolve(raw, level), format.permits(raw, level, Access::Write), format.is_writable(raw, level));
        let (may_write, kind) = (format.may_write(raw, level), format.kind(raw, level));
        // Where hardware goes on with words that are locked, software's marks tell words apart that it makes, not any word.
        let is_valid = matches!(kind, Kind::Table | Kind::Leaf) && !format.overlaps();
        assert!(!is_valid || format.is_table(raw, level) == (kind == Kind::Table));
        match kind {
            Kind::Leaf if level <= format.geometry().largest_leaf() => {
                let leaf = format.decode(raw, level);
                let word = format.leaf(leaf, level);
                let again = format.decode(word, level);
                assert_eq!(format.leaf(again, level), word, "{:#x} at {}", raw, level);
                assert!(leaf.hpa.is_aligned(format.geometry().size(level)));
                assert_eq!(format.change(word, word, level), Change::Free);
            }
            Kind::Table => assert!(format.table_address(raw, level).is_aligned(format.geometry().table_bytes())),
            Kind::Empty if raw != 0 => assert!(S::Format::ANNOTATION.read(raw) < 1 << S::Format::ANNOTATION.bits),
            _ => assert!(!may_write || kind == Kind::Leaf || format.overlaps()),
        }
    }
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    let memory = prop_oneof![Just(MemoryType::Normal), Just(MemoryType::NonCacheable), Just(MemoryType::Device)];
    (0u64..1 << 18, 0u8..8, any::<bool>(), memory, any::<bool>()).prop_map(
        |(frame, bits, may_write, memory, accessed)| {
            let permissions = Permissions::new(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            Leaf { hpa: Hpa::new(frame << 30), permissions, may_write, memory, accessed }
        },
    )
}

/// What is encoded grants no more than was asked for, and every change of it is what its name says.
fn any_encoding<S: Subject>(leaf: Leaf, other: Leaf) {
    let format = S::format();
    for level in (0..=format.geometry().largest_leaf().get()).map(Level::new) {
        let raw = format.leaf(leaf, level);
        let read = format.decode(raw, level);
        assert_eq!(read.permissions.and(leaf.permissions), read.permissions);
        assert_eq!((read.hpa, read.memory), (leaf.hpa, leaf.memory));
        // Without an accessed flag, what cannot be read is not present (NPT).
        assert!(read.accessed == leaf.accessed || !leaf.permissions.read());
        let protected = format.write_protected(raw, level);
        assert!(!format.permits(protected, level, Access::Write));
        assert_eq!(format.may_write(protected, level), format.may_write(raw, level));
        assert!(!format.may_write(format.write_revoked(raw, level), level));
        let elsewhere = format.leaf(other, level);
        if leaf.hpa != other.hpa {
            assert_eq!(format.change(raw, elsewhere, level), Change::Break);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_of_operations_do_what_the_specification_says_on_arm64(ops in vec(op(), 1..24), logged in any::<bool>()) {
        sequence::<Arm>(&ops, logged)?;
    }

    #[test]
    fn sequences_of_operations_do_what_the_specification_says_on_ept(ops in vec(op(), 1..24), logged in any::<bool>()) {
        sequence::<X86>(&ops, logged)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2 * CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_word_is_decoded(raw in prop_oneof![any::<u64>(), any::<u64>().prop_map(|raw| raw & 0xfff), any::<u64>().prop_map(|raw| raw | 3)]) {
        with_every_subject!(any_word(raw));
        let _ = (Vtcr::decode(raw), ept::Eptp(raw).check(ept::Processor::default()));
    }

    #[test]
    fn any_leaf_is_encoded(leaf in any_leaf(), other in any_leaf()) {
        with_every_subject!(any_encoding(leaf, other));
    }

    #[test]
    fn any_text_is_a_source_of_memory_or_an_error(text in prop_oneof![any::<String>(), "[a-z_]{0,12}(_[0-9]{0,6}[kmg]b)?"]) {
        if let Ok(source) = text.parse::<Source>() {
            prop_assert_eq!(source.to_string().parse::<Source>().ok(), Some(source));
        }
    }
}

#[test]
fn counts() {
    println!("fuzz|sequences of operations|{}", 2 * CASES);
    println!("fuzz|words decoded and leaves encoded in every format, texts parsed|{}", 3 * 2 * CASES);
}
