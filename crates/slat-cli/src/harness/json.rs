//! The parts that all JSON objects share.

use serde::Serialize;

use super::setting::{Setting, available_memory};
use crate::failure::{Failure, engine};

/// The name of the shape of `command`'s object, `slat` being none in particular.
pub(crate) fn schema(command: &str) -> String {
    if command == "slat" { "slat/1".to_owned() } else { format!("slat.{command}/1") }
}

/// The object of a command: what all have, and its own parameters and runs.
#[derive(Serialize)]
pub(crate) struct Object<P, R> {
    schema: String,
    command: &'static str,
    kind: &'static str,
    machine: Machine,
    parameters: P,
    runs: Vec<R>,
}

impl<P: Serialize, R: Serialize> Object<P, R> {
    /// The object of `command`, as text.
    pub(crate) fn text(command: &'static str, parameters: P, runs: Vec<R>) -> Result<String, Failure> {
        let schema = schema(command);
        pretty(&Self { schema, command, kind: "measured", machine: Machine::this(), parameters, runs })
    }
}

#[derive(Serialize)]
struct Machine {
    cpus: usize,
    arch: &'static str,
    os: &'static str,
    memory_available: Option<u64>,
    second_stage: &'static str,
}

impl Machine {
    fn this() -> Self {
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            memory_available: available_memory(),
            second_stage: "software",
        }
    }
}

/// The parameters that all tests have.
#[derive(Serialize)]
pub(crate) struct Common<'a> {
    source: String,
    offset: Option<u64>,
    pins: &'a [usize],
    verify: bool,
    repeat: u32,
    prefault: bool,
}

impl<'a> Common<'a> {
    /// Those of `setting`.
    pub(crate) fn of(setting: &'a Setting) -> Self {
        let &Setting { source, offset, ref pins, verify, repeat, prefault, .. } = setting;
        Self { source: source.to_string(), offset, pins, verify, repeat, prefault }
    }
}

/// The names of all formats as one object.
pub(crate) fn formats(command: &str, names: &[&str]) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Formats<'a> {
        schema: String,
        command: &'a str,
        formats: &'a [&'a str],
    }
    pretty(&Formats { schema: schema(command), command, formats: names })
}

/// Any object as people and programs read it.
pub(crate) fn pretty(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(object).map_err(engine)
}
