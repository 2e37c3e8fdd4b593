//! Swin Transformer (Liu et al. 2021, arXiv 2103.14030) and its second version (Liu et al. 2021, arXiv 2111.09883);
//! `torchvision/models/swin_transformer.py`. Its tensors are `[batch, height, width, channels]`.

use engraft_graph::{
    Attention, Builder, Conv2d, Dim, Graph, Linear, NodeId, Op, PositionBias, ProjectionNames, Scores,
    Windows,
};

use crate::blocks::mlp;

#[derive(Clone, Copy)]
pub(crate) enum Version {
    /// Windows of 7, norms before the layers.
    V1,
    /// Windows of 8, norms behind the layers, cosine attention.
    V2,
}

/// `dim` channels and `heads` heads in the first stage, twice as many in each further one; `depths`: blocks of the stages;
/// `stochastic_depth`: probability with which the last block is dropped in training; from the first, where it is zero, it rises evenly.
pub(crate) fn swin(
    version: Version,
    mut dim: usize,
    depths: [usize; 4],
    mut heads: usize,
    stochastic_depth: f64,
) -> Graph {
    let last_block = depths.iter().sum::<usize>() - 1;
    let size = match version {
        Version::V1 => 224,
        Version::V2 => 256,
    };
    let (mut b, x) = Builder::new("SwinTransformer", 3, size);
    let x = b.sequential("features", |b| {
        let mut x = b.sequential("0", |b| {
            let x = b.layer("0", Conv2d::new(3, dim, 4).stride(4), x);
            let x = b.layer("1", Op::Permute { axes: vec![0, 2, 3, 1] }, x);
            b.layer("2", norm(dim), x)
        });
        let mut block = 0;
        for (stage, depth) in depths.into_iter().enumerate() {
            if stage > 0 {
                x = patch_merging(b, &(2 * stage).to_string(), version, dim, x);
                (dim, heads) = (2 * dim, 2 * heads);
            }
            x = b.sequential(&(2 * stage + 1).to_string(), |b| {
                for index in 0..depth {
                    let drop = stochastic_depth * block as f64 / last_block as f64;
                    x = swin_block(b, index, version, attention(version, dim, heads, index), drop, x);
                    block += 1;
                }
                x
            });
        }
        x
    });
    let x = b.layer("norm", norm(dim), x);
    let x = b.layer("permute", Op::Permute { axes: vec![0, 3, 1, 2] }, x);
    let x = b.layer("avgpool", Op::global_average_pool(), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("head", Linear::new(dim, 1000), x);
    b.finish(x)
}

/// The windows of every second block are shifted by half their side.
fn attention(version: Version, dim: usize, heads: usize, index: usize) -> Attention {
    let (window, scores, position) = match version {
        Version::V1 => {
            let scale = 1.0 / ((dim / heads) as f64).sqrt();
            (7, Scores::Product { scale }, PositionBias::Table { window: 7, matrix: false })
        }
        Version::V2 => (8, Scores::Cosine, PositionBias::Network { window: 8 }),
    };
    let windows = Some(Windows { side: window, shift: if index.is_multiple_of(2) { 0 } else { window / 2 } });
    Attention { dim, heads, names: ProjectionNames::Swin, scores, position, windows }
}

fn swin_block(
    b: &mut Builder,
    index: usize,
    version: Version,
    attention: Attention,
    drop: f64,
    x: NodeId,
) -> NodeId {
    let dim = attention.dim;
    let [class, attention_class] = match version {
        Version::V1 => ["SwinTransformerBlock", "ShiftedWindowAttention"],
        Version::V2 => ["SwinTransformerBlockV2", "ShiftedWindowAttentionV2"],
    };
    b.module(&index.to_string(), class, |b| {
        let x = residual(b, "norm1", version, dim, drop, x, |b, x| {
            b.attention("attn", attention_class, attention, x)
        });
        let x = residual(b, "norm2", version, dim, drop, x, |b, x| mlp(b, "mlp", "MLP", [dim, 4 * dim], x));
        b.registered_in_order(&["norm1", "attn", "stochastic_depth", "norm2", "mlp"]);
        x
    })
}

/// A branch with its norm, added to its input.
fn residual(
    b: &mut Builder,
    norm_name: &str,
    version: Version,
    dim: usize,
    drop: f64,
    input: NodeId,
    branch: impl FnOnce(&mut Builder, NodeId) -> NodeId,
) -> NodeId {
    let x = match version {
        Version::V1 => {
            let x = b.layer(norm_name, norm(dim), input);
            branch(b, x)
        }
        Version::V2 => {
            let x = branch(b, input);
            b.layer(norm_name, norm(dim), x)
        }
    };
    let x = b.layer("stochastic_depth", Op::StochasticDepth { p: drop }, x);
    b.function(Op::Add, &[input, x])
}

/// Joins the channels of two by two pixels, and halves their number.
fn patch_merging(b: &mut Builder, name: &str, version: Version, dim: usize, x: NodeId) -> NodeId {
    let class = match version {
        Version::V1 => "PatchMerging",
        Version::V2 => "PatchMergingV2",
    };
    let reduction = Linear { bias: false, ..Linear::new(4 * dim, 2 * dim) };
    b.module(name, class, |b| {
        let x = b.function(Op::PadToMultiple { axes: vec![1, 2], of: 2 }, &[x]);
        let pairs =
            vec![Dim::Keep(0), Dim::Div(1, 2), Dim::Fixed(2), Dim::Div(2, 2), Dim::Fixed(2), Dim::Keep(3)];
        let x = b.function(Op::Reshape { shape: pairs }, &[x]);
        let x = b.function(Op::Permute { axes: vec![0, 1, 3, 4, 2, 5] }, &[x]);
        let joined = vec![Dim::Keep(0), Dim::Keep(1), Dim::Keep(2), Dim::Infer];
        let x = b.function(Op::Reshape { shape: joined }, &[x]);
        let x = match version {
            Version::V1 => {
                let x = b.layer("norm", norm(4 * dim), x);
                b.layer("reduction", reduction, x)
            }
            Version::V2 => {
                let x = b.layer("reduction", reduction, x);
                b.layer("norm", norm(2 * dim), x)
            }
        };
        b.registered_in_order(&["reduction", "norm"]);
        x
    })
}

fn norm(features: usize) -> Op {
    Op::LayerNorm { features, eps: 1e-5 }
}
