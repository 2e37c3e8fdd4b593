//! Each rewrite by itself: the program is what it says, and computes what the program without it computes.

use engraft_engine::suite::fixture::relative_difference;
use engraft_engine::suite::formula;
use engraft_engine::take_floats;
use engraft_graph::Activation::{GELU, ReLU};
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Dim, Graph, Linear, NodeId, Op};
use engraft_kernels::{Level, Pool};

use super::{Rewrite, apply};
use super::{
    activation, affine, concatenation, constants, expand, factor, flatten, fold, means, permutation,
    residual, scale,
};
use crate::plan::Plan;
use crate::program::Program;
use crate::translate::translate;

/// Applies rewrites to a graph; compares the outputs with those of the graph as it is, and returns how many operations it is then.
fn operations(graph: &Graph, rewrites: &[Rewrite]) -> usize {
    let mut rewritten = translate(graph).unwrap();
    apply(&mut rewritten, rewrites);
    let count = rewritten.operations.len();
    let input = formula::inputs("x", &[&[3], graph.input()].concat());
    let [with, without] = [rewritten, translate(graph).unwrap()].map(|program: Program| {
        let tensors = take_floats(graph, formula::state(graph, formula::NORM)).unwrap();
        let mut plan = Plan::new(Level::detect(), graph, program, tensors).unwrap();
        plan.run(&Pool::new(2), &input).unwrap()
    });
    assert_eq!(with.shape, without.shape);
    let difference = relative_difference(with.as_f32().unwrap(), without.as_f32().unwrap());
    assert!(difference < 1e-5, "{difference:e}");
    count
}

/// Asserts how many operations a graph is before a rewrite, and afterwards.
fn check(graph: &Graph, rewrite: Rewrite, expected: [usize; 2]) {
    assert_eq!([operations(graph, &[]), operations(graph, &[rewrite])], expected);
}

/// A graph of images `[channels, 6, 5]`.
fn graph(channels: usize, build: impl Fn(&mut Builder, NodeId) -> NodeId) -> Graph {
    let (mut b, x) = Builder::with_input("Net", &[channels, 6, 5]);
    let output = build(&mut b, x);
    b.finish(output)
}

#[test]
fn a_batch_norm_goes_into_the_convolution_before_it() {
    let net = |also_read: bool| {
        graph(3, |b, x| {
            let y = b.layer("conv", Conv2d::new(3, 7, 3), x);
            let x = b.layer("norm", BatchNorm2d::new(7), y);
            if also_read { b.function(Op::Add, &[x, y]) } else { x }
        })
    };
    check(&net(false), constants::into_weights, [3, 2]);
    // Somebody needs what is not normalised.
    check(&net(true), constants::into_weights, [4, 4]);
}

#[test]
fn a_factor_for_each_channel_is_constants() {
    let net = |shape: &'static [usize]| {
        graph(4, |b, x| {
            let x = b.layer("conv", Conv2d::new(4, 4, 1), x);
            let factor = b.parameter("scale", shape);
            b.function(Op::Mul, &[factor, x])
        })
    };
    for shape in [&[4, 1, 1][..], &[1, 4, 1, 1]] {
        check(&net(shape), factor::as_constants, [4, 3]);
    }
    // One for all, and one for each row or pixel, are not.
    for shape in [&[1][..], &[5], &[6, 1], &[6, 5], &[4, 6, 5]] {
        check(&net(shape), factor::as_constants, [4, 4]);
    }
}

#[test]
fn what_is_done_to_a_permuted_product_is_done_before() {
    let net = graph(4, |b, image| {
        let x = b.function(Op::Permute { axes: vec![0, 2, 3, 1] }, &[image]);
        let x = b.layer("linear", Linear::new(4, 4), x);
        let x = b.function(Op::Permute { axes: vec![0, 3, 1, 2] }, &[x]);
        let x = b.function(Op::Add, &[image, x]);
        b.layer("relu", ReLU, x)
    });
    // One more to see the other summand permuted; then all goes into the product.
    check(&net, permutation::behind, [6, 7]);
    let together: &[Rewrite] = &[permutation::behind, residual::into_end, activation::into_end];
    assert_eq!(operations(&net, together), 5);
}

#[test]
fn a_sum_goes_into_the_later_product() {
    let net = |broadcast: bool| {
        graph(3, |b, x| {
            let y = b.layer("first", Conv2d::new(3, 8, 3).padding(1), x);
            let z = b.layer("second", Conv2d::new(3, if broadcast { 1 } else { 8 }, 1), x);
            b.function(Op::Add, &[z, y])
        })
    };
    check(&net(false), residual::into_end, [4, 3]);
    check(&net(true), residual::into_end, [4, 4]);
    // Twice the same value is no residual of itself.
    let twice = graph(3, |b, x| {
        let y = b.layer("conv", Conv2d::new(3, 8, 3), x);
        b.function(Op::Add, &[y, y])
    });
    check(&twice, residual::into_end, [3, 3]);
}

#[test]
fn an_activation_is_the_last_step() {
    let net = graph(3, |b, x| {
        let x = b.layer("conv", Conv2d::new(3, 8, 3), x);
        let x = b.layer("gelu", GELU, x);
        b.layer("relu", ReLU, x)
    });
    check(&net, activation::into_end, [4, 3]);
}

#[test]
fn a_batch_norm_goes_into_the_convolution_behind_it() {
    let net = |padding: usize| {
        graph(3, |b, x| {
            let x = b.layer("norm", BatchNorm2d::new(3), x);
            b.layer("conv", Conv2d::new(3, 8, 3).padding(padding), x)
        })
    };
    check(&net(0), fold::into_weights, [3, 2]);
    check(&net(1), fold::into_weights, [3, 3]);
}

#[test]
fn a_batch_norm_with_an_activation_comes_before_a_product() {
    let net = graph(20, |b, x| {
        let x = b.layer("norm", BatchNorm2d::new(20), x);
        let x = b.layer("relu", ReLU, x);
        b.layer("conv", Conv2d::new(20, 8, 1), x)
    });
    let together: &[Rewrite] = &[activation::into_end, affine::before_product];
    assert_eq!([operations(&net, &[]), operations(&net, together)], [4, 2]);
}

#[test]
fn a_gate_comes_before_a_product() {
    let net = |axes: usize| {
        graph(20, |b, x| {
            let gate = b.layer("pool", Op::global_average_pool(), x);
            // A gate for each image has another shape.
            let gate = match axes {
                1 => b.layer("all", Conv2d::new(20, 1, 1), gate),
                _ => gate,
            };
            let x = b.function(Op::Mul, &[gate, x]);
            b.layer("conv", Conv2d::new(20, 8, 1), x)
        })
    };
    check(&net(20), scale::before_product, [4, 3]);
    check(&net(1), scale::before_product, [5, 5]);
}

#[test]
fn a_linear_layer_reads_an_image_as_it_lies() {
    let net = |flat: Op| {
        graph(3, move |b, x| {
            let x = b.layer("conv", Conv2d::new(3, 8, 3), x);
            let x = b.layer("flatten", flat.clone(), x);
            b.layer("linear", Linear::new(96, 5), x)
        })
    };
    check(&net(Op::Flatten { start: 1 }), flatten::before_product, [4, 3]);
    check(&net(Op::Reshape { shape: vec![Dim::Keep(0), Dim::Infer] }), flatten::before_product, [4, 3]);
}

#[test]
fn means_are_computed_along_with_a_depthwise_convolution() {
    let net = |pool: Op, groups: usize| {
        graph(8, move |b, x| {
            let x = b.layer("conv", Conv2d::new(8, 8, 3).padding(1).groups(groups), x);
            let means = b.layer("pool", pool.clone(), x);
            b.function(Op::Mul, &[x, means])
        })
    };
    check(&net(Op::global_average_pool(), 8), means::along, [4, 3]);
    check(&net(Op::global_average_pool(), 4), means::along, [4, 4]);
    // A 1x1 convolution of one channel is a product, which computes no means.
    let single = graph(3, |b, x| {
        let x = b.layer("narrow", Conv2d::new(3, 1, 1), x);
        let x = b.layer("conv", Conv2d::new(1, 1, 1), x);
        b.layer("pool", Op::global_average_pool(), x)
    });
    check(&single, means::along, [4, 4]);
}

#[test]
fn an_expansion_is_computed_by_the_depthwise_convolution() {
    let net = |between: bool| {
        graph(3, move |b, x| {
            let x = b.layer("expand", Conv2d::new(3, 24, 1), x);
            let x = if between { b.layer("norm", BatchNorm2d::new(24), x) } else { x };
            b.layer("depthwise", Conv2d::new(24, 24, 3).padding(1).groups(24), x)
        })
    };
    check(&net(false), expand::before_depthwise, [3, 2]);
    check(&net(true), expand::before_depthwise, [4, 4]);
}

#[test]
fn a_concatenation_has_the_shorter_one_in_it() {
    let net = graph(3, |b, x| {
        let y = b.layer("one", Conv2d::new(3, 4, 1), x);
        let both = b.function(Op::Concat { axis: 1 }, &[x, y]);
        let z = b.layer("two", Conv2d::new(7, 4, 1), both);
        b.function(Op::Concat { axis: 1 }, &[x, y, z])
    });
    let inputs = |rewrites: &[Rewrite]| {
        let mut program = translate(&net).unwrap();
        apply(&mut program, rewrites);
        program.operations.last().unwrap().inputs().len()
    };
    assert_eq!([inputs(&[]), inputs(&[concatenation::nested])], [3, 2]);
    check(&net, concatenation::nested, [5, 5]);
}
