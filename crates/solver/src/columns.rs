//! Columns of mean 0 and deviation 1, and the way back to those as they were.

use std::sync::Mutex;

use engraft_kernels::Pool;

use crate::{Rows, SolverError};

/// Rows whose sums a task makes; part of the result, because sums are rounded.
const CHUNK: usize = 256;

/// Chunks at a time.
const CHUNKS: usize = 16;

/// Values from here on would not have a square in f32.
const LIMIT: f32 = 1e18;

/// How a column is standardised: `(x - mean) * inverse`.
pub(crate) struct Columns {
    /// Of each column, rounded to the f32 that is subtracted.
    pub(crate) mean: Vec<f32>,
    /// One over the deviation (of the population, as scikit-learn's `StandardScaler` has it); zero for a column that is constant.
    pub(crate) inverse: Vec<f32>,
}

/// Rows that a task reads at once.
const READ: usize = 16;

/// Takes a row's number and its values.
type EachRow<'a> = dyn FnMut(u32, &[f32]) -> Result<(), SolverError> + 'a;

/// Sums over some rows.
struct Sums {
    count: f64,
    mean: Vec<f64>,
    /// Squared distances from the mean.
    squares: Vec<f64>,
    bad: Option<SolverError>,
}

impl Columns {
    /// Reads all rows once.
    pub(crate) fn of(rows: &dyn Rows, pool: &Pool) -> Result<Columns, SolverError> {
        let features = rows.features();
        let new = || Sums { count: 0.0, mean: vec![0.0; features], squares: vec![0.0; features], bad: None };
        let mut all = new();
        let chunks: Vec<Mutex<Sums>> = (0..CHUNKS).map(|_| Mutex::new(new())).collect();
        for first in (0..rows.len()).step_by(CHUNK * CHUNKS) {
            pool.run(CHUNKS, |task| {
                let begin = (first + task * CHUNK).min(rows.len());
                locked(&chunks[task]).fill(rows, begin..(begin + CHUNK).min(rows.len()));
            });
            for chunk in &chunks {
                all.add(&locked(chunk))?;
            }
        }
        let mean = all.mean.iter().map(|mean| *mean as f32).collect();
        let inverse = all.squares.iter().map(|squares| {
            let deviation = (squares / all.count).sqrt();
            // Of a smaller one the inverse would overflow.
            if deviation > f64::from(f32::MIN_POSITIVE) { (1.0 / deviation) as f32 } else { 0.0 }
        });
        Ok(Columns { mean, inverse: inverse.collect() })
    }

    /// Standardises the values of a row.
    pub(crate) fn standardise(&self, row: &mut [f32]) {
        for ((x, mean), inverse) in row.iter_mut().zip(&self.mean).zip(&self.inverse) {
            *x = (*x - mean) * inverse;
        }
    }

    /// The layer on features as they are that does what `weight` (`[classes, features]`) and `bias` do on standardised ones.
    pub(crate) fn fold_back(&self, weight: &[f64], bias: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let mut raw = Vec::with_capacity(weight.len());
        let mut raw_bias = Vec::with_capacity(bias.len());
        for (weight, bias) in weight.chunks_exact(self.mean.len()).zip(bias) {
            let mut sum = *bias;
            for ((weight, mean), inverse) in weight.iter().zip(&self.mean).zip(&self.inverse) {
                // The bias makes up for what rounding does to the weight.
                let rounded = (weight * f64::from(*inverse)) as f32;
                sum -= f64::from(rounded) * f64::from(*mean);
                raw.push(rounded);
            }
            raw_bias.push(sum as f32);
        }
        (raw, raw_bias)
    }
}

impl Sums {
    fn fill(&mut self, rows: &dyn Rows, range: std::ops::Range<usize>) {
        self.count = range.len() as f64;
        self.mean.fill(0.0);
        self.squares.fill(0.0);
        let result = self.add_rows(rows, range);
        self.bad = result.err();
    }

    fn add_rows(&mut self, rows: &dyn Rows, range: std::ops::Range<usize>) -> Result<(), SolverError> {
        let features = self.mean.len();
        let indices: Vec<u32> = range.map(|index| index as u32).collect();
        let mut values = vec![0.0; READ.min(indices.len()) * features];
        let mut each = |add: &mut EachRow<'_>| {
            for indices in indices.chunks(READ) {
                let values = &mut values[..indices.len() * features];
                rows.read(indices, values).map_err(|error| SolverError::unreadable(indices, &error))?;
                indices
                    .iter()
                    .zip(values.chunks_exact(features))
                    .try_for_each(|(index, row)| add(*index, row))?;
            }
            Ok(())
        };
        let mean = &mut self.mean;
        each(&mut |index, row| {
            // Without leaving early, so that the compiler makes vectors of it. A NaN is not below the limit.
            if !row.iter().fold(true, |good, x| good & (x.abs() < LIMIT)) {
                let feature = row.iter().position(|x| x.is_nan() || x.abs() >= LIMIT).unwrap_or(0);
                return Err(SolverError::Feature { row: index as usize, feature, value: row[feature] });
            }
            for (mean, x) in mean.iter_mut().zip(row) {
                *mean += f64::from(*x);
            }
            Ok(())
        })?;
        mean.iter_mut().for_each(|mean| *mean /= self.count);
        let squares = &mut self.squares;
        each(&mut |_, row| {
            for ((squares, mean), x) in squares.iter_mut().zip(mean.iter()).zip(row) {
                let distance = f64::from(*x) - mean;
                *squares += distance * distance;
            }
            Ok(())
        })
    }

    /// Chan, Golub and LeVeque 1983: the sums of two sets of rows together.
    fn add(&mut self, other: &Sums) -> Result<(), SolverError> {
        if let Some(bad) = &other.bad {
            return Err(bad.clone());
        }
        if other.count == 0.0 {
            return Ok(());
        }
        let count = self.count + other.count;
        let share = other.count / count;
        for i in 0..self.mean.len() {
            let distance = other.mean[i] - self.mean[i];
            self.mean[i] += distance * share;
            self.squares[i] += other.squares[i] + distance * distance * self.count * share;
        }
        self.count = count;
        Ok(())
    }
}

/// The value of a lock that no one else wants at this time: tasks have different ones.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
