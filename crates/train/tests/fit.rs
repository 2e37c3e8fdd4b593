//! The loop: what it shows the network, which epoch it keeps, and when it ends.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_engine::{Accumulated, EngineError, Rate, Snapshot, Targets, Trainer};
use engraft_tensor::{StateDict, Tensor};
use engraft_train::{
    Epoch, Examples, Fit, FitEnd, FitEvent, FitOptions, Progress, Rest, Schedule, TrainError, fit,
};

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

impl Trainer for Scripted<'_> {
    fn accumulate(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        scale: f32,
        _draw: u64,
    ) -> Result<Accumulated, EngineError> {
        assert_eq!(scale, 1.0);
        let examples: Vec<usize> = input.as_f32().unwrap().iter().map(|example| *example as usize).collect();
        assert_eq!(*targets, Targets::labels(&examples), "labels of other examples");
        let loss = (self.loss)(self.steps.get());
        let outputs = Tensor::f32([examples.len(), 2], vec![0.0; 2 * examples.len()]);
        self.shown.borrow_mut().extend(examples);
        Ok(Accumulated { loss, outputs })
    }

    fn gradients(&mut self, _visit: &mut dyn FnMut(&str, &mut [f32])) {}

    fn update(
        &mut self,
        rates: &[Rate],
        _clip: Option<f64>,
        _average: Option<f64>,
    ) -> Result<f64, EngineError> {
        let rate = |learning_rate| Rate { learning_rate, weight_decay: 0.0 };
        assert_eq!(rates, [rate(0.25), rate(0.125)]);
        self.steps.set(self.steps.get() + 1);
        if self.ctrl_c == Some(self.steps.get()) {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(1.0)
    }

    fn evaluate(&mut self, input: &Tensor, _averaged: bool) -> Result<Tensor, EngineError> {
        let (right, sure) = self.epochs[(self.steps.get() - 1) / STEPS];
        let logits = input.as_f32().unwrap().iter().flat_map(|example| {
            let answer = if (*example as usize) < right { sure } else { -sure };
            [answer, 0.0]
        });
        Ok(Tensor::f32([input.shape[0], 2], logits.collect()))
    }

    fn state(&self, _averaged: bool) -> StateDict {
        [("steps".to_string(), Tensor::counter(self.steps.get() as i64))].into_iter().collect()
    }

    fn save(&self) -> Snapshot {
        let empty = StateDict::new;
        Snapshot {
            updates: self.steps.get() as u64,
            state: self.state(false),
            average: empty(),
            moments: empty(),
        }
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), EngineError> {
        self.steps.set(snapshot.updates as usize);
        Ok(())
    }
}

/// Where a training rested last.
type Rested = Option<(Snapshot, Progress, Option<StateDict>)>;

/// Trains a network; example `i` is the number `i`. All four of the validation are of class 0.
fn run(trainer: &mut Scripted<'_>, seed: u64) -> (Result<Fit, TrainError>, Vec<Epoch>) {
    let (fit, epochs, _) = go_on(trainer, seed, None);
    (fit, epochs)
}

fn go_on(
    trainer: &mut Scripted<'_>,
    seed: u64,
    rest: Option<Rest>,
) -> (Result<Fit, TrainError>, Vec<Epoch>, Rested) {
    let examples = |count: usize, label: fn(usize) -> usize| {
        let values = (0..count).map(|i| i as f32).collect();
        Examples::in_memory(vec![1], values, (0..count).map(label).collect())
    };
    let options = FitOptions {
        epochs: trainer.epochs.len(),
        learning_rate: 0.25,
        backbone_learning_rate: Some(0.125),
        schedule: Schedule::Constant,
        batch_size: 4,
        seed,
    };
    let stop = trainer.stop;
    let mut epochs = Vec::new();
    let (train, valid) = (examples(EXAMPLES, |i| i), examples(4, |_| 0));
    let mut rested = None;
    let fit = fit(trainer, &train, &valid, &options, rest, stop, &mut |event| {
        match event {
            FitEvent::Epoch(epoch) => epochs.push(epoch.clone()),
            FitEvent::Rest(save, progress, best) => rested = Some((save(), progress.clone(), best.cloned())),
            FitEvent::Lost(index, reason) => panic!("{index} is lost: {reason}"),
        }
        Ok(())
    });
    (fit, epochs, rested)
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
        assert_eq!(fit.best.unwrap().epoch, best, "{script:?}");
        assert_eq!(fit.best_state.unwrap().get("steps"), Some(&Tensor::counter((STEPS * best) as i64)));
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
fn ctrl_c_ends_after_the_batch_and_the_training_goes_on_as_if_nothing_had_been() {
    let script = [(3, 1.0), (2, 1.0), (4, 1.0)];
    let never = AtomicBool::new(false);
    let mut whole = Scripted::new(&script, &never);
    let (whole_fit, whole_epochs) = run(&mut whole, 5);
    let whole_best = whole_fit.unwrap().best_state;
    for (ctrl_c, epochs_done) in [(1, 0), (3, 1), (5, 1), (8, 2)] {
        let stop = AtomicBool::new(false);
        let mut trainer = Scripted { ctrl_c: Some(ctrl_c), ..Scripted::new(&script, &stop) };
        let (fit, epochs, rested) = go_on(&mut trainer, 5, None);
        let fit = fit.unwrap();
        assert_eq!(fit.end, FitEnd::Stopped);
        assert_eq!(trainer.steps.get(), ctrl_c, "steps after Ctrl-C");
        // After the last batch of an epoch the validation is made up for when the training goes on.
        let done = if ctrl_c % STEPS == 0 { epochs_done - 1 } else { epochs_done };
        assert_eq!(epochs.len(), done);
        assert_eq!(fit.best.is_some(), done > 0);

        let (snapshot, progress, best_state) = rested.unwrap();
        assert_eq!(progress.epochs, done);
        let mut resumed = Scripted::new(&script, &never);
        let rest = Rest { progress, snapshot, best_state };
        let (fit, later, _) = go_on(&mut resumed, 5, Some(rest));
        assert_eq!(fit.unwrap().best_state, whole_best);
        let shown = [trainer.shown.into_inner(), resumed.shown.into_inner()].concat();
        assert_eq!(shown, *whole.shown.borrow(), "Ctrl-C after {ctrl_c} steps");
        let same =
            |a: &Epoch, b: &Epoch| (a.epoch, a.train_loss, &a.valid) == (b.epoch, b.train_loss, &b.valid);
        let all: Vec<&Epoch> = epochs.iter().chain(&later).collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().zip(&whole_epochs).all(|(a, b)| same(a, b)));
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
    for (mut trainer, step, photos) in [(of_training, 2, 4), (of_validation, 3, 0)] {
        let (fit, epochs) = run(&mut trainer, 0);
        let fit = fit.unwrap();
        assert_eq!(fit.best.unwrap().epoch, 1);
        let FitEnd::Diverged(divergence) = fit.end else { panic!("it ended otherwise: {:?}", fit.end) };
        assert_eq!((divergence.epoch, divergence.step, divergence.indices.len()), (2, step, photos));
        assert_eq!(epochs.len(), 1);
    }
    let mut at_once = Scripted::new(&[(1, f32::NAN)], &stop);
    let fit = run(&mut at_once, 0).0.unwrap();
    assert!(matches!(fit.end, FitEnd::Diverged(_)) && fit.best.is_none());
}

#[test]
fn no_epochs_are_nothing_to_do() {
    let stop = AtomicBool::new(false);
    assert!(matches!(run(&mut Scripted::new(&[], &stop), 0).0, Err(TrainError::NoEpochs)));
}

#[test]
fn a_cosine_rises_and_falls() {
    // 0.5 * (1 + cos(pi * x)) at x = 0, 1/4, 1/2, 3/4 and 1.
    let cosine =
        [(0.1, 1.0), (0.325, 0.853_553_39), (0.55, 0.5), (0.775, 0.146_446_61), (1.0, 0.0), (1.5, 0.0)];
    for (done, factor) in [(0.0, 0.0), (0.05, 0.5), (0.099, 0.99)].into_iter().chain(cosine) {
        assert!((Schedule::Cosine.factor(done) - factor).abs() < 1e-8, "{done}");
        assert_eq!(Schedule::Constant.factor(done), 1.0);
    }
}
