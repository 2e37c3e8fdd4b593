//! MaxViT (Tu et al. 2022, arXiv 2204.01697); `torchvision/models/maxvit.py`.

use engraft_graph::Activation::{GELU, SiLU, Sigmoid, Tanh};
use engraft_graph::{
    Attention, Builder, Conv2d, Dim, Graph, Linear, NodeId, Op, Pool, PositionBias, ProjectionNames, Scores,
};

use crate::blocks::{conv_norm_activation, squeeze_excitation, tensorflow_norm as norm};

/// Channels and layers of each block.
const BLOCKS: [[usize; 2]; 4] = [[64, 2], [128, 2], [256, 5], [512, 2]];
/// Channels of the stem.
const STEM: usize = 64;
/// Channels of each head.
const HEAD: usize = 32;
/// Side of a window, and of a grid.
const WINDOW: usize = 7;
/// Probability with which the last layer is dropped in training; from the first, where it is zero, it rises evenly.
const STOCHASTIC_DEPTH: f64 = 0.2;

/// For images of `size` pixels a side, a multiple of 224: the last of five halvings leaves whole windows.
pub(crate) fn maxvit_t(size: usize) -> Graph {
    let (mut b, x) = Builder::new("MaxVit", 3, size);
    let x = b.sequential("stem", |b| {
        let x = conv_norm_activation(b, "0", Conv2d::new(3, STEM, 3).stride(2), norm, GELU, x);
        b.module("1", "Conv2dNormActivation", |b| b.layer("0", Conv2d::new(STEM, STEM, 3).padding(1), x))
    });
    let last_layer = BLOCKS.iter().map(|[_, layers]| layers).sum::<usize>() - 1;
    let (mut layer, mut channels, mut side) = (0, STEM, size / 2);
    let x = b.module("blocks", "ModuleList", |b| {
        let mut x = x;
        for (block, [out, layers]) in BLOCKS.into_iter().enumerate() {
            side /= 2;
            x = b.module(&block.to_string(), "MaxVitBlock", |b| {
                b.module("layers", "ModuleList", |b| {
                    for index in 0..layers {
                        let drop = layer as f64 * (STOCHASTIC_DEPTH / last_layer as f64);
                        x = maxvit_layer(b, index, [channels, out], side, drop, x);
                        (layer, channels) = (layer + 1, out);
                    }
                    x
                })
            });
        }
        x
    });
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::global_average_pool(), x);
        let x = b.layer("1", Op::Flatten { start: 1 }, x);
        let x = b.layer("2", layer_norm(channels), x);
        let x = b.layer("3", Linear::new(channels, channels), x);
        let x = b.layer("4", Tanh, x);
        b.layer("5", Linear { bias: false, ..Linear::new(channels, 1000) }, x)
    });
    b.finish(x)
}

/// The first of a block halves the resolution; `side` is that of its output.
fn maxvit_layer(
    b: &mut Builder,
    index: usize,
    channels: [usize; 2],
    side: usize,
    drop: f64,
    x: NodeId,
) -> NodeId {
    let [_, out] = channels;
    b.module(&index.to_string(), "MaxVitLayer", |b| {
        b.sequential("layers", |b| {
            let x = b.module("MBconv", "MBConv", |b| inverted_bottleneck(b, channels, index == 0, drop, x));
            let x = partition_attention(b, "window_attention", Partition::Window, out, side, drop, x);
            partition_attention(b, "grid_attention", Partition::Grid, out, side, drop, x)
        })
    })
}

fn inverted_bottleneck(
    b: &mut Builder,
    [channels, out]: [usize; 2],
    halves: bool,
    drop: f64,
    input: NodeId,
) -> NodeId {
    let hidden = 4 * out;
    let stride = if halves { 2 } else { 1 };
    let shortcut = match halves {
        false => b.layer("proj", Op::Identity, input),
        true => b.sequential("proj", |b| {
            let window = Pool::new(3, stride).padding(1);
            let x = b.layer("0", Op::AvgPool2d { window, count_include_pad: true }, input);
            b.layer("1", Conv2d::new(channels, out, 1), x)
        }),
    };
    let x = b.sequential("layers", |b| {
        let x = b.layer("pre_norm", norm(channels), input);
        let x = conv_norm_activation(b, "conv_a", Conv2d::new(channels, hidden, 1), norm, GELU, x);
        let depthwise = Conv2d::new(hidden, hidden, 3).stride(stride).groups(hidden);
        let x = conv_norm_activation(b, "conv_b", depthwise, norm, GELU, x);
        let x = squeeze_excitation(b, "squeeze_excitation", [hidden, out / 4], SiLU, Sigmoid, x);
        b.layer("conv_c", Conv2d::new(hidden, out, 1), x)
    });
    let drop = if drop == 0.0 { Op::Identity } else { Op::StochasticDepth { p: drop } };
    let x = b.layer("stochastic_depth", drop, x);
    b.registered_in_order(&["proj", "stochastic_depth", "layers"]);
    b.function(Op::Add, &[shortcut, x])
}

/// Which pixels attend to each other: always 7 by 7.
#[derive(Clone, Copy)]
enum Partition {
    /// Neighbours.
    Window,
    /// Those that lie evenly over the whole image.
    Grid,
}

fn partition_attention(
    b: &mut Builder,
    name: &str,
    partition: Partition,
    channels: usize,
    side: usize,
    drop: f64,
    x: NodeId,
) -> NodeId {
    // The image is cut into `parts` by `parts` squares. The tokens of a group are the pixels of one, or one pixel of each.
    let (square, class, swap) = match partition {
        Partition::Window => (WINDOW, "Identity", Op::Identity),
        Partition::Grid => (side / WINDOW, "SwapAxes", Op::Permute { axes: vec![0, 2, 1, 3] }),
    };
    let parts = side / square;
    b.module(name, "PartitionAttentionLayer", |b| {
        let x = b.module("partition_op", "WindowPartition", |b| {
            let squares = [parts, square, parts, square].map(Dim::Fixed);
            let x = reshape(b, &[&[Dim::Keep(0), Dim::Keep(1)], &squares[..]].concat(), x);
            let x = b.function(Op::Permute { axes: vec![0, 2, 4, 3, 5, 1] }, &[x]);
            reshape(b, &[Dim::Keep(0), Dim::Fixed(parts * parts), Dim::Infer, Dim::Keep(5)], x)
        });
        let x = b.layer_of_class("partition_swap", class, swap.clone(), x);
        let x = residual(b, "attn_layer", drop, x, |b, x| {
            let x = b.layer("0", layer_norm(channels), x);
            let x = b.attention("1", "RelativePositionalMultiHeadAttention", attention(channels), x);
            b.layer("2", Op::dropout(0.0), x)
        });
        let x = residual(b, "mlp_layer", drop, x, |b, x| {
            let x = b.layer("0", layer_norm(channels), x);
            let x = b.layer("1", Linear::new(channels, 4 * channels), x);
            let x = b.layer("2", GELU, x);
            let x = b.layer("3", Linear::new(4 * channels, channels), x);
            b.layer("4", Op::dropout(0.0), x)
        });
        let x = b.layer_of_class("departition_swap", class, swap, x);
        let x = b.module("departition_op", "WindowDepartition", |b| {
            let squares = [parts, parts, square, square].map(Dim::Fixed);
            let x = reshape(b, &[&[Dim::Keep(0)], &squares[..], &[Dim::Keep(3)]].concat(), x);
            let x = b.function(Op::Permute { axes: vec![0, 5, 1, 3, 2, 4] }, &[x]);
            reshape(b, &[Dim::Keep(0), Dim::Keep(1), Dim::Fixed(side), Dim::Fixed(side)], x)
        });
        b.registered_in_order(&[
            "partition_op",
            "departition_op",
            "partition_swap",
            "departition_swap",
            "attn_layer",
            "mlp_layer",
            "stochastic_dropout",
        ]);
        x
    })
}

/// The layers of a branch, added to its input.
fn residual(
    b: &mut Builder,
    name: &str,
    drop: f64,
    input: NodeId,
    layers: impl FnOnce(&mut Builder, NodeId) -> NodeId,
) -> NodeId {
    let x = b.sequential(name, |b| layers(b, input));
    let x = b.layer("stochastic_dropout", Op::StochasticDepth { p: drop }, x);
    b.function(Op::Add, &[input, x])
}

fn attention(channels: usize) -> Attention {
    Attention {
        dim: channels,
        heads: channels / HEAD,
        names: ProjectionNames::MaxVit,
        scores: Scores::Product { scale: 1.0 / (channels as f64).sqrt() },
        position: PositionBias::Table { window: WINDOW, matrix: true },
        windows: None,
    }
}

fn reshape(b: &mut Builder, shape: &[Dim], x: NodeId) -> NodeId {
    b.function(Op::Reshape { shape: shape.into() }, &[x])
}

fn layer_norm(features: usize) -> Op {
    Op::LayerNorm { features, eps: 1e-5 }
}
