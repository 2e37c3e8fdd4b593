//! Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929); `torchvision/models/vision_transformer.py`.

use engraft_graph::{
    Attention, Builder, Conv2d, Graph, Linear, NodeId, Op, PositionBias, ProjectionNames, Scores,
};

use crate::blocks::mlp;

/// For images of `size` pixels a side, cut into patches of `patch`, of which `size` is a multiple; encoder layers, heads of each
/// attention and features of a token.
pub(crate) fn vit(size: usize, patch: usize, layers: usize, heads: usize, dim: usize) -> Graph {
    let tokens = (size / patch).pow(2) + 1;
    let (mut b, x) = Builder::new("VisionTransformer", 3, size);
    let x = b.layer("conv_proj", Conv2d::new(3, dim, patch).stride(patch), x);
    let x = b.function(Op::Flatten { start: 2 }, &[x]);
    let x = b.function(Op::Permute { axes: vec![0, 2, 1] }, &[x]);
    let class_token = b.parameter("class_token", &[1, 1, dim]);
    let class_token = b.function(Op::ExpandBatch, &[class_token, x]);
    let x = b.function(Op::Concat { axis: 1 }, &[class_token, x]);
    let x = b.module("encoder", "Encoder", |b| {
        let positions = b.parameter("pos_embedding", &[1, tokens, dim]);
        let x = b.function(Op::Add, &[x, positions]);
        let x = b.layer("dropout", Op::dropout(0.0), x);
        let x = b.sequential("layers", |b| {
            (0..layers).fold(x, |x, layer| encoder_layer(b, &format!("encoder_layer_{layer}"), heads, dim, x))
        });
        b.layer("ln", norm(dim), x)
    });
    let x = b.function(Op::Select { axis: 1, index: 0 }, &[x]);
    let x = b.sequential("heads", |b| b.layer("head", Linear::new(dim, 1000), x));
    b.finish(x)
}

fn encoder_layer(b: &mut Builder, name: &str, heads: usize, dim: usize, input: NodeId) -> NodeId {
    let attention = Attention {
        dim,
        heads,
        names: ProjectionNames::Torch,
        scores: Scores::Product { scale: 1.0 / ((dim / heads) as f64).sqrt() },
        position: PositionBias::None,
        windows: None,
    };
    b.module(name, "EncoderBlock", |b| {
        let x = b.layer("ln_1", norm(dim), input);
        let x = b.attention("self_attention", "MultiheadAttention", attention, x);
        let x = b.layer("dropout", Op::dropout(0.0), x);
        let input = b.function(Op::Add, &[x, input]);
        let x = b.layer("ln_2", norm(dim), input);
        let x = mlp(b, "mlp", "MLPBlock", [dim, 4 * dim], x);
        b.function(Op::Add, &[input, x])
    })
}

fn norm(features: usize) -> Op {
    Op::LayerNorm { features, eps: 1e-6 }
}
