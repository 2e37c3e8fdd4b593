//! The small networks that the suite trains.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, Op, Pool};

/// What `head` in `parity/engine.py` is; for inputs `[batch, 12]`.
pub(super) fn head() -> Graph {
    let (mut b, x) = Builder::with_input("Sequential", &[12]);
    let x = b.layer("0", Linear::new(12, 8), x);
    let x = b.layer("1", ReLU, x);
    let x = b.layer("2", Linear::new(8, 3), x);
    b.finish(x)
}

/// What `convnet` in `parity/engine.py` is; for inputs `[batch, 3, 16, 16]`.
pub(super) fn convnet() -> Graph {
    let (mut b, x) = Builder::new("Sequential", 3, 16);
    let x = b.layer("0", Conv2d::new(3, 8, 3).stride(2).padding(1).no_bias(), x);
    let x = b.layer("1", BatchNorm2d::new(8), x);
    let x = b.layer("2", ReLU, x);
    let x = b.layer("3", Conv2d::new(8, 8, 3).padding(1).groups(8), x);
    let x = b.layer("4", Op::MaxPool2d(Pool::new(3, 2).padding(1)), x);
    let x = b.layer("5", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.layer("6", Op::Flatten { start: 1 }, x);
    let x = b.layer("7", Linear::new(8, 3), x);
    b.finish(x)
}

/// Labels of three classes in turn.
pub(super) fn labels(batch: usize) -> Vec<usize> {
    (0..batch).map(|example| example % 3).collect()
}
