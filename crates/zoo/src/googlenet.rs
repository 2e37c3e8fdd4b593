//! GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842), with batch norm and with 3x3 convolutions where the paper has 5x5;
//! `torchvision/models/googlenet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Graph, Linear, NodeId, Op, Pool};

use crate::blocks::basic_conv;

/// Output channels of an inception module's convolutions: of branch 1, of the two of branch 2, of the two of branch 3, of branch 4.
const MODULES: [(&str, [usize; 6]); 9] = [
    ("3a", [64, 96, 128, 16, 32, 32]),
    ("3b", [128, 128, 192, 32, 96, 64]),
    ("4a", [192, 96, 208, 16, 48, 64]),
    ("4b", [160, 112, 224, 24, 64, 64]),
    ("4c", [128, 128, 256, 24, 64, 64]),
    ("4d", [112, 144, 288, 32, 64, 64]),
    ("4e", [256, 160, 320, 32, 128, 128]),
    ("5a", [256, 160, 320, 32, 128, 128]),
    ("5b", [384, 192, 384, 48, 128, 128]),
];

/// With both auxiliary heads, and without torchvision's `transform_input`, which is the matter of the weights: see [`TRANSFORM_INPUT`](crate::TRANSFORM_INPUT).
pub(crate) fn googlenet() -> Graph {
    let (mut builder, x) = Builder::new("GoogLeNet", 3, 224);
    let b = &mut builder;
    let x = basic_conv(b, "conv1", Conv2d::new(3, 64, 7).stride(2).padding(3), x);
    let x = max_pool(b, "maxpool1", Pool::new(3, 2), x);
    let x = basic_conv(b, "conv2", Conv2d::new(64, 64, 1), x);
    let x = basic_conv(b, "conv3", Conv2d::new(64, 192, 3).padding(1), x);
    let mut x = max_pool(b, "maxpool2", Pool::new(3, 2), x);
    let mut channels = 192;
    let mut seen_by_aux = Vec::new();
    for (name, widths) in MODULES {
        x = inception(b, &format!("inception{name}"), channels, widths, x);
        channels = widths[0] + widths[2] + widths[4] + widths[5];
        match name {
            "3b" => x = max_pool(b, "maxpool3", Pool::new(3, 2), x),
            "4e" => x = max_pool(b, "maxpool4", Pool::new(2, 2), x),
            "4a" | "4d" => seen_by_aux.push((channels, x)),
            _ => {}
        }
    }
    for (number, (channels, x)) in (1..).zip(seen_by_aux) {
        let logits = auxiliary_head(b, &format!("aux{number}"), channels, x);
        b.auxiliary(logits);
    }
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("dropout", Op::dropout(0.2), x);
    let x = b.layer("fc", Linear::new(channels, 1000), x);
    builder.finish(x)
}

fn max_pool(b: &mut Builder, name: &str, window: Pool, x: NodeId) -> NodeId {
    b.layer(name, Op::MaxPool2d(window.ceil_mode()), x)
}

fn inception(b: &mut Builder, name: &str, channels: usize, widths: [usize; 6], x: NodeId) -> NodeId {
    let [one, before_first, first, before_second, second, pooled] = widths;
    let bottleneck = |b: &mut Builder, name: &str, [between, out]: [usize; 2]| {
        b.sequential(name, |b| {
            let x = basic_conv(b, "0", Conv2d::new(channels, between, 1), x);
            basic_conv(b, "1", Conv2d::new(between, out, 3).padding(1), x)
        })
    };
    b.module(name, "Inception", |b| {
        let branch1 = basic_conv(b, "branch1", Conv2d::new(channels, one, 1), x);
        let branch2 = bottleneck(b, "branch2", [before_first, first]);
        let branch3 = bottleneck(b, "branch3", [before_second, second]);
        let branch4 = b.sequential("branch4", |b| {
            let x = max_pool(b, "0", Pool::new(3, 1).padding(1), x);
            basic_conv(b, "1", Conv2d::new(channels, pooled, 1), x)
        });
        b.function(Op::Concat { axis: 1 }, &[branch1, branch2, branch3, branch4])
    })
}

fn auxiliary_head(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    b.module(name, "InceptionAux", |b| {
        let x = b.function(Op::AdaptiveAvgPool2d { output: [4, 4], square: false }, &[x]);
        let x = basic_conv(b, "conv", Conv2d::new(channels, 128, 1), x);
        let x = b.function(Op::Flatten { start: 1 }, &[x]);
        let x = b.layer("fc1", Linear::new(128 * 4 * 4, 1024), x);
        let x = b.function(ReLU.inplace(), &[x]);
        let x = b.layer("dropout", Op::dropout(0.7), x);
        let x = b.layer("fc2", Linear::new(1024, 1000), x);
        b.registered_in_order(&["conv", "fc1", "fc2", "dropout"]);
        x
    })
}
