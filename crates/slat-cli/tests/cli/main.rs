//! The command as its users run it.

mod dirty_log;
mod generate;
mod page_table;

use std::process::{Command, Output};

/// All kinds of locking.
const LOCKINGS: [&str; 4] = ["exclusive", "shared-relax", "shared-fault", "lock-free"];

/// Runs `slat` with these arguments.
fn slat(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slat")).args(arguments).output().expect("the command starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The object that a run with `--json` prints, which has to succeed.
fn json(arguments: &[&str]) -> serde_json::Value {
    let output = slat(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// The command refuses these arguments with this exit code and says `message`, as text and as an object.
fn assert_refused(command: &str, arguments: &[&str], code: i32, message: &str) {
    let arguments = [&[command], arguments].concat();
    let output = slat(&arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(message), "{arguments:?}: {text}");
    let as_json = slat(&[&arguments[..], &["--json"]].concat());
    assert_eq!(as_json.status.code(), Some(code), "{arguments:?} --json");
    let object: serde_json::Value = serde_json::from_slice(&as_json.stdout).expect("an object");
    assert!(object["error"]["message"].as_str().is_some_and(|text| text.contains(message)), "{object}");
    assert_eq!(object["error"]["kind"], if code == 2 { "input" } else { "machine" });
    assert_eq!(object["command"], command);
}
