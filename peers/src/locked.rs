//! The lock round a table that takes `&mut self`: one lock for all of it, as its users have to do.

/// A lock of some maker.
pub(crate) trait Lock<T>: Send + Sync {
    fn new(table: T) -> Self;
    fn with(&self, work: impl FnOnce(&mut T));
}

impl<T: Send> Lock<T> for parking_lot::Mutex<T> {
    fn new(table: T) -> Self {
        Self::new(table)
    }

    #[inline(always)]
    fn with(&self, work: impl FnOnce(&mut T)) {
        work(&mut self.lock());
    }
}

impl<T: Send> Lock<T> for spin::Mutex<T> {
    fn new(table: T) -> Self {
        Self::new(table)
    }

    #[inline(always)]
    fn with(&self, work: impl FnOnce(&mut T)) {
        work(&mut self.lock());
    }
}
