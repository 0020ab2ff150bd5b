//! Every scenario, with nothing planted: all interleavings within a preemption bound under loom, many under shuttle.
//!
//! `SLAT_MODEL_BOUND` sets the bound (2, or 1 where three threads do much).

use slat_model::run::Scenario;
use slat_model::scenario::{self, *};
use slat_model::tool::Search;

macro_rules! scenarios {
    ($($name:ident: $scenario:expr;)*) => {
        const NAMED: &[Scenario] = &[$($scenario),*];

        mod loom {
            use super::*;
            $(#[test] fn $name() { $scenario.holds($scenario.bounded()); })*
        }

        mod shuttle {
            use super::*;
            $(#[test] fn $name() { Search::sampled(1000).into_iter().for_each(|search| $scenario.holds(search)); })*
        }
    };
}

scenarios! {
    fault_fault_one_entry: fault_fault::ONE_ENTRY;
    fault_fault_missing_table: fault_fault::MISSING_TABLE;
    fault_fault_missing_tables: fault_fault::MISSING_TABLES;
    fault_fault_replace: fault_fault::REPLACE;
    fault_slot_change_delete: fault_slot_change::DELETE;
    fault_slot_change_move: fault_slot_change::MOVE;
    fault_slot_change_log_on: fault_slot_change::LOG_ON;
    fault_slot_change_log_on_marked: fault_slot_change::LOG_ON_MARKED;
    fault_slot_change_log_on_relax: fault_slot_change::LOG_ON_RELAX;
    fault_slot_change_log_again: fault_slot_change::LOG_AGAIN;
    fault_slot_change_read_only_relax: fault_slot_change::READ_ONLY_RELAX;
    fault_harvest_relax: fault_harvest::RELAX;
    fault_harvest_cached: fault_harvest::CACHED;
    fault_harvest_remap: fault_harvest::REMAP;
    fault_harvest_summary: fault_harvest::SUMMARY;
    fault_harvest_two_harvesters: fault_harvest::TWO_HARVESTERS;
    fault_harvest_complete: fault_harvest::COMPLETE;
    split_fault_read_beside: split_fault::READ_BESIDE;
    split_fault_write_beside: split_fault::WRITE_BESIDE;
    split_fault_harvest: split_fault::HARVEST;
    split_fault_clear: split_fault::CLEAR;
    split_fault_unmap: split_fault::UNMAP;
    unlink_walk_cut: unlink_walk::CUT;
    unlink_walk_cut_walked: unlink_walk::CUT_WALKED;
    unlink_walk_cut_and_take: unlink_walk::CUT_AND_TAKE;
    unlink_walk_cut_twice: unlink_walk::CUT_TWICE;
    unlink_walk_cut_deep: unlink_walk::CUT_DEEP;
    unlink_walk_overlapping: unlink_walk::OVERLAPPING;
    reclaim_snapshot: reclaim::SNAPSHOT;
    reclaim_log: reclaim::LOG;
    reclaim_join: reclaim::JOIN;
    reclaim_table: reclaim::TABLE;
    reclaim_two_reclaimers: reclaim::TWO_RECLAIMERS;
    invalidate_fault_guard: invalidate_fault::GUARD;
    invalidate_fault_guests: invalidate_fault::GUESTS;
    invalidate_fault_missing_table: invalidate_fault::MISSING_TABLE;
    invalidate_fault_blocking: invalidate_fault::BLOCKING;
    invalidate_fault_block: invalidate_fault::BLOCK;
    invalidate_fault_one_shot: invalidate_fault::ONE_SHOT;
    invalidate_fault_overlapping: invalidate_fault::OVERLAPPING;
    invalidate_fault_neighbour: invalidate_fault::NEIGHBOUR;
    protect_protect_range: protect_protect::RANGE;
    protect_protect_clear: protect_protect::CLEAR;
    teardown_fault_fault: teardown_fault::FAULT;
    teardown_fault_link: teardown_fault::LINK;
    teardown_fault_unmap: teardown_fault::UNMAP;
}

#[test]
fn every_scenario_has_its_tests() {
    let names = |scenarios: &[Scenario]| scenarios.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
    assert_eq!(names(NAMED), names(scenario::ALL));
}
