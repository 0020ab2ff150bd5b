//! Command lines by chance: each is understood, or refused with a reason.

use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Arguments, Command};
use crate::formats;
use crate::locking::Locking;

/// Every option of both tests, short and long, and some that neither has.
const OPTIONS: [&str; 34] = [
    "-a",
    "-b",
    "-c",
    "-e",
    "-g",
    "-i",
    "-m",
    "-n",
    "-o",
    "-p",
    "-r",
    "-s",
    "-v",
    "-w",
    "-x",
    "--collapse",
    "--format",
    "--json",
    "--locking",
    "--overlap",
    "--pin",
    "--plant",
    "--prefault",
    "--random",
    "--repeat",
    "--seed",
    "--slots",
    "--source",
    "--vcpus",
    "--verify",
    "--write-percent",
    "-z",
    "--",
    "-",
];

/// A number, a size, a list, a name that some option takes; or nothing of the kind.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        "[0-9]{1,4}[kKmMgGtT]?",
        "0x[0-9a-f]{0,17}",
        "[0-9]{1,3}(,[0-9]{0,3}){0,3}",
        prop::sample::select(formats::NAMES).prop_map(str::to_owned),
        vec(prop::sample::select(formats::NAMES), 1..4).prop_map(|names| names.join(",")),
        "(anonymous|anonymous_thp|anonymous_hugetlb_2mb|shmem|lock-free|exclusive|in-place|skip-page)",
        any::<String>(),
    ]
}

/// A command line of the command that is named.
pub(crate) fn command_line(command: &'static str) -> impl Strategy<Value = Vec<String>> {
    let option = prop::sample::select(&OPTIONS[..]).prop_map(str::to_owned);
    let pair = prop_oneof![
        3 => (option.clone(), value()).prop_map(|(option, value)| vec![option, value]),
        1 => (option.clone(), value()).prop_map(|(option, value)| vec![format!("{option}={value}")]),
        1 => option.prop_map(|option| vec![option]),
    ];
    vec(pair, 0..5)
        .prop_map(move |pairs| ["slat", command].map(str::to_owned).into_iter().chain(pairs.concat()).collect())
}

proptest! {
    #[test]
    fn any_command_line_is_understood_or_refused(
        line in prop_oneof![command_line("dirty-log"), command_line("page-table"), command_line("man"), vec(any::<String>(), 0..6)],
    ) {
        if let Err(error) = Arguments::try_parse_from(&line) {
            prop_assert!(!error.render().to_string().is_empty());
        }
    }

    #[test]
    fn any_name_of_a_format_is_listed_or_refused(name in prop_oneof![value(), "[a-z0-9-]{0,12}"]) {
        prop_assert_eq!(formats::named(&name).is_ok(), formats::NAMES.contains(&&*name));
        prop_assert_eq!(formats::address_bits(&name).is_ok(), formats::geometry(&name).is_ok());
    }
}

#[test]
fn any_parser_is_counted() {
    println!("fuzz|command lines, plans, sizes and names|{}", 6 * ProptestConfig::default().cases);
}

#[test]
fn what_is_printed_of_kinds_is_taken_as_an_option() {
    for locking in [Locking::LockFree, Locking::SharedFault, Locking::SharedRelax, Locking::Exclusive] {
        let line = ["slat", "dirty-log", "--locking", locking.name()];
        let Ok(Arguments { command: Command::DirtyLog(options) }) = Arguments::try_parse_from(line) else {
            panic!("{} is no kind of locking", locking.name());
        };
        assert_eq!(options.common.locking, [locking]);
    }
    for name in formats::NAMES {
        assert_eq!(formats::named(name).ok(), Some(*name));
    }
}
