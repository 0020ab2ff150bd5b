//! Every scenario, with nothing planted.

use slat_model::run::Scenario;
use slat_model::scenario::*;
use slat_model::tool::Search;

fn bounded(scenario: &Scenario) {
    scenario.holds(scenario.bounded());
}

fn sampled(scenario: &Scenario) {
    Search::sampled(1000).into_iter().for_each(|search| scenario.holds(search));
}
macro_rules! all { ($($name:ident: $s:expr;)*) => {
  mod loom { use super::*; $(#[test] fn $name() { bounded(&$s); })* }
  mod shuttle { use super::*; $(#[test] fn $name() { sampled(&$s); })* }
} }
all! {
 one_entry: fault_fault::ONE_ENTRY;
 missing_table: fault_fault::MISSING_TABLE;
 delete: fault_slot_change::DELETE;
 log_on: fault_slot_change::LOG_ON;
 log_on_relax: fault_slot_change::LOG_ON_RELAX;
 read_only_relax: fault_slot_change::READ_ONLY_RELAX;
 h_relax: fault_harvest::RELAX;
 h_cached: fault_harvest::CACHED;
 h_remap: fault_harvest::REMAP;
 h_summary: fault_harvest::SUMMARY;
 h_two: fault_harvest::TWO_HARVESTERS;
 s_read: split_fault::READ_BESIDE;
 s_write: split_fault::WRITE_BESIDE;
 s_harvest: split_fault::HARVEST;
 s_unmap: split_fault::UNMAP;
 u_cut: unlink_walk::CUT;
 u_walked: unlink_walk::CUT_WALKED;
 u_take: unlink_walk::CUT_AND_TAKE;
 u_twice: unlink_walk::CUT_TWICE;
 u_deep: unlink_walk::CUT_DEEP;
 r_snapshot: reclaim::SNAPSHOT;
 r_table: reclaim::TABLE;
 r_two: reclaim::TWO_RECLAIMERS;
 i_guard: invalidate_fault::GUARD;
 i_guests: invalidate_fault::GUESTS;
 i_missing: invalidate_fault::MISSING_TABLE;
 i_one_shot: invalidate_fault::ONE_SHOT;
 i_overlapping: invalidate_fault::OVERLAPPING;
 i_blocking: invalidate_fault::BLOCKING;
 i_neighbour: invalidate_fault::NEIGHBOUR;
 p_range: protect_protect::RANGE;
 p_clear: protect_protect::CLEAR;
 t_fault: teardown_fault::FAULT;
 t_link: teardown_fault::LINK;
 t_unmap: teardown_fault::UNMAP;
}
