//! What does not fit is refused in words that name it, and nothing panics.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Graph, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::training::{RATE, step, train, trainer};
use super::{formula, networks};
use crate::{ClassTarget, Engine, EngineError, Rate, Rule, Targets, Training};

/// Fails unless the message of an error contains all of `words`.
pub(super) fn refused<T>(result: Result<T, EngineError>, words: &[&str]) {
    let Err(error) = result else { panic!("accepted, instead of an error with {words:?}") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

/// States that do not fit [`networks::convnet`], and what an error must name: a tensor and its shapes.
fn bad_states(graph: &Graph) -> Vec<(StateDict, Vec<String>)> {
    let mut bad = Vec::new();
    let good = || formula::state(graph, formula::NORM);
    for (name, shape) in [("0.weight", "[8, 3, 3, 3]"), ("1.running_var", "[8]"), ("7.bias", "[3]")] {
        let mut state = good();
        state.remove(name);
        bad.push((state, vec![name.into(), shape.into()]));
    }
    // The last has as many values as are needed.
    let others = [("7.weight", [4, 8]), ("7.bias", [1, 2]), ("7.weight", [8, 3])];
    for (name, shape) in others {
        let mut state = good();
        let replaced = state.insert(name, formula::inputs(name, &shape)).unwrap();
        bad.push((state, vec![name.into(), format!("{:?}", replaced.shape), format!("{shape:?}")]));
    }
    let mut state = good();
    state.insert("7.bias", Tensor::counter(0));
    bad.push((state, vec!["7.bias".into(), "integer".into()]));
    bad
}

/// A tensor that is missing, or of another shape or type, is named. One that the network does not need is no matter.
pub fn networks_refuse_states_that_do_not_fit(engine: &dyn Engine) {
    let graph = networks::convnet();
    let mut state = formula::state(&graph, formula::NORM);
    state.insert("fc.weight", Tensor::counter(0));
    engine.network(&graph, state).unwrap_or_else(|error| panic!("{error}"));
    for (state, words) in bad_states(&graph) {
        refused(engine.network(&graph, state), &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// As networks do.
pub fn trainers_refuse_states_that_do_not_fit(engine: &dyn Engine) {
    let graph = networks::convnet();
    let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::ADAM };
    for (state, words) in bad_states(&graph) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(engine.trainer(&graph, state, &training), &words);
    }
}

/// Shapes of inputs that do not fit [`networks::convnet`], and what an error must say.
const BAD_INPUTS: [(&[usize], &[&str]); 8] = [
    (&[2, 4, 16, 16], &["0 (Conv2d)", "[_, 3, _, _]", "[2, 4, 16, 16]"]),
    (&[2, 16, 16, 3], &["0 (Conv2d)", "[2, 16, 16, 3]"]),
    (&[3, 16, 16], &["0 (Conv2d)", "[3, 16, 16]"]),
    (&[2, 1, 3, 16, 16], &["[2, 1, 3, 16, 16]"]),
    (&[1, 1, 1, 2, 3, 16, 16], &["[1, 1, 1, 2, 3, 16, 16]"]),
    (&[], &["[]"]),
    (&[2, 3, 0, 16], &["[2, 3, 0, 16]"]),
    (&[0, 3, 16, 16], &["[0, 3, 16, 16]"]),
];

/// The node that cannot take an input is named.
pub fn networks_refuse_inputs_that_do_not_fit(engine: &dyn Engine) {
    let graph = networks::convnet();
    let mut network = engine.network(&graph, formula::state(&graph, formula::NORM)).unwrap();
    for (shape, words) in BAD_INPUTS {
        refused(network.forward(&formula::inputs("x", shape)), words);
    }

    // A function of single values takes any shape, or the engine says that it does not.
    let (mut b, x) = Builder::with_input("Net", &[1]);
    let x = b.layer("relu", ReLU, x);
    let mut relu = engine.network(&b.finish(x), StateDict::new()).unwrap();
    for shape in [vec![], vec![1; 7], vec![1; 12]] {
        match relu.forward(&Tensor::f32(shape.clone(), vec![2.0])) {
            Ok(output) => assert_eq!(output, Tensor::f32(shape, vec![2.0])),
            error => refused(error, &[&format!("{shape:?}")]),
        }
    }

    let (mut b, x) = Builder::new("Net", 3, 32);
    let x = b.layer("conv", Conv2d::new(3, 4, 11), x);
    let graph = b.finish(x);
    let mut network = engine.network(&graph, formula::state(&graph, formula::NORM)).unwrap();
    refused(
        network.forward(&formula::inputs("x", &[1, 3, 10, 32])),
        &["conv (Conv2d)", "11 pixels", "[1, 3, 10, 32]"],
    );
}

/// As networks do, in training and in evaluation.
pub fn trainers_refuse_inputs_that_do_not_fit(engine: &dyn Engine) {
    let graph = networks::convnet();
    let mut trainer = trainer(engine, &graph, &formula::state(&graph, formula::NORM), &|_| true);
    for (shape, words) in BAD_INPUTS {
        let input = formula::inputs("x", shape);
        refused(trainer.evaluate(&input, false), words);
        refused(trainer.evaluate(&input, true), words);
        refused(trainer.accumulate(&input, &Targets::labels(&[0, 1]), 1.0, 0), words);
    }
}

/// Targets must be as many as the images, of classes below the number of them, which the network must give, and have a mean.
pub fn targets_that_do_not_fit_are_refused(engine: &dyn Engine) {
    let graph = networks::head();
    let state = formula::state(&graph, formula::NORM);
    let mut classifier = trainer(engine, &graph, &state, &|_| true);
    let batch = formula::inputs("x", &[4, 12]);
    let weighted = |class_weights: &[f32]| Targets::Classes {
        examples: networks::labels(4).into_iter().map(ClassTarget::label).collect(),
        class_weights: Some(class_weights.into()),
    };
    let with_one = |one: ClassTarget| Targets::Classes {
        examples: vec![ClassTarget::label(0), ClassTarget::label(1), one, ClassTarget::label(2)],
        class_weights: None,
    };
    let label = ClassTarget::label(0);
    let targets: [(Targets, &[&str]); 12] = [
        (Targets::labels(&[0, 1, 3, 2]), &["label 3", "3 classes"]),
        (Targets::labels(&[0, 1, 2, usize::MAX]), &["label", "3 classes"]),
        (Targets::labels(&[0, 1, 2]), &["3 targets", "4"]),
        (Targets::labels(&[]), &["0 targets", "4"]),
        (with_one(ClassTarget::mixture([0, 3], 0.5)), &["label 3", "3 classes"]),
        (with_one(ClassTarget { weights: [0.5, -0.5], ..label }), &["target 2", "at least 0"]),
        (with_one(ClassTarget { weights: [0.0, 0.0], uniform: 1.0, ..label }), &["target 2", "not both"]),
        (with_one(ClassTarget { uniform: f32::NAN, ..label }), &["target 2"]),
        (weighted(&[1.0, 1.0]), &["2 class weights", "3 classes"]),
        (weighted(&[1.0, -1.0, 1.0]), &["class 1"]),
        (weighted(&[1.0, 1.0, f32::INFINITY]), &["class 2"]),
        (weighted(&[0.0, 0.0, 0.0]), &["no mean"]),
    ];
    for (targets, words) in targets {
        refused(classifier.accumulate(&batch, &targets, 1.0, 0), words);
    }

    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("conv", Conv2d::new(3, 2, 1), x);
    let maps = b.finish(x);
    let mut trainer = trainer(engine, &maps, &formula::state(&maps, formula::NORM), &|_| true);
    let words = ["[batch, classes]", "[2, 2, 8, 8]"];
    let input = formula::inputs("x", &[2, 3, 8, 8]);
    refused(trainer.accumulate(&input, &Targets::labels(&[0, 1]), 1.0, 0), &words);
}

/// Rules whose numbers are out of range are refused when a training is set up.
pub fn rules_out_of_range_are_refused(engine: &dyn Engine) {
    let graph = networks::head();
    let rules: [(Rule, &[&str]); 7] = [
        (Rule::Sgd { momentum: 0.0, nesterov: true }, &["Nesterov", "momentum"]),
        (Rule::Sgd { momentum: 1.0, nesterov: false }, &["momentum", "1"]),
        (Rule::Sgd { momentum: -0.5, nesterov: true }, &["momentum", "-0.5"]),
        (Rule::Adam { betas: [1.0, 0.9], eps: 0.0 }, &["first beta", "1"]),
        (Rule::Adam { betas: [0.9, f64::NAN], eps: 0.0 }, &["second beta", "NaN"]),
        (Rule::AdamW { betas: [0.9, 0.999], eps: -1e-8 }, &["epsilon"]),
        (Rule::AdamW { betas: [0.9, 0.999], eps: f64::INFINITY }, &["epsilon"]),
    ];
    for (rule, words) in rules {
        let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule };
        refused(engine.trainer(&graph, formula::state(&graph, formula::NORM), &training), words);
    }
}

/// Each group needs a rate, and the numbers of an update have ranges; an update needs gradients, and those must be finite.
pub fn updates_that_cannot_be_are_refused(engine: &dyn Engine) {
    let graph = networks::head();
    let state = formula::state(&graph, formula::NORM);
    let group = |name: &str| Some(usize::from(name.starts_with("2.")));
    let training = Training { group: &group, live_norms: &|_| true, rule: Rule::ADAM };
    let mut trainer = engine.trainer(&graph, state, &training).unwrap();
    let batch = formula::inputs("x", &[4, 12]);
    let targets = Targets::labels(&networks::labels(4));
    assert_eq!(trainer.update(&[RATE; 2], None, None), Err(EngineError::NoGradients));

    trainer.accumulate(&batch, &targets, 1.0, 0).unwrap();
    let before = trainer.save();
    refused(trainer.update(&[RATE], None, None), &["2.weight", "group 1", "1 groups"]);
    for (rate, words) in [
        (Rate { learning_rate: -0.1, ..RATE }, ["learning rate", "-0.1"]),
        (Rate { learning_rate: f64::NAN, ..RATE }, ["learning rate", "NaN"]),
        (Rate { weight_decay: -1.0, ..RATE }, ["weight decay", "-1"]),
    ] {
        refused(trainer.update(&[RATE, rate], None, None), &words);
    }
    refused(trainer.update(&[RATE; 2], Some(0.0), None), &["norm", "above 0"]);
    refused(trainer.update(&[RATE; 2], None, Some(1.5)), &["decay", "1.5"]);
    assert_eq!(trainer.save(), before);
    trainer.update(&[RATE; 3], Some(1.0), Some(0.5)).unwrap();

    for value in [f32::NAN, f32::INFINITY] {
        trainer.accumulate(&batch, &targets, 1.0, 0).unwrap();
        let before = trainer.save();
        trainer.gradients(&mut |name, values| values[0] = if name == "0.bias" { value } else { values[0] });
        let parameter = "0.bias".to_string();
        assert_eq!(trainer.update(&[RATE; 2], None, None), Err(EngineError::NotFinite { parameter }));
        assert_eq!(trainer.save(), before);
        trainer.restore(before).unwrap();
    }
}

/// Gradients whose squares no f32 can hold are finite all the same: clipped, they are a step like any other.
pub fn large_gradients_are_finite(engine: &dyn Engine) {
    let graph = networks::head();
    let state = formula::state(&graph, formula::NORM);
    let training =
        Training { group: &|name| (name == "0.bias").then_some(0), live_norms: &|_| true, rule: Rule::SGD };
    let mut trainer = engine.trainer(&graph, state.clone(), &training).unwrap();
    trainer.accumulate(&formula::inputs("x", &[4, 12]), &Targets::labels(&[0, 1, 2, 0]), 1.0, 0).unwrap();
    trainer.gradients(&mut |_, values| {
        values.fill(0.0);
        values[..2].copy_from_slice(&[3e30, -4e30]);
    });
    let rate = Rate { learning_rate: 1.0, weight_decay: 0.0 };
    let norm = trainer.update(&[rate], Some(1.0), None).unwrap();
    assert!((norm / 5e30 - 1.0).abs() < 1e-6, "{norm:e}");
    let after = trainer.state(false);
    let [before, after] =
        [&state, &after].map(|state| state.get("0.bias").and_then(Tensor::as_f32).unwrap().to_vec());
    for (i, step) in [0.6, -0.8, 0.0].into_iter().enumerate() {
        assert!((before[i] - after[i] - step).abs() < 1e-6, "{i}: {} to {}", before[i], after[i]);
    }
}

/// A batch norm that is live cannot normalise single values; one that is not can, and so it does after one that was refused.
pub fn a_live_norm_of_single_values_is_refused(engine: &dyn Engine) {
    let graph = networks::convnet();
    let state = formula::state(&graph, formula::NORM);
    let single = formula::inputs("x", &[1, 3, 2, 2]);
    let targets = Targets::labels(&[0]);
    let mut live = trainer(engine, &graph, &state, &|_| true);
    let before = live.save();
    let module = "1".to_string();
    assert_eq!(live.accumulate(&single, &targets, 1.0, 0), Err(EngineError::SingleValue { module }));
    assert_eq!(live.save(), before);
    // Two images, or one of four values a channel.
    for shape in [[2, 3, 2, 2], [1, 3, 4, 4]] {
        let labels = networks::labels(shape[0]);
        live.accumulate(&formula::inputs("x", &shape), &Targets::labels(&labels), 1.0, 0).unwrap();
    }
    let mut kept = trainer(engine, &graph, &state, &|name| name.starts_with("7."));
    kept.accumulate(&single, &targets, 1.0, 0).unwrap();
}

/// After an error the trainer is as it was and goes on.
pub fn a_refused_step_changes_nothing(engine: &dyn Engine) {
    let (mut b, x) = Builder::with_input("Net", &[5]);
    let x = b.layer("drop", Op::dropout(0.5), x);
    let x = b.layer("fc", Linear::new(5, 3), x);
    let graph = b.finish(x);
    let state = formula::state(&graph, formula::NORM);
    let batch = formula::inputs("x", &[4, 5]);
    let run = |mistakes: bool| {
        let mut trainer = trainer(engine, &graph, &state, &|_| true);
        for draw in 0..3 {
            if mistakes {
                refused(step(&mut *trainer, &batch, &[9; 4], draw), &["label 9"]);
                refused(step(&mut *trainer, &formula::inputs("x", &[4, 6]), &[0; 4], draw), &["[4, 6]"]);
            }
            train(&mut *trainer, &batch, draw..draw + 1);
        }
        trainer.save()
    };
    assert_eq!(run(true), run(false));
}
