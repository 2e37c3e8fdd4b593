//! VGG (Simonyan and Zisserman 2014, arXiv 1409.1556), with and without batch norm; `torchvision/models/vgg.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, Op, Pool};

/// Convolutions in each of the five stages.
pub(crate) const VGG11: [usize; 5] = [1, 1, 2, 2, 2];
pub(crate) const VGG13: [usize; 5] = [2, 2, 2, 2, 2];
pub(crate) const VGG16: [usize; 5] = [2, 2, 3, 3, 3];
pub(crate) const VGG19: [usize; 5] = [2, 2, 4, 4, 4];

const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

pub(crate) fn vgg(stages: [usize; 5], batch_norm: bool) -> Graph {
    let (mut b, x) = Builder::new("VGG", 3, 224);
    let x = b.sequential("features", |b| {
        let mut x = x;
        let mut channels = 3;
        let mut layer = |op: Op, x| b.layer(&b.next_name(), op, x);
        for (convolutions, width) in stages.into_iter().zip(WIDTHS) {
            for _ in 0..convolutions {
                x = layer(Conv2d::new(channels, width, 3).padding(1).into(), x);
                if batch_norm {
                    x = layer(BatchNorm2d::new(width).into(), x);
                }
                x = layer(ReLU.inplace(), x);
                channels = width;
            }
            x = layer(Op::MaxPool2d(Pool::new(2, 2)), x);
        }
        x
    });
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [7, 7], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Linear::new(512 * 7 * 7, 4096), x);
        let x = b.layer("1", ReLU.inplace(), x);
        let x = b.layer("2", Op::dropout(0.5), x);
        let x = b.layer("3", Linear::new(4096, 4096), x);
        let x = b.layer("4", ReLU.inplace(), x);
        let x = b.layer("5", Op::dropout(0.5), x);
        b.layer("6", Linear::new(4096, 1000), x)
    });
    b.finish(x)
}
