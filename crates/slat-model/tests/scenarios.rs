//! Every scenario with nothing planted: it holds.
//!
//! loom looks at every interleaving up to the scenario's number of preemptions, or up to `SLAT_MODEL_BOUND` as far as that
//! ends (`slat_model::explored`); shuttle at `SLAT_MODEL_ITERATIONS` at random and as many by priorities (`SLAT_MODEL_SEED`
//! makes others of them).

use std::collections::BTreeSet;

use slat_model::run::Scenario;
use slat_model::scenario::{
    ALL, annotate_fault, collapse_fault, fault_fault, fault_harvest, fault_slot_change, group_log, groups,
    hardware_log, invalidate_fault, protect_protect, reclaim, sizes, split_fault, teardown_fault, together,
    unlink_walk,
};
use slat_model::tool::Search;

/// Executions of each kind of random search, unless the environment says how many.
const SAMPLES: usize = 6_000;

fn bounded(scenario: &Scenario) {
    scenario.holds(scenario.bounded());
}

fn sampled(scenario: &Scenario) {
    Search::sampled(SAMPLES).into_iter().for_each(|search| scenario.holds(search));
}

macro_rules! scenarios {
    ($($name:ident: $scenario:expr;)*) => {
        mod loom {
            use super::*;
            $(#[test] fn $name() { bounded(&$scenario); })*
        }
        mod shuttle {
            use super::*;
            $(#[test] fn $name() { sampled(&$scenario); })*
        }
        const SEARCHED: &[&str] = &[$($scenario.name),*];
    };
}

scenarios! {
    r12_two_faults_on_one_page_map_it_once: fault_fault::ONE_ENTRY;
    r10_two_faults_link_one_table: fault_fault::MISSING_TABLE;
    r10_two_faults_link_two_tables: fault_fault::MISSING_TABLES;
    r1_a_leaf_is_replaced_beside_readers: fault_fault::REPLACE;

    r4_fault_beside_an_annotation: annotate_fault::PAGE;
    r4_fault_beside_an_annotation_that_goes_again: annotate_fault::AGAIN;
    r7_annotation_beside_unmapping: annotate_fault::UNMAP;
    r7_annotation_beside_collapse: annotate_fault::COLLAPSE;
    r7_annotation_beside_a_lazy_collapse: annotate_fault::DROP;
    r7_two_parts_of_a_note_are_cleared: annotate_fault::PART;
    r2_two_faults_in_one_stay_beside_a_cut: unlink_walk::CUT_OUTSIDE;

    r4_fault_beside_taking_memory_back_by_its_host_address: invalidate_fault::HOST;
    r4_new_slot_beside_taking_its_memory_back: invalidate_fault::HOST_NEW_SLOT;
    r4_fault_beside_slot_deletion: fault_slot_change::DELETE;
    r4_fault_beside_slot_deletion_by_two: fault_slot_change::DELETE_TWICE;
    r4_fault_beside_slot_move: fault_slot_change::MOVE;
    r4_fault_beside_moving_its_slot: fault_slot_change::MOVE_AWAY;
    r6_fault_beside_turning_the_log_on: fault_slot_change::LOG_ON;
    r6_fault_beside_turning_the_log_on_all_marked: fault_slot_change::LOG_ON_MARKED;
    r6_relaxation_beside_turning_the_log_on: fault_slot_change::LOG_ON_RELAX;
    r6_relaxation_of_a_block_beside_turning_the_log_on: fault_slot_change::LOG_ON_RELAX_BLOCK;
    r6_write_beside_turning_the_log_on_by_two: fault_slot_change::LOG_ON_TWICE;
    r6_relaxation_beside_turning_the_log_off_and_on: fault_slot_change::LOG_AGAIN;
    r6_relaxation_beside_read_only: fault_slot_change::READ_ONLY_RELAX;

    r5_relaxation_beside_harvest: fault_harvest::RELAX;
    r5_cached_write_beside_harvest: fault_harvest::CACHED;
    r5_mapping_of_a_marked_page_beside_harvest: fault_harvest::REMAP;
    r5_mark_under_a_summary_bit_beside_harvest: fault_harvest::SUMMARY;
    r5_write_beside_two_harvesters: fault_harvest::TWO_HARVESTERS;
    r5_complete_means_complete: fault_harvest::COMPLETE;

    r5_hardwares_note_beside_harvest: hardware_log::HARVEST;
    r5_hardwares_note_beside_unmapping: hardware_log::UNMAP;
    r5_hardwares_note_beside_cutting: hardware_log::CUT;
    r5_a_noted_page_unmapped_by_two: hardware_log::UNMAP_TWICE;
    r5_a_noted_page_cut_beside_harvest: hardware_log::CUT_HARVEST;
    r5_a_noted_page_read_beside_harvest: hardware_log::GET;
    r6_hardwares_note_beside_turning_the_log_on: hardware_log::ENABLING;
    r6_a_log_of_hardwares_turned_on_by_two: hardware_log::ENABLING_TWICE;
    r5_a_noted_page_made_read_only_beside_harvest: hardware_log::READ_ONLY;

    r7_collapse_beside_write: collapse_fault::WRITE_BESIDE;
    r7_collapse_by_two_faults: collapse_fault::BY_FAULTS;
    r7_collapse_beside_turning_the_log_on: collapse_fault::ENABLING;
    r6_collapse_beside_turning_hardwares_log_on: collapse_fault::ENABLING_BY_HARDWARE;
    r7_collapse_beside_harvest: collapse_fault::HARVEST;
    r7_collapse_beside_unmap: collapse_fault::UNMAP;
    r7_collapse_beside_unmap_of_a_part: collapse_fault::UNMAP_PART;
    r7_collapse_beside_read_only: collapse_fault::PROTECT;
    r7_lazy_collapse_beside_write: collapse_fault::LAZILY;
    r1_two_faults_on_one_group: groups::FAULTS;
    r4_fault_on_a_group_beside_invalidation_of_a_part: groups::INVALIDATE;
    r1_use_of_a_group_beside_unmapping_a_part: groups::UNMAP_PART;
    r1_two_parts_of_a_group_unmapped_by_two: groups::UNMAP_PARTS;
    r5_two_writes_to_one_group: groups::WRITES;
    r1_write_to_a_group_beside_unmapping_a_part: groups::WRITE_UNMAP;
    r5_write_to_a_group_beside_harvest: groups::HARVEST;
    r5_write_to_a_group_beside_clearing_a_part: groups::CLEAR;
    r6_relaxation_of_a_group_beside_turning_the_log_on: groups::ENABLING;
    r8_protection_of_a_group_beside_protection_of_a_part: groups::PROTECT_PART;
    r7_collapse_of_a_group_beside_unmapping_a_part: groups::COLLAPSE;

    r5_write_to_a_group_beside_a_harvest_of_hardwares_log: group_log::HARVEST;
    r5_write_to_a_group_under_hardwares_log_beside_unmapping_a_part: group_log::UNMAP_PART;
    r5_write_to_a_group_under_hardwares_log_beside_cutting: group_log::CUT;
    r5_write_to_a_group_under_hardwares_log_beside_clearing_a_part: group_log::CLEAR;
    r6_hardwares_note_of_a_group_beside_turning_the_log_on: group_log::ENABLING;
    r6_relaxation_of_a_group_beside_turning_hardwares_log_on: group_log::ENABLING_RELAX;
    r6_unmapping_a_part_of_a_group_beside_turning_hardwares_log_on: group_log::ENABLING_UNMAP;

    r1_split_under_a_readers_eyes: sizes::SPLIT_READ;
    r8_split_beside_hardware_that_walks_ahead: sizes::SPLIT_AHEAD;
    r8_split_ahead_beside_turning_the_log_on: sizes::SPLIT_ENABLING;
    r5_two_splits_for_clearing_beside_a_cached_write: sizes::CLEARS;
    r2_split_beside_cutting_what_is_above: sizes::CUT;
    r7_collapse_under_a_readers_eyes: sizes::COLLAPSE_READ;
    r7_collapse_of_mixed_sizes_beside_write: sizes::COLLAPSE_WRITE;
    r7_collapse_of_mixed_sizes_beside_unmap_of_a_part: sizes::COLLAPSE_UNMAP;
    r6_collapse_of_mixed_sizes_beside_turning_the_log_on: sizes::COLLAPSE_ENABLING;

    r1_split_beside_read: split_fault::READ_BESIDE;
    r1_split_beside_split: split_fault::WRITE_BESIDE;
    r1_split_beside_unmap: split_fault::UNMAP;
    r5_splits_beside_harvest: split_fault::HARVEST;
    r5_write_beside_clearing_a_part_of_a_block: split_fault::CLEAR;
    r1_splitting_ahead_beside_writes: split_fault::AHEAD;
    r1_splitting_two_ahead_beside_unmapping_a_part: split_fault::AHEAD_UNMAP;
    r5_splitting_ahead_beside_write_and_harvest: split_fault::AHEAD_HARVEST;
    r1_splitting_two_ahead_by_two: split_fault::AHEAD_TWICE;

    r2_cut_beside_fault: unlink_walk::CUT;
    r2_cut_beside_hardware_walk: unlink_walk::CUT_WALKED;
    r2_cut_of_two_levels_beside_faults: unlink_walk::CUT_DEEP;
    r2_cut_by_two: unlink_walk::CUT_TWICE;
    r7_cut_and_its_memory_taken: unlink_walk::CUT_AND_TAKE;
    r4_overlapping_unmaps_wait_for_no_circle: unlink_walk::OVERLAPPING;

    r2_snapshot_freed_beside_fault: reclaim::SNAPSHOT;
    r2_log_freed_beside_harvest: reclaim::LOG;
    r2_table_freed_beside_protection: reclaim::TABLE;
    r2_two_reclaimers_beside_fault: reclaim::TWO_RECLAIMERS;
    r2_who_joins_beside_who_leaves: reclaim::JOIN;

    r4_fault_beside_invalidation: invalidate_fault::GUARD;
    r4_guests_beside_invalidation: invalidate_fault::GUESTS;
    r4_fault_without_table_beside_invalidation: invalidate_fault::MISSING_TABLE;
    r4_blocking_fault_beside_invalidation: invalidate_fault::BLOCKING;
    r4_fault_beside_invalidation_of_a_part_of_its_block: invalidate_fault::BLOCK;
    r4_replacement_beside_invalidation: invalidate_fault::REPLACE;
    r4_fault_beside_one_shot_invalidation: invalidate_fault::ONE_SHOT;
    r4_fault_beside_overlapping_invalidations: invalidate_fault::OVERLAPPING;
    r4_fault_beside_invalidation_of_its_neighbour: invalidate_fault::NEIGHBOUR;

    r8_two_protections_of_one_page: protect_protect::RANGE;
    r8_protection_beside_clearing: protect_protect::CLEAR;

    r4_r7_two_invalidations_a_cut_a_collapse_and_a_fault: together::REGION_UNDER_ALL;

    r11_teardown_beside_fault: teardown_fault::FAULT;
    r11_teardown_beside_fault_that_links: teardown_fault::LINK;
    r11_teardown_beside_unmap: teardown_fault::UNMAP;
    r11_teardown_by_two: teardown_fault::TWICE;
}

#[test]
fn every_scenario_is_searched() {
    let [all, searched] = [ALL.iter().map(|scenario| scenario.name).collect(), SEARCHED.iter().copied().collect()]
        .map(|names: BTreeSet<_>| names);
    assert_eq!(all, searched);
}
