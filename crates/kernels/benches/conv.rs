//! Convolutions of torchvision's networks that are neither 1x1 with stride 1, 3x3 with stride 1, nor
//! depthwise; and a few that are. An argument selects those whose line has it: `cargo bench --bench conv -- resnext`.

mod common;

use common::Bench;
use engraft_kernels::{Activation, ConvGeometry, ConvWeights, Epilogue, Maps, MapsMut, MapsShape, conv};

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        for batch in [1, 8] {
            println!("batch {batch}");
            let square =
                |name: &str, size: usize, channels: [usize; 2], square: [usize; 3], groups: usize| {
                    let [kernel, stride, padding] = square;
                    let geometry = ConvGeometry {
                        kernel: [kernel; 2],
                        stride: [stride; 2],
                        padding: [padding; 2],
                        dilation: [1; 2],
                        groups,
                    };
                    time(&bench, name, [batch, size, size, channels[0]], channels[1], geometry);
                };
            square("resnet stem", 224, [3, 64], [7, 2, 3], 1);
            square("mobilenet stem", 224, [3, 32], [3, 2, 1], 1);
            square("vgg stem", 224, [3, 64], [3, 1, 1], 1);
            square("alexnet stem", 224, [3, 64], [11, 4, 2], 1);
            square("vit stem", 224, [3, 768], [16, 16, 0], 1);
            square("convnext stem", 224, [3, 96], [4, 4, 0], 1);
            square("resnet 3x3", 56, [128, 128], [3, 2, 1], 1);
            square("resnet 3x3", 28, [256, 256], [3, 2, 1], 1);
            square("resnet 3x3", 14, [512, 512], [3, 2, 1], 1);
            square("resnet 3x3", 7, [512, 512], [3, 1, 1], 1);
            square("resnet shortcut", 56, [256, 512], [1, 2, 0], 1);
            square("resnet shortcut", 28, [512, 1024], [1, 2, 0], 1);
            square("resnet shortcut", 14, [1024, 2048], [1, 2, 0], 1);
            square("alexnet 5x5", 27, [64, 192], [5, 1, 2], 1);
            let row =
                ConvGeometry { kernel: [1, 7], stride: [1; 2], padding: [0, 3], dilation: [1; 2], groups: 1 };
            time(&bench, "inception 1x7", [batch, 17, 17, 128], 128, row);
            for (size, width) in [(56, 128), (28, 256), (14, 512), (7, 1024)] {
                square("resnext", size, [width, width], [3, 1, 1], 32);
            }
            for (size, width) in [(56, 128), (56, 256), (28, 512), (14, 1024)] {
                square("resnext", size, [width, width], [3, 2, 1], 32);
            }
            for (size, width) in [(56, 48), (28, 104), (14, 208), (7, 440)] {
                square("regnet_y_400mf", size, [width, width], [3, 1, 1], width / 8);
                square("regnet_y_400mf", 2 * size, [width, width], [3, 2, 1], width / 8);
            }
            square("regnet_y_8gf", 28, [448, 448], [3, 1, 1], 8);
            square("regnet_y_800mf", 14, [320, 320], [3, 1, 1], 20);
            square("regnet_x_1_6gf", 14, [408, 408], [3, 1, 1], 17);
        }
    }
}

fn time(
    bench: &Bench,
    name: &str,
    [batch, height, width, channels]: [usize; 4],
    out: usize,
    geometry: ConvGeometry,
) {
    let what = format!(
        "{name} {height} {}x{}/{} {channels}->{out} g{}",
        geometry.kernel[0], geometry.kernel[1], geometry.stride[0], geometry.groups
    );
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|part| !what.contains(&part)) {
        return;
    }
    let shape = MapsShape { batch, height, width, channels };
    let [out_height, out_width] = geometry.output_size(height, width);
    let out_shape = MapsShape { batch, height: out_height, width: out_width, channels: out };
    let [kernel_height, kernel_width] = geometry.kernel;
    let depth = channels / geometry.groups * kernel_height * kernel_width;
    let input: Vec<f32> = (0..shape.pixels() * channels).map(|i| (i as f32 * 0.37).sin()).collect();
    let weight: Vec<f32> = (0..out * depth).map(|i| (i as f32 * 0.73).sin()).collect();
    let weights = ConvWeights::new(bench.level, &weight, out, channels, geometry);
    let (bias, mut output) = (vec![0.1; out], vec![0.0; out_shape.pixels() * out]);
    bench.time(&what, 2 * out_shape.pixels() * out * depth, |pool| {
        let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Activation::ReLU };
        let output = MapsMut::new(&mut output, out_shape);
        conv(pool, Maps::new(&input, shape), &weights, epilogue, output);
    });
}
