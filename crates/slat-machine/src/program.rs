//! What a guest does: KVM's memstress programs, made of numbers, so that a seed repeats them exactly.
//!
//! In each pass a vCPU takes as many steps as its partition has pages. A step picks the next page, or draws one (as
//! KVM does: with repetition), and writes or reads the first 8 bytes of it. What is written differs from pass to pass.

use slat::addr::{Gpa, GpaRange};

/// A memstress program for all vCPUs of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Program {
    /// Where the memory under stress begins.
    pub base: Gpa,
    /// Bytes from one page to the next.
    pub page_size: u64,
    /// How many vCPUs take part.
    pub vcpus: u32,
    /// Bytes in each vCPU's partition: a multiple of the page size.
    pub bytes_per_vcpu: u64,
    /// Whether all vCPUs work on the first partition instead of their own.
    pub overlap: bool,
    /// In which order the pages come.
    pub order: Order,
    /// How many of 100 steps write, at most 100.
    pub write_percent: u32,
    /// What the program's chances depend on.
    pub seed: u64,
}

/// In which order the pages of a partition come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// One after the other.
    Sequential,
    /// Each step draws a page: some come twice, some not at all.
    Random,
}

/// One step of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Which word is accessed.
    pub gpa: Gpa,
    /// What happens to it.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reads the word.
    Read,
    /// Writes this value.
    Write(u64),
}

impl Program {
    /// The program that touches the same memory for the first time: every page in order, all of them written.
    pub fn populate(&self) -> Self {
        Self { order: Order::Sequential, write_percent: 100, ..*self }
    }

    /// The memory that `vcpu` works on.
    ///
    /// # Panics
    ///
    /// When the program's memory passes the end of 64 bits.
    pub fn partition(&self, vcpu: u32) -> GpaRange {
        let before = if self.overlap { Some(0) } else { self.bytes_per_vcpu.checked_mul(u64::from(vcpu)) };
        let start = before.and_then(|bytes| self.base.checked_add(bytes));
        let range = start.and_then(|start| GpaRange::with_len(start, self.bytes_per_vcpu));
        range.expect("a partition ends before 64 bits do")
    }

    /// Everything that the program may touch.
    pub fn range(&self) -> GpaRange {
        self.partition(0).hull(self.partition(self.vcpus.saturating_sub(1)))
    }

    /// The steps of `vcpu` in pass number `pass`.
    pub fn pass(&self, vcpu: u32, pass: u64) -> Steps {
        let pages = self.bytes_per_vcpu / self.page_size;
        let seed = mixed(mixed(mixed(self.seed) ^ u64::from(vcpu)) ^ pass);
        Steps { program: *self, base: self.partition(vcpu).start(), pages, next: 0, chance: Chance(seed), seed }
    }
}

/// The steps of one vCPU in one pass.
#[derive(Clone, Debug)]
pub struct Steps {
    program: Program,
    base: Gpa,
    pages: u64,
    next: u64,
    chance: Chance,
    seed: u64,
}

impl Iterator for Steps {
    type Item = Step;

    #[inline]
    fn next(&mut self) -> Option<Step> {
        let turn = self.next;
        if turn == self.pages {
            return None;
        }
        self.next += 1;
        let page = match self.program.order {
            Order::Sequential => turn,
            Order::Random => self.chance.below(self.pages),
        };
        let writes =
            self.program.write_percent >= 100 || self.chance.below(100) < u64::from(self.program.write_percent);
        let action = if writes { Action::Write(mixed(self.seed ^ page)) } else { Action::Read };
        Some(Step { gpa: Gpa::new(self.base.get() + page * self.program.page_size), action })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.pages - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Steps {}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    #[inline]
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finalized(self.0)
    }

    /// A number below `end`: the upper half of a product, whose bias is below one in 2^32 here.
    #[inline]
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

#[inline]
fn mixed(value: u64) -> u64 {
    Chance(value).next()
}

#[inline]
const fn finalized(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn program() -> Program {
        Program {
            base: Gpa::new(1 << 30),
            page_size: 4096,
            vcpus: 4,
            bytes_per_vcpu: 1000 * 4096,
            overlap: false,
            order: Order::Random,
            write_percent: 30,
            seed: 1,
        }
    }

    fn pages(steps: Steps) -> Vec<u64> {
        steps.map(|step| step.gpa.get() >> 12).collect()
    }

    #[test]
    fn the_reference_sequence_of_the_generator() {
        let mut chance = Chance(1234567);
        let first: Vec<_> = (0..3).map(|_| chance.next()).collect();
        assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn a_seed_repeats_a_pass_and_passes_differ() {
        let program = program();
        assert!(program.pass(1, 2).eq(program.pass(1, 2)));
        assert!(program.pass(1, 2).ne(program.pass(1, 3)));
        assert!(Program { seed: 2, ..program }.pass(1, 2).ne(program.pass(1, 2)));
        assert_ne!(pages(program.pass(1, 2)), pages(program.pass(2, 2)));
    }

    #[test]
    fn populating_writes_every_page_once_in_order() {
        let populate = program().populate();
        for vcpu in 0..4 {
            let first = (1 << 18) + 1000 * u64::from(vcpu);
            assert_eq!(pages(populate.pass(vcpu, 0)), (first..first + 1000).collect::<Vec<_>>());
            assert!(populate.pass(vcpu, 0).all(|step| matches!(step.action, Action::Write(_))));
        }
        assert_eq!(populate.range().len(), 4000 * 4096);
    }

    #[test]
    fn what_is_written_depends_on_the_pass_and_the_page() {
        let written = |pass| program().populate().pass(0, pass).map(|step| step.action);
        let values: HashSet<_> = written(0).chain(written(1)).map(|action| format!("{action:?}")).collect();
        assert_eq!(values.len(), 2000);
    }

    #[test]
    fn random_steps_stay_in_the_partition_and_write_about_as_often_as_told() {
        let program = program();
        let steps: Vec<_> = (0..10).flat_map(|pass| program.pass(3, pass)).collect();
        assert!(steps.iter().all(|step| program.partition(3).contains(step.gpa)));
        let writes = steps.iter().filter(|step| matches!(step.action, Action::Write(_))).count();
        assert!((2_700..3_300).contains(&writes), "{writes} of 10,000 steps write");
        assert!(Program { write_percent: 0, ..program }.pass(0, 0).all(|step| step.action == Action::Read));
    }

    #[test]
    fn overlapping_vcpus_share_the_first_partition() {
        let program = Program { overlap: true, ..program() };
        assert_eq!(program.partition(3), program.partition(0));
        assert_eq!(program.range(), program.partition(0));
    }
}
