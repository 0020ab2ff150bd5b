//! Behaviour that tests plant into the machine: answers of the backing, and failing allocations.

use std::fmt;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};

use slat::host::{Request, Translation};

type TranslationScript = Box<dyn Fn(&Request) -> Option<Translation> + Send + Sync>;
type AllocationScript = Box<dyn Fn(usize) -> bool + Send + Sync>;

/// The scripts that are planted now.
#[derive(Default)]
pub(super) struct Injections {
    /// Whether there is any: a machine without injections reads no lock.
    planted: AtomicBool,
    scripts: RwLock<Scripts>,
}

#[derive(Default)]
struct Scripts {
    translation: Option<TranslationScript>,
    allocation: Option<AllocationScript>,
}

impl Injections {
    pub(super) fn set_translation(&self, script: TranslationScript) {
        self.scripts.write().unwrap().translation = Some(script);
        self.planted.store(true, Release);
    }

    pub(super) fn set_allocation(&self, script: AllocationScript) {
        self.scripts.write().unwrap().allocation = Some(script);
        self.planted.store(true, Release);
    }

    pub(super) fn clear(&self) {
        self.planted.store(false, Release);
        *self.scripts.write().unwrap() = Scripts::default();
    }

    #[inline]
    pub(super) fn translation(&self, request: &Request) -> Option<Translation> {
        if !self.planted.load(Acquire) {
            return None;
        }
        self.scripts.read().unwrap().translation.as_ref()?(request)
    }

    #[inline]
    pub(super) fn refuses_allocation(&self, tables: usize) -> bool {
        self.planted.load(Acquire)
            && self.scripts.read().unwrap().allocation.as_ref().is_some_and(|refuse| refuse(tables))
    }
}

impl fmt::Debug for Injections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injections").field("planted", &self.planted).finish_non_exhaustive()
    }
}
