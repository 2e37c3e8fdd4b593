//! What does not train stays as it is.

use engraft_graph::{Builder, Graph, HeadSpec, Linear};
use engraft_tensor::{StateDict, Tensor};

use super::training::{train, trainer};
use super::{fixture::relative_difference, formula, networks};
use crate::{Engine, EngineError, Rule, Training};

fn convnet() -> (Graph, StateDict, Tensor) {
    let graph = networks::convnet();
    let state = formula::state(&graph, formula::NORM);
    (graph, state, formula::inputs("x", &[8, 3, 16, 16]))
}

/// Names of the tensors that differ between two states.
fn changed(before: &StateDict, after: &StateDict) -> Vec<String> {
    let changed = after.iter().filter(|(name, tensor)| before.get(name) != Some(tensor));
    changed.map(|(name, _)| name.to_string()).collect()
}

/// Parameters that do not train keep their bits, those that do all move, wherever in the network they are.
pub fn frozen_parameters_keep_their_bits(engine: &dyn Engine) {
    let (graph, before, batch) = convnet();
    let parts: [&[&str]; 4] = [
        &["7.weight", "7.bias"],
        &["0.weight"],
        &["3.bias", "7.weight"],
        &["1.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"],
    ];
    for part in parts {
        let mut trainer = trainer(engine, &graph, &before, &|name| part.contains(&name));
        train(&mut *trainer, &batch, 0..3);
        assert_eq!(changed(&before, &trainer.state(false)), part);
    }
}

/// A batch norm whose weight does not train normalises by its running statistics in training too, and keeps them, while the
/// layers before and behind it train.
pub fn a_frozen_batch_norm_keeps_its_statistics(engine: &dyn Engine) {
    let (graph, before, batch) = convnet();
    let mut trainer = trainer(engine, &graph, &before, &|name| !name.starts_with("1."));
    for _ in 0..3 {
        let logits = trainer.evaluate(&batch, false).unwrap();
        let [loss] = train(&mut *trainer, &batch, 0..1)[..] else { unreachable!("one step gives one loss") };
        let expected = cross_entropy(&logits, &networks::labels(8));
        let difference = (f64::from(loss) - expected).abs();
        assert!(difference < 1e-5 * expected, "loss {loss}, but that of evaluation is {expected}");
    }
    assert_eq!(
        changed(&before, &trainer.state(false)),
        ["0.weight", "3.weight", "3.bias", "7.weight", "7.bias"]
    );
}

/// Mean over the batch of minus the logarithm of the probability of the right class, in f64.
pub(super) fn cross_entropy(logits: &Tensor, labels: &[usize]) -> f64 {
    let rows = logits.as_f32().unwrap().chunks(logits.shape[1]);
    let losses = rows.zip(labels).map(|(row, label)| {
        let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        sum.ln() - f64::from(row[*label])
    });
    losses.sum::<f64>() / labels.len() as f64
}

/// A training in which nothing would change is refused when it is set up; so is one of parameters that lead nowhere.
pub fn nothing_to_train_is_refused(engine: &dyn Engine) {
    let (graph, state, _) = convnet();
    let (mut b, x) = Builder::with_input("Net", &[12]);
    let output = b.layer("fc", Linear::new(12, 3), x);
    b.layer("beside", Linear::new(12, 2), x);
    let with_branch = b.finish(output);
    let state_with_branch = formula::state(&with_branch, formula::NORM);
    for (graph, state, name) in [(graph, state, "none"), (with_branch, state_with_branch, "beside.weight")] {
        let group = |parameter: &str| (parameter == name).then_some(0);
        let training = Training { group: &group, live_norms: &|_| true, rule: Rule::SGD };
        assert_eq!(engine.trainer(&graph, state, &training).err(), Some(EngineError::NothingTrains));
    }
}

/// A branch that does not lead to the output, as the auxiliary classifier of a GoogLeNet, has no part in training.
pub fn a_branch_beside_the_output_stays_as_it_is(engine: &dyn Engine) {
    let run = |with_branch: bool| {
        let (mut b, x) = Builder::with_input("Net", &[12]);
        let body = b.layer("body", Linear::new(12, 8), x);
        let output = b.layer("fc", Linear::new(8, 3), body);
        if with_branch {
            b.layer("aux", Linear::new(8, 2), body);
        }
        let graph = b.finish(output);
        let before = formula::state(&graph, formula::NORM);
        let mut trainer = trainer(engine, &graph, &before, &|_| true);
        let losses = train(&mut *trainer, &formula::inputs("x", &[6, 12]), 0..3);
        (losses, changed(&before, &trainer.state(false)))
    };
    assert_eq!(run(true), run(false));
}

/// The part before the frontier and the part behind it, one after the other, compute what the whole network computes.
pub fn a_network_cut_at_its_frontier_computes_the_same(engine: &dyn Engine) {
    let (graph, state, batch) = convnet();
    let whole = engine.network(&graph, state.clone()).unwrap().forward(&batch).unwrap();
    for first_trainable in ["1.weight", "3.bias", "7.weight"] {
        let (trunk, rest) = graph.split(graph.frontier(|name| name == first_trainable)).unwrap();
        let features = engine.network(&trunk, state.clone()).unwrap().forward(&batch).unwrap();
        let output = engine.network(&rest, state.clone()).unwrap().forward(&features).unwrap();
        let difference = relative_difference(output.as_f32().unwrap(), whole.as_f32().unwrap());
        assert!(difference < 1e-6, "cut before {first_trainable}: off by {difference:e}");
    }
}

/// Training a head on the features that a frozen backbone gave is training the whole network with the backbone frozen.
pub fn a_trunk_cut_off_trains_the_same_head(engine: &dyn Engine) {
    let (graph, _, batch) = convnet();
    let spec = HeadSpec { hidden_units: vec![6], classes: 3, dropout: 0.0 };
    let graph = graph.graft(&spec, None).unwrap().graph;
    let state = formula::state(&graph, formula::NORM);
    let in_head = |name: &str| name.starts_with("7.");

    let mut whole = trainer(engine, &graph, &state, &in_head);
    let losses = train(&mut *whole, &batch, 0..5);

    let (trunk, rest) = graph.split(graph.frontier(in_head)).unwrap();
    let features = engine.network(&trunk, state.clone()).unwrap().forward(&batch).unwrap();
    let mut head = trainer(engine, &rest, &state, &in_head);
    let losses_of_head = train(&mut *head, &features, 0..5);

    assert!(relative_difference(&losses_of_head, &losses) < 1e-5, "{losses_of_head:?}, not {losses:?}");
    let (whole, head) = (whole.state(false), head.state(false));
    assert!(head.names().eq(["7.0.weight", "7.0.bias", "7.2.weight", "7.2.bias"]));
    for (name, tensor) in head.iter() {
        let expected = whole.get(name).and_then(Tensor::as_f32).unwrap();
        let difference = relative_difference(tensor.as_f32().unwrap(), expected);
        assert!(difference < 1e-4, "{name}: off by {difference:e}");
    }
}
