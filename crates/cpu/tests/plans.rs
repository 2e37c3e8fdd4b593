//! What a plan does to a network, and that it stays the same whatever the threads, the batch and where values lie.

use engraft_burn::BurnEngine;
use engraft_cpu::CpuEngine;
use engraft_engine::Engine;
use engraft_engine::suite::fixture::relative_difference;
use engraft_engine::suite::formula;
use engraft_graph::Activation::GELU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, Op, Pool};

fn engine(threads: usize) -> CpuEngine {
    CpuEngine::new(threads)
}

/// Compares with Burn.
fn check(graph: &Graph, batch: usize) {
    let state = formula::state(graph, formula::NORM);
    let input = formula::inputs("x", &[&[batch], graph.input()].concat());
    let [ours, burn] = [
        engine(2).network(graph, state.clone()).unwrap().forward(&input).unwrap(),
        BurnEngine::cpu().network(graph, state).unwrap().forward(&input).unwrap(),
    ];
    assert_eq!(ours.shape, burn.shape);
    let difference = relative_difference(ours.as_f32().unwrap(), burn.as_f32().unwrap());
    assert!(difference < 1e-5, "{difference:e}");
}

/// A part of an image lies in no rows.
#[test]
fn a_function_of_a_part_of_an_image() {
    for axis in 1..4 {
        let (mut b, x) = Builder::new("Net", 4, 8);
        let x = b.layer("conv", Conv2d::new(4, 8, 3).padding(1), x);
        let x = b.function(Op::Chunk { axis, index: 1, parts: 2 }, &[x]);
        let x = b.layer("gelu", GELU, x);
        check(&b.finish(x), 3);
    }
}

/// A convolution that reads the very concatenation that its output belongs to.
#[test]
fn a_concatenation_of_values_that_lie_elsewhere() {
    let (mut b, x) = Builder::new("Net", 4, 6);
    let left = b.layer("left", Conv2d::new(4, 16, 1), x);
    let right = b.layer("right", Conv2d::new(16, 16, 3).padding(1), left);
    let half = b.function(Op::Chunk { axis: 1, index: 0, parts: 2 }, &[right]);
    let x = b.function(Op::Concat { axis: 1 }, &[left, right, half, x]);
    let x = b.layer("out", Conv2d::new(44, 7, 1), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("fc", Linear::new(7 * 36, 5), x);
    check(&b.finish(x), 2);
}

/// Large images go through the first steps one by one, small ones together.
#[test]
fn images_alone_and_among_others() {
    let (mut b, x) = Builder::new("Net", 3, 160);
    let x = b.layer("conv1", Conv2d::new(3, 24, 3).padding(1), x);
    let x = b.layer("conv2", Conv2d::new(24, 24, 3).padding(1).groups(24), x);
    let x = b.layer("conv3", Conv2d::new(24, 40, 3).stride(2), x);
    let x = b.layer("conv4", Conv2d::new(40, 40, 3).padding(1), x);
    let x = b.layer("conv5", Conv2d::new(40, 12, 5).stride(4), x);
    let x = b.layer("pool", Op::global_average_pool(), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let graph = b.finish(x);
    check(&graph, 5);
    let state = formula::state(&graph, formula::NORM);
    let all = formula::inputs("x", &[19, 3, 160, 160]);
    let mut network = engine(2).network(&graph, state.clone()).unwrap();
    let together = network.forward(&all).unwrap();
    let other_threads = engine(3).network(&graph, state).unwrap().forward(&all).unwrap();
    assert!(together == other_threads, "the number of threads changes bits");
    let image = 3 * 160 * 160;
    for i in [0, 7, 16, 18] {
        let values = all.as_f32().unwrap()[i * image..(i + 1) * image].to_vec();
        let alone = network.forward(&engraft_tensor::Tensor::f32([1, 3, 160, 160], values)).unwrap();
        let difference =
            relative_difference(alone.as_f32().unwrap(), &together.as_f32().unwrap()[12 * i..12 * (i + 1)]);
        assert!(difference < 1e-6, "image {i}: {difference:e}");
    }
}

/// Rows of 1024 values have gaps between them in memory.
#[test]
fn channels_that_fill_a_place_of_the_cache() {
    let (mut b, x) = Builder::new("Net", 4, 5);
    let x = b.layer("wide", Conv2d::new(4, 1024, 1), x);
    let y = b.layer("depthwise", Conv2d::new(1024, 1024, 3).padding(1).groups(1024), x);
    let x = b.layer("wide2", Conv2d::new(1024, 1024, 1), y);
    let x = b.function(Op::Add, &[x, y]);
    let halves: Vec<_> =
        (0..2).map(|index| b.function(Op::Chunk { axis: 1, index, parts: 2 }, &[x])).collect();
    let x = b.function(Op::Concat { axis: 1 }, &halves);
    let x = b.layer("narrow", Conv2d::new(1024, 1024, 3).stride(2), x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("fc", Linear::new(1024 * 4, 1024), x);
    let x = b.layer("gelu", GELU, x);
    let x = b.layer("fc2", Linear::new(1024, 2048), x);
    check(&b.finish(x), 3);
}

/// An expansion is computed by the depthwise convolution that reads it, unless another operation reads it, too.
#[test]
fn an_expansion_is_a_part_of_a_step_if_nobody_else_reads_it() {
    let graph = |also_read: bool| {
        let (mut b, x) = Builder::new("Net", 6, 9);
        let wide = b.layer("expand", Conv2d::new(6, 40, 1), x);
        let wide = b.layer("gelu", GELU, wide);
        let x = b.layer("depthwise", Conv2d::new(40, 40, 3).stride(2).padding(1).groups(40), wide);
        let x = b.layer("project", Conv2d::new(40, 8, 1), x);
        let other = b.layer("other", Conv2d::new(40, 8, 1).stride(2), wide);
        let output = if also_read { b.function(Op::Add, &[x, other]) } else { x };
        b.finish(output)
    };
    let steps = |also_read| {
        let graph = graph(also_read);
        check(&graph, 2);
        let mut network = engine(1).compile(&graph, formula::state(&graph, formula::NORM)).unwrap();
        network.describe(&[2, 6, 9, 9]).unwrap().steps.len()
    };
    // Input, the two at once, projection; or input, one after the other, projection, the other convolution.
    assert_eq!([steps(false), steps(true)], [3, 5]);
}

/// What lies between an expansion and a depthwise convolution, or before it, is not forgotten.
#[test]
fn an_expansion_with_something_between_is_a_step_of_its_own() {
    let (mut b, x) = Builder::new("Net", 3, 6);
    let x = b.layer("wide", Conv2d::new(3, 6, 1), x);
    let x = b.function(Op::Permute { axes: vec![0, 3, 1, 2] }, &[x]);
    let x = b.layer("depthwise", Conv2d::new(6, 6, 3).padding(1).groups(6), x);
    check(&b.finish(x), 2);

    // A 1x1 convolution of one channel is a product, and depthwise.
    let (mut b, x) = Builder::new("Net", 3, 6);
    let x = b.layer("first", Conv2d::new(3, 1, 1), x);
    let x = b.layer("second", Conv2d::new(1, 1, 1), x);
    let x = b.layer("third", Conv2d::new(1, 1, 3).padding(1), x);
    check(&b.finish(x), 2);

    let (mut b, x) = Builder::new("Net", 3, 6);
    let x = b.layer("first", Conv2d::new(3, 1, 1), x);
    let x = b.layer("norm", BatchNorm2d::new(1), x);
    let x = b.layer("gelu", GELU, x);
    let y = b.layer("norm2", BatchNorm2d::new(1), x);
    let y = b.layer("gelu2", GELU, y);
    let y = b.layer("second", Conv2d::new(1, 1, 1), y);
    check(&b.finish(y), 2);
}

/// Rows of one value, with a residual.
#[test]
fn a_single_channel() {
    let (mut b, x) = Builder::new("Net", 3, 6);
    let x = b.layer("first", Conv2d::new(3, 1, 1), x);
    let y = b.layer("second", Conv2d::new(1, 1, 1), x);
    let x = b.function(Op::Add, &[y, x]);
    let y = b.layer("third", Conv2d::new(1, 1, 3).padding(1), x);
    let x = b.function(Op::Add, &[y, x]);
    let x = b.function(Op::Permute { axes: vec![0, 2, 3, 1] }, &[x]);
    let y = b.layer("features", Linear::new(1, 1), x);
    let x = b.function(Op::Add, &[y, x]);
    check(&b.finish(x), 2);
}

/// Batch norm, activation and residual have no steps of their own.
#[test]
fn a_residual_network_is_products_and_convolutions() {
    let graph = engraft_zoo::architecture("resnet18").unwrap();
    let mut network = engine(1).compile(&graph, formula::state(&graph, formula::NORM)).unwrap();
    let profile = network.describe(&[2, 3, 224, 224]).unwrap();
    // Input, 20 convolutions, two pools, the head.
    assert_eq!(profile.steps.len(), 24);
    assert_eq!(profile.steps.iter().filter(|step| step.kernel.starts_with("winograd")).count(), 13);
    assert!(profile.to_string().contains("layer1.0.conv2"));
    assert!(profile.weight_bytes > 46_000_000);
}

/// Where few images go through a depthwise convolution and more through what reads its means, these are the images' own.
#[test]
fn means_go_to_the_image_that_they_are_of() {
    check(&engraft_zoo::architecture("mobilenet_v3_small").unwrap(), 8);
}

/// What holds for the images that a network was designed for need not hold for others that it takes.
#[test]
fn images_of_other_shapes() {
    let forward = |graph: &Graph, image: &[usize]| {
        let state = formula::state(graph, formula::NORM);
        let mut ours = engine(2).network(graph, state.clone()).unwrap();
        let mut burn = BurnEngine::cpu().network(graph, state).unwrap();
        for shape in [graph.input(), image] {
            let input = formula::inputs("x", &[&[2], shape].concat());
            let [ours, burn] = [ours.forward(&input).unwrap(), burn.forward(&input).unwrap()];
            assert_eq!(ours.shape, burn.shape);
            let difference = relative_difference(ours.as_f32().unwrap(), burn.as_f32().unwrap());
            assert!(difference < 1e-5, "{shape:?}: {difference:e}");
        }
    };
    // A residual of one pixel is one for all in a larger image.
    let (mut b, x) = Builder::with_input("Net", &[2, 1, 1]);
    let mean = b.layer("pool", Op::global_average_pool(), x);
    let y = b.layer("conv", Conv2d::new(2, 2, 1), x);
    let x = b.function(Op::Add, &[y, mean]);
    forward(&b.finish(x), &[2, 2, 3]);
    // Of an image of three rows, one pool leaves a row and the other two: the sum is larger than what was convolved, or the residual.
    for (kernel, groups) in [(1, 1), (3, 1), (3, 2)] {
        for ceil_first in [false, true] {
            let (mut b, x) = Builder::with_input("Net", &[2, 4, 4]);
            let pooled = |b: &mut Builder, ceil| {
                let window = if ceil { Pool::new(2, 2).ceil_mode() } else { Pool::new(2, 2) };
                b.function(Op::MaxPool2d(window), &[x])
            };
            let (first, second) = (pooled(&mut b, ceil_first), pooled(&mut b, !ceil_first));
            let y = b.layer("conv", Conv2d::new(2, 2, kernel).padding(kernel / 2).groups(groups), first);
            let y = b.function(Op::Add, &[second, y]);
            let y = b.layer("gelu", GELU, y);
            let mean = b.layer("pool", Op::global_average_pool(), y);
            let y = b.function(Op::Mul, &[y, mean]);
            forward(&b.finish(y), &[2, 3, 3]);
        }
    }
    // The weights of a linear layer are packed for images of so many channels.
    let (mut b, x) = Builder::with_input("Net", &[6, 2, 4]);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let x = b.layer("fc", Linear::new(48, 3), x);
    forward(&b.finish(x), &[12, 1, 4]);
}
