//! Inverted residuals of torchvision's networks up to their last convolution: both convolutions at once, and one after the other.

mod common;

use common::Bench;
use engraft_kernels::{
    Activation, ConvGeometry, DepthwiseWeights, Epilogue, ExpandWeights, Maps, MapsMut, MapsShape, Matrix,
    PackedMatrix, Prologue, depthwise, expand_depthwise, gemm,
};

/// Height and width; channels before and between.
type Sizes = (usize, [usize; 2]);

/// Name, sizes, kernel, stride, activation, with means.
type Case = (&'static str, Sizes, usize, usize, Activation, bool);

const CASES: [Case; 13] = [
    ("mobilenet_v2", (112, [16, 96]), 3, 2, Activation::ReLU6, false),
    ("mobilenet_v2", (56, [24, 144]), 3, 1, Activation::ReLU6, false),
    ("mobilenet_v2", (56, [24, 144]), 3, 2, Activation::ReLU6, false),
    ("mobilenet_v2", (28, [32, 192]), 3, 1, Activation::ReLU6, false),
    ("mobilenet_v2", (14, [64, 384]), 3, 1, Activation::ReLU6, false),
    ("mobilenet_v2", (14, [96, 576]), 3, 1, Activation::ReLU6, false),
    ("mobilenet_v2", (7, [160, 960]), 3, 1, Activation::ReLU6, false),
    ("mobilenet_v3_large", (56, [24, 72]), 5, 2, Activation::ReLU, true),
    ("efficientnet_b0", (112, [16, 96]), 3, 2, Activation::SiLU, true),
    ("efficientnet_b0", (56, [24, 144]), 3, 1, Activation::SiLU, true),
    ("efficientnet_b0", (28, [40, 240]), 5, 1, Activation::SiLU, true),
    ("efficientnet_b0", (14, [80, 480]), 3, 1, Activation::SiLU, true),
    ("efficientnet_b0", (14, [112, 672]), 5, 1, Activation::SiLU, true),
];

fn main() {
    let bench = Bench::new(2);
    for batch in [1, 2, 8] {
        println!("batch {batch}");
        for case in CASES {
            time(&bench, batch, case);
        }
    }
}

fn time(bench: &Bench, batch: usize, case: Case) {
    let (name, (size, [inputs, channels]), kernel, stride, activation, with_means) = case;
    let shape = MapsShape { batch, height: size, width: size, channels: inputs };
    let out = (size - 1) / stride + 1;
    let out_shape = MapsShape { height: out, width: out, channels, ..shape };
    let between_shape = MapsShape { channels, ..shape };
    let values = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let (input, expand) = (values(shape.pixels() * inputs), values(inputs * channels));
    let weight = values(channels * kernel * kernel);
    let pack = || PackedMatrix::new(bench.level, inputs, channels, |i, j| expand[i * channels + j]);
    let both = ExpandWeights::new(pack(), &weight, [kernel; 2]);
    let (strides, padding) = ([stride; 2], [kernel / 2; 2]);
    let geometry =
        ConvGeometry { kernel: [kernel; 2], stride: strides, padding, dilation: [1; 2], groups: channels };
    let (first, second) = (pack(), DepthwiseWeights::new(bench.level, &weight, channels, geometry));
    let bias = vec![0.1; channels];
    let (mut output, mut means) = (vec![0.0; out_shape.pixels() * channels], vec![0.0; batch * channels]);
    let mut between = vec![0.0; shape.pixels() * channels];
    let epilogue = Epilogue { bias: Some(&bias), residual: None, activation };
    let operations =
        2 * (shape.pixels() * inputs * channels + out_shape.pixels() * channels * kernel * kernel);
    let title = format!("{name} {size} {kernel}x{kernel}/{stride} {inputs}, {channels}");
    bench.time(&format!("{title}, one after the other"), operations, |pool| {
        let a = Matrix { values: &input, stride: inputs };
        gemm(pool, shape.pixels(), a, Prologue::None, &first, epilogue, &mut between, channels);
        let (from, to) = (Maps::new(&between, between_shape), MapsMut::new(&mut output, out_shape));
        let means = with_means.then_some(&mut means[..]);
        depthwise(pool, from, &second, epilogue, means, to);
    });
    bench.time(&format!("{title}, at once"), operations, |pool| {
        let (from, to) = (Maps::new(&input, shape), MapsMut::new(&mut output, out_shape));
        let means = with_means.then_some(&mut means[..]);
        expand_depthwise(pool, from, &both, epilogue, strides, padding, epilogue, means, to);
    });
}
