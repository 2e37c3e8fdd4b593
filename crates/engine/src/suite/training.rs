//! Trainings of five steps beside torch's.

use std::collections::BTreeMap;

use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor};
use serde::Deserialize;

use super::fixture::{self, Reference};
use super::{formula, networks};
use crate::{Engine, Trainer, Training};

/// A training of `parity/engine.py`.
#[derive(Deserialize)]
struct Run {
    input: Vec<usize>,
    labels: Vec<usize>,
    learning_rate: f64,
    steps: usize,
    losses: Vec<f32>,
    /// Parameters that are not among them are frozen.
    gradients: BTreeMap<String, Reference>,
    state: BTreeMap<String, Reference>,
    logits: Reference,
}

impl Run {
    fn trainer(&self, engine: &dyn Engine, graph: &Graph) -> Box<dyn Trainer> {
        let state = formula::state(graph, formula::NORM);
        trainer(engine, graph, &state, &|name| self.gradients.contains_key(name), 0)
    }

    fn batch(&self) -> Tensor {
        formula::inputs("x", &self.input)
    }
}

/// A trainer for a network that suits the engine.
pub(super) fn trainer(
    engine: &dyn Engine,
    graph: &Graph,
    state: &StateDict,
    trainable: &dyn Fn(&str) -> bool,
    seed: u64,
) -> Box<dyn Trainer> {
    engine.trainer(graph, state, Training { trainable, seed }).unwrap_or_else(|error| panic!("{error}"))
}

/// Takes steps on one batch at the learning rate of 0.01, and returns the losses.
pub(super) fn train(trainer: &mut dyn Trainer, batch: &Tensor, steps: usize) -> Vec<f32> {
    let labels = networks::labels(batch.shape[0]);
    let step = |_| trainer.step(batch, &labels, 0.01).unwrap_or_else(|error| panic!("{error}"));
    (0..steps).map(step).collect()
}

/// Two linear layers with a ReLU between them: losses, parameters and logits.
pub fn a_head_trains_as_in_torch(engine: &dyn Engine) {
    trains_as_in_torch(engine, &networks::head(), "engine/training");
}

/// Convolutions, batch norm and pooling: losses, parameters, running statistics, and logits in evaluation mode.
pub fn a_convolutional_network_trains_as_in_torch(engine: &dyn Engine) {
    trains_as_in_torch(engine, &networks::convnet(), "engine/convnet");
}

/// Attention with windows, shifts and position biases, a class token and embeddings of positions.
pub fn a_transformer_trains_as_in_torch(engine: &dyn Engine) {
    trains_as_in_torch(engine, &networks::transformer(), "engine/transformer");
}

fn trains_as_in_torch(engine: &dyn Engine, graph: &Graph, fixture: &str) {
    let run: Run = fixture::read(fixture);
    let batch = run.batch();
    let mut trainer = run.trainer(engine, graph);
    let before = trainer.state();
    for (step, expected) in run.losses.iter().enumerate() {
        let loss = trainer.step(&batch, &run.labels, run.learning_rate).unwrap();
        assert!((loss - expected).abs() <= 1e-5 * expected, "loss of step {step}: {loss}, not {expected}");
    }
    let state = trainer.state();
    assert_eq!(state.len(), run.state.len(), "{:?}", state.names().collect::<Vec<_>>());
    for (name, expected) in &run.state {
        let tensor = state.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        match name.rsplit('.').next() {
            Some("num_batches_tracked") => assert_eq!(*tensor, Tensor::counter(run.steps as i64), "{name}"),
            Some("relative_position_index") => assert_eq!(Some(tensor), before.get(name), "{name}"),
            _ => expected.check(tensor, 1e-5, name),
        }
    }
    run.logits.check(&trainer.forward(&batch).unwrap(), 1e-5, "logits");
}

/// Adam's first step moves each value by the learning rate against the sign of its gradient: by
/// `rate * gradient / (|gradient| + 1e-8)`.
pub fn the_first_step_goes_against_torchs_gradients(engine: &dyn Engine) {
    let networks = [
        ("engine/training", networks::head()),
        ("engine/convnet", networks::convnet()),
        ("engine/transformer", networks::transformer()),
    ];
    for (fixture, graph) in networks {
        let run: Run = fixture::read(fixture);
        let mut trainer = run.trainer(engine, &graph);
        trainer.step(&run.batch(), &run.labels, run.learning_rate).unwrap();
        let (before, after) = (formula::state(&graph, formula::NORM), trainer.state());
        for (name, gradient) in &run.gradients {
            let [before, after] =
                [&before, &after].map(|state| state.get(name).and_then(Tensor::as_f32).unwrap());
            let largest = gradient.values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            // The division magnifies rounding errors in small gradients; a gradient of zero must be just that.
            let is_sure = |gradient: f32| gradient == 0.0 || gradient.abs() > 1e-3 * largest;
            for (i, gradient) in gradient.values.iter().enumerate().filter(|(_, g)| is_sure(**g)) {
                let gradient = f64::from(*gradient);
                let expected = -run.learning_rate * gradient / (gradient.abs() + 1e-8);
                let moved = f64::from(after[i]) - f64::from(before[i]);
                assert!((moved - expected).abs() < 1e-6, "{name}[{i}] moved by {moved}, not {expected}");
            }
        }
    }
}

/// A trainer that took no step hands out what it was given, in the order of the graph; a counter that a file lacks is zero.
pub fn the_state_begins_as_given(engine: &dyn Engine) {
    let graph = networks::convnet();
    let given = formula::state(&graph, formula::NORM);
    let mut file = given.clone();
    file.remove("1.num_batches_tracked");
    let state = trainer(engine, &graph, &file, &|_| true, 0).state();
    assert_eq!(state, given);
    assert!(state.names().eq(given.names()), "{:?}", state.names().collect::<Vec<_>>());
}

/// The state of a trainer makes a network that computes what the trainer computes, for batches of any size.
pub fn a_trained_network_can_be_handed_over(engine: &dyn Engine) {
    let graph = networks::convnet();
    let mut trainer = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true, 0);
    train(&mut *trainer, &formula::inputs("x", &[8, 3, 16, 16]), 3);
    let network = engine.network(&graph, trainer.state()).unwrap();
    for batch in [1, 5] {
        let batch = formula::inputs("other", &[batch, 3, 16, 16]);
        let [of_network, of_trainer] = [network.forward(&batch).unwrap(), trainer.forward(&batch).unwrap()];
        // An engine may train with other kernels than it evaluates with.
        let difference =
            fixture::relative_difference(of_network.as_f32().unwrap(), of_trainer.as_f32().unwrap());
        assert!(difference < 1e-6, "{difference:e}");
    }
}
