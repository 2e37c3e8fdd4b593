//! Every gradient of whole networks of the zoo, against torch's (`parity/gradients.py`).

use std::collections::BTreeMap;

use engraft_graph::Graph;
use engraft_tensor::Tensor;
use engraft_zoo::{architecture, architecture_of_size, has_transform_input};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::torchvision::with_transform_input;
use super::{fixture, formula, networks};
use crate::{Engine, Rule, Targets, Training};

/// A case of `engine/gradients.json.gz`.
#[derive(Deserialize)]
struct Case {
    arch: String,
    /// Of the input.
    name: String,
    input: Vec<usize>,
    live: bool,
    /// What stands in the place of every ReLU.
    activation: Option<String>,
    labels: Vec<usize>,
    loss: f32,
    /// Of each parameter the norm, two products with vectors, four elements.
    gradients: BTreeMap<String, [f32; 7]>,
}

/// How far numbers may be off, relative to the norm of the gradient, or to a thousandth of the largest norm in the network if that is more:
/// the gradient of a bias before a norm is a sum that is zero but for rounding. Statistics of few values magnify rounding errors: both engines
/// were off by 3.6e-6 at most where norms are frozen; where they are live, by 1.0e-4 with batch norms (1.3e-5 in resnet18, which Winograd's
/// method computes for the most part) and 1.5e-4 in swin_v2_t.
const TOLERANCE: f64 = 1e-5;
const TOLERANCE_LIVE: f64 = 3e-4;

/// A parameter is moved so far that the loss should rise by this much, far more than its rounding errors, but no further than by
/// this share of its norm, where the loss is not straight any more.
const RISE: f64 = 2e-3;
const LARGEST_STEP: f64 = 3e-3;

/// How far a slope may be from the difference, relative to it; curves and kinks of the loss show in it.
const TOLERANCE_SLOPE: f64 = 0.03;
/// The rounding errors of two losses, which are below 16.
const ROUNDING: f64 = 2e-6;

/// Networks with dropout off, batch norms live or frozen: the loss, and each parameter's gradient by its norm, two products with vectors and
/// some elements.
pub fn gradients_of_networks_are_torchs(engine: &dyn Engine) {
    for case in fixture::read::<Vec<Case>>("engine/gradients") {
        case.check(engine);
    }
}

impl Case {
    fn check(&self, engine: &dyn Engine) {
        let mut graph = trained(&self.arch, self.input[3]);
        if let Some(activation) = &self.activation {
            graph = without_relu(&graph, activation);
        }
        let training = Training { group: &|_| Some(0), live_norms: &|_| self.live, rule: Rule::SGD };
        let mut trainer = engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap();
        let loss = trainer
            .accumulate(&batch(&self.arch, &self.name, &self.input), &Targets::labels(&self.labels), 1.0, 0)
            .unwrap()
            .loss;
        let arch = &self.arch;
        assert!((loss - self.loss).abs() < 1e-5 * self.loss, "{arch}: loss {loss}, not {}", self.loss);

        let largest = self.gradients.values().fold(0.0_f32, |largest, numbers| largest.max(numbers[0]));
        let mut worst = (0.0, String::new());
        let mut shown = 0;
        trainer.gradients(&mut |name, gradient| {
            shown += 1;
            let expected = &self.gradients[name];
            let scale = f64::from(expected[0]) + 1e-3 * f64::from(largest);
            for (number, expected) in summary(name, gradient).into_iter().zip(expected) {
                let off = (number - f64::from(*expected)).abs() / scale;
                if off > worst.0 || off.is_nan() {
                    worst = (off, format!("{name}: {number}, not {expected}"));
                }
            }
        });
        assert_eq!(shown, self.gradients.len(), "{arch}: number of gradients");
        let live = self.live;
        println!("{arch}, live: {live}, off by {:.1e} ({})", worst.0, worst.1);
        let tolerance = if live { TOLERANCE_LIVE } else { TOLERANCE };
        assert!(worst.0 <= tolerance, "{arch}, live: {live}, off by {:e}: {}", worst.0, worst.1);
    }
}

/// The network that takes images of this size, as the fixtures train it: without dropout.
pub(super) fn trained(arch: &str, size: usize) -> Graph {
    without_dropout(&match arch.starts_with("vit") {
        true => architecture_of_size(arch, size).unwrap(),
        false => architecture(arch).unwrap(),
    })
}

/// The input of this name as our network takes it; some of torchvision's rescale it themselves.
pub(super) fn batch(arch: &str, name: &str, shape: &[usize]) -> Tensor {
    let input = formula::inputs(name, shape);
    if has_transform_input(arch) { with_transform_input(input) } else { input }
}

/// The loss rises along each parameter's gradient, by a half of its elements at a time, as fast as it says: with live norms, convolutions
/// in groups, attention in windows, and in a whole network of the zoo. (Deeper ones have a kink every few rounding errors.)
pub fn gradients_of_networks_are_the_slopes_of_their_loss(engine: &dyn Engine) {
    let squeezenet = without_dropout(&architecture("squeezenet1_1").unwrap());
    let networks = [
        (networks::convnet(), [8, 3, 16, 16]),
        (networks::transformer(), [8, 3, 16, 16]),
        (squeezenet, [2, 3, 48, 48]),
    ];
    for (graph, input) in networks {
        let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::SGD };
        let mut trainer = engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap();
        let targets = Targets::labels(&networks::labels(input[0]));
        let input = formula::inputs("x0", &input);
        let start = trainer.save();
        trainer.accumulate(&input, &targets, 1.0, 0).unwrap();
        let mut gradients = Vec::new();
        trainer.gradients(&mut |name, values| gradients.push((name.to_string(), values.to_vec())));
        let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        for (name, gradient) in gradients {
            for half in ["a", "b"] {
                let mask = formula::uniform(&format!("{name}.{half}"), &[gradient.len()], 0.0, 2.0);
                let halved = gradient.iter().zip(mask.as_f32().unwrap());
                let direction: Vec<f32> =
                    halved.map(|(value, mask)| if *mask < 0.0 { 0.0 } else { *value }).collect();
                let slope = norm(&direction);
                let values = start.state.get(&name).and_then(Tensor::as_f32).unwrap();
                let step = (LARGEST_STEP * norm(values)).min(RISE / slope);
                let mut loss_at = |step: f64| {
                    let mut snapshot = start.clone();
                    let scale = step / slope.max(1e-30);
                    let moved = values.iter().zip(&direction);
                    let moved =
                        moved.map(|(value, way)| (f64::from(*value) + scale * f64::from(*way)) as f32);
                    let tensor = snapshot.state.get_mut(&name).unwrap();
                    *tensor = Tensor::f32(tensor.shape.clone(), moved.collect());
                    trainer.restore(snapshot).unwrap();
                    f64::from(trainer.accumulate(&input, &targets, 1.0, 0).unwrap().loss)
                };
                let difference = (loss_at(step) - loss_at(-step)) / (2.0 * step);
                let margin = TOLERANCE_SLOPE * slope + ROUNDING / step;
                let is_right = (difference - slope).abs() < margin;
                assert!(is_right, "{name}, half {half}: the loss rises by {difference:e}, not by {slope:e}");
            }
        }
    }
}

/// What the fixture keeps of a gradient.
fn summary(name: &str, gradient: &[f32]) -> [f64; 7] {
    let product = |probe: &str| {
        let vector = formula::uniform(&format!("{name}.{probe}"), &[gradient.len()], 0.0, 2.0);
        gradient.iter().zip(vector.as_f32().unwrap()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let squares: f64 = gradient.iter().map(|value| f64::from(*value).powi(2)).sum();
    let n = gradient.len();
    let [a, b, c, d] = [0, n / 4, n / 2, 3 * n / 4].map(|i| f64::from(gradient[i]));
    [squares.sqrt(), product("a"), product("b"), a, b, c, d]
}

/// The same network with all shares of dropout and stochastic depth at zero.
pub(super) fn without_dropout(graph: &Graph) -> Graph {
    edited(graph, &|fields| drop(fields.entry("p").and_modify(|p| *p = 0.0.into())))
}

/// The same network with another activation in the place of every ReLU.
pub fn without_relu(graph: &Graph, activation: &str) -> Graph {
    edited(graph, &|fields| {
        if let Some(function) = fields.get_mut("function").filter(|function| **function == "ReLU") {
            *function = activation.into();
        }
    })
}

/// The same network with every object of its JSON edited.
fn edited(graph: &Graph, edit: &dyn Fn(&mut Map<String, Value>)) -> Graph {
    fn visit(value: &mut Value, edit: &dyn Fn(&mut Map<String, Value>)) {
        match value {
            Value::Object(fields) => {
                edit(fields);
                fields.values_mut().for_each(|value| visit(value, edit));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| visit(value, edit)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(graph).unwrap();
    visit(&mut value, edit);
    serde_json::from_value(value).unwrap()
}
