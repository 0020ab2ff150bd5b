//! Descriptors without a machine around them, for tests of walkers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use slat::addr::Hpa;

use super::{Abort, DescriptorMemory};

/// Descriptors by address; everything else is zero.
#[derive(Default)]
pub(super) struct Sparse {
    words: RefCell<HashMap<u64, u64>>,
    /// What the next update finds instead of what it expects.
    pub(super) interference: Cell<Option<u64>>,
}

impl Sparse {
    pub(super) fn with(words: &[(u64, u64)]) -> Self {
        Self { words: RefCell::new(words.iter().copied().collect()), ..Self::default() }
    }

    pub(super) fn get(&self, at: u64) -> u64 {
        self.words.borrow().get(&at).copied().unwrap_or(0)
    }
}

impl DescriptorMemory for Sparse {
    fn read(&self, hpa: Hpa) -> Result<u64, Abort> {
        Ok(self.get(hpa.get()))
    }

    fn update(&self, hpa: Hpa, current: u64, new: u64) -> Result<Result<u64, u64>, Abort> {
        if let Some(found) = self.interference.take() {
            self.words.borrow_mut().insert(hpa.get(), found);
        }
        let found = self.get(hpa.get());
        Ok(if found == current { self.words.borrow_mut().insert(hpa.get(), new).ok_or(0) } else { Err(found) })
    }

    fn generation(&self, _: Hpa) -> Option<u32> {
        Some(0)
    }
}
