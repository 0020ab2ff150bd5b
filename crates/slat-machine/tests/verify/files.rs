//! Traces in files: what is written is read again, and whatever is read harms nobody.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use proptest::prelude::*;
use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::host::{Flush, Hint};
use slat_machine::checker::{Checker, Event, How, replay};
use slat_machine::trace::file::{Header, TraceError, read, write};

use crate::play::Play;
use crate::subject::{Arm, Subject, WithSubject, with_name};
use crate::traced::{VCPUS, round};

/// Keeps a trace; where, and how to look at it again.
pub(crate) fn keep<S: Subject>(what: &str, trace: &[Event]) -> String {
    let path = std::env::temp_dir().join(format!("slat-{}-{what}.trace", S::NAME));
    let mut out = BufWriter::new(File::create(&path).unwrap());
    write(&mut out, &Header::new(S::NAME, VCPUS), trace).unwrap();
    out.flush().unwrap();
    format!("; look at it again with: cargo xtask verify --replay {}", path.display())
}

/// What both evaluators find in a trace, as text.
struct Judge<'t> {
    trace: &'t [Event],
    cores: u32,
}

impl WithSubject for Judge<'_> {
    type Output = String;

    fn with<S: Subject>(self) -> String {
        let mut online = Checker::judge(S::discipline(self.cores), self.trace);
        online.sort_unstable();
        let replayed = replay::judge(&S::discipline(self.cores), self.trace);
        let mut text = format!("{} events, {} findings\n", self.trace.len(), online.len());
        for finding in &online {
            text += &format!("{finding}\n");
        }
        for event in online.first().map_or(0..0, |first| first.event.saturating_sub(20)..first.event + 1) {
            text += &format!("{event:8} {:x?}\n", self.trace[event]);
        }
        if online.first() != replayed.first() {
            text += &format!("the replay differs: {:?}\n", replayed.first());
        }
        text
    }
}

/// Looks at the trace in the file that `SLAT_TRACE` names.
#[test]
#[ignore = "wants a file"]
fn replay_a_file() {
    let path = PathBuf::from(std::env::var_os("SLAT_TRACE").expect("SLAT_TRACE names a file"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (header, trace) = read(BufReader::new(file)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = with_name(&header.format, Judge { trace: &trace, cores: header.cores });
    print!("{}", found.unwrap_or_else(|| panic!("there is no format {:?}", header.format)));
}

fn bytes_of(trace: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, &Header::new(Arm::NAME, VCPUS), trace).unwrap();
    bytes
}

#[test]
fn a_trace_of_the_engine_is_read_as_it_was_written() {
    let trace = round::<Arm>(Play::Notes, 3, 1).trace;
    let (header, again) = read(&*bytes_of(&trace)).unwrap();
    assert_eq!(header, Header::new("arm64-4k", VCPUS));
    assert_eq!(again, trace);
    assert!(Judge { trace: &again, cores: header.cores }.with::<Arm>().contains(" 0 findings"));
}

#[test]
fn files_that_are_no_traces_are_refused_with_the_reason() {
    let refused = |text: &str| read(text.as_bytes()).unwrap_err();
    assert!(matches!(refused(""), TraceError::Empty));
    assert!(matches!(refused("no trace"), TraceError::Line { line: 1, .. }));
    assert!(matches!(refused(r#"{"version":9,"format":"ept","cores":2}"#), TraceError::Version(9)));
    assert!(matches!(refused(r#"{"version":1,"format":"ept","cores":0}"#), TraceError::Cores(0)));
    let header = r#"{"version":1,"format":"ept","cores":2}"#;
    for event in [
        "{}",
        r#"{"Read":{"thread":1,"at":"0x1001","value":"0x0"}}"#,
        r#"{"Read":{"thread":1,"at":"0x1000","value":"zero"}}"#,
        r#"{"Read":{"thread":1,"at":"0x1000","value":"0x0","also":1}}"#,
        r#"{"Logged":{"from":"0x2000","to":"0x1000"}}"#,
        r#"{"FlushBegun":{"thread":1,"id":1,"flush":{"Leaves":{"range":{"from":"0x0","to":"0x1000"},"level":9}},"vmid":1,"cores":1}}"#,
    ] {
        assert!(matches!(refused(&format!("{header}\n{event}")), TraceError::Line { line: 2, .. }), "{event}");
    }
    for event in [
        r#"{"Allocated":{"table":"0x1000","tables":17}}"#,
        r#"{"Logged":{"from":"0x0","to":"0x10000000000"}}"#,
        r#"{"Taken":{"start":"0x0","len":18446744073709551615}}"#,
    ] {
        assert!(matches!(refused(&format!("{header}\n{event}")), TraceError::TooMuch { line: 2 }), "{event}");
    }
}

/// Tables, words and pages that are few enough to meet.
fn any_event() -> impl Strategy<Value = Event> {
    let table = (0u64..4).prop_map(|number| Hpa::new((4 << 30) + (number << 12)));
    let at = (0u64..4, 0u64..3).prop_map(|(table, word)| Hpa::new((4 << 30) + (table << 12) + 8 * word));
    let word = prop_oneof![
        Just(0),
        Just(4),
        Just(8),
        (0u64..4).prop_map(|table| ((4 << 30) + (table << 12)) | 3),
        (0u64..4).prop_map(|page| ((1 << 40) + (page << 30)) | 0x7fd),
        any::<u64>(),
    ];
    let range =
        (0u64..4, 0u64..4).prop_map(|(first, count)| GpaRange::with_len(Gpa::new(first << 21), count << 12).unwrap());
    let flush = prop_oneof![
        Just(Flush::All),
        range.clone().prop_map(|range| Flush::Tables { range }),
        (range.clone(), 0u8..3)
            .prop_map(|(range, level)| Flush::Leaves { range, level: Hint::Level(Level::new(level)) }),
    ];
    let thread = 0u16..3;
    let how = prop_oneof![Just(How::Store), Just(How::Swap), Just(How::Exchange)];
    prop_oneof![
        2 => (table.clone(), 1usize..3).prop_map(|(table, tables)| Event::Allocated { table, tables }),
        1 => (table.clone(), 1usize..3).prop_map(|(table, tables)| Event::Freed { table, tables }),
        2 => (table, 1usize..3).prop_map(|(root, tables)| Event::Rooted { root, tables }),
        4 => (thread.clone(), at.clone(), word.clone()).prop_map(|(thread, at, value)| Event::Read { thread, at, value }),
        8 => (thread.clone(), at.clone(), word.clone(), word.clone(), how)
            .prop_map(|(thread, at, old, new, how)| Event::Wrote { thread, at, old, new, how }),
        2 => (thread.clone(), at, word.clone(), word.clone())
            .prop_map(|(thread, at, old, new)| Event::Updated { thread, at, old, new }),
        3 => (thread.clone(), 0u64..3, flush, 6u16..8, 0u64..4)
            .prop_map(|(thread, id, flush, vmid, cores)| Event::FlushBegun { thread, id, flush, vmid, cores }),
        2 => (0u64..3).prop_map(|id| Event::FlushDone { id }),
        4 => (thread, 0u8..5).prop_map(|(thread, kind)| match kind {
            0 => Event::Called { thread },
            1 => Event::Returned { thread },
            2 => Event::Left { thread },
            3 => Event::Entered { thread },
            _ => Event::Uprooted { thread },
        }),
        4 => (range, word, 0u8..9).prop_map(|(range, word, kind)| match kind {
            0 => Event::Withdrawn(range),
            1 => Event::Granted(range),
            2 => Event::Logged(range),
            3 => Event::Unlogged(range),
            4 => Event::Copied(range),
            5 => Event::Complete(range),
            6 => Event::Cleared(range),
            7 => Event::Quiet,
            _ => Event::Annotated { range, word },
        }),
    ]
}

const CASES: u32 = 2_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_trace_is_read_as_it_was_written_and_harms_no_evaluator(trace in proptest::collection::vec(any_event(), 0..60)) {
        let (header, again) = read(&*bytes_of(&trace)).unwrap();
        prop_assert_eq!(&again, &trace);
        let _ = Judge { trace: &trace, cores: header.cores }.with::<Arm>();
    }

    #[test]
    fn any_damaged_file_is_a_trace_or_an_error(
        trace in proptest::collection::vec(any_event(), 1..8),
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes_of(&trace);
        for (at, value) in damages {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok((header, trace)) = read(&*bytes) {
            let _ = Judge { trace: &trace, cores: header.cores }.with::<Arm>();
        }
    }

    #[test]
    fn any_bytes_are_a_trace_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&*bytes);
    }
}

#[test]
fn counts() {
    println!("fuzz|traces written, read and judged; files of traces damaged; bytes read as traces|{}", 3 * CASES);
}
