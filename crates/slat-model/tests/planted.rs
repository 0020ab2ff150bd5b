//! Bugs planted in what the engine stands on: each is found, or the scenarios prove nothing.
//!
//! A row says which searches have to find its bug; the others may. Orderings are loom's alone: shuttle's atomics are
//! sequentially consistent. `cargo test --profile checked -p slat-model --test planted -- --ignored --nocapture matrix`
//! prints the table of the crate's README.

use slat_model::plant::Plant::{self, *};
use slat_model::plant::Shape;
use slat_model::run::Scenario;
use slat_model::scenario::*;
use slat_model::tool::Search;

/// Executions after which a random search gives up.
const SAMPLES: usize = 20_000;

/// Who has to find a bug.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// loom: a matter of orderings.
    Loom,
    /// loom, and shuttle's search by priorities: a matter of interleavings that chance alone seldom meets.
    Both,
    /// loom, and both searches of shuttle's.
    All,
}
use By::{All, Both, Loom};

struct Row {
    name: &'static str,
    scenario: Scenario,
    plant: Plant,
    by: By,
}

impl Row {
    /// All searches, and whether each has to find the bug.
    fn searches(&self) -> [(Search, bool); 3] {
        [
            (self.scenario.bounded(), true),
            (Search::Random(SAMPLES), self.by == All),
            (Search::Priorities(SAMPLES), self.by != Loom),
        ]
    }

    fn check(&self) {
        for (search, _) in self.searches().into_iter().filter(|(_, required)| *required) {
            self.scenario.catches(self.plant, search);
        }
    }
}

macro_rules! caught {
    ($($name:ident: $scenario:expr, $plant:expr, $by:expr;)*) => {
        const ROWS: &[Row] = &[
            $(Row { name: stringify!($name), scenario: $scenario, plant: $plant, by: $by },)*
        ];
        $(#[test] fn $name() {
            Row { name: stringify!($name), scenario: $scenario, plant: $plant, by: $by }.check();
        })*
    };
}

caught! {
    an_entry_changed_in_two_steps: fault_fault::ONE_ENTRY, TornEntryChanges, All;
    a_table_linked_in_two_steps: fault_fault::MISSING_TABLES, TornEntryChanges, All;
    a_locked_entry_taken_for_an_empty_one: fault_fault::ONE_ENTRY, LockedLooksEmpty, All;
    tables_that_are_not_zero: fault_fault::MISSING_TABLE, TablesNotZero, All;
    entries_loaded_relaxed_beside_a_link: fault_fault::MISSING_TABLE, RelaxedEntryLoads, Loom;
    entries_loaded_relaxed_beside_a_split: split_fault::WRITE_BESIDE, RelaxedEntryLoads, Loom;
    a_local_flush_that_does_nothing: fault_harvest::RELAX, NoLocalFlush, All;

    r1_a_replacement_without_a_break: fault_fault::REPLACE, NothingBreaks, All;
    r1_a_replacement_of_a_locked_leaf: fault_fault::REPLACE, LockedLooksEmpty, Both;
    r1_a_split_without_a_break: split_fault::WRITE_BESIDE, NothingBreaks, All;
    r1_a_split_whose_flush_does_nothing: split_fault::WRITE_BESIDE, NoFlush, All;
    r1_a_split_whose_flush_has_the_wrong_level: split_fault::READ_BESIDE, FlushesLevelBelow, All;
    r1_a_split_of_a_locked_block: split_fault::UNMAP, LockedLooksEmpty, Both;
    r1_a_block_cleared_without_a_break: split_fault::CLEAR, NothingBreaks, All;

    a_group_whose_entries_are_locked_in_two_steps: groups::FAULTS, TornEntryChanges, All;
    r1_a_member_unmapped_without_its_group: groups::UNMAP_PART, MemberTakenForLeaf, All;
    r1_a_member_cleared_without_its_group: groups::CLEAR, MemberTakenForLeaf, All;
    r1_a_group_that_is_not_flushed: groups::WRITES, NoFlush, All;
    r1_a_group_flushed_at_its_first_page: groups::WRITES, FlushesFirstPage, All;
    r1_a_group_flushed_at_its_last_page: groups::UNMAP_PART, FlushesLastPage, All;
    r1_a_group_flushed_for_one_vcpu: groups::UNMAP_PART, FlushesOneVcpu, All;
    r1_a_locked_member_taken_for_an_empty_entry: groups::UNMAP_PARTS, LockedLooksEmpty, Both;
    r4_an_invalidation_of_a_member_that_is_not_opened: groups::INVALIDATE, Unmade(Shape::Open), Both;
    r4_no_fence_after_locking_a_group: groups::INVALIDATE, NoFenceAfter(Shape::Lock), Loom;
    r5_a_member_relaxed_without_its_group: groups::HARVEST, MemberTakenForLeaf, All;
    r5_a_member_that_is_not_marked: groups::HARVEST, Unmade(Shape::Mark), All;
    r6_no_fence_after_relaxing_a_group: groups::ENABLING, NoFullFence, Loom;
    r7_a_member_frozen_without_its_group: groups::COLLAPSE, MemberTakenForLeaf, All;
    r8_a_member_protected_without_its_group: groups::PROTECT_PART, MemberTakenForLeaf, All;

    r2_a_section_that_is_not_marked: reclaim::TABLE, Unmade(Shape::Section), Both;
    r2_a_section_that_is_not_marked_beside_slots: reclaim::SNAPSHOT, Unmade(Shape::Section), Both;
    r2_a_section_that_is_not_marked_beside_a_fault: unlink_walk::CUT, Unmade(Shape::Section), Both;
    r2_no_fence_after_entering: unlink_walk::CUT, NoFenceAfter(Shape::Section), Loom;
    r2_no_fence_after_entering_beside_a_cut_of_two: unlink_walk::CUT_TWICE, NoFenceAfter(Shape::Section), Loom;
    r2_no_fence_after_entering_a_harvest: reclaim::LOG, NoFenceAfter(Shape::Section), Loom;
    r2_no_fence_of_ones_own: reclaim::TABLE, NoFullFence, Loom;
    r2_a_section_left_relaxed: reclaim::SNAPSHOT, RelaxedStores, Loom;
    r2_walk_caches_kept_by_the_flush_of_a_table: unlink_walk::CUT_WALKED, FlushKeepsWalks, All;
    r2_only_the_first_page_of_a_cut_flushed: unlink_walk::CUT, FlushesFirstPage, All;
    r2_only_the_first_page_of_a_deep_cut_flushed: unlink_walk::CUT_DEEP, FlushesFirstPage, All;
    r2_only_the_first_page_of_two_unmaps_flushed: unlink_walk::OVERLAPPING, FlushesFirstPage, All;
    r7_a_cut_flushed_for_one_vcpu: unlink_walk::CUT_AND_TAKE, FlushesOneVcpu, All;

    r7_a_collapse_without_a_break: collapse_fault::WRITE_BESIDE, NothingBreaks, Loom;
    r7_a_collapse_whose_flush_keeps_walks: collapse_fault::WRITE_BESIDE, FlushKeepsWalks, All;

    r4_no_fence_after_locking: invalidate_fault::ONE_SHOT, NoFenceAfter(Shape::Lock), Loom;
    r4_no_fence_after_locking_beside_a_guard: invalidate_fault::MISSING_TABLE, NoFenceAfter(Shape::Lock), Loom;
    r4_no_fence_after_locking_beside_a_deletion: fault_slot_change::DELETE, NoFenceAfter(Shape::Lock), Loom;
    r4_no_fence_after_locking_beside_two_guards: invalidate_fault::OVERLAPPING, NoFenceAfter(Shape::Lock), Loom;
    r4_the_shard_read_relaxed: invalidate_fault::GUARD, RelaxedLoads, Loom;
    r4_the_shard_read_relaxed_before_a_copy: invalidate_fault::REPLACE, RelaxedLoads, Loom;
    r4_an_annotation_that_is_not_counted: annotate_fault::AGAIN, Unmade(Shape::Event), Both;
    r4_an_annotation_taken_for_a_locked_entry: annotate_fault::PAGE, TornEntryChanges, All;
    r7_an_annotation_whose_table_is_not_noted: annotate_fault::UNMAP, NoteForgotten, All;
    r7_an_annotation_whose_table_is_dropped: annotate_fault::DROP, NoteForgotten, All;
    r7_an_annotation_in_two_steps_beside_collapse: annotate_fault::COLLAPSE, TornEntryChanges, Both;
    r7_a_note_divided_in_two_steps: annotate_fault::PART, TornEntryChanges, Both;
    r2_no_fence_after_leaving_the_guest: unlink_walk::CUT_OUTSIDE, NoFenceAfter(Shape::Section), Loom;
    r2_a_stay_that_is_not_marked: unlink_walk::CUT_OUTSIDE, Unmade(Shape::Section), Both;
    r4_memory_taken_by_its_address_that_is_not_opened: invalidate_fault::HOST, Unmade(Shape::Open), All;
    r4_memory_of_a_new_slot_that_is_not_opened: invalidate_fault::HOST_NEW_SLOT, Unmade(Shape::Open), Both;
    r4_an_event_that_is_not_counted: invalidate_fault::ONE_SHOT, Unmade(Shape::Event), Both;
    r4_a_deletion_that_is_not_counted: fault_slot_change::DELETE, Unmade(Shape::Event), Both;
    r4_a_move_that_is_not_counted: fault_slot_change::MOVE, Unmade(Shape::Event), Both;
    r4_a_slot_that_moves_away_uncounted: fault_slot_change::MOVE_AWAY, Unmade(Shape::Event), Both;
    r4_a_deletion_that_takes_locked_for_empty: fault_slot_change::DELETE_TWICE, LockedLooksEmpty, Both;
    r4_an_invalidation_that_is_not_opened: invalidate_fault::GUARD, Unmade(Shape::Open), All;
    r4_an_invalidation_that_is_not_opened_before_a_blocking_answer:
        invalidate_fault::BLOCKING, Unmade(Shape::Open), All;
    r4_an_invalidation_of_a_block_that_is_not_opened: invalidate_fault::BLOCK, Unmade(Shape::Open), Both;
    r4_memory_changed_after_the_one_shot_form: invalidate_fault::ONE_SHOT, ChangedTooLate, All;
    r4_memory_taken_before_it_is_unmapped: invalidate_fault::GUARD, TakenTooEarly, All;
    r4_memory_taken_before_it_is_unmapped_for_all: invalidate_fault::GUESTS, TakenTooEarly, All;
    r4_an_invalidation_that_ends_before_the_host_changes: invalidate_fault::GUARD, EndsTooEarly, All;

    r5_no_fence_between_mark_and_summary: fault_harvest::SUMMARY, NoFenceAfter(Shape::Mark), Loom;
    r5_no_fence_between_clearing_and_reading: fault_harvest::SUMMARY, NoFenceAfter(Shape::Take), Loom;
    r5_a_page_that_is_not_marked: fault_harvest::RELAX, Unmade(Shape::Mark), All;
    r5_a_split_page_that_is_not_marked: split_fault::HARVEST, Unmade(Shape::Mark), All;
    r5_a_page_that_is_not_protected: fault_harvest::RELAX, UnprotectedLevel(0), All;
    r5_pages_copied_before_the_harvest_returns: fault_harvest::CACHED, CopiedTooEarly, All;
    r5_remapped_pages_copied_before_the_harvest_returns: fault_harvest::REMAP, CopiedTooEarly, All;
    r5_pages_copied_before_either_harvest_returns: fault_harvest::TWO_HARVESTERS, CopiedTooEarly, All;
    r5_hardwares_note_that_is_not_seen: hardware_log::HARVEST, WrittenForgotten, All;
    r5_hardwares_note_that_a_removal_does_not_see: hardware_log::UNMAP, WrittenForgotten, All;
    r5_hardwares_note_that_a_cut_does_not_see: hardware_log::CUT, WrittenForgotten, All;
    r5_clean_pages_that_are_not_flushed: hardware_log::HARVEST, NoFlush, All;
    r5_clean_pages_flushed_for_one_vcpu_at_the_first_page: hardware_log::CUT, FlushKeepsWalks, Both;
    r5_noted_pages_copied_before_the_harvest_returns: hardware_log::HARVEST, CopiedTooEarly, All;
    r5_marks_of_hardwares_notes_that_are_not_made: hardware_log::UNMAP, Unmade(Shape::Mark), All;
    r5_hardwares_notes_held_by_one_who_is_not_counted: hardware_log::GET, Unmade(Shape::Count), Both;
    r6_a_log_of_hardwares_that_is_not_flushed: hardware_log::ENABLING, NoFlush, Both;
    r5_a_taker_that_is_not_counted: fault_harvest::COMPLETE, Unmade(Shape::Count), All;
    r5_takers_read_relaxed: fault_harvest::COMPLETE, RelaxedLoads, Loom;

    r6_no_fence_after_relaxing: fault_slot_change::LOG_ON_RELAX, NoFenceAfter(Shape::Change), Loom;
    r6_no_fence_after_relaxing_a_block: fault_slot_change::LOG_ON_RELAX_BLOCK, NoFenceAfter(Shape::Change), Loom;
    r6_no_fence_after_relaxing_for_a_new_log: fault_slot_change::LOG_AGAIN, NoFenceAfter(Shape::Change), Loom;
    r6_a_log_that_is_not_announced: fault_slot_change::LOG_ON, Unmade(Shape::Event), Both;
    r6_a_log_all_marked_that_is_not_announced: fault_slot_change::LOG_ON_MARKED, Unmade(Shape::Event), Both;
    r6_a_permission_that_comes_back_after_it_was_revoked: fault_slot_change::READ_ONLY_RELAX, RevokedMayReturn, Both;

    r8_a_flush_that_does_nothing: invalidate_fault::GUARD, NoFlush, All;
    r8_a_flush_with_the_wrong_level: invalidate_fault::NEIGHBOUR, FlushesLevelBelow, All;
    r8_a_flush_that_reaches_one_vcpu: invalidate_fault::GUESTS, FlushesOneVcpu, All;
    r8_a_gather_that_does_not_count_as_unflushed: protect_protect::RANGE, Unmade(Shape::Count), Both;
    r8_a_gather_that_does_not_count_beside_a_clearing: protect_protect::CLEAR, Unmade(Shape::Count), Both;
    r8_a_gather_that_does_not_count_beside_a_log: fault_slot_change::LOG_ON_TWICE, Unmade(Shape::Count), Both;

    r11_a_guest_that_runs_during_teardown: teardown_fault::FAULT, GuestStillRuns, All;
    r11_a_section_that_is_not_marked: teardown_fault::LINK, Unmade(Shape::Section), Both;
    r11_no_fence_after_entering: teardown_fault::UNMAP, NoFenceAfter(Shape::Section), Loom;
    r11_a_root_cut_off_in_two_steps: teardown_fault::TWICE, TornSwaps, All;
}

#[test]
#[ignore = "prints the table of the README"]
fn matrix() {
    println!("| test | scenario | planted | loom | random | priorities |\n|---|---|---|---|---|---|");
    for row in ROWS {
        let cells = row.searches().map(|(search, required)| {
            let report = row.scenario.run_at_most(u64::MAX, search, row.plant);
            match (report.found, required) {
                (Some(_), true) => format!("**{}**", report.executions),
                (Some(_), false) => report.executions.to_string(),
                (None, _) => "-".to_owned(),
            }
        });
        println!("| `{}` | {} | {} | {} |", row.name, row.scenario.name, row.plant, cells.join(" | "));
    }
}
