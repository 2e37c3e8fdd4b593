//! The small networks that the suite trains.

use engraft_graph::Activation::ReLU;
use engraft_graph::{
    Attention, BatchNorm2d, Builder, Conv2d, Dim, Graph, Linear, Op, Pool, PositionBias, ProjectionNames,
    Scores, Windows,
};

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

/// What `Transformer` in `parity/engine.py` is; for inputs `[batch, 3, 16, 16]`.
pub(super) fn transformer() -> Graph {
    let attention = Attention {
        dim: 8,
        heads: 2,
        names: ProjectionNames::Torch,
        scores: Scores::Product { scale: 0.5 },
        position: PositionBias::None,
        windows: None,
    };
    let swin = Attention {
        names: ProjectionNames::Swin,
        position: PositionBias::Table { window: 3, matrix: false },
        windows: Some(Windows { side: 3, shift: 1 }),
        ..attention.clone()
    };
    let swin_v2 =
        Attention { scores: Scores::Cosine, position: PositionBias::Network { window: 3 }, ..swin.clone() };
    let (mut b, x) = Builder::new("Transformer", 3, 16);
    let x = b.layer("conv", Conv2d::new(3, 8, 4).stride(4), x);
    let x = b.function(Op::Permute { axes: vec![0, 2, 3, 1] }, &[x]);
    let y = b.attention("swin", "ShiftedWindowAttention", swin, x);
    let x = b.function(Op::Add, &[x, y]);
    let y = b.attention("windows", "ShiftedWindowAttentionV2", swin_v2, x);
    let x = b.function(Op::Add, &[x, y]);
    let x = b.function(Op::Reshape { shape: vec![Dim::Keep(0), Dim::Infer, Dim::Keep(3)] }, &[x]);
    let class_token = b.parameter("class_token", &[1, 1, 8]);
    let class_token = b.function(Op::ExpandBatch, &[class_token, x]);
    let x = b.function(Op::Concat { axis: 1 }, &[class_token, x]);
    let positions = b.parameter("pos_embedding", &[1, 17, 8]);
    let x = b.function(Op::Add, &[x, positions]);
    let y = b.layer("ln", Op::LayerNorm { features: 8, eps: 1e-5 }, x);
    let y = b.attention("attention", "SelfAttention", attention, y);
    let x = b.function(Op::Add, &[x, y]);
    let x = b.function(Op::Select { axis: 1, index: 0 }, &[x]);
    let x = b.layer("head", Linear::new(8, 3), x);
    b.finish(x)
}

/// Labels of three classes in turn.
pub(super) fn labels(batch: usize) -> Vec<usize> {
    (0..batch).map(|example| example % 3).collect()
}
