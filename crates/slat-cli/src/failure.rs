//! How a command fails: what is said, and with which exit code.

use serde::Serialize;
use slat_machine::memory::MemoryError;
use slat_machine::{GuestError, MachineError};
use std::process::ExitCode;

use crate::harness::json::{pretty, schema};
use crate::output::say;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Memory, a copy of it or its tables are not what they have to be, or something was left behind.
    #[error("{0}")]
    Verification(String),
    /// An option was wrong; the text says what is allowed.
    #[error("{0}")]
    Input(String),
    /// This computer cannot do that.
    #[error("{0}")]
    Machine(String),
    /// The engine did something that it must not.
    #[error("the engine failed: {0}")]
    Engine(String),
}

impl Failure {
    /// What a user asked for that cannot be; `option` names the option.
    pub(crate) fn option(option: &str, what: impl std::fmt::Display) -> Self {
        Self::Input(format!("error: {option}: {what}"))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Verification(_) => "verification",
            Self::Input(_) => "input",
            Self::Machine(_) => "machine",
            Self::Engine(_) => "engine",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Verification(_) | Self::Engine(_) => 1,
            Self::Input(_) => 2,
            Self::Machine(_) => 3,
        }
    }

    /// Says it, on standard error or as an object on standard output, and gives the exit code.
    pub(crate) fn report(&self, command: &str, as_json: bool) -> ExitCode {
        if as_json {
            let error = Error { kind: self.kind(), message: self.to_string() };
            let object = Object { schema: schema(command), command, error };
            say!("{}", pretty(&object).unwrap_or_default());
        } else {
            eprintln!("{self}");
        }
        ExitCode::from(self.code())
    }
}

#[derive(Serialize)]
struct Object<'a> {
    schema: String,
    command: &'a str,
    error: Error,
}

#[derive(Serialize)]
struct Error {
    kind: &'static str,
    message: String,
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Self {
        Self::Machine(format!("error: {error}"))
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        Self::Machine(format!("error: {error}"))
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// An answer of the engine's that a correct run does not get.
pub(crate) fn engine(error: impl std::fmt::Display) -> Failure {
    Failure::Engine(error.to_string())
}
