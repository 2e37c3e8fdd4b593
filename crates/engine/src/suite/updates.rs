//! Rules, rates, clipping and averages, beside torch's (`parity/updates.py`); gradients that are added up or changed.

use std::collections::BTreeMap;

use engraft_graph::{Builder, Graph, Linear};
use engraft_tensor::{StateDict, Tensor};
use serde::Deserialize;

use super::fixture::{self, Reference, relative_difference};
use super::training::{RATE, trainer};
use super::{formula, networks};
use crate::{ClassTarget, Engine, Rate, Rule, Targets, Trainer, Training};

/// A training of `engine/updates.json.gz`.
#[derive(Deserialize)]
struct Run {
    name: String,
    rule: Rule,
    /// Learning rate and weight decay of each group.
    rates: Vec<[f64; 2]>,
    clip: Option<f64>,
    average: Option<f64>,
    losses: Vec<f32>,
    norms: Vec<f32>,
    state: BTreeMap<String, Reference>,
    averaged: Option<BTreeMap<String, Reference>>,
}

/// Relative to the largest value of a tensor. torch's own f32 is as far off.
const TOLERANCE: f32 = 1e-5;

/// The network of these trainings, live norms and all, in two groups of parameters.
fn convnet(engine: &dyn Engine, rule: Rule) -> (Box<dyn Trainer>, Tensor, Targets) {
    let graph = networks::convnet();
    let group = |name: &str| Some(usize::from(name.starts_with("7.")));
    let training = Training { group: &group, live_norms: &|_| true, rule };
    let trainer = engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap();
    (trainer, formula::inputs("x", &[8, 3, 16, 16]), Targets::labels(&networks::labels(8)))
}

/// Five steps of every rule, with two groups of parameters, decay, clipping and averages: losses, norms, states.
pub fn updates_are_torchs(engine: &dyn Engine) {
    for run in fixture::read::<Vec<Run>>("engine/updates") {
        let (mut trainer, batch, targets) = convnet(engine, run.rule);
        let rates = run.rates.iter().map(|[learning_rate, weight_decay]| Rate {
            learning_rate: *learning_rate,
            weight_decay: *weight_decay,
        });
        let rates: Vec<Rate> = rates.collect();
        let name = &run.name;
        for (loss, norm) in run.losses.iter().zip(&run.norms) {
            let given = trainer.accumulate(&batch, &targets, 1.0, 0).unwrap().loss;
            assert!((given - loss).abs() <= TOLERANCE * loss, "{name}: loss {given}, not {loss}");
            let given = trainer.update(&rates, run.clip, run.average).unwrap();
            let off = (given / f64::from(*norm) - 1.0).abs();
            assert!(off < f64::from(TOLERANCE), "{name}: norm {given}, not {norm}");
        }
        for (averaged, expected) in [(false, Some(&run.state)), (true, run.averaged.as_ref())] {
            let state = trainer.state(averaged);
            for (tensor, expected) in expected.into_iter().flatten() {
                match tensor.ends_with("num_batches_tracked") {
                    true => assert_eq!(state.get(tensor), Some(&Tensor::counter(5)), "{name}: {tensor}"),
                    false => expected.check(
                        state.get(tensor).unwrap(),
                        TOLERANCE,
                        &format!("{name}: {tensor}, averaged: {averaged}"),
                    ),
                }
            }
        }
    }
}

/// Averages begin with the values after the first update that averages, move with those that do, are evaluated as a network of theirs
/// would be, and have no part in training.
pub fn averages_are_those_of_a_loop(engine: &dyn Engine) {
    let (mut trainer, batch, targets) = convnet(engine, Rule::ADAM);
    let (mut plain, ..) = convnet(engine, Rule::ADAM);
    let mut expected: Option<BTreeMap<String, Vec<f64>>> = None;
    let decays = [None, Some(0.9), Some(0.5), None, Some(0.75), Some(1.0), Some(0.0), Some(0.9)];
    for (step, decay) in decays.into_iter().enumerate() {
        for trainer in [&mut trainer, &mut plain] {
            trainer.accumulate(&batch, &targets, 1.0, 0).unwrap();
        }
        trainer.update(&[RATE; 2], None, decay).unwrap();
        plain.update(&[RATE; 2], None, None).unwrap();
        let state = trainer.state(false);
        assert_eq!(state, plain.state(false), "averaging changes the training");
        let values = floats(&state);
        match (&mut expected, decay) {
            (Some(average), Some(decay)) => {
                for (name, values) in values {
                    let average = average.get_mut(&name).unwrap().iter_mut();
                    average
                        .zip(values)
                        .for_each(|(average, value)| *average += (1.0 - decay) * (value - *average));
                }
            }
            (None, Some(_)) => expected = Some(values),
            (_, None) => {}
        }
        let averaged = trainer.state(true);
        assert_eq!(averaged.get("1.num_batches_tracked"), Some(&Tensor::counter(step as i64 + 1)));
        let now = floats(&averaged);
        for (name, expected) in expected.as_ref().unwrap_or(&floats(&state)) {
            let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            for (value, expected) in now[name].iter().zip(expected) {
                assert!((value - expected).abs() < 1e-6 * largest, "{name}: {value}, not {expected}");
            }
        }
        let of_trainer = trainer.evaluate(&batch, true).unwrap();
        let of_network =
            engine.network(&networks::convnet(), averaged).and_then(|mut n| n.forward(&batch)).unwrap();
        let off = relative_difference(of_trainer.as_f32().unwrap(), of_network.as_f32().unwrap());
        assert!(off < 1e-6, "evaluation of averages is off by {off:e}");
    }
}

fn floats(state: &StateDict) -> BTreeMap<String, Vec<f64>> {
    let values = |tensor: &Tensor| Some(tensor.as_f32()?.iter().map(|value| f64::from(*value)).collect());
    state.iter().filter_map(|(name, tensor)| Some((name.to_string(), values(tensor)?))).collect()
}

/// What is written to the gradients is what an update goes by: plain descent moves by exactly that.
pub fn gradients_can_be_changed(engine: &dyn Engine) {
    let graph = networks::head();
    let state = formula::state(&graph, formula::NORM);
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::SGD };
    let mut trainer = engine.trainer(&graph, state.clone(), &training).unwrap();
    trainer.gradients(&mut |name, _| panic!("{name} has a gradient before there was a batch"));
    let targets = Targets::labels(&networks::labels(4));
    trainer.accumulate(&formula::inputs("x", &[4, 12]), &targets, 1.0, 0).unwrap();
    let mut names = Vec::new();
    trainer.gradients(&mut |name, values| {
        names.push(name.to_string());
        values.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 4) as f32);
    });
    assert!(graph.state().iter().map(|spec| &spec.name).eq(&names), "{names:?}");
    trainer.gradients(&mut |_, values| assert_eq!(values[1..3], [1.0, 2.0]));
    let norm = trainer.update(&[Rate { learning_rate: 0.5, weight_decay: 0.0 }], None, None).unwrap();
    let after = trainer.state(false);
    let mut squares = 0.0;
    for (name, before) in state.iter() {
        let [before, after] =
            [Some(before), after.get(name)].map(|tensor| tensor.and_then(Tensor::as_f32).unwrap());
        for (i, (before, after)) in before.iter().zip(after).enumerate() {
            squares += ((i % 4) as f64).powi(2);
            assert_eq!(*after, before - 0.5 * (i % 4) as f32, "{name}[{i}]");
        }
    }
    assert!((norm - squares.sqrt()).abs() < 1e-6 * norm, "norm {norm}, not {}", squares.sqrt());
    trainer.gradients(&mut |name, _| panic!("{name} has a gradient after the update"));
}

/// A batch in unequal parts, each by its share, gives the gradients and the loss of the whole, class weights or not, where norms are
/// frozen.
pub fn batches_add_up_to_one(engine: &dyn Engine) {
    let graph = networks::convnet();
    let state = formula::state(&graph, formula::NORM);
    let new = || trainer(engine, &graph, &state, &|name| !name.starts_with("1."));
    let batch = formula::inputs("x", &[8, 3, 16, 16]);
    let image = 3 * 16 * 16;
    for class_weights in [None, Some(vec![0.5, 2.0, 1.25])] {
        let part = |range: std::ops::Range<usize>| {
            let values = batch.as_f32().unwrap()[range.start * image..range.end * image].to_vec();
            let examples = range.clone().map(|i| ClassTarget::label(i % 3).smoothed(0.1));
            let targets =
                Targets::Classes { examples: examples.collect(), class_weights: class_weights.clone() };
            (Tensor::f32([range.len(), 3, 16, 16], values), targets)
        };
        let (whole, targets) = part(0..8);
        let total = targets.weight();
        let mut at_once = new();
        let expected = at_once.accumulate(&whole, &targets, 1.0, 0).unwrap();
        let mut in_parts = new();
        let (mut loss, mut outputs) = (0.0, Vec::new());
        for range in [0..1, 1..6, 6..8] {
            let (input, targets) = part(range);
            let share = targets.weight() / total;
            let given = in_parts.accumulate(&input, &targets, share as f32, 0).unwrap();
            loss += share * f64::from(given.loss);
            outputs.extend_from_slice(given.outputs.as_f32().unwrap());
        }
        let mut gradients = BTreeMap::new();
        at_once.gradients(&mut |name, values| drop(gradients.insert(name.to_string(), values.to_vec())));
        in_parts.gradients(&mut |name, values| {
            let off = relative_difference(values, &gradients[name]);
            assert!(off < 1e-5, "{name}: off by {off:e}");
        });
        assert!((loss / f64::from(expected.loss) - 1.0).abs() < 1e-6, "loss {loss}, not {}", expected.loss);
        assert_eq!(expected.outputs.shape, [8, 3]);
        assert!(relative_difference(&outputs, expected.outputs.as_f32().unwrap()) < 1e-6);
    }
}

/// A frozen layer's norm can be live, and a norm whose weights change can keep its statistics.
pub fn norms_are_live_whether_their_weights_change_or_not(engine: &dyn Engine) {
    let graph = networks::convnet();
    let state = formula::state(&graph, formula::NORM);
    let batch = formula::inputs("x", &[8, 3, 16, 16]);
    let targets = Targets::labels(&networks::labels(8));
    let run = |weights_change: bool, live: bool| {
        let group = |name: &str| (weights_change || !name.starts_with("1.")).then_some(0);
        let training =
            Training { group: &group, live_norms: &|module| live && module == "1", rule: Rule::SGD };
        let mut trainer = engine.trainer(&graph, state.clone(), &training).unwrap();
        let outputs = trainer.accumulate(&batch, &targets, 1.0, 0).unwrap().outputs;
        let mut gradient = Vec::new();
        trainer.gradients(&mut |name, values| {
            if name == "0.weight" {
                gradient = values.to_vec();
            }
        });
        trainer.update(&[RATE], None, None).unwrap();
        let after = trainer.state(false);
        let has_changed = |name: &str| after.get(name) != state.get(name);
        assert_eq!(has_changed("1.weight") && has_changed("1.bias"), weights_change);
        let statistics = ["1.running_mean", "1.running_var", "1.num_batches_tracked"];
        assert_eq!(statistics.map(has_changed), [live; 3]);
        (outputs, gradient)
    };
    // Whether the weights are to change has no part in what is computed.
    for live in [true, false] {
        assert_eq!(run(true, live), run(false, live));
    }
    assert_ne!(run(true, true), run(true, false));
    // A norm that is not live is computed as in evaluation.
    let evaluated = engine.network(&graph, state.clone()).and_then(|mut n| n.forward(&batch)).unwrap();
    let off = relative_difference(run(true, false).0.as_f32().unwrap(), evaluated.as_f32().unwrap());
    assert!(off < 1e-6, "off by {off:e}");
}

/// A network of one layer, for trainings of which nothing but their form matters.
pub(super) fn layer(inputs: usize) -> Graph {
    let (mut b, x) = Builder::with_input("Net", &[inputs]);
    let x = b.layer("fc", Linear::new(inputs, 3), x);
    b.finish(x)
}
