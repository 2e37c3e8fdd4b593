//! ConvNeXt (Liu et al. 2022, arXiv 2201.03545); `torchvision/models/convnext.py`.

use engraft_graph::Activation::GELU;
use engraft_graph::{Builder, Conv2d, Graph, Linear, NodeId, Op};

use crate::blocks::depthwise;

const EPS: f64 = 1e-6;

/// `blocks` in each stage, and `widths`, their channels. In training the last block is skipped for a sample with probability `skip`, the
/// others less, in equal steps from zero.
pub(crate) fn convnext(blocks: [usize; 4], widths: [usize; 4], skip: f64) -> Graph {
    let [stem, .., last] = widths;
    let (mut b, x) = Builder::new("ConvNeXt", 3, 224);
    let x = b.sequential("features", |b| {
        let mut x = b.module("0", "Conv2dNormActivation", |b| {
            let x = b.layer("0", Conv2d::new(3, stem, 4).stride(4), x);
            b.layer("1", Op::LayerNorm2d { features: stem, eps: EPS }, x)
        });
        let all_blocks: usize = blocks.iter().sum();
        let mut number = 0;
        let mut channels = stem;
        for (blocks, width) in blocks.into_iter().zip(widths) {
            if width != channels {
                x = downsampling(b, [channels, width], x);
                channels = width;
            }
            x = b.sequential(&b.next_name(), |b| {
                for block in 0..blocks {
                    let skip = skip * number as f64 / (all_blocks - 1) as f64;
                    x = residual(b, &block.to_string(), width, skip, x);
                    number += 1;
                }
                x
            });
        }
        x
    });
    let x = b.layer("avgpool", Op::global_average_pool(), x);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::LayerNorm2d { features: last, eps: EPS }, x);
        let x = b.layer("1", Op::Flatten { start: 1 }, x);
        b.layer("2", Linear::new(last, 1000), x)
    });
    b.finish(x)
}

fn downsampling(b: &mut Builder, [channels, out]: [usize; 2], x: NodeId) -> NodeId {
    b.sequential(&b.next_name(), |b| {
        let x = b.layer("0", Op::LayerNorm2d { features: channels, eps: EPS }, x);
        b.layer("1", Conv2d::new(channels, out, 2).stride(2), x)
    })
}

fn residual(b: &mut Builder, name: &str, width: usize, skip: f64, input: NodeId) -> NodeId {
    b.module(name, "CNBlock", |b| {
        let x = b.sequential("block", |b| {
            let x = b.layer("0", Conv2d { bias: true, ..depthwise(width, 7, 1) }, input);
            let x = b.layer("1", Op::Permute { axes: vec![0, 2, 3, 1] }, x);
            let x = b.layer("2", Op::LayerNorm { features: width, eps: EPS }, x);
            let x = b.layer("3", Linear::new(width, 4 * width), x);
            let x = b.layer("4", GELU, x);
            let x = b.layer("5", Linear::new(4 * width, width), x);
            b.layer("6", Op::Permute { axes: vec![0, 3, 1, 2] }, x)
        });
        let scale = b.parameter("layer_scale", &[width, 1, 1]);
        let x = b.function(Op::Mul, &[scale, x]);
        let x = b.layer("stochastic_depth", Op::StochasticDepth { p: skip }, x);
        b.function(Op::Add, &[x, input])
    })
}
