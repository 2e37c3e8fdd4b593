//! Depthwise convolutions of torchvision's networks.

mod common;

use common::Bench;
use engraft_kernels::{
    Activation, ConvGeometry, ConvWeights, DepthwiseWeights, Epilogue, Maps, MapsMut, MapsShape, conv,
    depthwise,
};

/// Name, height and width, channels, kernel, stride.
const CASES: [(&str, usize, usize, usize, usize); 21] = [
    ("in cache", 14, 16, 3, 1),
    ("in cache", 28, 16, 5, 1),
    ("mobilenet_v2", 112, 32, 3, 1),
    ("mobilenet_v2", 112, 96, 3, 2),
    ("mobilenet_v2", 56, 144, 3, 1),
    ("mobilenet_v2", 56, 144, 3, 2),
    ("mobilenet_v2", 28, 192, 3, 1),
    ("mobilenet_v2", 28, 192, 3, 2),
    ("mobilenet_v2", 14, 384, 3, 1),
    ("mobilenet_v2", 14, 576, 3, 1),
    ("mobilenet_v2", 14, 576, 3, 2),
    ("mobilenet_v2", 7, 960, 3, 1),
    ("efficientnet_b0", 56, 144, 5, 2),
    ("efficientnet_b0", 28, 240, 5, 1),
    ("efficientnet_b0", 14, 480, 5, 1),
    ("efficientnet_b0", 14, 672, 5, 2),
    ("efficientnet_b0", 7, 1152, 5, 1),
    ("convnext_tiny", 56, 96, 7, 1),
    ("convnext_tiny", 28, 192, 7, 1),
    ("convnext_tiny", 14, 384, 7, 1),
    ("convnext_tiny", 7, 768, 7, 1),
];

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        for batch in [1, 8] {
            println!("batch {batch}");
            for (name, size, channels, kernel, stride) in CASES {
                let title = format!("{name} {size} {kernel}x{kernel}/{stride} {channels}");
                time(&bench, &title, [batch, size, channels], [kernel, stride], Activation::ReLU6, false);
            }
            let squeezed = [batch, 56, 144];
            time(&bench, "56 3x3/1 144, SiLU", squeezed, [3, 1], Activation::SiLU, false);
            time(&bench, "56 3x3/1 144, SiLU, means", squeezed, [3, 1], Activation::SiLU, true);
            for multiplier in [2, 3, 4, 8, 16] {
                time_multiplied(&bench, [batch, 28, 192 / multiplier, multiplier]);
            }
        }
    }
}

fn time(
    bench: &Bench,
    name: &str,
    [batch, size, channels]: [usize; 3],
    [kernel, stride]: [usize; 2],
    activation: Activation,
    with_means: bool,
) {
    let shape = MapsShape { batch, height: size, width: size, channels };
    let out = (size - 1) / stride + 1;
    let out_shape = MapsShape { height: out, width: out, ..shape };
    let input: Vec<f32> = (0..shape.pixels() * channels).map(|i| (i as f32 * 0.37).sin()).collect();
    let weight: Vec<f32> = (0..channels * kernel * kernel).map(|i| (i as f32 * 0.73).sin()).collect();
    let weights = DepthwiseWeights::new(bench.level, &weight, channels, geometry(kernel, stride, channels));
    let bias = vec![0.1; channels];
    let (mut output, mut means) = (vec![0.0; out_shape.pixels() * channels], vec![0.0; batch * channels]);
    bench.time(name, 2 * out_shape.pixels() * channels * kernel * kernel, |pool| {
        let epilogue = Epilogue { bias: Some(&bias), residual: None, activation };
        let (input, output) = (Maps::new(&input, shape), MapsMut::new(&mut output, out_shape));
        let means = with_means.then_some(&mut means[..]);
        depthwise(pool, input, &weights, epilogue, means, output);
    });
}

fn geometry(kernel: usize, stride: usize, groups: usize) -> ConvGeometry {
    let padding = [kernel / 2; 2];
    ConvGeometry { kernel: [kernel; 2], stride: [stride; 2], padding, dilation: [1; 2], groups }
}

/// Several channels of the output for each of the input, beside the same convolution in groups.
fn time_multiplied(bench: &Bench, [batch, size, channels, multiplier]: [usize; 4]) {
    let shape = MapsShape { batch, height: size, width: size, channels };
    let outputs = channels * multiplier;
    let out_shape = MapsShape { channels: outputs, ..shape };
    let input: Vec<f32> = (0..shape.pixels() * channels).map(|i| (i as f32 * 0.37).sin()).collect();
    let weight: Vec<f32> = (0..outputs * 9).map(|i| (i as f32 * 0.73).sin()).collect();
    let geometry = geometry(3, 1, channels);
    let weights = DepthwiseWeights::new(bench.level, &weight, outputs, geometry);
    let grouped = ConvWeights::new(bench.level, &weight, outputs, channels, geometry);
    let mut output = vec![0.0; out_shape.pixels() * outputs];
    let epilogue = Epilogue { bias: None, residual: None, activation: Activation::ReLU6 };
    let operations = 2 * out_shape.pixels() * outputs * 9;
    let title = format!("{size} 3x3 {channels} x {multiplier}");
    let input = Maps::new(&input, shape);
    bench.time(&title, operations, |pool| {
        depthwise(pool, input, &weights, epilogue, None, MapsMut::new(&mut output, out_shape));
    });
    bench.time(&format!("{title}, in groups"), operations, |pool| {
        conv(pool, input, &grouped, epilogue, MapsMut::new(&mut output, out_shape));
    });
}
