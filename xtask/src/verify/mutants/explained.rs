//! The survivors that make no difference, and why: `proofs/mutants/explained.txt`.
//!
//! Paragraphs, and after each the mutants that it explains, indented by four; under a mutant, indented by eight, the line of
//! source that it changes. That, its file and what is replaced name it, so that the list outlives changes around it. A
//! mutant that a line has several times is listed as often.

use anyhow::{Context, ensure};

/// A mutant, named stably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mutant {
    /// The file, and what is replaced by what in which function.
    pub(super) name: String,
    /// The line of source, trimmed.
    pub(super) line: String,
}

/// Explanations of mutants, those not yet asked for.
#[derive(Debug)]
pub(super) struct Explained(Vec<(Mutant, String)>);

impl Explained {
    /// Reads the list.
    pub(super) fn read(text: &str) -> anyhow::Result<Self> {
        let (mut all, mut why, mut begins): (Vec<(Mutant, String)>, _, _) = (Vec::new(), String::new(), true);
        for (number, text) in text.lines().enumerate() {
            let line = text.trim();
            match text.len() - text.trim_start().len() {
                _ if line.is_empty() => begins = true,
                0 if begins => (why, begins) = (line.to_owned(), false),
                0 => why = why + " " + line,
                4 => all.push((Mutant { name: line.to_owned(), line: String::new() }, why.clone())),
                8 => all.last_mut().with_context(|| format!("line {}: of no mutant", number + 1))?.0.line = line.into(),
                other => anyhow::bail!("line {}: indented by {other}", number + 1),
            }
        }
        let lacking = all.iter().find(|(mutant, why)| mutant.line.is_empty() || why.is_empty());
        ensure!(lacking.is_none(), "without source or explanation: {lacking:?}");
        Ok(Self(all))
    }

    /// Why this mutant makes no difference; each entry of the list answers once.
    pub(super) fn take(&mut self, mutant: &Mutant) -> Option<String> {
        let place = self.0.iter().position(|(explained, _)| explained == mutant)?;
        Some(self.0.remove(place).1)
    }

    /// What nobody has asked for: it is caught now, or gone.
    pub(super) fn rest(self) -> impl Iterator<Item = Mutant> {
        self.0.into_iter().map(|(mutant, _)| mutant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
What this list is.

No bit in common,
which is asserted.

    a.rs: replace | with ^ in f
        x | y | z
    a.rs: replace | with ^ in f
        x | y | z

Never asked.

    b.rs: replace g with ()
        fn g() {
";

    fn mutant(name: &str, line: &str) -> Mutant {
        Mutant { name: name.to_owned(), line: line.to_owned() }
    }

    #[test]
    fn each_entry_explains_one_survivor() {
        let mut explained = Explained::read(LIST).unwrap();
        let twice = mutant("a.rs: replace | with ^ in f", "x | y | z");
        let why = Some("No bit in common, which is asserted.".to_owned());
        assert_eq!([explained.take(&twice), explained.take(&twice), explained.take(&twice)], [why.clone(), why, None]);
        assert_eq!(explained.take(&mutant("b.rs: replace g with ()", "fn g(x: u8) {")), None, "another line");
        assert_eq!(explained.rest().collect::<Vec<_>>(), [mutant("b.rs: replace g with ()", "fn g() {")]);
    }

    #[test]
    fn the_list_can_be_read_and_is_of_files_that_are_there() {
        let list = std::fs::read_to_string(crate::tools::root().join(crate::verify::mutants::EXPLAINED)).unwrap();
        for mutant in Explained::read(&list).unwrap().rest() {
            let (file, _) = mutant.name.split_once(": ").expect("a file and a change");
            let sources = ["slat", "slat-machine"].map(|name| crate::tools::root().join(format!("crates/{name}/src")));
            assert!(sources.iter().any(|folder| folder.join(file).is_file()), "{mutant:?}");
        }
    }

    #[test]
    fn a_list_that_lacks_something_is_refused() {
        for bad in ["    a.rs: m\n        x\n", "Why.\n    a.rs: m\n", "Why.\n        x\n", "Why.\n  a.rs: m\n"] {
            assert!(Explained::read(bad).is_err(), "{bad}");
        }
    }
}
