//! What the guest does in each stage, and what its memory holds afterwards.

use slat::addr::{Gpa, GpaRange};
use slat_machine::{FaultEntry, Runner};
use std::sync::atomic::AtomicBool;

use crate::failure::Failure;
use crate::harness::guest::Work;

/// The memory that all vCPUs touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) memory: GpaRange,
    /// Bytes of the leaf that maps a page of what backs the memory, whose multiples the memory's ends are.
    pub(crate) piece: u64,
    /// Bytes in a page.
    pub(crate) page: u64,
}

/// A stage in which the guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Create,
    Update,
    Adjust,
}

impl Stage {
    /// The name that options and reports use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Adjust => "adjust",
        }
    }

    fn previous(self) -> Option<Self> {
        match self {
            Self::Create => None,
            Self::Update => Some(Self::Create),
            Self::Adjust => Some(Self::Update),
        }
    }

    /// What is written to the page at `gpa`: the same by every vCPU, and different everywhere.
    fn word(self, gpa: Gpa) -> u64 {
        gpa.get() << 8 | (self as u64 + 1)
    }
}

impl Layout {
    /// Whether pieces can be mapped by blocks.
    pub(crate) fn has_blocks(&self) -> bool {
        self.piece > self.page
    }

    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> u64 {
        self.memory.len() / self.piece
    }

    /// The first word of the page at `gpa` once `stage` is over; zero before the first.
    pub(crate) fn word_after(&self, stage: Option<Stage>, gpa: Gpa) -> u64 {
        match stage {
            None => 0,
            Some(stage) if stage == Stage::Adjust || gpa.is_aligned(self.piece) => stage.word(gpa),
            Some(stage) => self.word_after(stage.previous(), gpa),
        }
    }

    /// Pages that the guest writes in `update`, and so the dirty log names.
    pub(crate) fn pages_updated(&self) -> u64 {
        self.pieces()
    }

    /// Addresses from `first` to the end of `range`, `step` bytes apart.
    fn every(range: GpaRange, step: u64) -> impl Iterator<Item = Gpa> {
        (range.start().get()..range.end().get()).step_by(step as usize).map(Gpa::new)
    }
}

/// A stage as vCPUs are told to run it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    pub(crate) layout: Layout,
    pub(crate) stage: Stage,
    /// Whether what is read is looked at.
    pub(crate) verify: bool,
}

impl Work for Touch {
    fn run<E: FaultEntry>(
        &self,
        runner: &mut Runner<'_, E>,
        vcpu: u32,
        _pass: u64,
        _stop: Option<&AtomicBool>,
    ) -> Result<bool, Failure> {
        runner.remain_in_guest(true);
        let result = self.steps(runner, vcpu.is_multiple_of(2));
        runner.remain_in_guest(false);
        result.map(|()| false)
    }
}

impl Touch {
    fn steps<E: FaultEntry>(&self, runner: &mut Runner<'_, E>, is_even: bool) -> Result<(), Failure> {
        let Layout { memory, piece, page } = self.layout;
        match self.stage {
            Stage::Create => Layout::every(memory, piece).try_for_each(|gpa| self.touch(runner, gpa, is_even)),
            Stage::Update => Layout::every(memory, piece).try_for_each(|gpa| {
                self.touch(runner, gpa, true)?;
                self.second_half(gpa).try_for_each(|gpa| self.touch(runner, gpa, false))
            }),
            Stage::Adjust => Layout::every(memory, page).try_for_each(|gpa| self.touch(runner, gpa, is_even)),
        }
    }

    /// The pages of a piece's second half; none where a piece is a page.
    fn second_half(&self, start: Gpa) -> impl Iterator<Item = Gpa> + use<> {
        let Layout { piece, page, .. } = self.layout;
        let half = if self.layout.has_blocks() { piece / 2 } else { piece };
        (half..piece).step_by(page as usize).map(move |offset| Gpa::new(start.get() + offset))
    }

    #[inline]
    fn touch<E: FaultEntry>(&self, runner: &mut Runner<'_, E>, gpa: Gpa, write: bool) -> Result<(), Failure> {
        if write {
            return Ok(runner.store(gpa, self.stage.word(gpa))?);
        }
        let word = std::hint::black_box(runner.load(gpa)?);
        if self.verify { self.look_at(word, gpa) } else { Ok(()) }
    }

    /// Another vCPU may write the page just now: what is read is older or newer, and nothing else.
    fn look_at(&self, word: u64, gpa: Gpa) -> Result<(), Failure> {
        let may_be = [self.stage.previous(), Some(self.stage)].map(|stage| self.layout.word_after(stage, gpa));
        if may_be.contains(&word) {
            return Ok(());
        }
        Err(Failure::Verification(format!(
            "verification failed: in {}, the guest read {word:#018x} at GPA {:#x}, where only {:#018x} or {:#018x} can be",
            self.stage.name(),
            gpa.get(),
            may_be[0],
            may_be[1],
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn layout(piece: u64) -> Layout {
        Layout { memory: GpaRange::with_len(Gpa::new(1 << 30), 4 << 20).unwrap(), piece, page: PAGE }
    }

    #[test]
    fn memory_holds_what_the_last_stage_that_wrote_it_wrote() {
        let (start, second) = (Gpa::new(1 << 30), Gpa::new((1 << 30) + PAGE));
        let blocks = layout(2 << 20);
        assert_eq!(blocks.word_after(None, start), 0);
        assert_eq!(blocks.word_after(Some(Stage::Create), start), Stage::Create.word(start));
        assert_eq!(blocks.word_after(Some(Stage::Update), start), Stage::Update.word(start));
        assert_eq!(blocks.word_after(Some(Stage::Update), second), 0);
        assert_eq!(blocks.word_after(Some(Stage::Adjust), second), Stage::Adjust.word(second));
        assert_eq!(layout(PAGE).word_after(Some(Stage::Update), second), Stage::Update.word(second));
    }

    #[test]
    fn update_reads_the_second_half_of_blocks_only() {
        let touch = |piece| Touch { layout: layout(piece), stage: Stage::Update, verify: true };
        let pages: Vec<_> = touch(2 << 20).second_half(Gpa::new(1 << 30)).collect();
        assert_eq!((pages.len(), pages[0]), (256, Gpa::new((1 << 30) + (1 << 20))));
        assert_eq!(touch(PAGE).second_half(Gpa::new(1 << 30)).count(), 0);
    }

    #[test]
    fn a_word_from_elsewhere_is_found_out() {
        let touch = Touch { layout: layout(2 << 20), stage: Stage::Adjust, verify: true };
        let (here, there) = (Gpa::new(1 << 30), Gpa::new((1 << 30) + PAGE));
        assert!(touch.look_at(Stage::Update.word(here), here).is_ok());
        assert!(touch.look_at(Stage::Adjust.word(here), here).is_ok());
        assert!(touch.look_at(Stage::Create.word(here), here).is_err());
        assert!(touch.look_at(Stage::Adjust.word(there), here).is_err());
    }
}
