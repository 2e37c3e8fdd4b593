//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381); `torchvision/models/mobilenetv2.py`.

use engraft_graph::Activation::ReLU6;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op};

use crate::blocks::{conv_norm_activation, depthwise, expand_and_filter};

/// Expansion, output channels, number of blocks and stride of the first, one stage a row (table 2 of the paper).
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

pub(crate) fn mobilenet_v2() -> Graph {
    let norm = BatchNorm2d::new;
    let (mut b, x) = Builder::new("MobileNetV2", 3, 224);
    let x = b.sequential("features", |b| {
        let mut x = conv_norm_activation(b, "0", Conv2d::new(3, 32, 3).stride(2), norm, ReLU6, x);
        let mut channels = 32;
        for [expansion, out, blocks, stride] in STAGES {
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                x = inverted_residual(b, channels, depthwise(channels * expansion, 3, stride), out, x);
                channels = out;
            }
        }
        let name = b.next_name();
        conv_norm_activation(b, &name, Conv2d::new(channels, 1280, 1), norm, ReLU6, x)
    });
    let x = b.function(Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, &[x]);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::dropout(0.2), x);
        b.layer("1", Linear::new(1280, 1000), x)
    });
    b.finish(x)
}

fn inverted_residual(b: &mut Builder, channels: usize, filter: Conv2d, out: usize, input: NodeId) -> NodeId {
    let residual = filter.stride == [1, 1] && channels == out;
    b.module(&b.next_name(), "InvertedResidual", |b| {
        let x = b.sequential("conv", |b| {
            let expanded = filter.out_channels;
            let x = expand_and_filter(b, channels, filter, BatchNorm2d::new, ReLU6, input);
            let x = b.layer(&b.next_name(), Conv2d::new(expanded, out, 1).no_bias(), x);
            b.layer(&b.next_name(), BatchNorm2d::new(out), x)
        });
        if residual { b.function(Op::Add, &[input, x]) } else { x }
    })
}
