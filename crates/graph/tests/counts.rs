//! Multiply-adds against naive loops that do nothing but count, and how they add up in modules. The networks of torchvision are
//! compared with what it documents in the tests of `engraft-zoo`.

use engraft_graph::{
    Activation, Attention, BatchNorm2d, Builder, Conv2d, Cost, Graph, Linear, ModuleCost, Op, PositionBias,
    ProjectionNames, Scores, Windows,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn multiply_adds(op: impl Into<Op>, input: &[usize]) -> u64 {
    let (mut b, x) = Builder::with_input("Net", &input[1..]);
    let x = b.layer("layer", op, x);
    let graph = b.finish(x);
    graph.costs(input).unwrap()[x.0].multiply_adds
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_convolution_multiplies_each_tap_of_each_output(
        [batch, groups, inputs, outputs, kernel, stride, padding] in [1..3usize, 1..4, 1..4, 1..4, 1..4, 1..3, 0..2],
        [height, width] in [4..9usize, 4..9],
    ) {
        let conv = Conv2d::new(groups * inputs, groups * outputs, kernel).stride(stride).padding(padding).groups(groups);
        let mut count = 0;
        for _image in 0..batch {
            for _y in (0..height + 2 * padding - kernel + 1).step_by(stride) {
                for _x in (0..width + 2 * padding - kernel + 1).step_by(stride) {
                    for _channel in 0..groups * outputs {
                        count += (0..inputs).flat_map(|_| 0..kernel * kernel).count() as u64;
                    }
                }
            }
        }
        prop_assert_eq!(multiply_adds(conv, &[batch, groups * inputs, height, width]), count);
    }

    #[test]
    fn attention_is_projections_and_two_products(
        [batch, heads, head, height, width, side] in [1..3usize, 1..4, 1..4, 1..9, 1..9, 1..5],
    ) {
        let dim = heads * head;
        let attention = Attention {
            dim,
            heads,
            names: ProjectionNames::Swin,
            scores: Scores::Product { scale: 1.0 },
            position: PositionBias::None,
            windows: Some(Windows { side, shift: 0 }),
        };
        let mut count = 0;
        for _window in 0..batch * height.div_ceil(side) * width.div_ceil(side) {
            for _token in 0..side * side {
                let projections = 4 * dim * dim;
                let scores: usize = (0..heads).map(|_head| side * side * head).sum();
                count += (projections + 2 * scores) as u64;
            }
        }
        prop_assert_eq!(multiply_adds(attention.clone(), &[batch, height, width, dim]), count);
        // Without windows, all tokens are one.
        let global = Attention { windows: None, names: ProjectionNames::Torch, ..attention };
        let tokens = height * width;
        let count = batch * (tokens * 4 * dim * dim + 2 * tokens * tokens * dim);
        prop_assert_eq!(multiply_adds(global, &[batch, tokens, dim]), count as u64);
    }
}

#[test]
fn a_linear_layer_works_on_each_row() {
    assert_eq!(multiply_adds(Linear::new(20, 30), &[2, 7, 20]), 2 * 7 * 20 * 30);
    assert_eq!(multiply_adds(BatchNorm2d::new(4), &[2, 4, 8, 8]), 0);
}

/// A block that calls its ReLU twice, a head, and a second head that only training uses.
fn network() -> Graph {
    let (mut b, x) = Builder::new("Net", 3, 8);
    let x = b.module("block", "Block", |b| {
        let y = b.layer("conv", Conv2d::new(3, 4, 3).padding(1).no_bias(), x);
        let y = b.layer("relu", Activation::ReLU, y);
        let z = b.layer("bn", BatchNorm2d::new(4), y);
        let z = b.function(Op::Add, &[y, z]);
        b.layer("relu", Activation::ReLU, z)
    });
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let aux = b.layer("aux", Linear::new(256, 10), x);
    b.auxiliary(aux);
    let x = b.layer("dropout", Op::dropout(0.5), x);
    let x = b.layer("fc", Linear::new(256, 10), x);
    b.unused_layer("unused", Op::Identity);
    b.finish(x)
}

#[test]
fn a_module_has_what_is_below_it() {
    let modules = network().module_costs(&[1, 3, 8, 8], |name| name.starts_with("fc.")).unwrap();
    let module = |path: &str| modules.iter().find(|module| module.path == path).unwrap();
    let paths: Vec<&str> = modules.iter().map(|module| module.path.as_str()).collect();
    let printed = ["", "block", "block.conv", "block.relu", "block.bn", "aux", "dropout", "fc", "unused"];
    assert_eq!(paths, printed);

    // Values of one 4 x 8 x 8 output, in bytes.
    let output = 4 * 4 * 8 * 8;
    let conv = Cost { multiply_adds: 4 * 8 * 8 * 3 * 9, activation_bytes: output };
    assert_eq!(module("block.conv").cost, conv);
    assert_eq!(module("block.relu").cost.activation_bytes, 2 * output);
    assert_eq!(module("block").cost, Cost { activation_bytes: 5 * output, ..conv });
    assert_eq!(module("dropout").cost, Cost::default());
    assert_eq!(module("aux").cost, Cost::default(), "it does not run in evaluation mode");
    let total = Cost { multiply_adds: conv.multiply_adds + 2560, activation_bytes: 5 * output + 40 };
    assert_eq!(module("").cost, total);

    let parameters = |path| (module(path).parameters, module(path).trainable);
    assert_eq!(parameters("block"), (108 + 8, 0), "no buffers, which are not learned");
    assert_eq!(parameters("fc"), (2570, 2570));
    assert_eq!(parameters(""), (116 + 2 * 2570, 2570));
}

#[test]
fn a_module_that_computes_nothing_has_no_output() {
    let modules = network().module_costs(&[2, 3, 8, 8], |_| true).unwrap();
    let output = |ModuleCost { path, output, .. }: &ModuleCost| (path.clone(), output.clone());
    let outputs: Vec<_> = modules.iter().map(output).filter(|(path, _)| !path.contains('.')).collect();
    let expected = [
        ("", Some(vec![2, 10])),
        ("block", Some(vec![2, 4, 8, 8])),
        ("aux", Some(vec![2, 10])),
        ("dropout", Some(vec![2, 256])),
        ("fc", Some(vec![2, 10])),
        ("unused", None),
    ];
    assert_eq!(outputs, expected.map(|(path, shape)| (path.to_string(), shape)));
}
