//! SqueezeNet (Iandola et al. 2016, arXiv 1602.07360); `torchvision/models/squeezenet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{Builder, Conv2d, Graph, NodeId, Op, Pool};

/// What differs between the two versions.
pub(crate) struct Version {
    stem: Conv2d,
    /// Numbers of fire modules between the max pools.
    stages: [usize; 3],
}

pub(crate) fn version_1_0() -> Version {
    Version { stem: Conv2d::new(3, 96, 7).stride(2), stages: [3, 4, 1] }
}

pub(crate) fn version_1_1() -> Version {
    Version { stem: Conv2d::new(3, 64, 3).stride(2), stages: [2, 2, 4] }
}

/// Squeezed channels and those of each of the two expansions, one fire module a row.
const FIRES: [[usize; 2]; 8] =
    [[16, 64], [16, 64], [32, 128], [32, 128], [48, 192], [48, 192], [64, 256], [64, 256]];

pub(crate) fn squeezenet(version: Version) -> Graph {
    let (mut b, x) = Builder::new("SqueezeNet", 3, 224);
    let x = b.sequential("features", |b| {
        let mut channels = version.stem.out_channels;
        let mut x = b.layer("0", version.stem, x);
        x = b.layer("1", ReLU.inplace(), x);
        let mut fires = FIRES.into_iter();
        let mut index = 2;
        for stage in version.stages {
            x = b.layer(&index.to_string(), Op::MaxPool2d(Pool::new(3, 2).ceil_mode()), x);
            for [squeeze, expand] in fires.by_ref().take(stage) {
                index += 1;
                x = fire(b, &index.to_string(), [channels, squeeze, expand], x);
                channels = 2 * expand;
            }
            index += 1;
        }
        x
    });
    let x = b.sequential("classifier", |b| {
        let x = b.layer("0", Op::dropout(0.5), x);
        let x = b.layer("1", Conv2d::new(512, 1000, 1), x);
        let x = b.layer("2", ReLU.inplace(), x);
        b.layer("3", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x)
    });
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    b.finish(x)
}

fn fire(b: &mut Builder, name: &str, [channels, squeeze, expand]: [usize; 3], x: NodeId) -> NodeId {
    b.module(name, "Fire", |b| {
        let x = b.layer("squeeze", Conv2d::new(channels, squeeze, 1), x);
        let x = b.layer("squeeze_activation", ReLU.inplace(), x);
        let small = b.layer("expand1x1", Conv2d::new(squeeze, expand, 1), x);
        let small = b.layer("expand1x1_activation", ReLU.inplace(), small);
        let large = b.layer("expand3x3", Conv2d::new(squeeze, expand, 3).padding(1), x);
        let large = b.layer("expand3x3_activation", ReLU.inplace(), large);
        b.function(Op::Concat { axis: 1 }, &[small, large])
    })
}
