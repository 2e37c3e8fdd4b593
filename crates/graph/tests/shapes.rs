//! Output shapes of every operation, against torch's and against naive counts, and the errors where there is none.

use std::fs::File;

use engraft_graph::{
    Activation, Attention, BatchNorm2d, Builder, Conv2d, Dim, Graph, GraphError, Linear, NodeId, Op, Pool,
    PositionBias, ProjectionNames, Resize, ResizeMode, ResizeTo, Scores, Shape, Windows,
};
use flate2::read::GzDecoder;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

/// A network that applies a layer, called `layer`, to inputs of the shapes given.
fn network_of(op: Op, inputs: &[&[usize]]) -> Graph {
    let (mut b, x) = Builder::with_input("Net", &[1]);
    let inputs: Vec<NodeId> = inputs.iter().map(|shape| tensor_of_shape(&mut b, x, shape)).collect();
    let output = match inputs[..] {
        [input] => b.layer("layer", op, input),
        _ => b.module("layer", "Layer", |b| b.function(op, &inputs)),
    };
    b.finish(output)
}

fn tensor_of_shape(b: &mut Builder, input: NodeId, shape: &[usize]) -> NodeId {
    let len = shape.iter().product();
    let x = b.function(Linear::new(1, len), &[input]);
    b.function(Op::Reshape { shape: shape.iter().copied().map(Dim::Fixed).collect() }, &[x])
}

fn output(op: impl Into<Op>, inputs: &[&[usize]]) -> Result<Shape, GraphError> {
    let graph = network_of(op.into(), inputs);
    Ok(graph.shapes(&[1, 1])?.swap_remove(graph.output().0))
}

/// Shapes that torch gave (`parity/engine.py`).
#[test]
fn every_operation_has_torchs_output_shape() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/fixtures/engine/ops.json.gz");
    let cases: Value = serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 110);
    for case in cases {
        let name = &case["name"];
        let op: Op =
            serde_json::from_value(case["op"].clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let inputs: Vec<Shape> = serde_json::from_value(case["inputs"].clone()).unwrap();
        let inputs: Vec<&[usize]> = inputs.iter().map(Vec::as_slice).collect();
        let expected: Shape = serde_json::from_value(case["output"]["shape"].clone()).unwrap();
        assert_eq!(output(op, &inputs), Ok(expected), "{name}");
    }
}

/// The examples that torch's documentation of each module gives.
#[test]
fn the_examples_of_torchs_documentation_hold() {
    let conv = Conv2d {
        kernel: [3, 5],
        stride: [2, 1],
        padding: [4, 2],
        dilation: [3, 1],
        ..Conv2d::new(16, 33, 3)
    };
    assert_eq!(output(Conv2d::new(16, 33, 3).stride(2), &[&[20, 16, 50, 100]]), Ok(vec![20, 33, 24, 49]));
    assert_eq!(output(conv, &[&[20, 16, 50, 100]]), Ok(vec![20, 33, 26, 100]));
    assert_eq!(output(Op::MaxPool2d(Pool::new(3, 2)), &[&[20, 16, 50, 32]]), Ok(vec![20, 16, 24, 15]));
    assert_eq!(output(Linear::new(20, 30), &[&[128, 20]]), Ok(vec![128, 30]));
    assert_eq!(output(BatchNorm2d::new(100), &[&[20, 100, 35, 45]]), Ok(vec![20, 100, 35, 45]));
    assert_eq!(
        output(Op::AdaptiveAvgPool2d { output: [5, 7], square: false }, &[&[1, 64, 8, 9]]),
        Ok(vec![1, 64, 5, 7])
    );
    assert_eq!(output(Op::Flatten { start: 1 }, &[&[32, 1, 5, 5]]), Ok(vec![32, 25]));
    assert_eq!(output(Op::Permute { axes: vec![2, 0, 1] }, &[&[2, 3, 5]]), Ok(vec![5, 2, 3]));
    assert_eq!(output(Op::MatMul, &[&[10, 3, 4], &[10, 4, 5]]), Ok(vec![10, 3, 5]));
}

#[test]
fn shapes_follow_the_input() {
    let (mut b, x) = Builder::new("Net", 3, 32);
    let x = b.layer("conv", Conv2d::new(3, 8, 3).stride(2).padding(1), x);
    let x = b.layer("pool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.layer("flatten", Op::Flatten { start: 1 }, x);
    let graph = b.finish(x);
    assert_eq!(graph.output_shape(), Ok(vec![8]));
    let shapes = graph.shapes(&[7, 3, 50, 41]).unwrap();
    assert_eq!(shapes, [vec![7, 3, 50, 41], vec![7, 8, 25, 21], vec![7, 8, 1, 1], vec![7, 8]]);
}

#[test]
fn errors_name_the_node_both_shapes_and_the_reason() {
    let pool = |kernel, stride| Op::MaxPool2d(Pool::new(kernel, stride));
    let resize = |to| Op::Resize(Resize { to, square: false, mode: ResizeMode::Nearest });
    let reshape = |shape: &[Dim]| Op::Reshape { shape: shape.to_vec() };
    let cases: Vec<(Op, Vec<&[usize]>, &str)> = vec![
        (
            Conv2d::new(3, 8, 3).into(),
            vec![&[1, 4, 9, 9]],
            "layer (Conv2d) needs an input [_, 3, _, _], but gets [1, 4, 9, 9]: its weight has that many input channels",
        ),
        (
            Conv2d::new(3, 8, 11).padding(2).into(),
            vec![&[1, 3, 6, 40]],
            "layer (Conv2d) needs an input of at least 7 pixels a side, but gets [1, 3, 6, 40]: its kernel must fit into \
             the padded image",
        ),
        (
            Conv2d::new(3, 8, 3).into(),
            vec![&[3, 9, 9]],
            "layer (Conv2d) needs an input [batch, channels, height, width], but gets [3, 9, 9]: it works on images",
        ),
        (
            Linear::new(25088, 4096).into(),
            vec![&[16, 512, 7, 7]],
            "layer (Linear) needs an input [.., 25088], but gets [16, 512, 7, 7]: its weight has that many input features",
        ),
        (
            BatchNorm2d::new(8).into(),
            vec![&[1, 9, 2, 2]],
            "layer (BatchNorm2d) needs an input [_, 8, _, _], but gets [1, 9, 2, 2]: it normalises that many channels",
        ),
        (
            Op::LayerNorm { features: 8, eps: 1e-5 },
            vec![&[1, 5, 9]],
            "layer (LayerNorm) needs an input [.., 8], but gets [1, 5, 9]: it normalises that many features",
        ),
        (
            pool(3, 2),
            vec![&[1, 3, 9, 2]],
            "layer (MaxPool2d) needs an input of at least 3 pixels a side, but gets [1, 3, 9, 2]: its window must fit \
             into the padded image",
        ),
        (
            Op::AdaptiveAvgPool2d { output: [1, 1], square: false },
            vec![&[1, 3]],
            "layer (AdaptiveAvgPool2d) needs an input [batch, channels, height, width], but gets [1, 3]: it works on images",
        ),
        (
            Op::Softmax { axis: 2 },
            vec![&[1, 3]],
            "layer (Softmax) needs an input of more than 2 axes, but gets [1, 3]: it works on that axis",
        ),
        (
            Op::Add,
            vec![&[1, 3, 4], &[1, 3, 5]],
            "layer (Add) needs an input and another of the same sizes, but gets [1, 3, 4] and [1, 3, 5]: elements are \
             paired; only a size of 1 is repeated",
        ),
        (
            Op::MatMul,
            vec![&[3, 4], &[5, 6]],
            "layer (MatMul) needs an input [.., n, k] and another [.., k, m], but gets [3, 4] and [5, 6]: rows of the \
             first are multiplied with columns of the second",
        ),
        (
            Op::Mul,
            vec![&[3, 4]],
            "this describes no network: layer (Mul) takes 2 as its number of inputs, not 1",
        ),
        (
            Op::Concat { axis: 1 },
            vec![&[1, 3, 4], &[1, 3, 5]],
            "layer (Concat) needs an input of the same sizes as the first, but gets [1, 3, 4] and [1, 3, 5]: only axis 1 \
             may differ",
        ),
        (
            Op::Chunk { axis: 1, index: 0, parts: 2 },
            vec![&[1, 5]],
            "layer (Chunk) needs an input whose axis 1 divides by 2, but gets [1, 5]: it is cut into equal parts",
        ),
        (
            reshape(&[Dim::Keep(0), Dim::Div(1, 2), Dim::Infer]),
            vec![&[1, 5, 4]],
            "layer (Reshape) needs an input whose axis 1 divides by 2, but gets [1, 5, 4]: it is reshaped into that many parts",
        ),
        (
            reshape(&[Dim::Fixed(3), Dim::Infer]),
            vec![&[1, 5]],
            "layer (Reshape) needs an input that fills [Fixed(3), Infer], but gets [1, 5]: the number of elements must \
             stay the same",
        ),
        (
            Op::Permute { axes: vec![0, 1, 1] },
            vec![&[1, 3, 4]],
            "layer (Permute) needs an input of 3 axes, but gets [1, 3, 4]: every axis is moved once",
        ),
        (
            Op::Roll { shifts: vec![1], axes: vec![1, 2] },
            vec![&[1, 3, 4]],
            "this describes no network: the attributes of layer (Roll) do not agree: each axis is rolled once, by its own shift",
        ),
        (
            Op::LayerNorm2d { features: 8, eps: 1e-6 },
            vec![&[1, 4, 4, 8]],
            "layer (LayerNorm2d) needs an input [_, 8, _, _], but gets [1, 4, 4, 8]: it normalises that many channels",
        ),
        (
            Op::ChannelAffine { scale: vec![1.0; 3], shift: vec![0.0; 3] },
            vec![&[1, 4, 2, 2]],
            "layer (ChannelAffine) needs an input [_, 3, _, _], but gets [1, 4, 2, 2]: it has constants for that many channels",
        ),
        (
            resize(ResizeTo::Size([4, 4])),
            vec![&[2, 3, 4]],
            "layer (Upsample) needs an input [batch, channels, height, width], but gets [2, 3, 4]: it works on images",
        ),
        (
            resize(ResizeTo::Scale([0.3, 2.0])),
            vec![&[2, 3, 3, 4]],
            "layer (Upsample) needs an input of more pixels, but gets [2, 3, 3, 4]: a row and a column must be left of it",
        ),
        (
            resize(ResizeTo::Like),
            vec![&[2, 3, 4, 4], &[2, 5]],
            "layer (Upsample) needs an input and another image, but gets [2, 3, 4, 4] and [2, 5]: it gets the size of that one",
        ),
        (
            Op::Select { axis: 1, index: 5 },
            vec![&[1, 5, 4]],
            "layer (Select) needs an input whose axis 1 is longer than 5, but gets [1, 5, 4]: it takes that place",
        ),
        (
            Op::ExpandBatch,
            vec![&[2, 1, 4], &[3, 5, 4]],
            "layer (ExpandBatch) needs an input [1, ..] and a batch, but gets [2, 1, 4] and [3, 5, 4]: it is repeated to the \
             size of the batch",
        ),
        (
            Op::PadToMultiple { axes: vec![1, 4], of: 2 },
            vec![&[1, 5, 4, 3]],
            "layer (PadToMultiple) needs an input of more than 4 axes, but gets [1, 5, 4, 3]: it works on that axis",
        ),
        (
            Op::Add,
            vec![&[2, 3, 4], &[2, 3]],
            "layer (Add) needs an input and another of the same sizes, but gets [2, 3, 4] and [2, 3]: elements are \
             paired; only a size of 1 is repeated",
        ),
        (
            Op::Mean { axes: vec![2, 3] },
            vec![&[1, 3, 4]],
            "layer (Mean) needs an input of more than 3 axes, but gets [1, 3, 4]: it works on that axis",
        ),
    ];
    for (op, inputs, message) in cases {
        assert_eq!(output(op, &inputs).unwrap_err().to_string(), message);
    }
}

fn attention(position: PositionBias, windows: Option<Windows>) -> Attention {
    let scores = Scores::Product { scale: 0.5 };
    Attention { dim: 8, heads: 2, names: ProjectionNames::Torch, scores, position, windows }
}

#[test]
fn attention_needs_its_features_and_the_tokens_of_its_biases() {
    let windows = Some(Windows { side: 3, shift: 1 });
    let table = PositionBias::Table { window: 3, matrix: true };
    let network = PositionBias::Network { window: 3 };
    let cases: [(_, _, &[usize], _); 7] = [
        (PositionBias::None, None, &[2, 5, 9], "[.., tokens, 8]"),
        (PositionBias::None, None, &[5, 8], "[.., tokens, 8]"),
        (PositionBias::None, None, &[2, 3, 4, 5, 8], "[.., tokens, 8]"),
        (table, None, &[2, 10, 8], "[.., 9, 8]"),
        (network, None, &[2, 4, 3, 8], "[.., 9, 8]"),
        (table, windows, &[2, 9, 8], "[batch, height, width, 8]"),
        (network, windows, &[2, 8, 9, 9], "[batch, height, width, 8]"),
    ];
    for (position, windows, shape, needed) in cases {
        let message = output(attention(position, windows), &[shape]).unwrap_err().to_string();
        let expected = format!(
            "layer (Attention) needs an input {needed}, but gets {shape:?}: it projects that many features, and has biases for \
             that many tokens if any"
        );
        assert_eq!(message, expected);
    }
    for shape in [[2, 4, 9, 8], [1, 1, 9, 8]] {
        assert_eq!(output(attention(table, None), &[&shape]), Ok(shape.to_vec()));
        assert_eq!(output(attention(table, windows), &[&shape]), Ok(shape.to_vec()));
    }
}

/// As a damaged file may have them.
#[test]
fn attention_whose_attributes_contradict_each_other_is_refused() {
    let good =
        attention(PositionBias::Table { window: 3, matrix: false }, Some(Windows { side: 3, shift: 0 }));
    let bad = [
        Attention { heads: 3, ..good.clone() },
        Attention { heads: 0, ..good.clone() },
        Attention { dim: 0, ..good.clone() },
        Attention { windows: Some(Windows { side: 0, shift: 0 }), ..good.clone() },
        Attention { windows: Some(Windows { side: 3, shift: 3 }), ..good.clone() },
        Attention { windows: Some(Windows { side: 4, shift: 0 }), ..good.clone() },
    ];
    assert_eq!(output(good, &[&[1, 6, 6, 8]]), Ok(vec![1, 6, 6, 8]));
    for attention in bad {
        let message = output(attention, &[&[1, 6, 6, 8]]).unwrap_err().to_string();
        assert_eq!(
            message,
            "this describes no network: the attributes of layer (Attention) do not agree: heads divide the features, a \
             shift is less than a window, and biases are for such a window"
        );
    }
}

#[test]
fn a_parameter_has_its_own_shape() {
    let (mut b, _) = Builder::with_input("Net", &[4]);
    let token = b.parameter("class_token", &[1, 1, 8]);
    let graph = b.finish(token);
    assert_eq!(graph.shapes(&[5, 4]).unwrap(), [vec![5, 4], vec![1, 1, 8]]);
    let names: Vec<String> = graph.state().into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["class_token"]);
}

#[test]
fn an_input_without_elements_is_refused() {
    let (mut b, x) = Builder::new("Net", 3, 32);
    let x = b.layer("relu", Activation::ReLU, x);
    let graph = b.finish(x);
    for input in [[0, 3, 32, 32], [1, 3, 0, 32]] {
        let message = graph.shapes(&input).unwrap_err().to_string();
        let expected = format!(
            "Input needs an input of sizes above zero, but gets {input:?}: there must be something to compute"
        );
        assert_eq!(message, expected);
    }
}

/// Where a window of `reach` elements can begin in `size` elements with `padding` on both sides.
fn positions(size: usize, reach: usize, stride: usize, padding: usize) -> Vec<usize> {
    (0..size + 2 * padding)
        .filter(|begin| begin % stride == 0 && begin + reach <= size + 2 * padding)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(0), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_convolution_gives_as_many_values_as_its_kernel_has_places(
        size in prop::array::uniform2(1usize..40),
        kernel in prop::array::uniform2(1usize..8),
        stride in prop::array::uniform2(1usize..5),
        padding in prop::array::uniform2(0usize..4),
        dilation in prop::array::uniform2(1usize..4),
    ) {
        let conv = Conv2d { kernel, stride, padding, dilation, ..Conv2d::new(1, 2, 1) };
        let count = |axis: usize| {
            let reach = (0..kernel[axis]).map(|tap| tap * dilation[axis]).max().unwrap() + 1;
            positions(size[axis], reach, stride[axis], padding[axis]).len()
        };
        let shape = output(conv, &[&[1, 1, size[0], size[1]]]);
        match [count(0), count(1)] {
            [0, _] | [_, 0] => prop_assert!(shape.is_err()),
            [height, width] => prop_assert_eq!(shape, Ok(vec![1, 2, height, width])),
        }
    }

    #[test]
    fn a_pool_gives_as_many_values_as_its_window_has_places(
        size in 1usize..40,
        (kernel, padding) in (1usize..8).prop_flat_map(|kernel| (Just(kernel), 0..=kernel / 2)),
        stride in 1usize..6,
        ceil_mode: bool,
    ) {
        let places = positions(size, kernel, stride, padding);
        let mut count = places.len();
        // One window more, if elements are left over, and it begins in the image or in the padding before it.
        if let Some(last) = places.last() && ceil_mode {
            let left_over = last + kernel < size + 2 * padding;
            count += usize::from(left_over && last + stride < size + padding);
        }
        let pool = Pool { kernel, stride, padding, ceil_mode };
        for op in [Op::MaxPool2d(pool.clone()), Op::AvgPool2d { window: pool, count_include_pad: true }] {
            let shape = output(op, &[&[1, 1, size, size]]);
            match count {
                0 => prop_assert!(shape.is_err()),
                _ => prop_assert_eq!(shape, Ok(vec![1, 1, count, count])),
            }
        }
    }

    #[test]
    fn joining_the_parts_of_a_tensor_gives_its_shape(
        shape in prop::collection::vec(1usize..5, 1..5),
        axis: prop::sample::Index,
        parts in 1usize..4,
    ) {
        let axis = axis.index(shape.len());
        let mut whole = shape.clone();
        whole[axis] *= parts;
        let part = output(Op::Chunk { axis, index: parts - 1, parts }, &[&whole]).unwrap();
        prop_assert_eq!(&part, &shape);
        let all: Vec<&[usize]> = vec![&part; parts];
        prop_assert_eq!(output(Op::Concat { axis }, &all), Ok(whole));
    }

    #[test]
    fn axes_permuted_twice_return(axes in Just(vec![0usize, 1, 2, 3]).prop_shuffle()) {
        let mut back = vec![0; 4];
        for (to, from) in axes.iter().enumerate() {
            back[*from] = to;
        }
        let permuted = output(Op::Permute { axes }, &[&[2, 3, 5, 7]]).unwrap();
        prop_assert_eq!(output(Op::Permute { axes: back }, &[&permuted]), Ok(vec![2, 3, 5, 7]));
    }

    #[test]
    fn broadcasting_repeats_ones_and_axes_in_front(
        shape in prop::collection::vec(1usize..5, 1..5),
        ones in prop::collection::vec(any::<bool>(), 4),
        lacking in 0usize..4,
        second_is_short: bool,
    ) {
        let lacking = lacking.min(shape.len() - 1);
        let short: Vec<usize> =
            shape[lacking..].iter().zip(ones).map(|(size, one)| if one { 1 } else { *size }).collect();
        let pair: [&[usize]; 2] = if second_is_short { [&shape, &short] } else { [&short, &shape] };
        for op in [Op::Add, Op::Mul] {
            prop_assert_eq!(output(op, &pair), Ok(shape.clone()));
        }
    }

    #[test]
    fn padding_adds_less_than_one_multiple(size in 1usize..40, of in 1usize..9) {
        let shape = output(Op::PadToMultiple { axes: vec![1], of }, &[&[2, size, 3]]).unwrap();
        prop_assert_eq!((shape[0], shape[1] % of, shape[2]), (2, 0, 3));
        prop_assert!((size..size + of).contains(&shape[1]));
    }
}
