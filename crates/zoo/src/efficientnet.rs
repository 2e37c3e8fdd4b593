//! EfficientNet (Tan and Le 2019, arXiv 1905.11946) and EfficientNetV2 (2021, arXiv 2104.00298); `torchvision/models/efficientnet.py`.

use engraft_graph::Activation::{SiLU, Sigmoid};
use engraft_graph::{Builder, Conv2d, Graph, Linear, NodeId, Op};

use self::Kind::{Fused, MbConv};
use crate::blocks::{
    Norm, conv_norm_activation, depthwise, expand_and_filter, norm_of_larger_eps, round_channels,
    squeeze_excitation,
};

/// The block of a stage.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// An inverted residual with squeeze-excitation.
    MbConv,
    /// The same with one convolution for expansion and filter.
    Fused,
}

/// Expansion, kernel, stride of the first block, output channels, number of blocks.
type Stage = (Kind, [usize; 5]);

/// Of B0 (table 1 of the first paper); the others are scaled.
const B: [Stage; 7] = [
    (MbConv, [1, 3, 1, 16, 1]),
    (MbConv, [6, 3, 2, 24, 2]),
    (MbConv, [6, 5, 2, 40, 2]),
    (MbConv, [6, 3, 2, 80, 3]),
    (MbConv, [6, 5, 1, 112, 3]),
    (MbConv, [6, 5, 2, 192, 4]),
    (MbConv, [6, 3, 1, 320, 1]),
];

pub(crate) const V2_S: [Stage; 6] = [
    (Fused, [1, 3, 1, 24, 2]),
    (Fused, [4, 3, 2, 48, 4]),
    (Fused, [4, 3, 2, 64, 4]),
    (MbConv, [4, 3, 2, 128, 6]),
    (MbConv, [6, 3, 1, 160, 9]),
    (MbConv, [6, 3, 2, 256, 15]),
];

pub(crate) const V2_M: [Stage; 7] = [
    (Fused, [1, 3, 1, 24, 3]),
    (Fused, [4, 3, 2, 48, 5]),
    (Fused, [4, 3, 2, 80, 5]),
    (MbConv, [4, 3, 2, 160, 7]),
    (MbConv, [6, 3, 1, 176, 14]),
    (MbConv, [6, 3, 2, 304, 18]),
    (MbConv, [6, 3, 1, 512, 5]),
];

pub(crate) const V2_L: [Stage; 7] = [
    (Fused, [1, 3, 1, 32, 4]),
    (Fused, [4, 3, 2, 64, 7]),
    (Fused, [4, 3, 2, 96, 7]),
    (MbConv, [4, 3, 2, 192, 10]),
    (MbConv, [6, 3, 1, 224, 19]),
    (MbConv, [6, 3, 2, 384, 25]),
    (MbConv, [6, 3, 1, 640, 7]),
];

/// What the probability that a sample skips a block in training grows to, block by block, in equal steps from zero.
const STOCHASTIC_DEPTH: f64 = 0.2;

/// B0 to B7 by the factors of channels and of blocks, for images of `size` pixels.
pub(crate) fn efficientnet([width, depth]: [f64; 2], size: usize, dropout: f64, norm: Norm) -> Graph {
    let scaled_width = |channels: usize| round_channels(channels as f64 * width, 8);
    let scaled = |(kind, [expansion, kernel, stride, out, blocks]): Stage| {
        let blocks = (blocks as f64 * depth).ceil() as usize;
        (kind, [expansion, kernel, stride, scaled_width(out), blocks])
    };
    let stages = B.map(scaled);
    let [.., (_, [.., last, _])] = stages;
    build(&stages, [scaled_width(32), 4 * last], size, dropout, norm)
}

/// Version 2, for images of `size` pixels.
pub(crate) fn efficientnet_v2(stages: &[Stage], size: usize, dropout: f64) -> Graph {
    let (_, [.., stem, _]) = stages[0];
    build(stages, [stem, 1280], size, dropout, norm_of_larger_eps)
}

fn build(stages: &[Stage], [stem, last]: [usize; 2], size: usize, dropout: f64, norm: Norm) -> Graph {
    let (mut b, x) = Builder::new("EfficientNet", 3, size);
    let x = b.sequential("features", |b| {
        let mut x = conv_norm_activation(b, "0", Conv2d::new(3, stem, 3).stride(2), norm, SiLU, x);
        let mut channels = stem;
        let all_blocks: usize = stages.iter().map(|(_, [.., blocks])| blocks).sum();
        let mut number = 0;
        for &(kind, [expansion, kernel, stride, out, blocks]) in stages {
            x = b.sequential(&b.next_name(), |b| {
                for block in 0..blocks {
                    let expanded = channels * expansion;
                    let stride = if block == 0 { stride } else { 1 };
                    let filter = match kind {
                        MbConv => depthwise(expanded, kernel, stride),
                        Fused => Conv2d::new(channels, expanded, kernel).stride(stride),
                    };
                    let skip = STOCHASTIC_DEPTH * number as f64 / all_blocks as f64;
                    x = residual(b, kind, [channels, out], filter, norm, skip, x);
                    channels = out;
                    number += 1;
                }
                x
            });
        }
        let name = b.next_name();
        conv_norm_activation(b, &name, Conv2d::new(channels, last, 1), norm, SiLU, x)
    });
    let x = b.layer("avgpool", Op::global_average_pool(), x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::Dropout { p: dropout, inplace: true }, x);
        b.layer("1", Linear::new(last, 1000), x)
    });
    b.finish(x)
}

/// `skip`: probability that a sample takes the shortcut alone.
fn residual(
    b: &mut Builder,
    kind: Kind,
    [channels, out]: [usize; 2],
    filter: Conv2d,
    norm: Norm,
    skip: f64,
    input: NodeId,
) -> NodeId {
    let class = match kind {
        MbConv => "MBConv",
        Fused => "FusedMBConv",
    };
    let shortcut = filter.stride == [1, 1] && channels == out;
    b.module(&b.next_name(), class, |b| {
        let x = b.sequential("block", |b| match kind {
            MbConv => mb_conv(b, [channels, out], filter, norm, input),
            Fused => fused_mb_conv(b, [channels, out], filter, norm, input),
        });
        let drop = Op::StochasticDepth { p: skip };
        if shortcut {
            let x = b.layer("stochastic_depth", drop, x);
            b.function(Op::Add, &[x, input])
        } else {
            b.unused_layer("stochastic_depth", drop);
            x
        }
    })
}

fn mb_conv(b: &mut Builder, [channels, out]: [usize; 2], filter: Conv2d, norm: Norm, x: NodeId) -> NodeId {
    let expanded = filter.out_channels;
    let x = expand_and_filter(b, channels, filter, norm, SiLU, x);
    let name = b.next_name();
    let x = squeeze_excitation(b, &name, [expanded, channels / 4], SiLU.inplace(), Sigmoid, x);
    let name = b.next_name();
    conv_norm_activation(b, &name, Conv2d::new(expanded, out, 1), norm, None, x)
}

fn fused_mb_conv(
    b: &mut Builder,
    [channels, out]: [usize; 2],
    filter: Conv2d,
    norm: Norm,
    x: NodeId,
) -> NodeId {
    let expanded = filter.out_channels;
    let x = conv_norm_activation(b, "0", filter, norm, SiLU, x);
    if expanded == channels {
        return x;
    }
    conv_norm_activation(b, "1", Conv2d::new(expanded, out, 1), norm, None, x)
}
