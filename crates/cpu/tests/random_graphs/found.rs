//! The smallest networks of those that once failed.

use engraft_graph::*;

use crate::case::Case;
use crate::judge::{Judge, Verdict};

/// Compares with Burn, batch after batch on one network.
fn check(graph: &Graph, batches: &[usize]) {
    check_case(&Case::of(graph, batches));
}

/// Compares with Burn, an image of the size that the network is designed for and one of another.
fn check_sizes(graph: &Graph, other: &[usize]) {
    let mut case = Case::of(graph, &[2]);
    case.inputs.push([&[2], other].concat());
    check_case(&case);
}

fn check_case(case: &Case) {
    assert_eq!(Judge::new().verdict(case), Verdict::Agrees, "\n{case}");
}

/// The input, and what is made of it.
fn network(input: &[usize], build: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Graph {
    let (mut b, x) = Builder::with_input("Found", input);
    let output = build(&mut b, x);
    b.finish(output)
}

/// Calls a layer with its input, and again with its output.
fn twice(input: &[usize], layer: impl Into<Op>) {
    let layer = layer.into();
    let graph = network(input, |b, x| {
        let y = b.layer("layer", layer.clone(), x);
        b.layer("layer", layer, y)
    });
    check(&graph, &[2]);
}

#[test]
fn a_layer_that_is_called_twice() {
    twice(&[2, 3, 3], BatchNorm2d::new(2));
    twice(&[2, 3, 3], Conv2d::new(2, 2, 1));
    twice(&[2, 3, 3], Conv2d::new(2, 2, 3).padding(1));
    twice(&[2, 3, 3], Conv2d::new(2, 2, 3).padding(1).groups(2));
    twice(&[16, 3, 3], Conv2d::new(16, 16, 3).padding(1));
    twice(&[2], Linear::new(2, 2));
    twice(&[3, 2], Op::LayerNorm { features: 2, eps: 1e-5 });
    twice(&[2, 3, 3], Op::LayerNorm2d { features: 2, eps: 1e-5 });
}

/// One number for each image is no scale of its channels.
#[test]
fn a_gate_of_one_channel() {
    let graph = network(&[2, 1, 1], |b, x| {
        let x = b.layer("conv1", Conv2d::new(2, 2, 1), x);
        let gate = b.layer("gate", Conv2d::new(2, 1, 1), x);
        let x = b.function(Op::Mul, &[gate, x]);
        b.layer("conv2", Conv2d::new(2, 1, 1), x)
    });
    check(&graph, &[1]);
}

/// A 1x1 convolution of one channel is a product, which computes no means.
#[test]
fn the_mean_of_one_channel() {
    let graph = network(&[1, 1, 1], |b, x| {
        let x = b.layer("conv", Conv2d::new(1, 1, 1), x);
        b.function(Op::global_average_pool(), &[x])
    });
    check(&graph, &[1]);
}

#[test]
fn more_padding_than_a_tile_has_border() {
    for padding in [[3, 1], [0, 3], [5, 5]] {
        let conv = Conv2d { padding, ..Conv2d::new(16, 16, 3) };
        check(&network(&[16, 3, 1], |b, x| b.layer("conv", conv, x)), &[1]);
    }
}

/// What has one example always is no batch of one.
#[test]
fn a_batch_of_one_before_others() {
    let batches = [1, 2];
    let graph = network(&[1, 1, 1], |b, x| {
        let parameter = b.parameter("p", &[1, 1, 1, 1, 1]);
        b.function(Op::Add, &[x, parameter])
    });
    check(&graph, &batches);
    let graph = network(&[1, 2, 1], |b, x| {
        let parameter = b.parameter("p", &[1, 1, 1, 1]);
        let x = b.function(Op::Mul, &[parameter, x]);
        b.layer("conv", Conv2d::new(1, 1, 1), x)
    });
    check(&graph, &batches);
    let graph = network(&[2, 1, 1], |b, x| {
        let x = b.layer("conv", Conv2d::new(2, 2, 1), x);
        let parameter = b.parameter("p", &[1, 2, 1, 1]);
        b.function(Op::Add, &[x, parameter])
    });
    check(&graph, &batches);
    let of_parameter: [Op; 5] = [
        Op::Softmax { axis: 2 },
        Activation::ReLU.into(),
        Op::Concat { axis: 1 },
        Op::Roll { shifts: vec![-6], axes: vec![1] },
        BatchNorm2d::new(2).into(),
    ];
    for op in of_parameter {
        let graph = network(&[1, 1, 1], |b, x| {
            let y = b.parameter("p", &[1, 2, 2, 1]);
            let y = match op.tensors().is_empty() {
                true => b.function(op, &[y]),
                false => b.layer("layer", op, y),
            };
            b.function(Op::ExpandBatch, &[y, x])
        });
        check(&graph, &batches);
    }
}

#[test]
fn a_parameter_that_is_as_long_as_the_batch() {
    let graph = network(&[1, 1], |b, x| {
        let parameter = b.parameter("p", &[8, 1]);
        let mean = b.function(Op::Mean { axes: vec![1] }, &[parameter]);
        b.function(Op::Add, &[x, mean])
    });
    check(&graph, &[8, 1]);
}

/// Broadcasting compares axes from the last on: the batch of a value that has fewer axes meets another axis.
#[test]
fn the_batch_on_another_axis() {
    let with_fewer = [
        Op::Flatten { start: 1 },
        Op::Mean { axes: vec![1, 2, 3] },
        Op::Reshape { shape: vec![Dim::Keep(0), Dim::Keep(1), Dim::Keep(2), Dim::Keep(3), Dim::Keep(3)] },
    ];
    for op in with_fewer {
        let graph = network(&[1, 1, 1], |b, x| {
            let y = b.function(op, &[x]);
            b.function(Op::Add, &[y, x])
        });
        check(&graph, &[3, 19]);
    }
}

/// Such a part of an image that lies channels last has gaps between its values.
#[test]
fn a_part_of_one_channel_in_a_concatenation() {
    let window = Some(Windows { side: 1, shift: 0 });
    let attention = Attention {
        dim: 2,
        heads: 1,
        names: ProjectionNames::Torch,
        scores: Scores::Cosine,
        position: PositionBias::None,
        windows: window,
    };
    let graph = network(&[1, 1, 2], |b, x| {
        let y = b.attention("attention", "Attention", attention, x);
        b.function(Op::Concat { axis: 1 }, &[y, y])
    });
    check(&graph, &[1]);
    let layers: [Op; 2] = [Activation::ReLU.into(), Op::LayerNorm { features: 2, eps: 1e-5 }];
    for op in layers {
        let graph = network(&[1, 1, 2], |b, x| {
            let y = match op.tensors().is_empty() {
                true => b.function(op, &[x]),
                false => b.layer("layer", op, x),
            };
            b.function(Op::Concat { axis: 1 }, &[y, x])
        });
        check(&graph, &[1]);
    }
    let graph = network(&[1, 1, 1], |b, x| {
        let x = b.layer("conv", Conv2d { padding: [1, 0], kernel: [3, 1], ..Conv2d::new(1, 2, 1) }, x);
        let x = b.function(Op::Permute { axes: vec![3, 0, 2, 1] }, &[x]);
        b.function(Op::Concat { axis: 1 }, &[x])
    });
    check(&graph, &[2]);
}

/// Two values have one shape while the image is one pixel.
#[test]
fn a_larger_image_after_a_pixel() {
    let graph = network(&[2, 1, 1], |b, x| {
        let x = b.function(Op::Add, &[x, x]);
        let mean = b.function(Op::global_average_pool(), &[x]);
        let y = b.layer("conv", Conv2d::new(2, 2, 1), x);
        b.function(Op::Add, &[y, mean])
    });
    check_sizes(&graph, &[2, 2, 1]);

    // And one looks like a scale of the other's channels.
    let graph = network(&[1, 1, 1], |b, x| {
        let y = b.function(Op::AdaptiveAvgPool2d { output: [2, 1], square: false }, &[x]);
        let y = b.function(Op::Mul, &[y, x]);
        b.layer("conv", Conv2d::new(1, 1, 1), y)
    });
    check_sizes(&graph, &[1, 1, 2]);
}

/// No weight fixes the channels.
#[test]
fn as_many_values_in_other_channels() {
    let graph = network(&[2, 3, 4], |b, x| {
        let x = b.function(Op::Flatten { start: 1 }, &[x]);
        b.layer("linear", Linear::new(24, 5), x)
    });
    check_sizes(&graph, &[6, 1, 4]);
}
