//! Depthwise convolution against a loop in f64.

mod common;

use common::{most, values};
use engraft_kernels::{
    Activation, ConvGeometry, DepthwiseWeights, Epilogue, Level, Maps, MapsMut, MapsShape, Matrix, Pool,
    depthwise,
};
use proptest::prelude::*;

/// Sizes of a case, and gaps between pixels.
#[derive(Clone, Debug)]
struct Case {
    shape: MapsShape,
    /// Channels of the output for each of the input.
    multiplier: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    dilation: usize,
    gap: usize,
    residual: bool,
    activation: Activation,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1..most(24), 1..most(24), 1..most(50));
    let kernels = prop_oneof![
        Just([3, 3]),
        Just([5, 5]),
        Just([7, 7]),
        (1usize..6, 1usize..6).prop_map(|(a, b)| [a, b])
    ];
    let activations =
        prop_oneof![Just(Activation::Identity), Just(Activation::ReLU6), Just(Activation::Hardswish)];
    let multipliers = prop_oneof![Just(1), 1usize..5, Just(17)];
    let rest = (multipliers, 1usize..4, 0usize..4, 1usize..3, 0usize..5, any::<bool>(), activations);
    (sizes, kernels, rest).prop_filter_map(
        "the kernel is larger than the input",
        |(
            (batch, height, width, channels),
            kernel,
            (multiplier, stride, padding, dilation, gap, residual, activation),
        )| {
            let fits = |size: usize, kernel: usize| size + 2 * padding > dilation * (kernel - 1);
            let shape = MapsShape { batch, height, width, channels };
            // As many channels of the output as there are with a multiplier of one.
            let shape = MapsShape { channels: channels.div_ceil(multiplier), ..shape };
            let case =
                Case { shape, multiplier, kernel, stride, padding, dilation, gap, residual, activation };
            (fits(height, kernel[0]) && fits(width, kernel[1])).then_some(case)
        },
    )
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::ReLU6 => x.clamp(0.0, 6.0),
        Activation::Hardswish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        _ => x,
    }
}

impl Case {
    fn output(&self) -> MapsShape {
        let size = |size: usize, kernel: usize| {
            (size + 2 * self.padding - self.dilation * (kernel - 1) - 1) / self.stride + 1
        };
        let [height, width] = self.kernel;
        MapsShape {
            height: size(self.shape.height, height),
            width: size(self.shape.width, width),
            batch: self.shape.batch,
            channels: self.shape.channels * self.multiplier,
        }
    }

    /// From pixel to pixel of the input and of the output.
    fn strides(&self) -> [usize; 2] {
        [self.shape, self.output()].map(|shape| shape.channels + self.gap)
    }

    /// The kernel's output and its means; gaps between pixels hold 9.
    fn run(&self, level: Level, threads: usize) -> (Vec<f32>, Vec<f32>) {
        let (shape, out) = (self.shape, self.output());
        let [stride, out_stride] = self.strides();
        let input = values(shape.pixels() * stride, 1);
        let weight = values(out.channels * self.kernel[0] * self.kernel[1], 2);
        let bias = values(out.channels, 3);
        let residual = values(out.pixels() * out_stride, 4);
        let geometry = ConvGeometry {
            kernel: self.kernel,
            stride: [self.stride; 2],
            padding: [self.padding; 2],
            dilation: [self.dilation; 2],
            groups: shape.channels,
        };
        let weights = DepthwiseWeights::new(level, &weight, out.channels, geometry);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: self.residual.then_some(Matrix { values: &residual, stride: out_stride }),
            activation: self.activation,
        };
        let mut output = vec![9.0; out.pixels() * out_stride];
        let mut means = vec![0.0; out.batch * out.channels];
        let input = Maps { values: &input, shape, stride };
        let to = MapsMut { values: &mut output, shape: out, stride: out_stride };
        depthwise(&Pool::new(threads), input, &weights, epilogue, Some(&mut means), to);
        (output, means)
    }

    fn expected(&self) -> Vec<f64> {
        let (shape, out) = (self.shape, self.output());
        let [stride, out_stride] = self.strides();
        let [input, residual] = [values(shape.pixels() * stride, 1), values(out.pixels() * out_stride, 4)];
        let [height, width] = self.kernel;
        let (weight, bias) = (values(out.channels * height * width, 2), values(out.channels, 3));
        let mut output = vec![9.0; out.pixels() * out_stride];
        for pixel in 0..out.pixels() {
            let (image, y, x) =
                (pixel / out.width / out.height, pixel / out.width % out.height, pixel % out.width);
            for c in 0..out.channels {
                let mut sum = bias[c] as f64;
                for tap in 0..height * width {
                    let row = (y * self.stride + tap / width * self.dilation).wrapping_sub(self.padding);
                    let column = (x * self.stride + tap % width * self.dilation).wrapping_sub(self.padding);
                    if row < shape.height && column < shape.width {
                        let at = (image * shape.height + row) * shape.width + column;
                        let value = input[at * stride + c / self.multiplier];
                        sum += value as f64 * weight[c * height * width + tap] as f64;
                    }
                }
                if self.residual {
                    sum += residual[pixel * out_stride + c] as f64;
                }
                output[pixel * out_stride + c] = activate(self.activation, sum);
            }
        }
        output
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(200), failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_loop(case in cases()) {
        let expected = case.expected();
        let (out, stride) = (case.output(), case.strides()[1]);
        for level in Level::all() {
            let (output, means) = case.run(level, 1);
            for (i, (value, expected)) in output.iter().zip(&expected).enumerate() {
                prop_assert!((*value as f64 - expected).abs() < 1e-5, "{level}, {i}: {value}, not {expected}");
            }
            for (i, mean) in means.iter().enumerate() {
                let (image, c) = (i / out.channels, i % out.channels);
                let pixels = out.height * out.width;
                let sum: f64 = (0..pixels).map(|p| expected[(image * pixels + p) * stride + c]).sum();
                prop_assert!((*mean as f64 - sum / pixels as f64).abs() < 1e-5, "{level}: mean {i}");
            }
            for threads in [2, 3] {
                prop_assert!(case.run(level, threads) == (output.clone(), means.clone()), "{level}, {threads} threads");
            }
        }
    }
}

/// The last vector of channels overlaps the one before it: no two threads may have one each.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn channels_that_fill_no_vector_are_activated_once() {
    let case = Case {
        shape: MapsShape { batch: 1, height: 40, width: 40, channels: 136 },
        multiplier: 1,
        kernel: [3, 3],
        stride: 1,
        padding: 1,
        dilation: 1,
        gap: 0,
        residual: true,
        activation: Activation::Hardswish,
    };
    for level in Level::all() {
        let expected = case.run(level, 1);
        for _ in 0..20 {
            assert!(case.run(level, 4) == expected, "{level}");
        }
    }
}

/// Few channels of many rows: the rows are divided among tasks, and the means computed afterwards. Of many channels, a task has all
/// rows of some, and goes through these a few at a time.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn means_of_many_rows() {
    check_means([20, 1]);
    check_means([139, 1]);
}

/// More rows than are spread at a time.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn rows_of_several_outputs_a_channel() {
    check_means([7, 3]);
    check_means([40, 2]);
}

fn check_means([channels, multiplier]: [usize; 2]) {
    let case = Case {
        shape: MapsShape { batch: 2, height: 61, width: 144, channels },
        multiplier,
        kernel: [5, 5],
        stride: 2,
        padding: 2,
        dilation: 1,
        gap: 3,
        residual: false,
        activation: Activation::Hardswish,
    };
    let (expected, out, stride) = (case.expected(), case.output(), case.strides()[1]);
    let pixels = out.height * out.width;
    for level in Level::all() {
        let (output, means) = case.run(level, 1);
        for (i, (value, expected)) in output.iter().zip(&expected).enumerate() {
            assert!((f64::from(*value) - expected).abs() < 1e-5, "{level}, {i}: {value}, not {expected}");
        }
        for (i, mean) in means.iter().enumerate() {
            let (image, c) = (i / out.channels, i % out.channels);
            let sum: f64 = (0..pixels).map(|p| expected[(image * pixels + p) * stride + c]).sum();
            assert!((f64::from(*mean) - sum / pixels as f64).abs() < 1e-5, "{level}: mean {i}");
        }
        assert!(case.run(level, 3) == (output, means), "{level}: threads change the result");
    }
}

/// Tiles that reach beyond the left edge, the right one and both, by as many columns as networks pad with and by others.
#[test]
fn columns_beyond_the_edges() {
    for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)] {
        for padding in [kernel / 2, kernel / 2 + 1, 1] {
            for tiles in 1..if cfg!(miri) { 2 } else { 4 } {
                // The output is so many tiles of seven columns wide, or a column less.
                for width in [7 * tiles, 7 * tiles - 1].map(|columns| columns * stride) {
                    let case = Case {
                        shape: MapsShape { batch: 1, height: 5, width, channels: 19 },
                        multiplier: 1,
                        kernel: [kernel; 2],
                        stride,
                        padding,
                        dilation: 1,
                        gap: 1,
                        residual: false,
                        activation: Activation::Identity,
                    };
                    let expected = case.expected();
                    for level in Level::all() {
                        let (output, _) = case.run(level, 1);
                        for (i, (value, expected)) in output.iter().zip(&expected).enumerate() {
                            let near = (f64::from(*value) - expected).abs() < 1e-5;
                            assert!(near, "{level}, {case:?}, {i}: {value}, not {expected}");
                        }
                    }
                }
            }
        }
    }
}
