//! Where each bug comes from.

use crate::plant::{Plant, Shape};

/// Where a bug comes from.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// The rule of the design that it breaks.
    pub rule: &'static str,
    /// Who made it, or which sentence it leaves out.
    pub text: &'static str,
}

const fn of(rule: &'static str, text: &'static str) -> History {
    History { rule, text }
}

/// The history of a planted bug.
pub const fn history(plant: Plant) -> History {
    match plant {
        Plant::Nothing => of("", "the engine as it is"),
        Plant::NoFenceAfter(Shape::Section) => of("R2", "an RCU reader without the fence after it announces itself"),
        Plant::NoFenceAfter(Shape::Lock) => of("R4", "'CAS the entry to Locked, full fence, read the word again'"),
        Plant::NoFenceAfter(Shape::Change) => of("R6", "the slots are read again after the CAS, and not after a fence"),
        Plant::NoFenceAfter(Shape::Mark) => of("R5", "a summary bit is tested with no fence after the mark"),
        Plant::NoFenceAfter(Shape::Take) => of("R5", "no full fence between clearing a summary bit and its words"),
        Plant::NoFenceAfter(_) => of("R2", "a fence that belongs to another read-modify-write"),
        Plant::WrittenForgotten => of("R5", "'the entry's bit is the mark and is moved, never dropped'"),
        Plant::NoteForgotten => {
            of("R7", "'an entry with the bit is never cut, so that invalidation keeps annotations'")
        }
        Plant::MemberTakenForLeaf => of("R1", "'a contiguous group is one leaf': one member is changed by itself"),
        Plant::FlushesLastPage => of("R1", "a contiguous group is flushed at one of its members"),
        Plant::NoFullFence => of("R2", "a reclaimer without the fence before it looks at the readers"),
        Plant::RelaxedEntryLoads => {
            of("R2", "KVM reads entries with READ_ONCE: Relaxed, with no address dependency in Rust")
        }
        Plant::RelaxedEntryChanges => {
            of("R2", "relaxed publication of a table (probe of reference/verification.md, 4)")
        }
        Plant::RelaxedEntryStores => {
            of("R1", "a split publishes its table by a plain store (aarch64-paging before 0.12.3)")
        }
        Plant::RelaxedLoads => of("R4", "KVM/arm64, fixes of 6.3: the invalidation sequence read without ordering"),
        Plant::RelaxedStores => of("R2", "a reader announces its end before its last use"),
        Plant::RelaxedSwaps => of("R2", "a reader announces itself without acquiring"),
        Plant::TornEntryChanges => {
            of("R5", "locking.rst of KVM: a dirty bit lost by a plain overwrite of a volatile entry")
        }
        Plant::TornSwaps => of("R11", "two threads tear one VM down: the root is taken twice"),
        Plant::Unmade(Shape::Section) => of("R2", "no grace period: KVM/arm64 before 6.1 freed tables under walkers"),
        Plant::Unmade(Shape::Mark) => of("R5", "a write fault that forgets the log"),
        Plant::Unmade(Shape::Event) => {
            of("R6", "a slot changes and no fault is told: seed 004, a stale last-used slot")
        }
        Plant::Unmade(Shape::Open) => {
            of("R4", "an MMU notifier that does not raise its count (KVM: mmu_invalidate_in_progress)")
        }
        Plant::Unmade(Shape::Count) => of("R8", "a flush skipped over someone's pending one (KVM: tlbs_dirty, 2010)"),
        Plant::Unmade(_) => of("R5", "a change that is not made"),
        Plant::TestBeforeSet => of("R5", "'marking is always a read-modify-write, never test first'"),
        Plant::MarksFirst => of("R5", "'a fault publishes the writable entry, then marks': the other way round"),
        Plant::SummaryUnset => of("R5", "'summary bits are set after the word': not at all"),
        Plant::LocksByExchange => of("R1", "'no exchange on an entry that may change its kind': to lock it"),
        Plant::FreezesByExchange => {
            of("R7", "'freeze each child by CAS from the value seen': by exchange (seed 002's question)")
        }
        Plant::NoRecheck => of("R4", "'read the word again': skipped (KVM before mmu_invalidate_retry)"),
        Plant::LeavesLocked => of("R4", "'else puts the old value back': forgotten"),
        Plant::NothingBreaks => of("R1", "a live block split without break (kvm_pgtable before stage2_try_break_pte)"),
        Plant::RevokedMayReturn => {
            of("R6", "KVM: SPTE_MMU_WRITEABLE left set when write permission is narrowed (fast page fault)")
        }
        Plant::UnprotectedLevel(_) => {
            of("R5", "a level that write protection skips (KVM: large pages skipped by logging)")
        }
        Plant::LockedLooksEmpty => {
            of("R7", "a removal that skips an entry somebody is changing (TDP MMU: REMOVED_SPTE)")
        }
        Plant::FrozenLooksEmpty => of("R7", "a zap that skips a frozen entry (TDP MMU: FROZEN_SPTE)"),
        Plant::EverythingBreaks => of("R1", "KVM/arm64: a guest reads a block that is being split, and faults"),
        Plant::NothingHeld => of("R8", "FEAT_BBML2 taken as 'no break': the table is everybody's before its flush"),
        Plant::NothingFrozen => of("R7", "'freeze each child': not where hardware goes on with them"),
        Plant::SizesFlushedByAddress => of(
            "R8",
            "two leaves of one address flushed by address (Arm ARM D8.17.3: no such operation is sure of both)",
        ),
        Plant::DecodesWritable => of("R7", "a collapse that ignores what its children forbid"),
        Plant::SmallShards => of("R4", "'leaves stay inside a region': one shard for a leaf of several"),
        Plant::NoFlush => of("R8", "free before flush (Bao; aarch64-paging 0.12.3)"),
        Plant::FlushesFirstPage => {
            of("R8", "only the first address of a removed table is flushed (aarch64-paging 0.12.3)")
        }
        Plant::FlushesLevelBelow => of("R8", "a wrong TTL in the TLBI's operand (aarch64-paging 0.12.3)"),
        Plant::FlushKeepsWalks => of("R2", "TLBI of the last level only, after a table was unlinked"),
        Plant::FlushesOneVcpu => of("R8", "a TLBI that is not broadcast (Casemate: non-shareable)"),
        Plant::FlushesPagesOfTables => of("R2", "a table unlinked and flushed with a page's hint"),
        Plant::FlushesNeighbour => of("R8", "a flush that begins where it should end: off by its own length"),
        Plant::LateFlush => of("R8", "a flush lost across a yield: returned before it is complete"),
        Plant::NoLocalFlush => of("R8", "a relaxed page refaults for ever on the CPU that relaxed it"),
        Plant::TablesNotZero => of("R2", "a table linked before it is zeroed (Bao)"),
        Plant::AnswersFromMemory => of("R12", "a translation or slot used after it changed (seed 004: last-used slot)"),
        Plant::TakenTooEarly => of("R4", "the host frees memory before the notifier's unmapping is done"),
        Plant::ChangedTooLate => of("R4", "'the one-shot form requires that translation already gives the new answer'"),
        Plant::EndsTooEarly => {
            of("R4", "KVM/arm64, fixes of 6.3: the invalidation ends before the host's tables change")
        }
        Plant::CopiedTooEarly => of("R5", "'flushes, and only then reports': pages copied before"),
        Plant::GuestStillRuns => of("R11", "'teardown requires all vCPU handles back': a guest runs on"),
    }
}

/// Bugs that no scenario can show, since something else in the engine makes up for them.
pub const HARMLESS: &[(Plant, &str)] = &[
    (Plant::RelaxedEntryChanges, "a full fence (of the section, or of the locking) lies before every link of a table"),
    (Plant::RelaxedEntryStores, "a full fence lies between the filling of a table, or the flush, and the store"),
    (Plant::RelaxedSwaps, "the exchange that marks a section is followed by a full fence"),
    (Plant::TestBeforeSet, "R6's fence after the relaxing CAS is the full fence that the rule asks for on this side"),
];
