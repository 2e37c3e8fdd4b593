//! MNASNet B1 (Tan et al. 2018, arXiv 1807.11626); `torchvision/models/mnasnet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op};

use crate::blocks::{depthwise, round_channels};

/// Kernel, stride of the first block, expansion, output channels and number of blocks, one stack a row.
const STACKS: [[usize; 5]; 6] = [
    [3, 2, 3, 24, 3],
    [5, 2, 3, 40, 3],
    [5, 2, 6, 80, 3],
    [3, 1, 6, 96, 2],
    [5, 2, 6, 192, 4],
    [3, 1, 6, 320, 1],
];

/// `width`: the factor of all channels but those behind the last stack.
pub(crate) fn mnasnet(width: f64) -> Graph {
    let scaled = |channels: usize| round_channels(channels as f64 * width, 8);
    let (mut b, x) = Builder::new("MNASNet", 3, 224);
    let x = b.sequential("layers", |b| {
        let mut channels = scaled(16);
        let x = conv_norm(b, Conv2d::new(3, scaled(32), 3).stride(2).padding(1), x);
        let x = b.layer(&b.next_name(), ReLU.inplace(), x);
        let x = conv_norm(b, depthwise(scaled(32), 3, 1), x);
        let x = b.layer(&b.next_name(), ReLU.inplace(), x);
        let mut x = conv_norm(b, Conv2d::new(scaled(32), channels, 1), x);
        for [kernel, stride, expansion, out, blocks] in STACKS {
            x = b.sequential(&b.next_name(), |b| {
                for block in 0..blocks {
                    let stride = if block == 0 { stride } else { 1 };
                    let filter = depthwise(channels * expansion, kernel, stride);
                    x = inverted_residual(b, &block.to_string(), channels, filter, scaled(out), x);
                    channels = scaled(out);
                }
                x
            });
        }
        let x = conv_norm(b, Conv2d::new(channels, 1280, 1), x);
        b.layer(&b.next_name(), ReLU.inplace(), x)
    });
    let x = b.function(Op::Mean { axes: vec![2, 3] }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::Dropout { p: 0.2, inplace: true }, x);
        b.layer("1", Linear::new(1280, 1000), x)
    });
    b.finish(x)
}

fn inverted_residual(
    b: &mut Builder,
    name: &str,
    channels: usize,
    filter: Conv2d,
    out: usize,
    input: NodeId,
) -> NodeId {
    b.module(name, "_InvertedResidual", |b| {
        let residual = filter.stride == [1, 1] && channels == out;
        let x = b.sequential("layers", |b| {
            let expanded = filter.in_channels;
            let x = conv_norm(b, Conv2d::new(channels, expanded, 1), input);
            let x = b.layer(&b.next_name(), ReLU.inplace(), x);
            let x = conv_norm(b, filter, x);
            let x = b.layer(&b.next_name(), ReLU.inplace(), x);
            conv_norm(b, Conv2d::new(expanded, out, 1), x)
        });
        if residual { b.function(Op::Add, &[x, input]) } else { x }
    })
}

/// A convolution without bias and its norm, as the next two layers of a `Sequential`.
fn conv_norm(b: &mut Builder, conv: Conv2d, x: NodeId) -> NodeId {
    // TensorFlow counts momentum from the other side.
    let norm = BatchNorm2d { momentum: 1.0 - 0.9997, ..BatchNorm2d::new(conv.out_channels) };
    let x = b.layer(&b.next_name(), conv.no_bias(), x);
    b.layer(&b.next_name(), norm, x)
}
