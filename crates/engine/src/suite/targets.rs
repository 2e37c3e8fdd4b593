//! Soft targets, beside torch's (`parity/updates.py`).

use std::collections::BTreeMap;

use engraft_tensor::Tensor;
use serde::Deserialize;

use super::fixture::{self, Reference};
use super::training::trainer;
use super::{formula, networks};
use crate::{ClassTarget, Engine, Targets};

/// A case of `engine/targets.json.gz`.
#[derive(Deserialize)]
struct Case {
    name: String,
    examples: Vec<([usize; 2], [f32; 2], f32)>,
    class_weights: Option<Vec<f32>>,
    loss: f32,
    gradients: BTreeMap<String, Reference>,
}

/// Labels, smoothed labels, mixtures, and all of them with class weights: loss and gradients.
pub fn losses_of_soft_targets_are_torchs(engine: &dyn Engine) {
    let graph = networks::head();
    let mut trainer = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true);
    let start = trainer.save();
    let cases: Vec<Case> = fixture::read("engine/targets");
    assert_eq!(cases.len(), 9);
    for Case { name, examples, class_weights, loss, gradients } in cases {
        let examples: Vec<ClassTarget> = examples
            .into_iter()
            .map(|(classes, weights, uniform)| ClassTarget { classes, weights, uniform })
            .collect();
        let targets = Targets::Classes { examples, class_weights };
        trainer.restore(start.clone()).unwrap();
        let given = trainer.accumulate(&formula::inputs("x", &[6, 12]), &targets, 1.0, 0).unwrap().loss;
        assert!((given - loss).abs() < 1e-6 * loss, "{name}: loss {given}, not {loss}");
        trainer.gradients(&mut |parameter, values| {
            let tensor = Tensor::f32(gradients[parameter].shape.clone(), values.to_vec());
            gradients[parameter].check(&tensor, 1e-5, &format!("{name}: {parameter}"));
        });
    }
}
