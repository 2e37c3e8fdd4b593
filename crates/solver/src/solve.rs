//! From rows to a layer: folds, the path of strengths, the last fit.

use std::sync::atomic::AtomicBool;

use engraft_kernels::Pool;

use crate::columns::Columns;
use crate::descent::{Descent, Tolerance, descend};
use crate::folds::stratified;
use crate::metric::Metric;
use crate::passes::{Layer, Passes};
use crate::{Rows, SolverError};

/// For the layer.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-8, absolute: f64::INFINITY };

/// For the layers of the cross-validation, whose score is known to a percent at best.
const CROSS_VALIDATION_TOLERANCE: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-5 };

/// Iterations for one strength, at most.
const MOST_ITERATIONS: usize = 1000;

/// Rows for each feature of which the correlations between features are known well enough.
const ROWS_PER_FEATURE: usize = 32;

/// What is left to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Candidates for the strength of the penalty, in any order. One alone is taken without cross-validation.
    pub strengths: Vec<f64>,
    /// Parts that the rows are cut into for the cross-validation: each is left out once. Fewer if no class has so many rows.
    pub folds: usize,
    /// Decides which row is in which fold, and nothing else.
    pub seed: u64,
    /// Threads that compute, at least one. The result does not depend on it.
    pub threads: usize,
}

impl Default for Options {
    /// Thirteen strengths from 10 to 1e-5, five folds, and as many threads as the machine has cores.
    fn default() -> Options {
        Options {
            strengths: (0..13).map(|i| 10f64.powf(1.0 - f64::from(i) / 2.0)).collect(),
            folds: 5,
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, |threads| threads.get()),
        }
    }
}

/// What the cross-validation found of a strength. Each row that can be left out is scored once, by the layer that has not learned from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Of the penalty.
    pub strength: f64,
    /// Mean cross entropy.
    pub loss: f64,
    /// Its standard error.
    pub loss_error: f64,
    /// Share of rows that are given their class, in `0..=1`.
    pub accuracy: f64,
    /// Its standard error.
    pub accuracy_error: f64,
    /// Of the slowest fold.
    pub iterations: usize,
}

/// Where the solver is, after each pass over the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Passes so far.
    pub passes: usize,
    /// Strengths that were tried, the present one not counted.
    pub tried: usize,
    /// Strengths that there are to try at most; as many as were tried once the last fit has begun.
    pub strengths: usize,
    /// The present strength.
    pub strength: f64,
}

/// A linear layer on features as they are, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// `[classes, features]`
    pub weight: Vec<f32>,
    /// `[classes]`
    pub bias: Vec<f32>,
    /// Of the penalty.
    pub strength: f64,
    /// What was minimised: mean cross entropy plus penalty, over all rows.
    pub objective: f64,
    /// Of the last fit.
    pub iterations: usize,
    /// Whether the objective is within 1e-8 of the minimum, relatively, as the solver estimates it; the truth is within some times that. False
    /// when rounding or the limit of 1000 iterations ended the last fit before.
    pub converged: bool,
    /// The strengths that were tried, the strongest first.
    pub trials: Vec<Trial>,
    /// Folds of the cross-validation; 0 without one.
    pub folds: usize,
    /// Passes over the rows.
    pub passes: usize,
}

/// The layer for `rows` (`[rows, features]`) and their `labels`, below `classes`, of which each has a row.
///
/// `progress` is called after each pass over the rows. When `stop` becomes true, which is looked at after every block of some megabytes, there
/// is no solution.
///
/// # Errors
/// [`SolverError`] names what is wrong with rows, labels or options, or says that `stop` became true.
///
/// # Panics
/// When `rows` gives a row of another length than it said.
pub fn solve(
    rows: &dyn Rows,
    labels: &[u32],
    classes: usize,
    options: &Options,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Solution, SolverError> {
    check(rows, labels, classes)?;
    let mut strengths = options.strengths.clone();
    if let Some(bad) = strengths.iter().find(|strength| !(strength.is_finite() && **strength > 0.0)) {
        return Err(SolverError::Strength { strength: *bad });
    }
    strengths.sort_by(|a, b| b.total_cmp(a));
    strengths.dedup();
    let Some(middle) = strengths.get(strengths.len() / 2).copied() else {
        return Err(SolverError::Strength { strength: f64::NAN });
    };
    let pool = Pool::new(options.threads);
    let columns = Columns::of(rows, &pool)?;
    let folds = if strengths.len() > 1 { options.folds } else { 0 };
    let (folds, fold_of) = stratified(labels, classes, folds, options.seed);
    if folds == 0 {
        strengths = vec![middle];
    }
    let layers = folds.max(1);
    let mut passes = Passes::new(rows, labels, classes, &fold_of, columns, pool, stop);
    let features = rows.features();
    let gram = &if whitening_pays(rows.len(), features, layers * classes) {
        Some(passes.gram(ROWS_PER_FEATURE * features)?)
    } else {
        None
    };
    let metric = |strength: f64| {
        move |passes: &Passes<'_>, curvature: f64| match gram {
            Some(gram) => Metric::whitening(passes.level, &passes.pool, gram, features, curvature, strength),
            None => Metric::scale(curvature, strength),
        }
    };
    let weights = classes * features;
    let mut descents: Vec<Descent> =
        (0..folds).map(|fold| Descent::new(Some(fold as u16), vec![0.0; weights + classes])).collect();
    let mut done = Progress { passes: 0, tried: 0, strengths: strengths.len(), strength: middle };
    let mut trials: Vec<Trial> = Vec::new();
    let mut best: Option<(Trial, Vec<f64>)> = None;
    for strength in strengths.iter().copied().filter(|_| folds > 0) {
        done.strength = strength;
        let before: Vec<usize> = descents.iter().map(|descent| descent.iterations).collect();
        descend(
            &mut passes,
            &mut descents,
            &metric(strength),
            strength,
            CROSS_VALIDATION_TOLERANCE,
            MOST_ITERATIONS,
            &mut |_| {
                done.passes += 1;
                progress(&done);
            },
        )?;
        let points: Vec<Vec<f32>> = descents.iter().map(Descent::layer).collect();
        let layers: Vec<Layer<'_>> = descents
            .iter()
            .zip(&points)
            .map(|(descent, point)| Layer {
                left_out: descent.left_out,
                weight: &point[..weights],
                bias: &point[weights..],
            })
            .collect();
        let score = passes.score(&layers)?;
        let loss = score.loss / score.rows;
        let variance = (score.loss_squares / score.rows - loss * loss).max(0.0);
        let accuracy = score.right / score.rows;
        let error = |variance: f64| (variance / (score.rows - 1.0).max(1.0)).sqrt();
        let trial = Trial {
            strength,
            loss,
            loss_error: error(variance),
            accuracy,
            accuracy_error: error(accuracy * (1.0 - accuracy)),
            iterations: descents.iter().zip(&before).map(|(d, b)| d.iterations - b).max().unwrap_or(0),
        };
        trials.push(trial);
        done.tried += 1;
        match &best {
            Some((best, _)) if loss > best.loss + best.loss_error => break,
            Some((best, _)) if loss >= best.loss => {}
            _ => {
                let mut mean = vec![0.0; weights + classes];
                for descent in &descents {
                    mean.iter_mut()
                        .zip(&descent.point)
                        .for_each(|(mean, value)| *mean += value / folds as f64);
                }
                best = Some((trial, mean));
            }
        }
    }
    drop(descents);
    let (strength, point) = match best {
        Some((trial, point)) => (trial.strength, point),
        None => (middle, vec![0.0; weights + classes]),
    };
    let mut last = [Descent::new(None, point)];
    done = Progress { strength, strengths: done.tried, ..done };
    descend(&mut passes, &mut last, &metric(strength), strength, TOLERANCE, MOST_ITERATIONS, &mut |_| {
        done.passes += 1;
        progress(&done);
    })?;
    let [last] = last;
    let (weight, bias) = passes.columns.fold_back(&last.point[..weights], &last.point[weights..]);
    Ok(Solution {
        weight,
        bias,
        strength,
        objective: last.objective,
        iterations: last.iterations,
        converged: last.converged,
        trials,
        folds,
        passes: done.passes,
    })
}

fn check(rows: &dyn Rows, labels: &[u32], classes: usize) -> Result<(), SolverError> {
    let (count, features) = (rows.len(), rows.features());
    if count == 0 || features == 0 {
        return Err(SolverError::Empty { rows: count, features });
    }
    if u32::try_from(count).is_err() {
        return Err(SolverError::TooManyRows { rows: count });
    }
    if labels.len() != count {
        return Err(SolverError::Labels { rows: count, labels: labels.len() });
    }
    if classes < 2 {
        return Err(SolverError::Classes { classes });
    }
    let mut seen = vec![false; classes];
    for (row, label) in labels.iter().enumerate() {
        match seen.get_mut(*label as usize) {
            Some(seen) => *seen = true,
            None => return Err(SolverError::Label { row, label: *label, classes }),
        }
    }
    match seen.iter().position(|seen| !seen) {
        Some(class) => Err(SolverError::EmptyClass { class }),
        None => Ok(()),
    }
}

/// Whether the products for a [`Metric::whitening`] are fewer than the passes that it saves: some dozens for each of some strengths.
fn whitening_pays(rows: usize, features: usize, outputs: usize) -> bool {
    let (rows, features, outputs) = (rows as f64, features as f64, outputs as f64);
    features <= 4096.0 && rows * features + 10.0 * features * features < 1000.0 * rows * outputs
}
