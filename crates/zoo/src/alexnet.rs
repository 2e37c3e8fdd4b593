//! AlexNet, the one-tower variant of Krizhevsky 2014 (arXiv 1404.5997); `torchvision/models/alexnet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Graph, Linear, Op, Pool};

pub(crate) fn alexnet() -> Graph {
    let (mut b, x) = Builder::new("AlexNet", 3, 224);
    let x = b.sequential("features", |b| {
        let x = b.layer("0", Conv2d::new(3, 64, 11).stride(4).padding(2), x);
        let x = b.layer("1", ReLU.inplace(), x);
        let x = b.layer("2", Op::MaxPool2d(Pool::new(3, 2)), x);
        let x = b.layer("3", Conv2d::new(64, 192, 5).padding(2), x);
        let x = b.layer("4", ReLU.inplace(), x);
        let x = b.layer("5", Op::MaxPool2d(Pool::new(3, 2)), x);
        let x = b.layer("6", Conv2d::new(192, 384, 3).padding(1), x);
        let x = b.layer("7", ReLU.inplace(), x);
        let x = b.layer("8", Conv2d::new(384, 256, 3).padding(1), x);
        let x = b.layer("9", ReLU.inplace(), x);
        let x = b.layer("10", Conv2d::new(256, 256, 3).padding(1), x);
        let x = b.layer("11", ReLU.inplace(), x);
        b.layer("12", Op::MaxPool2d(Pool::new(3, 2)), x)
    });
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [6, 6], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::dropout(0.5), x);
        let x = b.layer("1", Linear::new(256 * 6 * 6, 4096), x);
        let x = b.layer("2", ReLU.inplace(), x);
        let x = b.layer("3", Op::dropout(0.5), x);
        let x = b.layer("4", Linear::new(4096, 4096), x);
        let x = b.layer("5", ReLU.inplace(), x);
        b.layer("6", Linear::new(4096, 1000), x)
    });
    b.finish(x)
}
