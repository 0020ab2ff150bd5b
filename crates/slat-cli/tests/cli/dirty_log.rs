//! `slat dirty-log` as its users run it.

use std::process::Output;

use super::{LOCKINGS, assert_refused, stderr, stdout};

fn slat(arguments: &[&str]) -> Output {
    super::slat(&[&["dirty-log"], arguments].concat())
}

fn json(arguments: &[&str]) -> serde_json::Value {
    super::json(&[&["dirty-log"], arguments].concat())
}

#[test]
fn verifies_in_every_kind_of_locking_and_leaves_no_table() {
    let object = json(&["-b", "4M", "-v", "1,2", "--locking", &LOCKINGS.join(","), "--verify"]);
    assert_eq!(object["schema"], "slat.dirty-log/1");
    assert_eq!(object["command"], "dirty-log");
    assert_eq!(object["kind"], "measured");
    assert!(object["machine"]["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    let runs = object["runs"].as_array().expect("runs");
    let cells: Vec<_> =
        runs.iter().filter_map(|run| Some((run["vcpus"].as_u64()?, run["locking"].as_str()?))).collect();
    let expected: Vec<_> = [1, 2].iter().flat_map(|&vcpus| LOCKINGS.map(|locking| (vcpus, locking))).collect();
    assert_eq!(cells, expected);
    for run in runs {
        assert_eq!(run["verified"], true);
        assert_eq!(run["tables_after_teardown"], 0);
        assert_eq!(run["format"], "arm64-4k");
        assert!(run["tables_peak"].as_u64().is_some_and(|tables| tables >= 4));
        assert!(run["tlb_flushes"].as_u64().is_some_and(|flushes| flushes > 0));
        assert!(run["populate_s"].as_f64().is_some_and(|time| time > 0.0));
        let iterations = run["iterations"].as_array().expect("iterations");
        assert_eq!(iterations.len(), 2);
        let pages = 1024 * run["vcpus"].as_u64().expect("a number");
        assert!(iterations.iter().all(|iteration| iteration["dirty_pages"] == pages && iteration["clear_s"].is_f64()));
    }
}

#[test]
fn every_format_behind_every_lock_is_verified() {
    let listed = stdout(&slat(&["--format", "list"])).lines().collect::<Vec<_>>().join(",");
    for arguments in [&[][..], &["-g", "-x", "2"]] {
        let common = ["-b", "2M", "-v", "2", "-a", "--verify", "--format", &listed, "--locking", &LOCKINGS.join(",")];
        let object = json(&[&common[..], arguments].concat());
        let runs = object["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), listed.split(',').count() * LOCKINGS.len());
        assert!(runs.iter().all(|run| run["verified"] == true && run["tables_after_teardown"] == 0), "{object}");
    }
}

#[test]
fn every_way_of_dirtying_and_taking_is_verified() {
    for arguments in [
        &["-g"][..],
        &["-a", "-w", "30", "-r", "7"],
        &["-o", "-v", "3"],
        &["-x", "8", "-v", "2", "-g"],
        &["-x", "32", "-a"],
        &["-e", "-v", "2"],
        &["-i", "4", "-s", "anonymous"],
        &["-s", "shmem", "-g"],
        &["-p", "0x40000000"],
        &["-p", "0x40001000", "-g"],
        &["-b", "20K", "-x", "5"],
        &["-c", "0"],
        &["--repeat", "2"],
        &["--prefault"],
        &["--format", "ept", "-g"],
        &["--eager-page-split", "-v", "2"],
        &["--eager-page-split", "-g", "-a"],
        &["--hardware-log", "--format", "arm64-4k-hd"],
        &["--hardware-log", "--format", "ept-ad", "-g", "--eager-page-split"],
    ] {
        let size = if arguments.contains(&"-b") { &["--verify"][..] } else { &["--verify", "-b", "4M"] };
        let object = json(&[size, arguments].concat());
        let run = &object["runs"][0];
        assert_eq!((&run["verified"], &run["tables_after_teardown"]), (&true.into(), &0.into()), "{arguments:?}");
        assert_eq!(run["iterations"][0]["clear_s"].is_null(), arguments.contains(&"-g"), "{arguments:?}");
    }
}

#[test]
fn blocks_are_split_ahead_or_by_hardwares_log_not_at_all() {
    let flushes = |arguments: &[&str]| {
        let object = json(&[&["-b", "64M", "--locking", "lock-free", "-s", "anonymous_thp"], arguments].concat());
        (object["runs"][0]["tlb_flushes"].as_u64().expect("a number"), object["runs"][0]["split_s"].is_f64())
    };
    let ((by_faults, timed), (ahead, timed_ahead)) = (flushes(&[]), flushes(&["--eager-page-split"]));
    assert_eq!((timed, timed_ahead), (false, true));
    assert!(by_faults >= 32 && ahead < 16, "32 blocks: {by_faults} flushes by faults, {ahead} ahead");
}

#[test]
fn hardwares_log_wants_a_format_that_has_it() {
    assert_refused("dirty-log", &["-b", "2M", "--hardware-log"], 2, "--hardware-log");
    assert_refused("dirty-log", &["-b", "2M", "--hardware-log", "--format", "ept-ad,ept"], 2, "arm64-4k-hd, ept-ad");
}

#[test]
fn a_page_that_is_not_copied_is_found() {
    for arguments in [&["-g"][..], &[]] {
        let output = slat(&[&["-b", "2M", "--verify", "--plant", "skip-page"][..], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        let message = stderr(&output);
        assert!(message.contains("verification failed: page ") && message.contains("GPA 0x"), "{message}");
    }
}

#[test]
fn one_run_prints_the_lines_of_kvms_test() {
    let output = slat(&["-b", "2M"]);
    let text = stdout(&output);
    for line in [
        "Test iterations: 2\n",
        "guest physical test memory: [0xffffffe00000, 0x1000000000000)\n",
        "Populate memory time: 0.",
        "Enabling dirty logging time: 0.",
        "\nIteration 1 dirty memory time: 0.",
        "\nIteration 2 get dirty log time: 0.",
        "\nIteration 2 clear dirty log time: 0.",
        "\nDisabling dirty logging time: 0.",
        "\nGet dirty log over 2 iterations took 0.",
        "\nClear dirty log over 2 iterations took 0.",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
    let time = text.lines().find_map(|line| line.strip_prefix("Populate memory time: ")).expect("the line");
    assert_eq!(time.len(), "0.123456789s".len(), "nine digits");
    assert!(!stdout(&slat(&["-b", "2M", "-g"])).contains("clear dirty log"));
}

#[test]
fn several_runs_print_a_table_with_ratios() {
    let text = stdout(&slat(&["-b", "1M", "-v", "1,2", "--locking", &LOCKINGS.join(","), "--verify"]));
    assert!(text.contains("| ratio |") && text.contains("no page lost"), "{text}");
    assert!(text.contains("ratio: the time of exclusive divided by the row's"), "{text}");
    for locking in LOCKINGS {
        assert_eq!(text.lines().filter(|line| line.contains(&format!("| {locking} "))).count(), 2, "{text}");
    }
    let alone = stdout(&slat(&["-b", "1M", "-v", "1,2"]));
    assert!(alone.contains("lock-free") && !alone.contains("ratio:") && !alone.contains("| ratio"), "{alone}");
}

#[test]
fn formats_are_listed_one_a_line() {
    let output = slat(&["--format", "list"]);
    assert!(output.status.success());
    let (text, object) = (stdout(&output), json(&["--format", "list"]));
    let names: Vec<_> = text.lines().collect();
    assert_eq!(object["formats"], serde_json::Value::from(names.clone()));
    for name in ["arm64-4k", "arm64-16k", "arm64-64k", "arm64-4k-lpa2", "arm64-4k-fwb", "ept", "npt-5", "sv57x4"] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn no_format_that_is_listed_loses_a_page() {
    let names = stdout(&slat(&["--format", "list"])).lines().collect::<Vec<_>>().join(",");
    for (source, bytes) in [("anonymous", "4M"), ("anonymous_thp", "16M")] {
        let object = json(&["-b", bytes, "-v", "2", "-s", source, "--verify", "--format", &names]);
        let runs = object["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), names.split(',').count());
        for run in runs {
            assert_eq!((&run["verified"], &run["tables_after_teardown"]), (&true.into(), &0.into()), "{run}");
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut command = Command::new(env!("CARGO_BIN_EXE_slat"));
    command.args(["dirty-log", "-b", "32M", "-i", "20"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn bad_input_on_every_option_says_what_is_allowed() {
    for (arguments, code, message) in [
        (&["-b", "0"][..], 2, "whole pages"),
        (&["-b", "5000"], 2, "whole pages"),
        (&["-b", "12Q"], 2, "none of k, m, g, t"),
        (&["-b", "many"], 2, "not a size"),
        (&["-b", "300T"], 2, "address space"),
        (&["-b", "200T"], 3, "choose a smaller"),
        (&["-b", "99999999999T"], 2, "64 bits"),
        (&["-c", "9999"], 2, "there is no CPU 9999"),
        (&["-c", "0", "-v", "2"], 2, "name one for each"),
        (&["-c", "x"], 2, "invalid"),
        (&["-i", "1"], 2, "at least 2"),
        (&["-i", "x"], 2, "invalid"),
        (&["-m", "2"], 2, "--format"),
        (&["-m"], 2, "--format"),
        (&["-n"], 2, "nested"),
        (&["-p", "0x123"], 2, "page size"),
        (&["-p", "0x1000000000000"], 2, "do not fit"),
        (&["-p", "0xzz"], 2, "hexadecimal"),
        (&["-r", "x"], 2, "invalid"),
        (&["-s", "floppy"], 2, "anonymous_thp"),
        (&["-v", "0"], 2, "1 to 1024"),
        (&["-v", "100000"], 2, "1 to 1024"),
        (&["-v", "1,x"], 2, "invalid"),
        (&["-w", "101"], 2, "0 to 100"),
        (&["-x", "0"], 2, "1 to 32764"),
        (&["-x", "40000"], 2, "1 to 32764"),
        (&["-x", "3"], 2, "do not divide"),
        (&["--format", "arm64-64k", "-p", "0x4000"], 2, "page size, 65536"),
        (&["--format", "vax"], 2, "there are: arm64-4k, "),
        (&["--format", "arm64-4k,vax"], 2, "there are: arm64-4k, "),
        (&["--format", "ept,list"], 2, "there are: arm64-4k, "),
        (&["--locking", "hope"], 2, "lock-free, shared-fault, shared-relax, exclusive"),
        (&["--locking", "lock-free,"], 2, "shared-relax"),
        (&["--repeat", "0"], 2, "1 to 1000"),
        (&["--no-such-option"], 2, "unexpected"),
        (&["-a", "stray"], 2, "unexpected"),
    ] {
        let with_size = [&["-b", "1M"][..], arguments].concat();
        let arguments = if arguments[0] == "-b" { arguments } else { &with_size };
        assert_refused("dirty-log", arguments, code, message);
    }
}

#[test]
fn huge_pages_that_are_not_configured_are_a_typed_error() {
    let free = |size| std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-{size}kB/free_hugepages"));
    let is_configured = |size| free(size).is_ok_and(|text| text.trim() != "0");
    for (source, size) in [("anonymous_hugetlb_1gb", 1 << 20), ("shared_hugetlb", 2048)] {
        if !is_configured(size) {
            let output = slat(&["-b", "2M", "-s", source]);
            assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
            assert!(stderr(&output).contains("huge"), "{}", stderr(&output));
        }
    }
}

#[test]
fn help_teaches() {
    let text = stdout(&slat(&["--help"]));
    for word in
        ["populate", "Examples:", "Exit codes", "Modelled", "--verify", "--locking", "shared-fault", "parking_lot"]
    {
        assert!(text.contains(word), "{word}");
    }
}
