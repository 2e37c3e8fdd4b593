//! DenseNet (Huang et al. 2016, arXiv 1608.06993); `torchvision/models/densenet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op, Pool};

/// Width of a dense layer's 1x1 convolution, in growth rates.
const BOTTLENECK: usize = 4;

/// `growth`: channels that each dense layer adds; `blocks`: dense layers in each block; `stem`: channels before the first.
pub(crate) fn densenet(growth: usize, blocks: [usize; 4], stem: usize) -> Graph {
    let (mut b, x) = Builder::new("DenseNet", 3, 224);
    let mut channels = stem;
    let x = b.sequential("features", |b| {
        let x = b.layer("conv0", Conv2d::new(3, stem, 7).stride(2).padding(3).no_bias(), x);
        let x = b.layer("norm0", BatchNorm2d::new(stem), x);
        let x = b.layer("relu0", ReLU.inplace(), x);
        let mut x = b.layer("pool0", Op::MaxPool2d(Pool::new(3, 2).padding(1)), x);
        for (number, layers) in (1..).zip(blocks) {
            x = b.module(&format!("denseblock{number}"), "_DenseBlock", |b| {
                dense_block(b, layers, growth, &mut channels, x)
            });
            if number < blocks.len() {
                x = transition(b, &format!("transition{number}"), channels, x);
                channels /= 2;
            }
        }
        b.layer("norm5", BatchNorm2d::new(channels), x)
    });
    let x = b.function(ReLU.inplace(), &[x]);
    let x = b.function(Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, &[x]);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("classifier", Linear::new(channels, 1000), x);
    b.finish(x)
}

/// Each layer sees the block's input and the outputs of all layers before it.
fn dense_block(b: &mut Builder, layers: usize, growth: usize, channels: &mut usize, x: NodeId) -> NodeId {
    let mut all = x;
    for number in 1..=layers {
        let new = b.module(&format!("denselayer{number}"), "_DenseLayer", |b| {
            let width = BOTTLENECK * growth;
            let x = b.layer("norm1", BatchNorm2d::new(*channels), all);
            let x = b.layer("relu1", ReLU.inplace(), x);
            let x = b.layer("conv1", Conv2d::new(*channels, width, 1).no_bias(), x);
            let x = b.layer("norm2", BatchNorm2d::new(width), x);
            let x = b.layer("relu2", ReLU.inplace(), x);
            b.layer("conv2", Conv2d::new(width, growth, 3).padding(1).no_bias(), x)
        });
        all = b.function(Op::Concat { axis: 1 }, &[all, new]);
        *channels += growth;
    }
    all
}

/// Halves channels and resolution.
fn transition(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    b.module(name, "_Transition", |b| {
        let x = b.layer("norm", BatchNorm2d::new(channels), x);
        let x = b.layer("relu", ReLU.inplace(), x);
        let x = b.layer("conv", Conv2d::new(channels, channels / 2, 1).no_bias(), x);
        b.layer("pool", Op::AvgPool2d { window: Pool::new(2, 2), count_include_pad: true }, x)
    })
}
