//! Trainings of five steps beside torch's.

use std::collections::BTreeMap;
use std::ops::Range;

use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor};
use serde::Deserialize;

use super::fixture::{self, Reference};
use super::{formula, networks};
use crate::{Engine, EngineError, Rate, Rule, Targets, Trainer, Training};

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
        trainer(engine, graph, &state, &|name| self.gradients.contains_key(name))
    }

    fn batch(&self) -> Tensor {
        formula::inputs("x", &self.input)
    }

    /// Those that a trainer shows are all of the fixture's, in the order of the graph.
    fn check_gradients(&self, trainer: &mut dyn Trainer) {
        let state = trainer.state(false);
        let expected = state.names().filter(|name| self.gradients.contains_key(*name));
        let mut shown = Vec::new();
        trainer.gradients(&mut |name, values| {
            let reference = &self.gradients[name];
            reference.check(&Tensor::f32(reference.shape.clone(), values.to_vec()), 1e-5, name);
            shown.push(name.to_string());
        });
        assert!(expected.eq(shown.iter()), "{shown:?}");
    }
}

/// A trainer by Adam; the batch norms whose weights change are live.
pub(super) fn trainer(
    engine: &dyn Engine,
    graph: &Graph,
    state: &StateDict,
    trainable: &dyn Fn(&str) -> bool,
) -> Box<dyn Trainer> {
    let training = Training {
        group: &|name| trainable(name).then_some(0),
        live_norms: &|module| trainable(&format!("{module}.weight")),
        rule: Rule::ADAM,
    };
    engine.trainer(graph, state.clone(), &training).unwrap_or_else(|error| panic!("{error}"))
}

/// The rate of 0.01 without decay.
pub(super) const RATE: Rate = Rate { learning_rate: 0.01, weight_decay: 0.0 };

/// An update on one batch of labels at [`RATE`]; returns the loss before it.
pub(super) fn step(
    trainer: &mut dyn Trainer,
    batch: &Tensor,
    labels: &[usize],
    draw: u64,
) -> Result<f32, EngineError> {
    let loss = trainer.accumulate(batch, &Targets::labels(labels), 1.0, draw)?.loss;
    trainer.update(&[RATE], None, None)?;
    Ok(loss)
}

/// As many [steps](step) on one batch as there are draws, and their losses.
pub(super) fn train(trainer: &mut dyn Trainer, batch: &Tensor, draws: Range<u64>) -> Vec<f32> {
    let labels = networks::labels(batch.shape[0]);
    let step = |draw| step(trainer, batch, &labels, draw).unwrap_or_else(|error| panic!("{error}"));
    draws.map(step).collect()
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
    let (batch, targets) = (run.batch(), Targets::labels(&run.labels));
    let rate = Rate { learning_rate: run.learning_rate, weight_decay: 0.0 };
    let mut trainer = run.trainer(engine, graph);
    let before = trainer.state(false);
    for (step, expected) in run.losses.iter().enumerate() {
        let loss = trainer.accumulate(&batch, &targets, 1.0, 0).unwrap().loss;
        assert!((loss - expected).abs() <= 1e-5 * expected, "loss of step {step}: {loss}, not {expected}");
        if step == 0 {
            run.check_gradients(&mut *trainer);
        }
        trainer.update(&[rate], None, None).unwrap();
    }
    let state = trainer.state(false);
    assert_eq!(state.len(), run.state.len(), "{:?}", state.names().collect::<Vec<_>>());
    for (name, expected) in &run.state {
        let tensor = state.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        match name.rsplit('.').next() {
            Some("num_batches_tracked") => assert_eq!(*tensor, Tensor::counter(run.steps as i64), "{name}"),
            Some("relative_position_index") => assert_eq!(Some(tensor), before.get(name), "{name}"),
            _ => expected.check(tensor, 1e-5, name),
        }
    }
    run.logits.check(&trainer.evaluate(&batch, false).unwrap(), 1e-5, "logits");
}

/// A trainer that took no step hands out what it was given, in the order of the graph; a counter that a file lacks is zero.
pub fn the_state_begins_as_given(engine: &dyn Engine) {
    let graph = networks::convnet();
    let given = formula::state(&graph, formula::NORM);
    let mut file = given.clone();
    file.remove("1.num_batches_tracked");
    let state = trainer(engine, &graph, &file, &|_| true).state(false);
    assert_eq!(state, given);
    assert!(state.names().eq(given.names()), "{:?}", state.names().collect::<Vec<_>>());
}

/// The state of a trainer makes a network that computes what the trainer computes, for batches of any size.
pub fn a_trained_network_can_be_handed_over(engine: &dyn Engine) {
    let graph = networks::convnet();
    let mut trainer = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true);
    train(&mut *trainer, &formula::inputs("x", &[8, 3, 16, 16]), 0..3);
    let mut network = engine.network(&graph, trainer.state(false)).unwrap();
    for batch in [1, 5] {
        let batch = formula::inputs("other", &[batch, 3, 16, 16]);
        let [of_network, of_trainer] =
            [network.forward(&batch).unwrap(), trainer.evaluate(&batch, false).unwrap()];
        // An engine may train with other kernels than it evaluates with.
        let difference =
            fixture::relative_difference(of_network.as_f32().unwrap(), of_trainer.as_f32().unwrap());
        assert!(difference < 1e-6, "{difference:e}");
    }
}
