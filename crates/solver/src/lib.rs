//! Multinomial logistic regression, solved instead of stepped: a linear layer for rows of features with labels, without a learning rate.
//!
//! What is minimised is
//!
//! ```text
//! mean over rows of cross entropy(softmax(x weight' + bias), label)  +  strength / 2 * sum of weight^2
//! ```
//!
//! in standardised features (mean 0 and deviation 1 over all rows, [`solve`] does it), the bias being free of the penalty. The result is folded
//! back: weight and bias for features as they are. In terms of scikit-learn's `LogisticRegression` after `StandardScaler`, `C = 1 / (rows *
//! strength)` for three classes or more. For two, scikit-learn penalises the one difference between our two rows, which are opposite: `C = 2 /
//! (rows * strength)`.
//!
//! # How the strength is chosen
//!
//! By cross-validation: of the candidates, the one with the lowest mean cross entropy over the rows that were left out. Of two that are equal, the stronger
//! one. The rule of one standard error (take the strongest candidate within one error of the best) is *not* applied: it buys simpler models
//! where a penalty leaves features out, which this one does not, and it would choose too strong a penalty just for small data, whose errors are
//! wide. The errors are in the result for whoever wants the rule. Cross entropy decides rather than accuracy because it tells
//! candidates apart that a few hundred rows cannot by their errors.
//!
//! Candidates are tried from the strongest to the weakest, and no further once one is worse than the best by more than a standard error: beyond,
//! the layer only learns its rows by heart. Means and deviations are those of all rows, also for a layer that leaves some out; they know no labels.
//!
//! A class with a single row is learned from but never left out. Where every class is such, nothing can be tried, and the middle one of the candidates is taken.
//!
//! # What makes it fast
//!
//! Products cost what they cost in any solver, so that the gain must come from fewer of them. Measured on 100,000 x 2,048 features, 100
//! classes, 5 folds, 5 strengths (`bench/solver.py`), or on a quarter of its rows and features:
//!
//! - *Variables in which the problem is round* (`metric.rs`): features correlate, and L-BFGS needs hundreds of iterations for that. `X'X` costs as much as
//!   three passes over the rows, once.
//! - *A path.* All folds begin where they ended at the stronger penalty, and further on in the direction from the one before that: 7 to 8 iterations a
//!   strength at the weak end, in place of 12 to 16.
//! - *A tolerance that fits.* The folds end at 1e-4 of the objective: against 1e-5 the score moves by less than half of its standard error, for two thirds of
//!   the iterations. The last fit begins at the mean of the folds' layers and ends at 1e-8.
//! - *One pass for all folds* (`passes.rs`): a block of rows is read and standardised once; a fold takes no part in the blocks that it leaves out.
//! - f32 products near the machine's peak (`engraft-kernels`), all cores, no copy of the rows.
//!
//! Tried and left: keeping L-BFGS's pairs from one strength to the next (they saved nothing), more than ten pairs (nothing), a metric
//! without the usual scale of L-BFGS (each step had to be shortened).
//!
//! # What it needs
//!
//! Memory beside the rows: some tens of megabytes for blocks, `20 * features^2` bytes while there is a metric (at most 4,096
//! features; beyond, none is used), and about `160 * classes * features` bytes for each fold. The result does not depend on the number
//! of threads, bit for bit.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use engraft_solver::{Matrix, Options, solve};
//!
//! // [rows, features] = [6, 2]; the class is the second feature.
//! let x = [3.0, 1.0, 4.0, 0.0, 3.5, 1.1, 5.0, 0.2, 1.0, 0.9, 2.0, 0.1];
//! let labels = [1, 0, 1, 0, 1, 0];
//! let stop = AtomicBool::new(false);
//! let solution = solve(&Matrix::new(&x, 2), &labels, 2, &Options::default(), &stop, &mut |_| {})?;
//! let logit = |class: usize, row: &[f32]| -> f32 {
//!     let weight = &solution.weight[class * 2..][..2];
//!     solution.bias[class] + weight[0] * row[0] + weight[1] * row[1]
//! };
//! assert!(logit(1, &[4.0, 1.0]) > logit(0, &[4.0, 1.0]));
//! # Ok::<(), engraft_solver::SolverError>(())
//! ```

mod columns;
mod descent;
mod error;
mod folds;
mod metric;
mod passes;
mod rows;
mod softmax;
mod solve;

pub use error::SolverError;
pub use rows::{Matrix, Rows};
pub use solve::{Options, Progress, Solution, Trial, solve};
