//! Every gradient of whole networks of the zoo, against torch's (`parity/gradients.py`).

use std::collections::BTreeMap;

use engraft_graph::Graph;
use engraft_zoo::{architecture, architecture_of_size};
use serde::Deserialize;
use serde_json::Value;

use super::formula;
use crate::suite::fixture;
use crate::{Engine, Rule, Targets, Training};

/// A case of `engine/gradients.json.gz`.
#[derive(Deserialize)]
struct Case {
    arch: String,
    /// Of the input.
    name: String,
    input: Vec<usize>,
    live: bool,
    labels: Vec<usize>,
    loss: f32,
    /// Of each parameter the norm, two products with vectors, four elements.
    gradients: BTreeMap<String, [f32; 7]>,
}

/// How far numbers may be off, relative to the norm of the gradient, or to a thousandth of the largest norm in the network if that is more:
/// the gradient of a bias before a norm is a sum that is zero but for rounding. Statistics of few values magnify rounding errors.
const TOLERANCE: f64 = 1e-5;
const TOLERANCE_LIVE: f64 = 3e-4;

/// Networks with dropout off, batch norms live or frozen: the loss, and each parameter's gradient by its norm, two products with vectors and
/// some elements.
pub fn gradients_of_networks_are_torchs(engine: &dyn Engine) {
    for case in fixture::read::<Vec<Case>>("engine/gradients") {
        case.check(engine);
    }
}

impl Case {
    fn check(&self, engine: &dyn Engine) {
        let graph = without_dropout(&self.graph());
        let training = Training { group: &|_| Some(0), live_norms: &|_| self.live, rule: Rule::SGD };
        let mut trainer = engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap();
        let input = formula::inputs(&self.name, &self.input);
        let loss = trainer.accumulate(&input, &Targets::labels(&self.labels), 1.0, 0).unwrap().loss;
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
                // A comparison that a NaN does not pass.
                if !(off <= worst.0) {
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

    fn graph(&self) -> Graph {
        match self.arch.starts_with("vit") {
            true => architecture_of_size(&self.arch, self.input[3]).unwrap(),
            false => architecture(&self.arch).unwrap(),
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
fn without_dropout(graph: &Graph) -> Graph {
    fn clear(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.entry("p").and_modify(|p| *p = 0.0.into());
                fields.values_mut().for_each(clear);
            }
            Value::Array(items) => items.iter_mut().for_each(clear),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(graph).unwrap();
    clear(&mut value);
    serde_json::from_value(value).unwrap()
}
