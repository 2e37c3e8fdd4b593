//! The training loop: one that can stop after any batch and go on to the same bits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engraft_engine::{EngineError, Rate, Snapshot, Targets, Trainer};
use engraft_tensor::StateDict;
use serde::{Deserialize, Serialize};

use crate::{Evaluation, Examples, Order, TrainError, evaluate};

/// How long and how fast to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    /// Passes over the training images.
    pub epochs: usize,
    /// Step size of Adam for the head.
    pub learning_rate: f64,
    /// Step size for all else that trains, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone_learning_rate: Option<f64>,
    /// How the step sizes change on the way.
    #[serde(default)]
    pub schedule: Schedule,
    /// Images in a step.
    pub batch_size: usize,
    /// Decides the order of the images, dropout and the initial values of the head.
    pub seed: u64,
}

/// How step sizes change on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// They rise to their full size over the first tenth of the steps, and fall to zero along half a cosine over the others.
    Cosine,
}

impl Schedule {
    /// The share of the full step size when a share of all steps, 0 to 1, is done.
    pub fn factor(self, done: f64) -> f64 {
        /// The share of the steps in which it rises.
        const WARM_UP: f64 = 0.1;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Cosine if done < WARM_UP => done / WARM_UP,
            Schedule::Cosine => {
                let fallen = (done.min(1.0) - WARM_UP) / (1.0 - WARM_UP);
                0.5 * (1.0 + (std::f64::consts::PI * fallen).cos())
            }
        }
    }
}

impl FitOptions {
    /// The groups of parameters: those of the head, and all others.
    pub const HEAD: usize = 0;
    /// See [`HEAD`](Self::HEAD).
    pub const BACKBONE: usize = 1;

    /// The step size of what is not the head.
    pub fn backbone_rate(&self) -> f64 {
        self.backbone_learning_rate.unwrap_or(self.learning_rate)
    }

    /// The rates of both groups when a share of all steps, 0 to 1, is done.
    fn rates(&self, done: f64) -> [Rate; 2] {
        let factor = self.schedule.factor(done);
        [self.learning_rate, self.backbone_rate()]
            .map(|rate| Rate { learning_rate: factor * rate, weight_decay: 0.0 })
    }
}

/// What one pass over the training images gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1; 0 for a head that was found before.
    pub epoch: usize,
    /// Mean loss over the pass, dropout on, while the network changed.
    pub train_loss: f64,
    /// Loss and accuracy on the validation images afterwards.
    pub valid: Evaluation,
    /// Wall time of pass and validation.
    pub seconds: f64,
}

/// How far a training is: with a [`Snapshot`] of the trainer all that the next batch needs, because orders and draws follow from
/// seed, epoch and step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are done.
    pub epochs: usize,
    /// Steps of the epoch after those.
    pub steps: usize,
    /// Sum of the losses of these steps' images.
    pub loss: f64,
    /// How many images these steps had.
    pub images: usize,
    /// The best epoch so far.
    pub best: Option<Epoch>,
}

/// A training at rest: where it is, and the network after the best epoch.
pub struct Rest {
    /// How far it is.
    pub progress: Progress,
    /// The trainer's state.
    pub snapshot: Snapshot,
    /// Parameters and buffers after the best epoch.
    pub best_state: Option<StateDict>,
}

/// What the loop tells while it runs.
pub enum FitEvent<'a> {
    /// An epoch is over.
    Epoch(&'a Epoch),
    /// A moment at which a training may rest: an epoch is over, or `stop` became true.
    Rest(&'a dyn Fn() -> Snapshot, &'a Progress, Option<&'a StateDict>),
    /// An example could not be read any more and was left out: its index and the reason.
    Lost(usize, &'a str),
}

/// How a training ended.
pub struct Fit {
    /// The best epoch: of the highest validation accuracy, among equals of the lowest validation loss. `None` if none was finished.
    pub best: Option<Epoch>,
    /// Parameters and buffers after the best epoch.
    pub best_state: Option<StateDict>,
    /// Parameters and buffers at the end.
    pub last_state: StateDict,
    /// How the loop ended.
    pub end: FitEnd,
}

/// How the loop ended.
#[derive(Clone, Debug, PartialEq)]
pub enum FitEnd {
    /// All epochs are done.
    Done,
    /// `stop` became true.
    Stopped,
    /// The loss, or a gradient, was no number any more.
    Diverged(Divergence),
}

/// Where a training went astray.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// From 1.
    pub epoch: usize,
    /// Within the epoch, from 1.
    pub step: usize,
    /// The first tensor that is not finite, or the loss.
    pub what: String,
    /// The examples of the batch; none if it was the validation that showed it.
    pub indices: Vec<usize>,
}

/// Trains until all epochs are done or `stop` becomes true, which is looked at after every batch; goes on where `rest` is.
///
/// # Errors
/// When examples and network do not fit, there is no epoch to train, or what `observe` returns.
pub fn fit(
    trainer: &mut dyn Trainer,
    train: &Examples<'_>,
    valid: &Examples<'_>,
    options: &FitOptions,
    rest: Option<Rest>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FitEvent<'_>) -> Result<(), TrainError>,
) -> Result<Fit, TrainError> {
    if options.epochs == 0 {
        return Err(TrainError::NoEpochs);
    }
    let (mut progress, mut best_state) = match rest {
        Some(Rest { progress, snapshot, best_state }) => {
            trainer.restore(snapshot)?;
            (progress, best_state)
        }
        None => (Progress::default(), None),
    };
    let steps = train.len().div_ceil(options.batch_size.max(1));
    let mut end = FitEnd::Done;
    while progress.epochs < options.epochs {
        let start = Instant::now();
        let epoch = progress.epochs + 1;
        let order = Order::Shuffled { seed: options.seed, epoch: epoch as u64 };
        for batch in train.batches(order, options.batch_size).skip(progress.steps) {
            let batch = batch?;
            for (index, reason) in &batch.failed {
                observe(FitEvent::Lost(*index, reason))?;
            }
            // The middle of a step: neither the first nor the last is of size zero.
            let done = (progress.epochs * steps + progress.steps) as f64 + 0.5;
            let rates = options.rates(done / (options.epochs * steps) as f64);
            progress.steps += 1;
            if !batch.indices.is_empty() {
                let draw = draw(options.seed, epoch as u64, progress.steps as u64);
                let targets = Targets::labels(&batch.labels);
                let loss = trainer.accumulate(&batch.input, &targets, 1.0, draw)?.loss;
                let problem = match loss.is_finite() {
                    true => trainer.update(&rates, None, None).err(),
                    false => Some(EngineError::NotFinite { parameter: first_not_finite(trainer) }),
                };
                match problem {
                    None => {}
                    Some(EngineError::NotFinite { parameter: what }) => {
                        end = FitEnd::Diverged(Divergence {
                            epoch,
                            step: progress.steps,
                            what,
                            indices: batch.indices,
                        });
                        break;
                    }
                    Some(other) => return Err(other.into()),
                }
                progress.loss += f64::from(loss) * batch.indices.len() as f64;
                progress.images += batch.indices.len();
            }
            if stop.load(Ordering::Relaxed) {
                end = FitEnd::Stopped;
                break;
            }
        }
        match end {
            FitEnd::Done => {}
            FitEnd::Diverged(_) => break,
            FitEnd::Stopped => {
                observe(FitEvent::Rest(&|| trainer.save(), &progress, best_state.as_ref()))?;
                break;
            }
        }
        let valid =
            evaluate(&mut |input| trainer.evaluate(input, false), valid, options.batch_size, &mut |_| {})?;
        if !valid.loss.is_finite() {
            let (step, what) = (progress.steps, first_not_finite(trainer));
            end = FitEnd::Diverged(Divergence { epoch, step, what, indices: Vec::new() });
            break;
        }
        let train_loss = progress.loss / progress.images.max(1) as f64;
        let done = Epoch { epoch, train_loss, valid, seconds: start.elapsed().as_secs_f64() };
        observe(FitEvent::Epoch(&done))?;
        if progress.best.as_ref().is_none_or(|best| is_better(&done.valid, &best.valid)) {
            best_state = Some(trainer.state(false));
            progress.best = Some(done);
        }
        progress = Progress { epochs: epoch, best: progress.best, ..Progress::default() };
        observe(FitEvent::Rest(&|| trainer.save(), &progress, best_state.as_ref()))?;
        if stop.load(Ordering::Relaxed) && progress.epochs < options.epochs {
            end = FitEnd::Stopped;
            break;
        }
    }
    Ok(Fit { best: progress.best, best_state, last_state: trainer.state(false), end })
}

/// Whether an evaluation is better than an older one.
pub(crate) fn is_better(new: &Evaluation, old: &Evaluation) -> bool {
    new.accuracy > old.accuracy || (new.accuracy == old.accuracy && new.loss < old.loss)
}

/// The number that decides dropout in a step: another one in every step of every epoch.
fn draw(seed: u64, epoch: u64, step: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [seed, epoch, step] {
        hasher.update(&part.to_le_bytes());
    }
    let mut number = [0; 8];
    number.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(number)
}

/// Where a loss that is no number comes from: the first parameter that is none, or the batch.
fn first_not_finite(trainer: &dyn Trainer) -> String {
    let is_not_finite = |values: &[f32]| values.iter().any(|value| !value.is_finite());
    let state = trainer.state(false);
    let found = state.iter().find(|(_, tensor)| tensor.as_f32().is_some_and(is_not_finite));
    found.map_or_else(|| "the loss".into(), |(name, _)| format!("the tensor `{name}`"))
}
