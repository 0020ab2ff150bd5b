//! The scenarios: one module for each protocol.

pub mod annotate_fault;
pub mod collapse_fault;
pub mod fault_fault;
pub mod fault_harvest;
pub mod fault_slot_change;
pub mod groups;
pub mod hardware_log;
pub mod invalidate_fault;
pub mod protect_protect;
pub mod reclaim;
pub mod split_fault;
pub mod teardown_fault;
pub mod together;
pub mod unlink_walk;

use crate::run::Scenario;

/// Every scenario.
pub const ALL: &[Scenario] = &[
    annotate_fault::PAGE,
    annotate_fault::AGAIN,
    annotate_fault::UNMAP,
    annotate_fault::COLLAPSE,
    annotate_fault::DROP,
    annotate_fault::PART,
    collapse_fault::WRITE_BESIDE,
    collapse_fault::BY_FAULTS,
    collapse_fault::ENABLING,
    collapse_fault::ENABLING_BY_HARDWARE,
    collapse_fault::HARVEST,
    collapse_fault::UNMAP,
    collapse_fault::UNMAP_PART,
    collapse_fault::PROTECT,
    collapse_fault::LAZILY,
    fault_fault::ONE_ENTRY,
    fault_fault::MISSING_TABLE,
    fault_fault::MISSING_TABLES,
    fault_fault::REPLACE,
    fault_slot_change::DELETE,
    fault_slot_change::MOVE,
    fault_slot_change::MOVE_AWAY,
    fault_slot_change::LOG_ON,
    fault_slot_change::LOG_ON_MARKED,
    fault_slot_change::LOG_ON_RELAX,
    fault_slot_change::LOG_ON_RELAX_BLOCK,
    fault_slot_change::LOG_ON_TWICE,
    fault_slot_change::DELETE_TWICE,
    fault_slot_change::LOG_AGAIN,
    fault_slot_change::READ_ONLY_RELAX,
    fault_harvest::RELAX,
    fault_harvest::CACHED,
    fault_harvest::REMAP,
    fault_harvest::SUMMARY,
    fault_harvest::TWO_HARVESTERS,
    fault_harvest::COMPLETE,
    groups::FAULTS,
    groups::INVALIDATE,
    groups::UNMAP_PART,
    groups::UNMAP_PARTS,
    groups::WRITES,
    groups::WRITE_UNMAP,
    groups::HARVEST,
    groups::CLEAR,
    groups::ENABLING,
    groups::PROTECT_PART,
    groups::COLLAPSE,
    split_fault::READ_BESIDE,
    split_fault::WRITE_BESIDE,
    split_fault::HARVEST,
    split_fault::CLEAR,
    split_fault::UNMAP,
    unlink_walk::CUT,
    unlink_walk::CUT_WALKED,
    unlink_walk::CUT_AND_TAKE,
    unlink_walk::CUT_TWICE,
    unlink_walk::CUT_DEEP,
    unlink_walk::CUT_OUTSIDE,
    unlink_walk::OVERLAPPING,
    reclaim::SNAPSHOT,
    reclaim::LOG,
    reclaim::JOIN,
    reclaim::TABLE,
    reclaim::TWO_RECLAIMERS,
    hardware_log::HARVEST,
    hardware_log::UNMAP,
    hardware_log::CUT,
    hardware_log::UNMAP_TWICE,
    hardware_log::CUT_HARVEST,
    hardware_log::GET,
    hardware_log::ENABLING,
    hardware_log::READ_ONLY,
    invalidate_fault::GUARD,
    invalidate_fault::HOST,
    invalidate_fault::HOST_NEW_SLOT,
    invalidate_fault::GUESTS,
    invalidate_fault::MISSING_TABLE,
    invalidate_fault::BLOCKING,
    invalidate_fault::BLOCK,
    invalidate_fault::REPLACE,
    invalidate_fault::ONE_SHOT,
    invalidate_fault::OVERLAPPING,
    invalidate_fault::NEIGHBOUR,
    protect_protect::RANGE,
    protect_protect::CLEAR,
    teardown_fault::FAULT,
    teardown_fault::LINK,
    teardown_fault::UNMAP,
    teardown_fault::TWICE,
    together::REGION_UNDER_ALL,
];
