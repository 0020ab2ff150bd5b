//! How many preemptions each scenario's search gets through within minutes.

/// How far a scenario has been searched.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// The scenario's name.
    pub name: &'static str,
    /// Preemptions with which its search ends within minutes.
    pub preemptions: usize,
    /// Interleavings that such a search looked at when it was made for the first time.
    pub executions: u64,
}

const fn up_to(preemptions: usize, name: &'static str, executions: u64) -> Ceiling {
    Ceiling { name, preemptions, executions }
}

/// The scenarios that can be searched further than tests do. All others are searched with their own number of preemptions,
/// whatever is asked for: with one more they took longer than a minute and a half of a core, or have not been tried.
pub const CEILINGS: &[Ceiling] = &[
    up_to(3, "collapse_fault/by_faults", 193_156),
    up_to(3, "annotate_fault/page", 88_956),
    up_to(3, "annotate_fault/again", 199_651),
    up_to(3, "annotate_fault/unmap", 22_219),
    up_to(3, "annotate_fault/collapse", 45_264),
    up_to(3, "annotate_fault/drop", 24_471),
    up_to(3, "annotate_fault/part", 1_842),
    up_to(3, "collapse_fault/write", 61_918),
    up_to(3, "collapse_fault/unmap", 17_990),
    up_to(3, "collapse_fault/unmap_part", 9_829),
    up_to(2, "collapse_fault/protect", 98_640),
    up_to(3, "collapse_fault/lazily", 73_167),
    up_to(3, "fault_fault/one_entry", 10_955),
    up_to(3, "fault_fault/missing_table", 37_532),
    up_to(3, "fault_fault/missing_tables", 125_935),
    up_to(3, "fault_fault/replace", 9_362),
    up_to(2, "fault_slot_change/move", 43_836),
    up_to(2, "fault_slot_change/move_away", 21_228),
    up_to(3, "fault_slot_change/log_on", 125_238),
    up_to(3, "fault_slot_change/log_on_relax", 10_722),
    up_to(3, "fault_slot_change/log_on_relax_block", 46_337),
    up_to(2, "fault_slot_change/delete_twice", 56_503),
    up_to(3, "fault_slot_change/log_again", 64_996),
    up_to(3, "fault_slot_change/read_only_relax", 152_685),
    up_to(3, "fault_harvest/relax", 1_387),
    up_to(3, "fault_harvest/cached", 416),
    up_to(3, "fault_harvest/remap", 17_596),
    up_to(3, "fault_harvest/summary", 6_024),
    up_to(2, "fault_harvest/two_harvesters", 60_264),
    up_to(3, "fault_harvest/complete", 64_516),
    up_to(3, "groups/faults", 54_492),
    up_to(3, "groups/invalidate", 41_876),
    up_to(3, "groups/unmap_part", 3_021),
    up_to(3, "groups/unmap_parts", 38_469),
    up_to(3, "groups/write_unmap", 34_553),
    up_to(3, "groups/harvest", 1_631),
    up_to(3, "groups/clear", 7_663),
    up_to(3, "groups/collapse", 6_688),
    up_to(3, "split_fault/read", 1_274),
    up_to(3, "split_fault/write", 91_371),
    up_to(2, "split_fault/harvest", 90_392),
    up_to(3, "split_fault/clear", 5_271),
    up_to(3, "split_fault/unmap", 6_729),
    up_to(3, "split_fault/ahead", 1_743),
    up_to(3, "split_fault/ahead_unmap", 7_886),
    up_to(3, "split_fault/ahead_harvest", 357_006),
    up_to(3, "split_fault/ahead_twice", 16_169),
    up_to(3, "unlink_walk/cut", 44_068),
    up_to(3, "unlink_walk/cut_walked", 1_293),
    up_to(3, "unlink_walk/cut_and_take", 275_684),
    up_to(2, "unlink_walk/cut_twice", 9_375),
    up_to(3, "unlink_walk/cut_outside", 62_678),
    up_to(3, "reclaim/snapshot", 15_500),
    up_to(3, "reclaim/log", 63_086),
    up_to(3, "reclaim/join", 69),
    up_to(3, "reclaim/table", 6_099),
    up_to(3, "hardware_log/harvest", 920),
    up_to(3, "hardware_log/unmap", 6_937),
    up_to(3, "hardware_log/cut", 2_808),
    up_to(3, "hardware_log/cut_harvest", 39_113),
    up_to(3, "hardware_log/get", 36_632),
    up_to(3, "hardware_log/enabling", 174),
    up_to(3, "invalidate_fault/guard", 7_407),
    up_to(3, "invalidate_fault/host", 10_927),
    up_to(3, "invalidate_fault/missing_table", 8_385),
    up_to(3, "invalidate_fault/blocking", 21_894),
    up_to(3, "invalidate_fault/block", 8_731),
    up_to(3, "invalidate_fault/replace", 75_219),
    up_to(3, "invalidate_fault/one_shot", 46_079),
    up_to(3, "invalidate_fault/neighbour", 12_624),
    up_to(3, "teardown_fault/fault", 32_106),
    up_to(3, "teardown_fault/link", 48_263),
    up_to(3, "teardown_fault/unmap", 23_169),
    up_to(3, "teardown_fault/twice", 1_468),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn ceilings_are_of_scenarios_and_above_what_tests_do() {
        for ceiling in CEILINGS {
            let named: Vec<_> = scenario::ALL.iter().filter(|scenario| scenario.name == ceiling.name).collect();
            assert_eq!(named.len(), 1, "{ceiling:?}");
            assert!(ceiling.preemptions > named[0].preemptions && ceiling.executions > 0, "{ceiling:?}");
            assert_eq!(named[0].ceiling(), ceiling.preemptions, "{ceiling:?} is listed once");
        }
        let own = scenario::ALL.iter().filter(|scenario| CEILINGS.iter().all(|listed| listed.name != scenario.name));
        own.for_each(|scenario| assert_eq!(scenario.ceiling(), scenario.preemptions));
    }
}
