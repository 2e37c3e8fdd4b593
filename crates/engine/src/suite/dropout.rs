//! Dropout and stochastic depth: the shared mask in training, nothing in evaluation.

use std::iter;

use engraft_graph::{Builder, Graph, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::fixture::relative_difference;
use super::freezing::cross_entropy;
use super::training::{train, trainer};
use super::{formula, networks};
use crate::{Engine, dropout_mask};

const SEED: u64 = 11;
const BATCH: usize = 6;
const FEATURES: usize = 10;
/// Place of the dropout in the graph.
const NODE: usize = 1;
const P: f64 = 0.4;

/// A dropout before a linear layer.
fn network() -> (Graph, StateDict, Tensor) {
    let (mut b, x) = Builder::with_input("Net", &[FEATURES]);
    let x = b.layer("drop", Op::dropout(P), x);
    let x = b.layer("fc", Linear::new(FEATURES, 3), x);
    let graph = b.finish(x);
    let state = formula::state(&graph, formula::NORM);
    (graph, state, formula::inputs("x", &[BATCH, FEATURES]))
}

/// The linear layer of [`network`] in f64, on an input to which a mask was applied.
fn logits(state: &StateDict, input: &Tensor, mask: &[f32]) -> Tensor {
    let values = |tensor: &Tensor| tensor.as_f32().unwrap().iter().map(|value| f64::from(*value)).collect();
    let [weight, bias]: [Vec<f64>; 2] = ["fc.weight", "fc.bias"].map(|name| values(state.get(name).unwrap()));
    let input: Vec<f64> = values(input);
    let masked: Vec<f64> = input.iter().zip(mask).map(|(x, mask)| x * f64::from(*mask)).collect();
    let mut logits = Vec::new();
    for row in masked.chunks(FEATURES) {
        for (weights, bias) in weight.chunks(FEATURES).zip(&bias) {
            let product: f64 = row.iter().zip(weights).map(|(x, weight)| x * weight).sum();
            logits.push((product + bias) as f32);
        }
    }
    Tensor::f32([BATCH, 3], logits)
}

/// Each step multiplies by the mask of its number, counted from zero. At a learning rate of zero only the mask changes.
pub fn dropout_applies_its_mask(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let labels = networks::labels(BATCH);
    let mut trainer = trainer(engine, &graph, &state, &|_| true, SEED);
    for step in 0..4 {
        let mask = dropout_mask(SEED, step, NODE, BATCH * FEATURES, P);
        let expected = cross_entropy(&logits(&state, &batch, &mask), &labels);
        let loss = trainer.step(&batch, &labels, 0.0).unwrap();
        let difference = (f64::from(loss) - expected).abs();
        assert!(difference < 1e-5 * expected, "step {step}: loss {loss}, not {expected}");
    }
    assert_eq!(trainer.state(), state);
}

/// The weights of an input that is dropped do not move in the first step; those of the others move by the learning rate.
pub fn dropout_stops_the_gradients_of_what_it_drops(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let one = Tensor::f32([1, FEATURES], batch.as_f32().unwrap()[..FEATURES].to_vec());
    let mut trainer = trainer(engine, &graph, &state, &|_| true, SEED);
    train(&mut *trainer, &one, 1);
    let mask = dropout_mask(SEED, 0, NODE, FEATURES, P);
    let after = trainer.state();
    let [before, after] =
        [&state, &after].map(|state| state.get("fc.weight").and_then(Tensor::as_f32).unwrap());
    for (i, (before, after)) in before.iter().zip(after).enumerate() {
        match mask[i % FEATURES] {
            0.0 => assert_eq!(after, before, "weight {i}"),
            _ => assert!(((after - before).abs() - 0.01).abs() < 1e-5, "weight {i}: {before} to {after}"),
        }
    }
}

/// Before and after training, evaluation drops nothing, neither in the trainer nor in a network.
pub fn dropout_is_off_in_evaluation(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let mut trainer = trainer(engine, &graph, &state, &|_| true, SEED);
    for steps in [0, 3] {
        train(&mut *trainer, &batch, steps);
        let state = trainer.state();
        let expected = logits(&state, &batch, &[1.0; BATCH * FEATURES]);
        let network = engine.network(&graph, state.clone()).unwrap();
        for output in [trainer.forward(&batch).unwrap(), network.forward(&batch).unwrap()] {
            let pairs = output.as_f32().unwrap().iter().zip(expected.as_f32().unwrap());
            for (value, expected) in pairs {
                assert!((value - expected).abs() < 1e-5, "{value}, not {expected}, after {steps} steps");
            }
        }
    }
}

/// One value of the mask, of shape `[batch, 1, 1, 1]`, scales a whole sample; in evaluation there is none.
pub fn stochastic_depth_drops_whole_samples(engine: &dyn Engine) {
    let (mut b, x) = Builder::with_input("Net", &[2, 5, 1]);
    let x = b.layer("drop", Op::StochasticDepth { p: P }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(FEATURES, 3), x);
    let graph = b.finish(x);
    let state = formula::state(&graph, formula::NORM);
    let batch = formula::inputs("x", &[BATCH, 2, 5, 1]);
    let labels = networks::labels(BATCH);
    let mut trainer = trainer(engine, &graph, &state, &|_| true, SEED);
    let mut dropped = 0;
    for step in 0..4 {
        let mask = dropout_mask(SEED, step, NODE, BATCH, P);
        dropped += mask.iter().filter(|value| **value == 0.0).count();
        let of_elements: Vec<f32> = mask.iter().flat_map(|value| iter::repeat_n(*value, FEATURES)).collect();
        let expected = cross_entropy(&logits(&state, &batch, &of_elements), &labels);
        let loss = trainer.step(&batch, &labels, 0.0).unwrap();
        let difference = (f64::from(loss) - expected).abs();
        assert!(difference < 1e-5 * expected, "step {step}: loss {loss}, not {expected}");
    }
    assert!(0 < dropped && dropped < 4 * BATCH, "{dropped} samples dropped: the seed shows nothing");
    let expected = logits(&state, &batch, &[1.0; BATCH * FEATURES]);
    let output = trainer.forward(&batch).unwrap();
    assert!(relative_difference(output.as_f32().unwrap(), expected.as_f32().unwrap()) < 1e-5);
}

/// The same seed gives the same bits, another seed others.
pub fn a_seed_decides_every_bit(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let run = |seed| {
        let mut trainer = trainer(engine, &graph, &state, &|_| true, seed);
        (train(&mut *trainer, &batch, 5), trainer.state())
    };
    let first = run(SEED);
    assert_eq!(run(SEED), first);
    assert_ne!(run(SEED + 1).0, first.0);
}
