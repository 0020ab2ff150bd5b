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
pub struct ModelWorker<T: Tool> {
    worker: Inner<T>,
    number: u8,
}

impl<T: Tool> Deref for ModelWorker<T> {
    type Target = Inner<T>;

    fn deref(&self) -> &Inner<T> {
        &self.worker
    }
}

impl<T: Tool> DerefMut for ModelWorker<T> {
    fn deref_mut(&mut self) -> &mut Inner<T> {
        &mut self.worker
    }
}

/// What an operation on `range` did to `page`: it was meant if it lies there and the operation came to its end, and may have
/// been met if it lies near and the operation took more than was meant.
fn on_range(range: GpaRange, progress: &Progress, page: u64, operation: fn(bool) -> Operation) -> Vec<Operation> {
    match history::is_in(range, page) {
        true if progress.is_done() => and_moved(operation(true)).into_iter().chain([Operation::Flushed]).collect(),
        true => and_moved(operation(false)),
        false if progress.widened => and_moved(operation(false)),
        false => dissolved(),
    }
}

/// The operation, and what becomes of what hardware had noted, where it does.
fn and_moved(operation: Operation) -> Vec<Operation> {
    let moved = history::has_hardware_dirty().then_some(Operation::Moved);
    [operation].into_iter().chain(moved).collect()
}

/// What may have become of a page of a group of which only others were meant.
fn dissolved() -> Vec<Operation> {
    if history::has_groups() { vec![protected(false)] } else { Vec::new() }
}

const fn unmapped(meant: bool) -> Operation {
    Operation::Unmapped { meant }
}

/// A removal that may meet a page.
fn removed() -> Vec<Operation> {
    and_moved(unmapped(false))
}

const fn protected(meant: bool) -> Operation {
    Operation::Protected { meant }
}

fn is_named(pages: Pages, page: u64) -> bool {
    (pages.first..pages.first + pages.count).contains(&page)
}

fn is_set(bitmap: &[u64], at: u64) -> bool {
    bitmap[(at / 64) as usize] >> (at % 64) & 1 != 0
}

fn refused(error: LogError) -> Vec<Operation> {
    let has_none = matches!(error, LogError::NotLogged | LogError::Unfinished);
    has_none.then_some(Operation::NotLogged).into_iter().collect()
}

#[allow(missing_docs)] // the engine's methods of the same names have theirs
impl<T: Tool> ModelWorker<T> {
    pub fn new(worker: Inner<T>) -> Self {
        Self { worker, number: history::number_worker() }
    }

    pub fn unmap(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        let operations = |did: &Result<Progress, RangeError>, page| match did {
            Ok(progress) => on_range(range, progress, page, unmapped),
            Err(_) => Vec::new(),
        };
        history::call(|| self.worker.unmap(range, budget), operations)
    }

    pub fn write_protect(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        let operations = |did: &Result<Progress, RangeError>, page| match did {
            Ok(progress) => on_range(range, progress, page, protected),
            Err(_) => Vec::new(),
        };
        history::call(|| self.worker.write_protect(range, budget), operations)
    }

    pub fn annotate(&mut self, range: GpaRange, annotation: u64, budget: Budget) -> Result<Progress, AnnotateError> {
        let operations = |did: &Result<Progress, AnnotateError>, page| match did {
            Ok(progress) => on_range(range, progress, page, unmapped),
            Err(_) => Vec::new(),
        };
        history::call(|| self.worker.annotate(range, annotation, budget), operations)
    }

    pub fn collapse(&mut self, range: GpaRange, how: Collapse, budget: Budget) -> Result<Progress, RangeError> {
        let operation = if how == Collapse::InPlace { Operation::Collapsed } else { Operation::Dropped };
        history::call(|| self.worker.collapse(range, how, budget), |_, _| and_moved(operation))
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
            let harvest = self.worker.harvest(id, pages, bitmap, budget);
            let taken: Vec<_> = bitmap.iter().zip(&before).map(|(now, before)| now & !before).collect();
            (harvest, taken)
        };
        let operations = |(harvest, taken): &(Result<Harvest, LogError>, Vec<u64>), page: u64| match harvest {
            Ok(harvest) if is_named(pages, page) => {
                let dirty = is_set(taken, page - pages.first);
                let secured = dirty.then_some([Operation::Secured, Operation::Flushed]);
                let met = harvest.widened.then_some(protected(false));
                // Beside another taker it may miss a mark, and says then that it is not complete.
                let taken = (dirty || harvest.complete).then_some(Operation::Harvested { dirty });
                taken.into_iter().chain(secured.into_iter().flatten()).chain(met).chain(dissolved()).collect()
            }
            Ok(harvest) => {
                let met = harvest.widened.then_some(protected(false));
                [Operation::TookBeside].into_iter().chain(met).chain(dissolved()).collect()
            }
            Err(error) => refused(*error),
        };
        history::call(whole, operations).0
    }

    pub fn get_dirty(&mut self, id: SlotId, pages: Pages, bitmap: &mut [u64]) -> Result<u64, LogError> {
        let (number, by_hardware) = (self.number, history::has_hardware_dirty());
        let whole = || (self.worker.get_dirty(id, pages, bitmap), bitmap.to_vec());
        let operations = |(read, bitmap): &(Result<u64, LogError>, Vec<u64>), page: u64| match read {
            Ok(_) if is_named(pages, page) => {
                let dirty = is_set(bitmap, page - pages.first);
                // Beside another who takes what hardware has noted it may miss a mark.
                let read = (dirty || !by_hardware).then_some(Operation::Read { dirty, by: number });
                let collected = by_hardware.then_some(Operation::Collected { by: number });
                let after = collected.into_iter().chain([Operation::FlushedFor { by: number }]);
                read.into_iter().chain(after).chain(dissolved()).collect()
            }
            Ok(_) => dissolved(),
            Err(error) => refused(*error),
        };
        history::call(whole, operations).0
    }

    pub fn clear_dirty(
        &mut self,
        id: SlotId,
        pages: Pages,
        bitmap: &[u64],
        budget: Budget,
    ) -> Result<LogProgress, LogError> {
        let by = self.number;
        let cleared = [Operation::Cleared { by }, Operation::Withheld { by }, Operation::FlushedFor { by }];
        let operations = |did: &Result<LogProgress, LogError>, page: u64| match did {
            Ok(progress) => {
                let met = progress.widened.then_some(protected(false));
                let named = is_named(pages, page) && is_set(bitmap, page - pages.first);
                let cleared = named.then_some(cleared).into_iter().flatten();
                let beside = (!named).then_some(Operation::TookBeside);
                cleared.chain(beside).chain(met).chain(dissolved()).collect()
            }
            Err(error) => refused(*error),
        };
        history::call(|| self.worker.clear_dirty(id, pages, bitmap, budget), operations)
    }

    pub fn invalidate(&mut self, range: GpaRange) -> Result<Invalidation<'_, Arc<ModelVm<T>>>, InvalidateError> {
        let region = |gpa: Gpa| page_of(gpa) / REGION;
        let near =
            |page: u64| (region(range.start())..=region(Gpa::new(range.end().get() - 1))).contains(&(page / REGION));
        history::lasting(|page| if near(page) { removed() } else { Vec::new() });
        self.worker.invalidate(range)
    }

    pub fn invalidate_host(
        &mut self,
        memory: HostRange,
    ) -> Result<HostInvalidation<'_, Arc<ModelVm<T>>>, InvalidateError> {
        history::lasting(|_| removed());
        self.worker.invalidate_host(memory)
    }

    pub fn teardown(&mut self, budget: Budget) -> Teardown {
        history::lasting(|_| removed());
        self.worker.teardown(budget)
    }

    pub fn create_slot(&mut self, id: SlotId, slot: NewSlot) -> Result<(), SlotError> {
        history::give_up();
        self.worker.create_slot(id, slot)
    }

    pub fn delete_slot(&mut self, id: SlotId, budget: Budget) -> Result<Progress, SlotError> {
        let operations = |did: &Result<Progress, SlotError>, _| if did.is_ok() { removed() } else { Vec::new() };
        history::call(|| self.worker.delete_slot(id, budget), operations)
    }

    pub fn move_slot(&mut self, id: SlotId, to: Gpa, budget: Budget) -> Result<Progress, SlotError> {
        history::give_up();
        self.worker.move_slot(id, to, budget)
    }

    pub fn set_flags(&mut self, id: SlotId, flags: SlotFlags, budget: Budget) -> Result<Progress, SlotError> {
        let by = self.number;
        let operations = |did: &Result<Progress, SlotError>, _| match did {
            Ok(progress) if progress.is_done() => {
                let settled = [Operation::Settled { by }, Operation::FlushedFor { by }];
                [Operation::Announced(flags.into())].into_iter().chain(settled).chain(dissolved()).collect()
            }
            Ok(_) => vec![Operation::Announced(flags.into())],
            Err(_) => Vec::new(),
        };
        history::call(|| self.worker.set_flags(id, flags, budget), operations)
    }
}
