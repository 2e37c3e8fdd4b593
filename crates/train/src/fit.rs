//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engraft_engine::Trainer;
use engraft_tensor::StateDict;
use serde::{Deserialize, Serialize};

use crate::{Evaluation, ExampleBatch, Examples, Order, TrainError, evaluate};

/// How long and how fast to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    /// Passes over the training images.
    pub epochs: usize,
    /// Step size of Adam.
    pub learning_rate: f64,
    /// Images in a step.
    pub batch_size: usize,
    /// Decides the order of the images, dropout and the initial values of the head.
    pub seed: u64,
}

/// What one pass over the training images gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean loss over the pass, dropout on, while the network changed.
    pub train_loss: f64,
    /// Loss and accuracy on the validation images afterwards.
    pub valid: Evaluation,
    /// Wall time of pass and validation.
    pub seconds: f64,
}

/// A trained network.
pub struct Fit {
    /// Parameters and buffers after the best epoch.
    pub best_state: StateDict,
    /// The best epoch: of the highest validation accuracy, among equals of the lowest validation loss.
    pub best: Epoch,
    /// The epoch in which the loss was no number any more, which ended the training.
    pub diverged: Option<usize>,
}

/// Trains until all epochs are done or `stop` becomes true, which is looked at after every batch. An epoch that is cut short
/// is validated like any other.
///
/// # Errors
/// When examples and network do not fit, or the loss is no number before any epoch was done.
pub fn fit(
    trainer: &mut dyn Trainer,
    train: &Examples<'_>,
    valid: &Examples<'_>,
    options: &FitOptions,
    stop: &AtomicBool,
    each_epoch: &mut dyn FnMut(&Epoch),
) -> Result<Fit, TrainError> {
    let mut best: Option<Fit> = None;
    for epoch in 1..=options.epochs {
        let start = Instant::now();
        let order = Order::Shuffled { seed: options.seed, epoch: epoch as u64 };
        let train_loss = one_pass(trainer, train, order, options, stop)?;
        let valid = evaluate(&*trainer, valid, options.batch_size)?;
        if !(train_loss.is_finite() && valid.loss.is_finite()) {
            let error = TrainError::Diverged { epoch, learning_rate: options.learning_rate };
            return best.map(|best| Fit { diverged: Some(epoch), ..best }).ok_or(error);
        }
        let epoch = Epoch { epoch, train_loss, valid, seconds: start.elapsed().as_secs_f64() };
        each_epoch(&epoch);
        if best.as_ref().is_none_or(|best| is_better(&valid, &best.best.valid)) {
            best = Some(Fit { best_state: trainer.state(), best: epoch, diverged: None });
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    best.ok_or(TrainError::NoEpochs)
}

fn is_better(new: &Evaluation, old: &Evaluation) -> bool {
    new.accuracy > old.accuracy || (new.accuracy == old.accuracy && new.loss < old.loss)
}

fn one_pass(
    trainer: &mut dyn Trainer,
    train: &Examples<'_>,
    order: Order,
    options: &FitOptions,
    stop: &AtomicBool,
) -> Result<f64, TrainError> {
    let mut loss = 0.0;
    let mut count = 0;
    for batch in train.batches(order, options.batch_size) {
        let ExampleBatch { input, labels, .. } = batch?.whole()?;
        loss += f64::from(trainer.step(&input, &labels, options.learning_rate)?) * labels.len() as f64;
        count += labels.len();
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(loss / count.max(1) as f64)
}
