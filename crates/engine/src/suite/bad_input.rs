//! What does not fit is refused in words that name it, and nothing panics.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::training::{train, trainer};
use super::{formula, networks};
use crate::{Engine, EngineError, Training};

/// Fails unless the message of an error contains all of `words`.
fn refused<T>(result: Result<T, EngineError>, words: &[&str]) {
    let Err(error) = result else { panic!("accepted, instead of an error with {words:?}") };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

/// A tensor that is missing is named with its shape. One that the network does not need is no matter.
pub fn an_incomplete_state_is_refused(engine: &dyn Engine) {
    let graph = networks::convnet();
    let training = Training { trainable: &|_| true, seed: 0 };
    let mut state = formula::state(&graph, formula::NORM);
    state.insert("fc.weight", Tensor::counter(0));
    engine.network(&graph, state.clone()).unwrap_or_else(|error| panic!("{error}"));
    for (name, shape) in [("0.weight", "[8, 3, 3, 3]"), ("1.running_var", "[8]"), ("7.bias", "[3]")] {
        let mut state = state.clone();
        state.remove(name);
        refused(engine.network(&graph, state.clone()).map(drop), &[name, shape]);
        refused(engine.trainer(&graph, &state, training).map(drop), &[name, shape]);
    }
}

/// A tensor of another shape or type is named; both shapes are said.
pub fn tensors_of_other_shapes_are_refused(engine: &dyn Engine) {
    let graph = networks::convnet();
    let training = Training { trainable: &|_| true, seed: 0 };
    // The last has as many values as are needed.
    let others = [("7.weight", [4, 8]), ("7.bias", [1, 2]), ("7.weight", [8, 3])];
    for (name, shape) in others {
        let mut state = formula::state(&graph, formula::NORM);
        let replaced = state.insert(name, formula::inputs(name, &shape)).unwrap();
        let words = [name, &format!("{:?}", replaced.shape), &format!("{shape:?}")];
        refused(engine.network(&graph, state.clone()).map(drop), &words);
        refused(engine.trainer(&graph, &state, training).map(drop), &words);
    }
    let mut state = formula::state(&graph, formula::NORM);
    state.insert("7.bias", Tensor::counter(0));
    refused(engine.network(&graph, state.clone()).map(drop), &["7.bias", "integer"]);
}

/// The node that cannot take an input is named, in evaluation and in training.
pub fn inputs_of_other_shapes_are_refused(engine: &dyn Engine) {
    let graph = networks::convnet();
    let state = formula::state(&graph, formula::NORM);
    let network = engine.network(&graph, state.clone()).unwrap();
    let mut trainer = trainer(engine, &graph, &state, &|_| true, 0);
    let wrong: [(&[usize], &[&str]); 8] = [
        (&[2, 4, 16, 16], &["0 (Conv2d)", "[_, 3, _, _]", "[2, 4, 16, 16]"]),
        (&[2, 16, 16, 3], &["0 (Conv2d)", "[2, 16, 16, 3]"]),
        (&[3, 16, 16], &["0 (Conv2d)", "[3, 16, 16]"]),
        (&[2, 1, 3, 16, 16], &["[2, 1, 3, 16, 16]"]),
        (&[1, 1, 1, 2, 3, 16, 16], &["[1, 1, 1, 2, 3, 16, 16]"]),
        (&[], &["[]"]),
        (&[2, 3, 0, 16], &["[2, 3, 0, 16]"]),
        (&[0, 3, 16, 16], &["[0, 3, 16, 16]"]),
    ];
    for (shape, words) in wrong {
        let input = formula::inputs("x", shape);
        refused(network.forward(&input), words);
        refused(trainer.forward(&input), words);
        refused(trainer.step(&input, &[0, 1], 0.01), words);
    }

    // A function of single values takes any shape, or the engine says that it does not.
    let (mut b, x) = Builder::with_input("Net", &[1]);
    let x = b.layer("relu", ReLU, x);
    let relu = engine.network(&b.finish(x), StateDict::new()).unwrap();
    for shape in [vec![], vec![1; 7], vec![1; 12]] {
        match relu.forward(&Tensor::f32(shape.clone(), vec![2.0])) {
            Ok(output) => assert_eq!(output, Tensor::f32(shape, vec![2.0])),
            error => refused(error, &[&format!("{shape:?}")]),
        }
    }

    let (mut b, x) = Builder::new("Net", 3, 32);
    let x = b.layer("conv", Conv2d::new(3, 4, 11), x);
    let graph = b.finish(x);
    let network = engine.network(&graph, formula::state(&graph, formula::NORM)).unwrap();
    refused(
        network.forward(&formula::inputs("x", &[1, 3, 10, 32])),
        &["conv (Conv2d)", "11 pixels", "[1, 3, 10, 32]"],
    );
}

/// Labels must be as many as the images, and below the number of classes, which the network must give.
pub fn labels_that_do_not_fit_are_refused(engine: &dyn Engine) {
    let graph = networks::head();
    let state = formula::state(&graph, formula::NORM);
    let mut classifier = trainer(engine, &graph, &state, &|_| true, 0);
    let batch = formula::inputs("x", &[4, 12]);
    refused(classifier.step(&batch, &[0, 1, 3, 2], 0.01), &["label 3", "3 classes"]);
    refused(classifier.step(&batch, &[0, 1, 2, usize::MAX], 0.01), &["label", "3 classes"]);
    refused(classifier.step(&batch, &[0, 1, 2], 0.01), &["3 labels", "4"]);
    refused(classifier.step(&batch, &[], 0.01), &["0 labels", "4"]);

    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.layer("conv", Conv2d::new(3, 2, 1), x);
    let maps = b.finish(x);
    let state = formula::state(&maps, formula::NORM);
    let mut trainer = trainer(engine, &maps, &state, &|_| true, 0);
    let words = ["[batch, classes]", "[2, 2, 8, 8]"];
    refused(trainer.step(&formula::inputs("x", &[2, 3, 8, 8]), &[0, 1], 0.01), &words);
}

/// After an error the trainer is as it was, goes on, and its dropout has not moved on either.
pub fn a_refused_step_changes_nothing(engine: &dyn Engine) {
    let (mut b, x) = Builder::with_input("Net", &[5]);
    let x = b.layer("drop", Op::dropout(0.5), x);
    let x = b.layer("fc", Linear::new(5, 3), x);
    let graph = b.finish(x);
    let state = formula::state(&graph, formula::NORM);
    let batch = formula::inputs("x", &[4, 5]);
    let run = |mistakes: bool| {
        let mut trainer = trainer(engine, &graph, &state, &|_| true, 3);
        for _ in 0..3 {
            if mistakes {
                refused(trainer.step(&batch, &[9; 4], 0.01), &["label 9"]);
                refused(trainer.step(&formula::inputs("x", &[4, 6]), &[0; 4], 0.01), &["[4, 6]"]);
            }
            train(&mut *trainer, &batch, 1);
        }
        trainer.state()
    };
    assert_eq!(run(true), run(false));
}
