//! Bugs planted in what the engine stands on: each has to be found, or the scenarios prove nothing.
//!
//! The fences are found by loom alone: shuttle's atomics are sequentially consistent.

use slat_model::plant::Plant::*;
use slat_model::plant::Shape;
use slat_model::scenario::*;

macro_rules! caught {
    ($($name:ident: $scenario:expr, $plant:expr;)*) => {
        $(#[test] fn $name() { $scenario.catches($plant, $scenario.bounded()); })*
    };
}

caught! {
    an_entry_changed_in_two_steps: fault_fault::ONE_ENTRY, TornEntryChanges;
    a_locked_entry_taken_for_an_empty_one: fault_fault::ONE_ENTRY, LockedLooksEmpty;
    tables_that_are_not_zero: fault_fault::ONE_ENTRY, TablesNotZero;
    entries_loaded_relaxed: fault_fault::MISSING_TABLE, RelaxedEntryLoads;
    r1_a_replacement_without_a_break: fault_fault::REPLACE, NothingBreaks;
    r1_a_split_without_a_break: split_fault::WRITE_BESIDE, NothingBreaks;
    r2_a_section_that_is_not_marked: reclaim::TABLE, Unmade(Shape::Section);
    r2_no_fence_of_ones_own: reclaim::TABLE, NoFullFence;
    r2_walk_caches_kept_by_the_flush_of_a_table: unlink_walk::CUT_WALKED, FlushKeepsWalks;
    r2_only_the_first_page_of_a_cut_flushed: unlink_walk::CUT, FlushesFirstPage;
    r4_no_fence_after_locking: invalidate_fault::ONE_SHOT, NoFenceAfter(Shape::Lock);
    r4_an_event_that_is_not_counted: invalidate_fault::ONE_SHOT, Unmade(Shape::Event);
    r4_memory_changed_after_the_one_shot_form: invalidate_fault::ONE_SHOT, ChangedTooLate;
    r4_an_invalidation_that_is_not_opened: invalidate_fault::GUARD, Unmade(Shape::Open);
    r4_memory_taken_before_it_is_unmapped: invalidate_fault::GUARD, TakenTooEarly;
    r4_an_invalidation_that_ends_before_the_host_changes: invalidate_fault::GUARD, EndsTooEarly;
    r5_no_fence_between_mark_and_summary: fault_harvest::SUMMARY, NoFenceAfter(Shape::Mark);
    r5_no_fence_between_clearing_and_reading: fault_harvest::SUMMARY, NoFenceAfter(Shape::Take);
    r5_a_page_that_is_not_marked: fault_harvest::RELAX, Unmade(Shape::Mark);
    r5_a_page_that_is_not_protected: fault_harvest::RELAX, UnprotectedLevel(0);
    r5_pages_copied_before_the_harvest_returns: fault_harvest::CACHED, CopiedTooEarly;
    r6_no_fence_after_relaxing: fault_slot_change::LOG_ON_RELAX, NoFenceAfter(Shape::Change);
    r6_a_permission_that_comes_back_after_it_was_revoked: fault_slot_change::READ_ONLY_RELAX, RevokedMayReturn;
    r8_a_flush_that_does_nothing: invalidate_fault::GUARD, NoFlush;
    r8_a_split_whose_flush_does_nothing: split_fault::WRITE_BESIDE, NoFlush;
    r8_a_flush_with_the_wrong_level: invalidate_fault::BLOCK, FlushesLevelBelow;
    r8_a_flush_that_reaches_one_vcpu: fault_harvest::CACHED, FlushesOneVcpu;
    r8_a_gather_that_does_not_count_as_unflushed: protect_protect::RANGE, Unmade(Shape::Count);
    a_guest_that_runs_during_teardown: teardown_fault::FAULT, GuestStillRuns;
}
