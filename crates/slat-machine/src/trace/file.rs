//! Traces in files: a line that says what was traced, then a line for each event, in JSON.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::checker::Event;
use crate::memory::PAGE_SIZE;

/// What was traced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`] of what wrote it.
    version: u32,
    /// The entry format, by its name.
    pub format: String,
    /// How many cores the guest had.
    pub cores: u32,
}

/// How events are written now.
pub const VERSION: u32 = 1;

/// Most cores of a guest that is checked.
const MOST_CORES: u32 = 64;
/// Most tables in one allocation: the largest root.
const MOST_TABLES: usize = 16;
/// Most pages that one declaration is about.
const MOST_PAGES: u64 = 1 << 20;

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has no first line.
    #[error("the file is empty")]
    Empty,
    /// It was written by another version.
    #[error("the trace was written by version {0}, and this is version {VERSION}")]
    Version(u32),
    /// A guest has no so many cores.
    #[error("a guest that is checked has 1 to {MOST_CORES} cores, not {0}")]
    Cores(u32),
    /// A line is no event, or, as line 1, does not say what was traced.
    #[error("line {line}: {error}")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// An event is about more than there can be.
    #[error("line {line}: the event is about more than a guest has")]
    TooMuch {
        /// Its number.
        line: usize,
    },
}

impl Header {
    /// What a trace of a guest with tables of this format begins with.
    pub fn new(format: &str, cores: u32) -> Self {
        Self { version: VERSION, format: format.to_owned(), cores }
    }

    fn check(self) -> Result<Self, TraceError> {
        match self {
            Self { version, .. } if version != VERSION => Err(TraceError::Version(version)),
            Self { cores, .. } if !(1..=MOST_CORES).contains(&cores) => Err(TraceError::Cores(cores)),
            header => Ok(header),
        }
    }
}

/// Writes a trace.
pub fn write(out: &mut impl Write, header: &Header, trace: &[Event]) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(header)?)?;
    trace.iter().try_for_each(|event| writeln!(out, "{}", serde_json::to_string(event)?))
}

/// Reads a trace. What it says may be nonsense, but no evaluator comes to harm by it.
pub fn read(input: impl BufRead) -> Result<(Header, Vec<Event>), TraceError> {
    let mut lines = (1..).zip(input.lines());
    let (line, text) = lines.next().ok_or(TraceError::Empty)?;
    let header: Header = parse(line, &text?)?;
    let events = lines.map(|(line, text)| {
        let event = parse(line, &text?)?;
        if is_bounded(&event) { Ok(event) } else { Err(TraceError::TooMuch { line }) }
    });
    Ok((header.check()?, events.collect::<Result<_, _>>()?))
}

fn parse<'t, T: Deserialize<'t>>(line: usize, text: &'t str) -> Result<T, TraceError> {
    serde_json::from_str(text).map_err(|error| TraceError::Line { line, error })
}

/// Whether it takes no more than a moment to look at everything that the event is about.
fn is_bounded(event: &Event) -> bool {
    match *event {
        Event::Allocated { tables, .. } | Event::Freed { tables, .. } | Event::Rooted { tables, .. } => {
            tables <= MOST_TABLES
        }
        Event::Taken { len, .. } | Event::Given { len, .. } => len <= MOST_PAGES * PAGE_SIZE,
        Event::Withdrawn(range)
        | Event::Granted(range)
        | Event::Logged(range)
        | Event::Unlogged(range)
        | Event::Copied(range)
        | Event::Complete(range)
        | Event::Cleared(range)
        | Event::Annotated { range, .. } => range.len() <= MOST_PAGES * PAGE_SIZE,
        _ => true,
    }
}
