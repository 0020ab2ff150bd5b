//! `slat page-table` as its users run it.

use serde_json::Value;
use std::process::Output;

use super::{LOCKINGS, assert_refused, stderr, stdout};

fn slat(arguments: &[&str]) -> Output {
    super::slat(&[&["page-table"], arguments].concat())
}

fn json(arguments: &[&str]) -> Value {
    super::json(&[&["page-table"], arguments].concat())
}

/// How many leaves of a size there are after a stage.
fn leaves(run: &Value, stage: &str, bytes: u64) -> u64 {
    let leaves = run[stage]["leaves"].as_array().expect("leaves");
    leaves.iter().find(|leaf| leaf["bytes"] == bytes).and_then(|leaf| leaf["count"].as_u64()).expect("a size")
}

/// Bytes that the leaves after a stage map.
fn mapped(run: &Value, stage: &str) -> u64 {
    [4 << 10, 2 << 20, 1 << 30].map(|bytes| bytes * leaves(run, stage, bytes)).iter().sum()
}

#[test]
fn blocks_are_created_and_split_in_every_format_behind_every_lock() {
    let object =
        json(&["-b", "8M", "-v", "1,3", "--verify", "--format", "arm64-4k,ept", "--locking", &LOCKINGS.join(",")]);
    assert_eq!((&object["schema"], &object["kind"]), (&"slat.page-table/1".into(), &"measured".into()));
    let runs = object["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 16);
    for run in runs {
        assert_eq!((&run["verified"], &run["tables_after_teardown"]), (&true.into(), &0.into()));
        assert_eq!((leaves(run, "create", 2 << 20), leaves(run, "create", 4 << 10)), (4, 0));
        assert_eq!((leaves(run, "update", 2 << 20), leaves(run, "update", 4 << 10)), (0, 2048));
        assert_eq!(mapped(run, "adjust"), 8 << 20);
        assert_eq!((&run["dirty_pages"], &run["splits"]), (&4.into(), &4.into()));
        assert_eq!(
            (&run["blocks_possible"], &run["blocks_after_adjust"]),
            (&4.into(), &leaves(run, "adjust", 2 << 20).into())
        );
        assert!(run["create"]["time_s"].as_f64().is_some_and(|time| time > 0.0));
    }
}

#[test]
fn small_pages_stay_small_and_are_all_logged() {
    for source in ["anonymous", "shmem"] {
        let object = json(&["-b", "1M", "-v", "2", "-s", source, "--verify", "--format", "arm64-4k,ept"]);
        for run in object["runs"].as_array().expect("runs") {
            for stage in ["create", "update", "adjust"] {
                assert_eq!(leaves(run, stage, 4 << 10), 256, "{source}, {stage}");
            }
            assert_eq!(
                (&run["dirty_pages"], &run["splits"], &run["blocks_possible"]),
                (&256.into(), &0.into(), &0.into())
            );
        }
    }
}

#[test]
fn a_scan_brings_every_block_back() {
    for how in ["in-place", "lazily"] {
        let lockings = LOCKINGS.join(",");
        let common = ["-b", "8M", "-v", "1,2", "--verify", "--collapse", how, "--format", "arm64-4k,ept"];
        let object = json(&[&common[..], &["--locking", &lockings]].concat());
        for run in object["runs"].as_array().expect("runs") {
            let after_scan = if how == "in-place" { 4 } else { 0 };
            assert_eq!((leaves(run, "collapse", 2 << 20), leaves(run, "collapse", 4 << 10)), (after_scan, 0));
            assert_eq!((leaves(run, "adjust", 2 << 20), leaves(run, "adjust", 4 << 10)), (4, 0));
            assert_eq!((&run["blocks_after_adjust"], &run["tables_after_teardown"]), (&4.into(), &0.into()));
        }
    }
    let text = stdout(&slat(&["-b", "4M", "--collapse", "in-place"]));
    assert!(
        text.contains("\nCollapsing time (in-place): 0.") && text.contains("Blocks after adjusting: 2 of 2"),
        "{text}"
    );
    assert!(json(&["-b", "4M"])["runs"][0]["collapse"].is_null());
}

/// A block is split down to its first page and becomes one again, whatever their sizes: in one format of each.
#[test]
fn blocks_of_every_size_are_split_and_come_back() {
    let sizes = [
        ("arm64-16k", 32 << 20, 16 << 10),
        ("arm64-16k-contiguous", 32 << 20, 16 << 10),
        ("arm64-64k", 512 << 20, 64 << 10),
    ];
    for (format, block, page) in sizes {
        let bytes = block.to_string();
        let object = json(&["-v", "2", "--format", format, "-b", &bytes, "--verify", "--collapse", "in-place"]);
        let run = &object["runs"][0];
        assert_eq!((&run["verified"], &run["piece_bytes"]), (&true.into(), &block.into()), "{format}");
        assert_eq!((leaves(run, "create", block), leaves(run, "update", page)), (1, block / page), "{format}");
        assert_eq!(
            (&run["splits"], &run["collapses"], leaves(run, "adjust", block)),
            (&1.into(), &1.into(), 1),
            "{format}"
        );
    }
    let runs = json(&[
        "-b",
        "2M",
        "-s",
        "anonymous",
        "--verify",
        "--format",
        "arm64-4k-contiguous,arm64-64k-contiguous,sv48x4-svnapot",
    ]);
    assert!(runs["runs"].as_array().expect("runs").iter().all(|run| run["verified"] == true));
}

#[test]
fn other_options_are_verified_too() {
    for arguments in [
        &["-p", "0x40000000"][..],
        &["-c", "0", "--prefault"],
        &["--repeat", "2", "--collapse", "in-place"],
        &["-s", "anonymous", "--collapse", "lazily"],
        &["-s", "anonymous", "-p", "0x1000"],
        &["-s", "anonymous", "-b", "20K", "-v", "4"],
    ] {
        let size = if arguments.contains(&"-b") { &["--verify"][..] } else { &["--verify", "-b", "4M"] };
        let run = &json(&[size, arguments].concat())["runs"][0];
        assert_eq!((&run["verified"], &run["tables_after_teardown"]), (&true.into(), &0.into()), "{arguments:?}");
    }
}

#[test]
fn what_is_broken_on_purpose_is_found() {
    for (plant, messages) in
        [("stray-word", ["after create", "at byte 8"]), ("forget-log", ["after update", "there have to be 512 of 4K"])]
    {
        let output = slat(&["-b", "2M", "--verify", "--plant", plant]);
        assert_eq!(output.status.code(), Some(1), "{plant}");
        let text = stderr(&output);
        assert!(messages.iter().all(|message| text.contains(message)), "{text}");
    }
}

#[test]
fn one_run_prints_the_lines_that_users_of_kvms_test_know() {
    let text = stdout(&slat(&["-b", "4M", "-v", "2"]));
    for line in [
        "Testing format: arm64-4k, 48 bits of guest physical address, locking: lock-free\n",
        "Testing memory size: 0x400000\n",
        "Number of testing vCPUs: 2\n",
        "\nCREATE_MAPPINGS: total execution time: 0.",
        "\n  leaves: 2 of 2M\n",
        "\nUPDATE_MAPPINGS: total execution time: 0.",
        "\n  leaves: 1024 of 4K\n",
        "\nADJUST_MAPPINGS: total execution time: 0.",
        "\nBlocks after adjusting: ",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    assert!(!text.contains("Verified"), "{text}");
}

#[test]
fn several_runs_print_a_table() {
    let text = stdout(&slat(&["-b", "2M", "-v", "1,2", "--locking", &LOCKINGS.join(","), "--verify"]));
    assert!(["| ratio |", " create |", " update |", " adjust |"].iter().all(|name| text.contains(name)), "{text}");
    assert!(text.contains("Verified: 8 of 8 runs"), "{text}");
    assert!(text.contains("Blocks after adjusting, in all runs: "), "{text}");
}

#[test]
fn bad_input_on_every_option_says_what_is_allowed() {
    for (arguments, code, message) in [
        (&["-b", "0"][..], 2, "whole pages"),
        (&["-b", "3M"], 2, "3M is not a multiple of 2M, by which arm64-4k maps anonymous_thp (see -s)"),
        (&["-b", "12Q"], 2, "none of k, m, g, t"),
        (&["-b", "300T"], 2, "address space"),
        (&["-b", "200T"], 3, "choose a smaller"),
        (&["-c", "9999"], 2, "there is no CPU 9999"),
        (&["-c", "0", "-v", "2"], 2, "name one for each"),
        (&["-m", "2"], 2, "--format"),
        (&["-p", "0x123"], 2, "page size"),
        (&["-p", "0x1000"], 2, "0x1000 is not a multiple of 2M"),
        (&["-p", "0x1000000000000"], 2, "do not fit"),
        (&["-s", "floppy"], 2, "anonymous_thp"),
        (&["-v", "0"], 2, "1 to 1024"),
        (&["-v", "x"], 2, "invalid"),
        (&["--format", "arm64-4k,arm64-16k"], 2, "2M is not a multiple of 32M, by which arm64-16k maps"),
        (&["-b", "72K", "--format", "arm64-64k", "-s", "anonymous"], 2, "whole pages"),
        (&["--format", "vax"], 2, "there are: arm64-4k, "),
        (&["--locking", "hope"], 2, "lock-free, shared-fault, shared-relax, exclusive"),
        (&["--repeat", "0"], 2, "1 to 1000"),
        (&["--collapse", "now"], 2, "by-faults, in-place, lazily"),
        (&["--plant", "roses"], 2, "stray-word"),
        (&["--iterations", "2"], 2, "unexpected"),
        (&["stray"], 2, "unexpected"),
    ] {
        let with_size = [&["-b", "2M"][..], arguments].concat();
        assert_refused("page-table", if arguments[0] == "-b" { arguments } else { &with_size }, code, message);
    }
}

#[test]
fn formats_are_listed_here_too() {
    assert_eq!(stdout(&slat(&["--format", "list"])), stdout(&super::slat(&["dirty-log", "--format", "list"])));
    assert_eq!(json(&["--format", "list"])["command"], "page-table");
}

#[test]
fn help_teaches() {
    let text = stdout(&slat(&["--help"]));
    for word in ["create", "update", "adjust", "Examples:", "Exit codes", "Modelled", "shared-relax", "parking_lot"] {
        assert!(text.contains(word), "{word}");
    }
}
