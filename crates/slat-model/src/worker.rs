//! A worker whose calls are written down for the specification.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use slat::addr::{Gpa, GpaRange, HostRange};
use slat::host::SlotId;
use slat::vm::{
    AnnotateError, Budget, Collapse, Harvest, HostInvalidation, InvalidateError, Invalidation, LogError, LogProgress,
    NewSlot, Pages, Progress, RangeError, SlotError, SlotFlags, Teardown, Worker,
};
use slat_spec::Operation;

use crate::history;
use crate::stage::ModelVm;
use crate::tool::Tool;
use crate::world::{REGION, page_of};

type Inner<T> = Worker<Arc<ModelVm<T>>>;

/// A worker of a model. Calls that change what is mapped are its own methods; the others are the engine's.
pub struct ModelWorker<T: Tool>(Inner<T>);

impl<T: Tool> Deref for ModelWorker<T> {
    type Target = Inner<T>;

    fn deref(&self) -> &Inner<T> {
        &self.0
    }
}

impl<T: Tool> DerefMut for ModelWorker<T> {
    fn deref_mut(&mut self) -> &mut Inner<T> {
        &mut self.0
    }
}

/// What an operation on `range` did to `page`: it was meant if it lies there and the operation came to its end, and may have
/// been met if it lies near and the operation took more than was meant.
fn on_range(range: GpaRange, progress: &Progress, page: u64, operation: fn(bool) -> Operation) -> Vec<Operation> {
    match history::is_in(range, page) {
        true => vec![operation(progress.is_done())],
        false if progress.widened => vec![operation(false)],
        false => Vec::new(),
    }
}

const fn unmapped(meant: bool) -> Operation {
    Operation::Unmapped { meant }
}

const fn protected(meant: bool) -> Operation {
    Operation::Protected { meant }
}

#[allow(missing_docs)] // the engine's methods of the same names have theirs
impl<T: Tool> ModelWorker<T> {
    pub fn new(worker: Inner<T>) -> Self {
        Self(worker)
    }

    pub fn unmap(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        let operations = |did: &Result<Progress, RangeError>, page, _| match did {
            Ok(progress) => on_range(range, progress, page, unmapped),
            Err(_) => Vec::new(),
        };
        history::call(|| self.0.unmap(range, budget), operations)
    }

    pub fn write_protect(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        let operations = |did: &Result<Progress, RangeError>, page, _| match did {
            Ok(progress) => on_range(range, progress, page, protected),
            Err(_) => Vec::new(),
        };
        history::call(|| self.0.write_protect(range, budget), operations)
    }

    pub fn annotate(&mut self, range: GpaRange, annotation: u64, budget: Budget) -> Result<Progress, AnnotateError> {
        let operations = |did: &Result<Progress, AnnotateError>, page, _| match did {
            Ok(progress) => on_range(range, progress, page, unmapped),
            Err(_) => Vec::new(),
        };
        history::call(|| self.0.annotate(range, annotation, budget), operations)
    }

    pub fn collapse(&mut self, range: GpaRange, how: Collapse, budget: Budget) -> Result<Progress, RangeError> {
        let operation = if how == Collapse::InPlace { Operation::Collapsed } else { Operation::Dropped };
        history::call(|| self.0.collapse(range, how, budget), |_, _, _| vec![operation])
    }

    /// Pages of the slot are pages of the guest here: slots begin at page 0, or the harvest is not explained.
    pub fn harvest(
        &mut self,
        id: SlotId,
        pages: Pages,
        bitmap: &mut [u64],
        budget: Budget,
    ) -> Result<Harvest, LogError> {
        let before = bitmap.to_vec();
        let whole = || {
            let harvest = self.0.harvest(id, pages, bitmap, budget);
            let taken: Vec<_> = bitmap.iter().zip(&before).map(|(now, before)| now & !before).collect();
            (harvest, taken)
        };
        let operations = |(harvest, taken): &(Result<Harvest, LogError>, Vec<u64>), page: u64, _| match harvest {
            Ok(harvest) if (pages.first..pages.first + pages.count).contains(&page) => {
                let at = page - pages.first;
                let dirty = taken[(at / 64) as usize] >> (at % 64) & 1 != 0;
                let secured = dirty.then_some(Operation::Secured);
                let met = harvest.widened.then_some(protected(false));
                // Beside another taker it may miss a mark, and says then that it is not complete.
                let taken = (dirty || harvest.complete).then_some(Operation::Harvested { dirty });
                taken.into_iter().chain(secured).chain(met).collect()
            }
            Ok(harvest) if harvest.widened => vec![protected(false)],
            _ => Vec::new(),
        };
        history::call(whole, operations).0
    }

    /// Which of the marks that were named there were is not said.
    pub fn clear_dirty(
        &mut self,
        id: SlotId,
        pages: Pages,
        bitmap: &[u64],
        budget: Budget,
    ) -> Result<LogProgress, LogError> {
        history::give_up();
        self.0.clear_dirty(id, pages, bitmap, budget)
    }

    pub fn invalidate(&mut self, range: GpaRange) -> Result<Invalidation<'_, Arc<ModelVm<T>>>, InvalidateError> {
        let region = |gpa: Gpa| page_of(gpa) / REGION;
        let near =
            |page: u64| (region(range.start())..=region(Gpa::new(range.end().get() - 1))).contains(&(page / REGION));
        history::lasting(|page| near(page).then_some(unmapped(false)).into_iter().collect());
        self.0.invalidate(range)
    }

    pub fn invalidate_host(
        &mut self,
        memory: HostRange,
    ) -> Result<HostInvalidation<'_, Arc<ModelVm<T>>>, InvalidateError> {
        history::lasting(|_| vec![unmapped(false)]);
        self.0.invalidate_host(memory)
    }

    pub fn teardown(&mut self, budget: Budget) -> Teardown {
        history::lasting(|_| vec![unmapped(false)]);
        self.0.teardown(budget)
    }

    pub fn create_slot(&mut self, id: SlotId, slot: NewSlot) -> Result<(), SlotError> {
        history::give_up();
        self.0.create_slot(id, slot)
    }

    pub fn delete_slot(&mut self, id: SlotId, budget: Budget) -> Result<Progress, SlotError> {
        history::lasting(|_| vec![unmapped(false)]);
        self.0.delete_slot(id, budget)
    }

    pub fn move_slot(&mut self, id: SlotId, to: Gpa, budget: Budget) -> Result<Progress, SlotError> {
        history::give_up();
        self.0.move_slot(id, to, budget)
    }

    pub fn set_flags(&mut self, id: SlotId, flags: SlotFlags, budget: Budget) -> Result<Progress, SlotError> {
        history::give_up();
        self.0.set_flags(id, flags, budget)
    }
}
