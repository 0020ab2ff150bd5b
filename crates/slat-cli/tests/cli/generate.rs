//! `slat completions` and `slat man` as their users run them.

use std::process::{Command, Stdio};

use super::{slat, stderr, stdout};

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = slat(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", stderr(&output));
        let text = stdout(&output);
        for word in ["dirty-log", "page-table", "completions", "locking", "prefault", "shared-relax"] {
            // Elvish and PowerShell complete names, not values.
            let has_values = !matches!(shell, "elvish" | "powershell");
            assert!(text.contains(word) || word == "shared-relax" && !has_values, "{shell}: {word}");
        }
    }
}

#[test]
fn bash_takes_its_completions() {
    let script = stdout(&slat(&["completions", "bash"]));
    let check = Command::new("bash").args(["-n", "-c", &script]).stderr(Stdio::inherit()).status();
    if let Ok(status) = check {
        assert!(status.success());
    }
}

#[test]
fn manual_pages_are_made_for_slat_and_for_each_command() {
    let page = |arguments: &[&str]| {
        let output = slat(&[&["man"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let main = page(&[]);
    assert!(main.contains(".TH slat 1") && main.contains("page\\-table"), "{main}");
    for command in ["dirty-log", "page-table", "completions", "man"] {
        let text = page(&[command]);
        assert!(text.contains(&format!(".TH slat-{command} 1")) && text.contains("Examples:"), "{text}");
    }
}

#[test]
fn what_there_is_not_is_answered_with_what_there_is() {
    for (arguments, message) in [
        (&["completions", "tcsh"][..], "bash, elvish, fish, powershell, zsh"),
        (&["completions"], "<SHELL>"),
        (&["man", "woman"], "there are: dirty-log, page-table, completions, man"),
        (&["dirty"], "dirty-log"),
    ] {
        let output = slat(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
    let object: serde_json::Value = serde_json::from_slice(&slat(&["dirty", "--json"]).stdout).expect("an object");
    assert_eq!((&object["schema"], &object["command"]), (&"slat/1".into(), &"slat".into()));
}
