//! How many leaves of which size map the memory.

use slat::addr::Level;
use slat::format::{Format, Geometry};
use slat::vm::VmRef;
use std::fmt;

use super::touch::{Layout, Stage};
use crate::arguments::Collapse;
use crate::size;

/// Leaves by level, from the page up, each level with its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaves(Vec<(u64, u64)>);

impl Leaves {
    /// None yet, of the levels that `geometry` has leaves at.
    pub(crate) fn none(geometry: Geometry) -> Self {
        Self((0..=geometry.largest_leaf().get()).map(|level| (geometry.size(Level::new(level)), 0)).collect())
    }

    /// Those that the engine counts. To be asked while no vCPU is at work.
    pub(crate) fn counted<R: VmRef>(vm: &R) -> Self {
        let mut leaves = Self::none(vm.vm().format().geometry());
        for (place, count) in leaves.0.iter_mut().zip(vm.vm().statistics().leaves) {
            place.1 = count;
        }
        leaves
    }

    /// Those that there have to be after `stage`; `None` where it is the engine's choice which pages become blocks again.
    pub(crate) fn expected(geometry: Geometry, layout: &Layout, stage: Stage, collapse: Collapse) -> Option<Self> {
        let mut leaves = Self::none(geometry);
        match stage {
            Stage::Create => leaves.add(layout.piece, layout.pieces()),
            // The first page of each piece is mapped by itself, and all that had to be split for that.
            Stage::Update => {
                let entries = geometry.entries() as u64;
                let mut size = layout.piece;
                while size > geometry.page_size() {
                    size /= entries;
                    leaves.add(size, layout.pieces() * (entries - 1));
                }
                leaves.add(geometry.page_size(), layout.pieces());
            }
            Stage::Adjust if collapse == Collapse::ByFaults => return None,
            Stage::Adjust => leaves.add(layout.piece, layout.pieces()),
        }
        Some(leaves)
    }

    /// Counts `count` more of this size.
    pub(crate) fn add(&mut self, size: u64, count: u64) {
        self.0.iter_mut().filter(|(bytes, _)| *bytes == size).for_each(|(_, leaves)| *leaves += count);
    }

    /// How many there are of a size.
    pub(crate) fn of(&self, size: u64) -> u64 {
        self.0.iter().find(|(bytes, _)| *bytes == size).map_or(0, |(_, count)| *count)
    }

    /// Bytes that all of them map.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(bytes, count)| bytes * count).sum()
    }

    /// Sizes with their numbers, smallest first.
    pub(crate) fn by_size(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().rev().filter(|(_, count)| *count > 0).collect();
        let texts = parts.iter().map(|(bytes, count)| format!("{count} of {}", size::show(*bytes)));
        f.write_str(&if parts.is_empty() { "none".to_owned() } else { texts.collect::<Vec<_>>().join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slat::addr::{Gpa, GpaRange};
    use slat::format::Ept;

    fn expected(piece: u64, stage: Stage) -> String {
        let memory = GpaRange::with_len(Gpa::new(4 << 30), 2 << 30).unwrap();
        let layout = Layout { memory, piece, page: 4096 };
        Leaves::expected(Ept::new().geometry(), &layout, stage, Collapse::InPlace).unwrap().to_string()
    }

    #[test]
    fn a_block_is_split_down_to_its_first_page() {
        assert_eq!(expected(1 << 30, Stage::Create), "2 of 1G");
        assert_eq!(expected(1 << 30, Stage::Update), "1022 of 2M, 1024 of 4K");
        assert_eq!(expected(1 << 30, Stage::Adjust), "2 of 1G");
        assert_eq!(expected(2 << 20, Stage::Create), "1024 of 2M");
        assert_eq!(expected(2 << 20, Stage::Update), "524288 of 4K");
        assert_eq!(expected(4096, Stage::Create), "524288 of 4K");
        assert_eq!(expected(4096, Stage::Update), "524288 of 4K");
    }
}
