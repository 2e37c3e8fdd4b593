//! Inception v3 (Szegedy et al. 2015, arXiv 1512.00567); `torchvision/models/inception.py`.

use engraft_graph::{Builder, Conv2d, Graph, Linear, NodeId, Op, Pool};

use self::Step::{AvgPool, Conv, Fork, Halve, MaxPool};
use crate::blocks::basic_conv;

/// One step of a branch of an inception module. Convolutions keep the size but for `Halve`.
enum Step {
    /// Output channels, kernel `[height, width]`.
    Conv(&'static str, usize, [usize; 2]),
    /// 3x3, two pixels at a time, not padded. Output channels.
    Halve(&'static str, usize),
    /// 1x3 and 3x1 side by side, called `a` and `b`. Output channels of each.
    Fork(&'static str, usize),
    /// 3x3 means.
    AvgPool,
    /// 3x3 maxima, two pixels at a time.
    MaxPool,
}

/// With the auxiliary head, and without torchvision's `transform_input`, which is the matter of the weights: see [`TRANSFORM_INPUT`](crate::TRANSFORM_INPUT).
pub(crate) fn inception_v3() -> Graph {
    let (mut builder, x) = Builder::new("Inception3", 3, 299);
    let b = &mut builder;
    let x = basic_conv(b, "Conv2d_1a_3x3", Conv2d::new(3, 32, 3).stride(2), x);
    let x = basic_conv(b, "Conv2d_2a_3x3", Conv2d::new(32, 32, 3), x);
    let x = basic_conv(b, "Conv2d_2b_3x3", Conv2d::new(32, 64, 3).padding(1), x);
    let x = b.layer("maxpool1", Op::MaxPool2d(Pool::new(3, 2)), x);
    let x = basic_conv(b, "Conv2d_3b_1x1", Conv2d::new(64, 80, 1), x);
    let x = basic_conv(b, "Conv2d_4a_3x3", Conv2d::new(80, 192, 3), x);
    let x = b.layer("maxpool2", Op::MaxPool2d(Pool::new(3, 2)), x);
    let x = inception_a(b, "Mixed_5b", 192, 32, x);
    let x = inception_a(b, "Mixed_5c", 256, 64, x);
    let x = inception_a(b, "Mixed_5d", 288, 64, x);
    let x = inception_b(b, "Mixed_6a", 288, x);
    let x = inception_c(b, "Mixed_6b", 768, 128, x);
    let x = inception_c(b, "Mixed_6c", 768, 160, x);
    let x = inception_c(b, "Mixed_6d", 768, 160, x);
    let x = inception_c(b, "Mixed_6e", 768, 192, x);
    let logits = auxiliary_head(b, "AuxLogits", 768, x);
    b.auxiliary(logits);
    let x = inception_d(b, "Mixed_7a", 768, x);
    let x = inception_e(b, "Mixed_7b", 1280, x);
    let x = inception_e(b, "Mixed_7c", 2048, x);
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.layer("dropout", Op::dropout(0.5), x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(2048, 1000), x);
    builder.finish(x)
}

fn inception_a(b: &mut Builder, name: &str, channels: usize, pooled: usize, x: NodeId) -> NodeId {
    let branches: [&[Step]; 4] = [
        &[Conv("branch1x1", 64, [1, 1])],
        &[Conv("branch5x5_1", 48, [1, 1]), Conv("branch5x5_2", 64, [5, 5])],
        &[
            Conv("branch3x3dbl_1", 64, [1, 1]),
            Conv("branch3x3dbl_2", 96, [3, 3]),
            Conv("branch3x3dbl_3", 96, [3, 3]),
        ],
        &[AvgPool, Conv("branch_pool", pooled, [1, 1])],
    ];
    b.module(name, "InceptionA", |b| join(b, channels, &branches, x))
}

fn inception_b(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    let branches: [&[Step]; 3] = [
        &[Halve("branch3x3", 384)],
        &[
            Conv("branch3x3dbl_1", 64, [1, 1]),
            Conv("branch3x3dbl_2", 96, [3, 3]),
            Halve("branch3x3dbl_3", 96),
        ],
        &[MaxPool],
    ];
    b.module(name, "InceptionB", |b| join(b, channels, &branches, x))
}

fn inception_c(b: &mut Builder, name: &str, channels: usize, width: usize, x: NodeId) -> NodeId {
    let branches: [&[Step]; 4] = [
        &[Conv("branch1x1", 192, [1, 1])],
        &[
            Conv("branch7x7_1", width, [1, 1]),
            Conv("branch7x7_2", width, [1, 7]),
            Conv("branch7x7_3", 192, [7, 1]),
        ],
        &[
            Conv("branch7x7dbl_1", width, [1, 1]),
            Conv("branch7x7dbl_2", width, [7, 1]),
            Conv("branch7x7dbl_3", width, [1, 7]),
            Conv("branch7x7dbl_4", width, [7, 1]),
            Conv("branch7x7dbl_5", 192, [1, 7]),
        ],
        &[AvgPool, Conv("branch_pool", 192, [1, 1])],
    ];
    b.module(name, "InceptionC", |b| join(b, channels, &branches, x))
}

fn inception_d(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    let branches: [&[Step]; 3] = [
        &[Conv("branch3x3_1", 192, [1, 1]), Halve("branch3x3_2", 320)],
        &[
            Conv("branch7x7x3_1", 192, [1, 1]),
            Conv("branch7x7x3_2", 192, [1, 7]),
            Conv("branch7x7x3_3", 192, [7, 1]),
            Halve("branch7x7x3_4", 192),
        ],
        &[MaxPool],
    ];
    b.module(name, "InceptionD", |b| join(b, channels, &branches, x))
}

fn inception_e(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    let branches: [&[Step]; 4] = [
        &[Conv("branch1x1", 320, [1, 1])],
        &[Conv("branch3x3_1", 384, [1, 1]), Fork("branch3x3_2", 384)],
        &[
            Conv("branch3x3dbl_1", 448, [1, 1]),
            Conv("branch3x3dbl_2", 384, [3, 3]),
            Fork("branch3x3dbl_3", 384),
        ],
        &[AvgPool, Conv("branch_pool", 192, [1, 1])],
    ];
    b.module(name, "InceptionE", |b| join(b, channels, &branches, x))
}

/// The channels of all branches.
fn join(b: &mut Builder, channels: usize, branches: &[&[Step]], x: NodeId) -> NodeId {
    let outputs: Vec<NodeId> = branches.iter().map(|steps| branch(b, channels, steps, x)).collect();
    b.function(Op::Concat { axis: 1 }, &outputs)
}

fn branch(b: &mut Builder, mut channels: usize, steps: &[Step], mut x: NodeId) -> NodeId {
    let keeping_size = |channels, out, [height, width]: [usize; 2]| Conv2d {
        kernel: [height, width],
        padding: [height / 2, width / 2],
        ..Conv2d::new(channels, out, 1)
    };
    for step in steps {
        x = match *step {
            Conv(name, out, kernel) => basic_conv(b, name, keeping_size(channels, out, kernel), x),
            Halve(name, out) => basic_conv(b, name, Conv2d::new(channels, out, 3).stride(2), x),
            Fork(name, out) => {
                let wide = basic_conv(b, &format!("{name}a"), keeping_size(channels, out, [1, 3]), x);
                let high = basic_conv(b, &format!("{name}b"), keeping_size(channels, out, [3, 1]), x);
                b.function(Op::Concat { axis: 1 }, &[wide, high])
            }
            AvgPool => {
                let window = Pool::new(3, 1).padding(1);
                b.function(Op::AvgPool2d { window, count_include_pad: true }, &[x])
            }
            MaxPool => b.function(Op::MaxPool2d(Pool::new(3, 2)), &[x]),
        };
        if let Conv(_, out, _) | Halve(_, out) = *step {
            channels = out;
        }
    }
    x
}

fn auxiliary_head(b: &mut Builder, name: &str, channels: usize, x: NodeId) -> NodeId {
    b.module(name, "InceptionAux", |b| {
        let x = b.function(Op::AvgPool2d { window: Pool::new(5, 3), count_include_pad: true }, &[x]);
        let x = basic_conv(b, "conv0", Conv2d::new(channels, 128, 1), x);
        let x = basic_conv(b, "conv1", Conv2d::new(128, 768, 5), x);
        let x = b.function(Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, &[x]);
        let x = b.function(Op::Flatten { start: 1 }, &[x]);
        b.layer("fc", Linear::new(768, 1000), x)
    })
}
