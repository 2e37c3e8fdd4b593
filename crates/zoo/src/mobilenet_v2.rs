//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381); `torchvision/models/mobilenetv2.py`.

use engraft_graph::Activation::ReLU6;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op};

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
    let (mut b, x) = Builder::new("MobileNetV2", 3, 224);
    let x = b.sequential("features", |b| {
        let mut x = conv_norm_relu6(b, "0", Conv2d::new(3, 32, 3).stride(2).padding(1), x);
        let mut channels = 32;
        let mut index = 1;
        for [expansion, out, blocks, stride] in STAGES {
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                x = inverted_residual(b, &index.to_string(), [channels, expansion, out], stride, x);
                channels = out;
                index += 1;
            }
        }
        conv_norm_relu6(b, &index.to_string(), Conv2d::new(channels, 1280, 1), x)
    });
    let x = b.function(Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, &[x]);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::dropout(0.2), x);
        b.layer("1", Linear::new(1280, 1000), x)
    });
    b.finish(x)
}

fn inverted_residual(
    b: &mut Builder,
    name: &str,
    [channels, expansion, out]: [usize; 3],
    stride: usize,
    input: NodeId,
) -> NodeId {
    let hidden = channels * expansion;
    b.module(name, "InvertedResidual", |b| {
        let x = b.sequential("conv", |b| {
            let mut names = ["0", "1", "2", "3"].into_iter();
            let mut name = || names.next().unwrap_or_default();
            let mut x = input;
            if expansion != 1 {
                x = conv_norm_relu6(b, name(), Conv2d::new(channels, hidden, 1), x);
            }
            let depthwise = Conv2d::new(hidden, hidden, 3).stride(stride).padding(1).groups(hidden);
            x = conv_norm_relu6(b, name(), depthwise, x);
            x = b.layer(name(), Conv2d::new(hidden, out, 1).no_bias(), x);
            b.layer(name(), BatchNorm2d::new(out), x)
        });
        let residual = stride == 1 && channels == out;
        if residual { b.function(Op::Add, &[input, x]) } else { x }
    })
}

fn conv_norm_relu6(b: &mut Builder, name: &str, conv: Conv2d, x: NodeId) -> NodeId {
    b.module(name, "Conv2dNormActivation", |b| {
        let channels = conv.out_channels;
        let x = b.layer("0", conv.no_bias(), x);
        let x = b.layer("1", BatchNorm2d::new(channels), x);
        b.layer("2", ReLU6.inplace(), x)
    })
}
