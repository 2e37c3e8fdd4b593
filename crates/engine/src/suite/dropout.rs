//! Dropout and stochastic depth: the shared mask in training, nothing in evaluation.

use std::iter;

use engraft_graph::{Builder, Graph, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::fixture::relative_difference;
use super::freezing::cross_entropy;
use super::training::{train, trainer};
use super::{formula, networks};
use crate::{Engine, Targets, dropout_mask};

/// Of the first batch.
const DRAW: u64 = 11;
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

/// Each batch is multiplied by the mask of its draw.
pub fn dropout_applies_its_mask(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let labels = networks::labels(BATCH);
    let mut trainer = trainer(engine, &graph, &state, &|_| true);
    for draw in DRAW..DRAW + 4 {
        let mask = dropout_mask(draw, NODE, 0..BATCH * FEATURES, P);
        let expected = cross_entropy(&logits(&state, &batch, &mask), &labels);
        let loss = trainer.accumulate(&batch, &Targets::labels(&labels), 1.0, draw).unwrap().loss;
        let difference = (f64::from(loss) - expected).abs();
        assert!(difference < 1e-5 * expected, "draw {draw}: loss {loss}, not {expected}");
    }
    assert_eq!(trainer.state(false), state);
}

/// The weights of an input that is dropped have no gradient; those of the others have.
pub fn dropout_stops_the_gradients_of_what_it_drops(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let one = Tensor::f32([1, FEATURES], batch.as_f32().unwrap()[..FEATURES].to_vec());
    let mut trainer = trainer(engine, &graph, &state, &|name| name == "fc.weight");
    trainer.accumulate(&one, &Targets::labels(&[0]), 1.0, DRAW).unwrap();
    let mask = dropout_mask(DRAW, NODE, 0..FEATURES, P);
    trainer.gradients(&mut |_, values| {
        for (i, value) in values.iter().enumerate() {
            assert_eq!(*value == 0.0, mask[i % FEATURES] == 0.0, "weight {i}");
        }
    });
}

/// Before and after training, evaluation drops nothing, neither in the trainer nor in a network.
pub fn dropout_is_off_in_evaluation(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let mut trainer = trainer(engine, &graph, &state, &|_| true);
    for steps in [0, 3] {
        train(&mut *trainer, &batch, 0..steps);
        let state = trainer.state(false);
        let expected = logits(&state, &batch, &[1.0; BATCH * FEATURES]);
        let mut network = engine.network(&graph, state.clone()).unwrap();
        for output in [trainer.evaluate(&batch, false).unwrap(), network.forward(&batch).unwrap()] {
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
    let mut trainer = trainer(engine, &graph, &state, &|_| true);
    let mut dropped = 0;
    for draw in DRAW..DRAW + 4 {
        let mask = dropout_mask(draw, NODE, 0..BATCH, P);
        dropped += mask.iter().filter(|value| **value == 0.0).count();
        let of_elements: Vec<f32> = mask.iter().flat_map(|value| iter::repeat_n(*value, FEATURES)).collect();
        let expected = cross_entropy(&logits(&state, &batch, &of_elements), &labels);
        let loss = trainer.accumulate(&batch, &Targets::labels(&labels), 1.0, draw).unwrap().loss;
        let difference = (f64::from(loss) - expected).abs();
        assert!(difference < 1e-5 * expected, "draw {draw}: loss {loss}, not {expected}");
    }
    assert!(0 < dropped && dropped < 4 * BATCH, "{dropped} samples dropped: the seed shows nothing");
    let expected = logits(&state, &batch, &[1.0; BATCH * FEATURES]);
    let output = trainer.evaluate(&batch, false).unwrap();
    assert!(relative_difference(output.as_f32().unwrap(), expected.as_f32().unwrap()) < 1e-5);
}

/// The same draws give the same bits, others give others.
pub fn draws_decide_every_bit(engine: &dyn Engine) {
    let (graph, state, batch) = network();
    let run = |first| {
        let mut trainer = trainer(engine, &graph, &state, &|_| true);
        (train(&mut *trainer, &batch, first..first + 5), trainer.save())
    };
    let first = run(DRAW);
    assert_eq!(run(DRAW), first);
    assert_ne!(run(DRAW + 1).0, first.0);
}

/// Dropout of nothing, as torch's networks with a rate of 0 have it, changes no bit.
pub fn dropout_of_nothing_is_none(engine: &dyn Engine) {
    let losses = |p: Option<f64>| {
        let (mut b, mut x) = Builder::with_input("Net", &[FEATURES]);
        if let Some(p) = p {
            x = b.layer("drop", Op::dropout(p), x);
            x = b.layer("depth", Op::StochasticDepth { p }, x);
        }
        let x = b.layer("fc", Linear::new(FEATURES, 3), x);
        let graph = b.finish(x);
        let mut trainer = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true);
        train(&mut *trainer, &formula::inputs("x", &[BATCH, FEATURES]), 0..3)
    };
    assert_eq!(losses(Some(0.0)), losses(None));
}
