//! MobileNetV3 (Howard et al. 2019, arXiv 1905.02244); `torchvision/models/mobilenetv3.py`.

use engraft_graph::Activation::{self, Hardsigmoid, Hardswish, ReLU};
use engraft_graph::{Builder, Conv2d, Graph, Linear, NodeId, Op};

use crate::blocks::{
    conv_norm_activation, depthwise, expand_and_filter, round_channels, squeeze_excitation, tensorflow_norm,
};

/// Kernel, expanded channels, output channels, whether squeeze-excitation is done, activation, stride (tables 1 and 2 of the paper).
pub(crate) type Block = (usize, usize, usize, bool, Activation, usize);

pub(crate) const LARGE: [Block; 15] = [
    (3, 16, 16, false, ReLU, 1),
    (3, 64, 24, false, ReLU, 2),
    (3, 72, 24, false, ReLU, 1),
    (5, 72, 40, true, ReLU, 2),
    (5, 120, 40, true, ReLU, 1),
    (5, 120, 40, true, ReLU, 1),
    (3, 240, 80, false, Hardswish, 2),
    (3, 200, 80, false, Hardswish, 1),
    (3, 184, 80, false, Hardswish, 1),
    (3, 184, 80, false, Hardswish, 1),
    (3, 480, 112, true, Hardswish, 1),
    (3, 672, 112, true, Hardswish, 1),
    (5, 672, 160, true, Hardswish, 2),
    (5, 960, 160, true, Hardswish, 1),
    (5, 960, 160, true, Hardswish, 1),
];

pub(crate) const SMALL: [Block; 11] = [
    (3, 16, 16, true, ReLU, 2),
    (3, 72, 24, false, ReLU, 2),
    (3, 88, 24, false, ReLU, 1),
    (5, 96, 40, true, Hardswish, 2),
    (5, 240, 40, true, Hardswish, 1),
    (5, 240, 40, true, Hardswish, 1),
    (5, 120, 48, true, Hardswish, 1),
    (5, 144, 48, true, Hardswish, 1),
    (5, 288, 96, true, Hardswish, 2),
    (5, 576, 96, true, Hardswish, 1),
    (5, 576, 96, true, Hardswish, 1),
];

/// `units`: of the classifier's hidden layer.
pub(crate) fn mobilenet_v3(blocks: &[Block], units: usize) -> Graph {
    let (mut b, x) = Builder::new("MobileNetV3", 3, 224);
    let mut channels = 16;
    let x = b.sequential("features", |b| {
        let stem = Conv2d::new(3, channels, 3).stride(2);
        let mut x = conv_norm_activation(b, "0", stem, tensorflow_norm, Hardswish, x);
        for block in blocks {
            x = inverted_residual(b, channels, *block, x);
            channels = block.2;
        }
        let name = b.next_name();
        let last = Conv2d::new(channels, 6 * channels, 1);
        conv_norm_activation(b, &name, last, tensorflow_norm, Hardswish, x)
    });
    let x = b.layer("avgpool", Op::global_average_pool(), x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Linear::new(6 * channels, units), x);
        let x = b.layer("1", Hardswish.inplace(), x);
        let x = b.layer("2", Op::Dropout { p: 0.2, inplace: true }, x);
        b.layer("3", Linear::new(units, 1000), x)
    });
    b.finish(x)
}

fn inverted_residual(b: &mut Builder, channels: usize, block: Block, input: NodeId) -> NodeId {
    let (kernel, expanded, out, squeezes, activation, stride) = block;
    b.module(&b.next_name(), "InvertedResidual", |b| {
        let x = b.sequential("block", |b| {
            let filter = depthwise(expanded, kernel, stride);
            let mut x = expand_and_filter(b, channels, filter, tensorflow_norm, activation, input);
            if squeezes {
                let name = b.next_name();
                let widths = [expanded, round_channels(expanded as f64 / 4.0, 8)];
                x = squeeze_excitation(b, &name, widths, ReLU, Hardsigmoid, x);
            }
            let name = b.next_name();
            conv_norm_activation(b, &name, Conv2d::new(expanded, out, 1), tensorflow_norm, None, x)
        });
        let residual = stride == 1 && channels == out;
        if residual { b.function(Op::Add, &[x, input]) } else { x }
    })
}
