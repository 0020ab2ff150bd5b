//! Which cache lines were read and written, and by which file of the engine.

use std::collections::BTreeMap;
use std::panic::Location;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The lines that some operations have touched.
#[derive(Clone, Debug, Default)]
pub struct Lines(BTreeMap<usize, Touched>);

/// What was done to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    /// Whether it was written to, or taken by a read-modify-write.
    pub written: bool,
    /// Where that was done first; where it was read first, if it was not written.
    pub by: &'static Location<'static>,
}

impl Touched {
    /// The file of the engine that touched the line, below `crates/slat/src`.
    pub fn file(&self) -> &'static str {
        let file = self.by.file();
        file.rsplit_once("slat/src/").map_or(file, |(_, file)| file)
    }
}

impl Lines {
    pub(super) fn add(&mut self, address: usize, by: &'static Location<'static>, written: bool) {
        let touched = self.0.entry(address / LINE).or_insert(Touched { written, by });
        if written && !touched.written {
            *touched = Touched { written, by };
        }
    }

    /// How many lines were written.
    pub fn written(&self) -> usize {
        self.0.values().filter(|touched| touched.written).count()
    }

    /// The lines that both have written.
    pub fn written_by_both<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Touched, Touched)> + 'a {
        self.both(other).filter(|(one, other)| one.written && other.written)
    }

    /// The lines that one has written and the other read.
    pub fn written_and_read<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Touched, Touched)> + 'a {
        self.both(other).filter(|(one, other)| one.written != other.written)
    }

    fn both<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Touched, Touched)> + 'a {
        self.0.iter().filter_map(|(line, touched)| Some((*touched, *other.0.get(line)?)))
    }
}
