//! ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164); `torchvision/models/shufflenetv2.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Dim, Graph, Linear, NodeId, Op, Pool};

use crate::blocks::{conv_norm_activation_layers, depthwise};

/// Units in `stage2`, `stage3` and `stage4`.
const UNITS: [usize; 3] = [4, 8, 4];

/// `widths`: channels after the three stages and after `conv5`.
pub(crate) fn shufflenet_v2(widths: [usize; 4]) -> Graph {
    let [.., last] = widths;
    let (mut b, x) = Builder::new("ShuffleNetV2", 3, 224);
    let x = conv_norm_relu(&mut b, "conv1", Conv2d::new(3, 24, 3).stride(2), x);
    let mut x = b.layer("maxpool", Op::MaxPool2d(Pool::new(3, 2).padding(1)), x);
    let mut channels = 24;
    for (stage, (units, width)) in UNITS.into_iter().zip(widths).enumerate() {
        x = b.sequential(&format!("stage{}", stage + 2), |b| {
            x = downsampling_unit(b, [channels, width], x);
            (1..units).fold(x, |x, unit| unit_of_half(b, &unit.to_string(), width, x))
        });
        channels = width;
    }
    let x = conv_norm_relu(&mut b, "conv5", Conv2d::new(channels, last, 1), x);
    let x = b.function(Op::Mean { axes: vec![2, 3] }, &[x]);
    let x = b.layer("fc", Linear::new(last, 1000), x);
    b.finish(x)
}

/// Both branches see all channels, at half the resolution.
fn downsampling_unit(b: &mut Builder, [channels, width]: [usize; 2], x: NodeId) -> NodeId {
    let half = width / 2;
    b.module("0", "InvertedResidual", |b| {
        let left = b.sequential("branch1", |b| {
            let x = b.layer("0", depthwise(channels, 3, 2), x);
            let x = b.layer("1", BatchNorm2d::new(channels), x);
            let x = b.layer("2", Conv2d::new(channels, half, 1).no_bias(), x);
            let x = b.layer("3", BatchNorm2d::new(half), x);
            b.layer("4", ReLU.inplace(), x)
        });
        let right = branch2(b, [channels, half], 2, x);
        shuffle(b, left, right)
    })
}

/// One half of the channels passes untouched.
fn unit_of_half(b: &mut Builder, name: &str, width: usize, x: NodeId) -> NodeId {
    let half = width / 2;
    b.module(name, "InvertedResidual", |b| {
        b.sequential("branch1", |_| ());
        let left = b.function(Op::Chunk { axis: 1, index: 0, parts: 2 }, &[x]);
        let right = b.function(Op::Chunk { axis: 1, index: 1, parts: 2 }, &[x]);
        let right = branch2(b, [half, half], 1, right);
        shuffle(b, left, right)
    })
}

fn branch2(b: &mut Builder, [channels, half]: [usize; 2], stride: usize, x: NodeId) -> NodeId {
    b.sequential("branch2", |b| {
        let x = b.layer("0", Conv2d::new(channels, half, 1).no_bias(), x);
        let x = b.layer("1", BatchNorm2d::new(half), x);
        let x = b.layer("2", ReLU.inplace(), x);
        let x = b.layer("3", depthwise(half, 3, stride), x);
        let x = b.layer("4", BatchNorm2d::new(half), x);
        let x = b.layer("5", Conv2d::new(half, half, 1).no_bias(), x);
        let x = b.layer("6", BatchNorm2d::new(half), x);
        b.layer("7", ReLU.inplace(), x)
    })
}

/// Joins two halves and interleaves their channels (`channel_shuffle` with two groups).
fn shuffle(b: &mut Builder, left: NodeId, right: NodeId) -> NodeId {
    let x = b.function(Op::Concat { axis: 1 }, &[left, right]);
    let groups = vec![Dim::Keep(0), Dim::Fixed(2), Dim::Div(1, 2), Dim::Keep(2), Dim::Keep(3)];
    let x = b.function(Op::Reshape { shape: groups }, &[x]);
    let x = b.function(Op::Permute { axes: vec![0, 2, 1, 3, 4] }, &[x]);
    let joined = vec![Dim::Keep(0), Dim::Infer, Dim::Keep(3), Dim::Keep(4)];
    b.function(Op::Reshape { shape: joined }, &[x])
}

fn conv_norm_relu(b: &mut Builder, name: &str, conv: Conv2d, x: NodeId) -> NodeId {
    b.sequential(name, |b| conv_norm_activation_layers(b, conv, BatchNorm2d::new, ReLU, x))
}
