//! A linear head on frozen features: found, not stepped to.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use engraft_graph::{Graph, Op};
use engraft_solver::{Options, Rows, SolverError, solve};
use engraft_tensor::{StateDict, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Examples, Row, TrainError};

/// How a head is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// [`Lbfgs`](Self::Lbfgs) where it can be, else [`Adam`](Self::Adam).
    #[default]
    Auto,
    /// Multinomial logistic regression by L-BFGS, its strength of regularisation chosen by cross-validation within the training images: for
    /// heads without hidden layers on frozen networks.
    Lbfgs,
    /// Steps of Adam.
    Adam,
}

impl Solver {
    /// What [`Auto`](Self::Auto) means for a head with these hidden layers.
    pub fn resolved(self, hidden_units: &[usize], frozen: bool) -> Solver {
        match self {
            Solver::Auto if frozen && hidden_units.is_empty() => Solver::Lbfgs,
            Solver::Auto => Solver::Adam,
            other => other,
        }
    }
}

/// What L-BFGS found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolutionSummary {
    /// Of the penalty on the weights of standardised features: [`engraft_solver::Options::strengths`].
    pub strength: f64,
    /// Folds of the cross-validation that chose it; 0 if there were too few images for one.
    pub folds: usize,
    /// Accuracy in the cross-validation, 0 to 1.
    pub accuracy: Option<f64>,
    /// Its standard error.
    pub accuracy_error: Option<f64>,
    /// Wall time; not kept in checkpoints, which are the same whenever they are made.
    #[serde(skip)]
    pub seconds: f64,
}

/// Solves for the one linear layer of `head`; returns its tensors, or `None` if `stop` became true. `progress` is told how many
/// strengths were tried, and how many there are.
///
/// # Errors
/// When the head is more than a linear layer, or features are not finite.
pub(crate) fn solve_head(
    head: &Graph,
    train: &Examples<'_>,
    seed: u64,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<(StateDict, SolutionSummary)>, TrainError> {
    let start = Instant::now();
    let layers: Vec<_> = head.nodes().iter().filter(|node| !matches!(node.op, Op::Input)).collect();
    let [layer] = layers.as_slice() else { return Err(TrainError::NotLinear) };
    let Op::Linear(linear) = &layer.op else { return Err(TrainError::NotLinear) };
    let classes = linear.out_features;
    let labels: Vec<u32> = train.labels().iter().map(|label| *label as u32).collect();
    let options = Options { seed, ..Options::default() };
    let (rows, store) = train.rows().ok_or(TrainError::NotKept)?;
    let rows = TrainRows { rows, store };
    let solved = solve(&rows, &labels, classes, &options, stop, &mut |at| progress(at.tried, at.strengths));
    let solution = match solved {
        Err(SolverError::Stopped) => return Ok(None),
        solved => solved?,
    };
    let chosen = solution.trials.iter().find(|trial| trial.strength == solution.strength);
    let chosen = chosen.filter(|_| solution.folds > 0);
    let summary = SolutionSummary {
        strength: solution.strength,
        folds: solution.folds,
        accuracy: chosen.map(|trial| trial.accuracy),
        accuracy_error: chosen.map(|trial| trial.accuracy_error),
        seconds: start.elapsed().as_secs_f64(),
    };
    let name = |own: &str| format!("{}.{own}", layer.module);
    let state = StateDict::from_iter([
        (name("weight"), Tensor::f32([classes, linear.in_features], solution.weight)),
        (name("bias"), Tensor::f32([classes], solution.bias)),
    ]);
    Ok(Some((state, summary)))
}

/// The training examples as the solver reads them.
struct TrainRows<'a> {
    rows: &'a [Row],
    store: &'a crate::Rows,
}

impl Rows for TrainRows<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn features(&self) -> usize {
        self.store.width()
    }

    fn read(&self, indices: &[u32], values: &mut [f32]) -> io::Result<()> {
        let rows: Vec<Row> = indices.iter().map(|index| self.rows[*index as usize]).collect();
        self.store.read(&rows, values)
    }
}
