//! Why there is no solution.

use thiserror::Error;

/// Why a linear layer could not be solved for.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum SolverError {
    /// No rows, or rows of no features.
    #[error("there is nothing to learn from: {rows} rows of {features} features")]
    Empty {
        /// How many rows.
        rows: usize,
        /// Values of a row.
        features: usize,
    },
    /// More rows than the solver can count.
    #[error("{rows} rows are too many; at most {} can be used", u32::MAX)]
    TooManyRows {
        /// How many rows.
        rows: usize,
    },
    /// Rows and labels do not belong together.
    #[error("there are {rows} rows, but {labels} labels; each row needs one")]
    Labels {
        /// How many rows.
        rows: usize,
        /// How many labels.
        labels: usize,
    },
    /// A label that is no class.
    #[error("the label of row {row} is {label}, but there are {classes} classes, counted from 0")]
    Label {
        /// From 0.
        row: usize,
        /// As given.
        label: u32,
        /// As given.
        classes: usize,
    },
    /// One class, or none.
    #[error("{classes} classes leave nothing to decide; at least two are needed")]
    Classes {
        /// As given.
        classes: usize,
    },
    /// A class that no row has.
    #[error("class {class} has no rows; leave it out, or add examples of it")]
    EmptyClass {
        /// From 0.
        class: usize,
    },
    /// A feature that is no number, or too large a one to be squared.
    #[error("feature {feature} of row {row} is {value}; features must be finite, and smaller than 1e18")]
    Feature {
        /// From 0.
        row: usize,
        /// From 0.
        feature: usize,
        /// What was found.
        value: f32,
    },
    /// No strength, or one that is no positive number.
    #[error("the strength of the penalty is {strength}; it must be a positive number")]
    Strength {
        /// What was given; NaN if nothing was.
        strength: f64,
    },
    /// Features that cannot be read.
    #[error("the features of row {row} or one of the next cannot be read: {reason}")]
    Unreadable {
        /// From 0.
        row: usize,
        /// What the system said.
        reason: String,
    },
    /// The flag was raised.
    #[error("the solver was stopped before it had a solution")]
    Stopped,
}

impl SolverError {
    pub(crate) fn unreadable(rows: &[u32], error: &std::io::Error) -> Self {
        Self::Unreadable { row: rows.first().map_or(0, |row| *row as usize), reason: error.to_string() }
    }
}
