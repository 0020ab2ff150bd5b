//! The measurements, and how often each is taken.

pub(crate) mod latency;
pub(crate) mod pair;
pub(crate) mod single;

/// How often everything is measured.
#[derive(Clone, Copy)]
pub(crate) struct Repeats {
    /// Passes of the single and the paired threads' measurements.
    pub(crate) passes: usize,
    /// Trials of the latencies.
    pub(crate) trials: usize,
}

/// What was measured often, without the disturbed tries.
pub(crate) struct Series<T> {
    pub(crate) good: Vec<T>,
    pub(crate) discarded: usize,
}

/// A good value is tried for this often.
const TRIES: usize = 200;

impl<T> Series<T> {
    pub(crate) const fn new() -> Self {
        Self { good: Vec::new(), discarded: 0 }
    }

    /// Tries until one more value comes undisturbed, or for too long.
    pub(crate) fn add(&mut self, mut measure: impl FnMut() -> Option<T>) {
        for _ in 0..TRIES {
            match measure() {
                Some(value) => return self.good.push(value),
                None => self.discarded += 1,
            }
        }
    }

    /// The median of what `part` takes from each value; not a number if there is none.
    pub(crate) fn median(&self, part: impl FnMut(&T) -> f64) -> f64 {
        let mut values: Vec<f64> = self.good.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        }
    }

    /// The least of what `part` takes from each value: what the quietest moment gave.
    pub(crate) fn least(&self, part: impl FnMut(&T) -> f64) -> f64 {
        self.good.iter().map(part).fold(f64::NAN, f64::min)
    }

    /// The sum of what `part` takes from each value.
    pub(crate) fn sum(&self, part: impl FnMut(&T) -> u64) -> f64 {
        self.good.iter().map(part).sum::<u64>() as f64
    }
}
