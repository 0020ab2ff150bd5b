//! The command line.

mod common;
mod dirty_log;
mod page_table;
#[cfg(test)]
pub(crate) mod tests;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use common::Common;
pub(crate) use dirty_log::{DirtyLog, Plant as DirtyLogPlant};
pub(crate) use page_table::{Collapse, PageTable, Plant as PageTablePlant};

/// The second-stage MMU for hypervisors, measured.
#[derive(Parser, Debug)]
#[command(name = "slat", version, about, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Times populating memory, dirtying it under a dirty log, and taking the log (KVM's dirty_log_perf_test)
    #[command(long_about = dirty_log::long(), after_help = dirty_log::EXAMPLES)]
    DirtyLog(DirtyLog),

    /// Times creating, splitting and joining mappings by vCPUs that share them (KVM's kvm_page_table_test)
    #[command(long_about = page_table::long(), after_help = page_table::EXAMPLES)]
    PageTable(PageTable),

    /// Prints what makes a shell complete slat's options
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Prints a manual page, in roff
    #[command(after_help = MAN)]
    Man {
        /// The command that the page is about, such as dirty-log [default: slat itself]
        command: Option<String>,
    },
}

const COMPLETIONS: &str = "\
Examples:
  slat completions bash > ~/.local/share/bash-completion/completions/slat
  slat completions zsh > ~/.zfunc/_slat
  slat completions fish > ~/.config/fish/completions/slat.fish";

const MAN: &str = "\
Examples:
  slat man | man -l -
  slat man dirty-log > /usr/local/share/man/man1/slat-dirty-log.1";

impl Command {
    /// The name of the command, as it is typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::DirtyLog(_) => "dirty-log",
            Self::PageTable(_) => "page-table",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}
