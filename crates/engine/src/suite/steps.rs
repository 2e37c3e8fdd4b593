//! Five steps of whole networks of the zoo by each rule, beside torch's (`parity/steps.py`).

use serde::Deserialize;

use super::zoo_gradients::{batch, trained};
use super::{fixture, formula};
use crate::{Engine, Rate, Rule, Targets, Training};

/// A training of `engine/steps.json.gz`.
#[derive(Deserialize)]
struct Run {
    arch: String,
    /// Of the batch.
    name: String,
    input: Vec<usize>,
    live: bool,
    labels: Vec<usize>,
    rule: Rule,
    /// Learning rate and weight decay.
    rate: [f64; 2],
    /// Before each step, and after the last.
    losses: Vec<f32>,
}

/// Relative to the loss, which moves by a hundred times as much at least. Our engines are off by 2.6e-5 at most, torch's own f32 by 1e-5.
const TOLERANCE: f32 = 1e-4;

/// The losses of networks with dropout off, auxiliary heads included.
pub fn five_steps_of_networks_are_torchs(engine: &dyn Engine) {
    for run in fixture::read::<Vec<Run>>("engine/steps") {
        let Run { arch, live, rule, .. } = &run;
        let graph = trained(arch, run.input[3]);
        let training = Training { group: &|_| Some(0), live_norms: &|_| *live, rule: *rule };
        let mut trainer = engine.trainer(&graph, formula::state(&graph, formula::NORM), &training).unwrap();
        let (batch, targets) = (batch(arch, &run.name, &run.input), Targets::labels(&run.labels));
        let [learning_rate, weight_decay] = run.rate;
        let rate = Rate { learning_rate, weight_decay };
        let mut off = 0.0_f32;
        for expected in &run.losses {
            let loss = trainer.accumulate(&batch, &targets, 1.0, 0).unwrap().loss;
            trainer.update(&[rate], None, None).unwrap();
            assert!(loss.is_finite(), "{arch}, {rule:?}: loss {loss}");
            off = off.max((loss - expected).abs() / expected);
        }
        println!("{arch}, {rule:?}: losses off by {off:.1e}");
        assert!(off <= TOLERANCE, "{arch}, {rule:?}: losses off by {off:e}");
    }
}
