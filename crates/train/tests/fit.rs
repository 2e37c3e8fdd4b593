//! The loop: what it shows the network, which epoch it keeps, and when it ends.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_engine::{EngineError, Network, Trainer};
use engraft_tensor::{StateDict, Tensor};
use engraft_train::{Epoch, Examples, Fit, FitOptions, TrainError, fit};

/// Training examples, in batches of which there are three: 4, 4 and 2.
const EXAMPLES: usize = 10;
const STEPS: usize = 3;

/// A network that follows a script.
struct Scripted<'a> {
    /// For each epoch, how many of the four validation examples it gets right, and how sure it is of all its answers.
    epochs: Vec<(usize, f32)>,
    /// The loss of a step, by the number of steps before it.
    loss: fn(usize) -> f32,
    /// The step after which the user presses Ctrl-C.
    ctrl_c: Option<usize>,
    stop: &'a AtomicBool,
    steps: Cell<usize>,
    /// The examples in the order in which they were shown.
    shown: RefCell<Vec<usize>>,
}

impl<'a> Scripted<'a> {
    fn new(epochs: &[(usize, f32)], stop: &'a AtomicBool) -> Self {
        let (steps, shown) = (Cell::new(0), RefCell::new(Vec::new()));
        Self { epochs: epochs.into(), loss: |_| 1.0, ctrl_c: None, stop, steps, shown }
    }
}

impl Network for Scripted<'_> {
    fn forward(&self, input: &Tensor) -> Result<Tensor, EngineError> {
        let (right, sure) = self.epochs[(self.steps.get() - 1) / STEPS];
        let logits = input.as_f32().unwrap().iter().flat_map(|example| {
            let answer = if (*example as usize) < right { sure } else { -sure };
            [answer, 0.0]
        });
        Ok(Tensor::f32([input.shape[0], 2], logits.collect()))
    }
}

impl Trainer for Scripted<'_> {
    fn step(&mut self, input: &Tensor, labels: &[usize], learning_rate: f64) -> Result<f32, EngineError> {
        assert_eq!(learning_rate, 0.25);
        let examples = input.as_f32().unwrap().iter().map(|example| *example as usize);
        assert!(examples.clone().eq(labels.iter().copied()), "labels of other examples");
        self.shown.borrow_mut().extend(examples);
        let step = self.steps.get();
        self.steps.set(step + 1);
        if self.ctrl_c == Some(step + 1) {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok((self.loss)(step))
    }

    fn state(&self) -> StateDict {
        [("steps".to_string(), Tensor::counter(self.steps.get() as i64))].into_iter().collect()
    }
}

/// Trains a network; example `i` is the number `i`. All four of the validation are of class 0.
fn run(trainer: &mut Scripted<'_>, seed: u64) -> (Result<Fit, TrainError>, Vec<Epoch>) {
    let examples = |count: usize, label: fn(usize) -> usize| {
        let values = (0..count).map(|i| i as f32).collect();
        Examples::in_memory(vec![1], values, (0..count).map(label).collect())
    };
    let options = FitOptions { epochs: trainer.epochs.len(), learning_rate: 0.25, batch_size: 4, seed };
    let stop = trainer.stop;
    let mut epochs = Vec::new();
    let (train, valid) = (examples(EXAMPLES, |i| i), examples(4, |_| 0));
    let fit = fit(trainer, &train, &valid, &options, stop, &mut |epoch| epochs.push(epoch.clone()));
    (fit, epochs)
}

#[test]
fn the_best_epoch_is_the_most_accurate_and_among_equals_the_one_of_least_loss() {
    let stop = AtomicBool::new(false);
    for (script, best) in [
        (&[(1, 1.0), (3, 1.0), (2, 1.0)][..], 2),
        // All right: the surer the better. Half wrong: the surer the worse.
        (&[(4, 1.0), (4, 3.0), (4, 2.0)], 2),
        (&[(2, 3.0), (2, 2.0), (2, 1.0)], 3),
        // Equal in all: the first.
        (&[(3, 1.0), (3, 1.0), (3, 1.0)], 1),
    ] {
        let (fit, epochs) = run(&mut Scripted::new(script, &stop), 0);
        let fit = fit.unwrap();
        assert_eq!(fit.best.epoch, best, "{script:?}");
        assert_eq!(fit.best_state.get("steps"), Some(&Tensor::counter((STEPS * best) as i64)));
        assert_eq!(epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1, 2, 3]);
        for (epoch, (right, sure)) in epochs.iter().zip(script) {
            assert_eq!(epoch.valid.accuracy, *right as f64 / 4.0);
            assert_eq!(epoch.valid.examples, 4);
            // Cross entropy of two classes: ln(1 + e^-x) for an answer that is right by x, and for one that is wrong x more.
            let sure = f64::from(*sure);
            let loss = (1.0 + (-sure).exp()).ln() + sure * (1.0 - *right as f64 / 4.0);
            assert!((epoch.valid.loss - loss).abs() < 1e-9, "{} {loss}", epoch.valid.loss);
        }
    }
}

#[test]
fn each_epoch_shows_every_example_once_in_an_order_of_its_own() {
    let stop = AtomicBool::new(false);
    let shown = |seed| {
        let mut trainer = Scripted::new(&[(1, 1.0); 3], &stop);
        run(&mut trainer, seed).0.unwrap();
        trainer.shown.into_inner()
    };
    let orders = shown(5);
    let epochs: Vec<&[usize]> = orders.chunks(EXAMPLES).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort();
        assert!(sorted.into_iter().eq(0..EXAMPLES));
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!(orders, shown(5));
    assert_ne!(orders, shown(6));
}

#[test]
fn the_loss_of_an_epoch_is_the_mean_over_its_examples() {
    let stop = AtomicBool::new(false);
    let mut trainer = Scripted { loss: |step| [1.0, 2.0, 6.0][step], ..Scripted::new(&[(1, 1.0)], &stop) };
    let (_, epochs) = run(&mut trainer, 0);
    assert_eq!(epochs[0].train_loss, (4.0 * 1.0 + 4.0 * 2.0 + 2.0 * 6.0) / 10.0);
}

#[test]
fn ctrl_c_ends_after_the_batch_and_keeps_the_best() {
    for (ctrl_c, steps_kept, epochs_done) in [(1, 1, 1), (3, 3, 1), (5, 3, 2)] {
        let stop = AtomicBool::new(false);
        let script = [(3, 1.0), (2, 1.0), (4, 1.0)];
        let mut trainer = Scripted { ctrl_c: Some(ctrl_c), ..Scripted::new(&script, &stop) };
        let (fit, epochs) = run(&mut trainer, 0);
        assert_eq!(trainer.steps.get(), ctrl_c, "steps after Ctrl-C");
        assert_eq!(epochs.len(), epochs_done);
        assert_eq!(fit.unwrap().best_state.get("steps"), Some(&Tensor::counter(steps_kept)));
    }
}

#[test]
fn a_loss_that_is_no_number_ends_training_and_keeps_the_best() {
    let stop = AtomicBool::new(false);
    let of_training = Scripted {
        loss: |step| [1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0][step],
        ..Scripted::new(&[(1, 1.0); 2], &stop)
    };
    // The last step can do it as well, which only the validation sees.
    let of_validation = Scripted::new(&[(1, 1.0), (1, f32::NAN)], &stop);
    for mut trainer in [of_training, of_validation] {
        let (fit, epochs) = run(&mut trainer, 0);
        let fit = fit.unwrap();
        assert_eq!((fit.best.epoch, fit.diverged), (1, Some(2)));
        assert_eq!(epochs.len(), 1);
    }
    let mut at_once = Scripted::new(&[(1, f32::NAN)], &stop);
    assert!(matches!(run(&mut at_once, 0).0, Err(TrainError::Diverged { epoch: 1, .. })));
}

#[test]
fn no_epochs_are_nothing_to_do() {
    let stop = AtomicBool::new(false);
    assert!(matches!(run(&mut Scripted::new(&[], &stop), 0).0, Err(TrainError::NoEpochs)));
}
