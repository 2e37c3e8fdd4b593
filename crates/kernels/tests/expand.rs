//! A 1x1 convolution with the depthwise convolution behind it, against loops in f64.

mod common;

use common::{most, values};
use engraft_kernels::{
    Activation, Epilogue, ExpandWeights, Level, Maps, MapsMut, MapsShape, Matrix, PackedMatrix, Pool,
    expand_depthwise,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Sizes of a case, and gaps between pixels.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: MapsShape,
    channels: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    gap: usize,
    residual: bool,
    /// Between the convolutions, and at the end.
    activations: [Activation; 2],
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::ReLU6 => x.clamp(0.0, 6.0),
        Activation::SiLU => x / (1.0 + (-x).exp()),
        other => unreachable!("no case has {other:?}"),
    }
}

impl Case {
    fn output(&self) -> MapsShape {
        let size = |size: usize, kernel: usize| (size + 2 * self.padding - kernel) / self.stride + 1;
        let MapsShape { batch, height, width, .. } = self.shape;
        let [kernel_height, kernel_width] = self.kernel;
        let (height, width) = (size(height, kernel_height), size(width, kernel_width));
        MapsShape { batch, height, width, channels: self.channels }
    }

    /// The kernel's output and its means; gaps between the output's pixels hold 9, those between the input's NaN.
    fn run(&self, level: Level, threads: usize) -> (Vec<f32>, Vec<f32>) {
        let (shape, out) = (self.shape, self.output());
        let [in_stride, stride] = [shape.channels + self.gap, out.channels + self.gap];
        let mut input = values(shape.pixels() * in_stride, 1);
        input.chunks_mut(in_stride).for_each(|pixel| pixel[shape.channels..].fill(f32::NAN));
        let expand = values(shape.channels * out.channels, 2);
        let expand =
            PackedMatrix::new(level, shape.channels, out.channels, |i, j| expand[i * out.channels + j]);
        let weight = values(out.channels * self.kernel[0] * self.kernel[1], 3);
        let weights = ExpandWeights::new(expand, &weight, self.kernel);
        let [bias_between, bias] = [values(out.channels, 4), values(out.channels, 5)];
        let residual = values(out.pixels() * stride, 6);
        let between = Epilogue { bias: Some(&bias_between), residual: None, activation: self.activations[0] };
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: self.residual.then_some(Matrix { values: &residual, stride }),
            activation: self.activations[1],
        };
        let mut output = vec![9.0; out.pixels() * stride];
        let mut means = vec![0.0; out.batch * out.channels];
        let (input, to) = (
            Maps { values: &input, shape, stride: in_stride },
            MapsMut { values: &mut output, shape: out, stride },
        );
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        // Without means the rows of an image are divided among tasks.
        let with_means = threads != 2;
        let to_means = with_means.then_some(&mut means[..]);
        expand_depthwise(
            &Pool::new(threads),
            input,
            &weights,
            between,
            stride,
            padding,
            epilogue,
            to_means,
            to,
        );
        (output, means)
    }

    fn expected(&self) -> Vec<f64> {
        let (shape, out) = (self.shape, self.output());
        let [in_stride, stride] = [shape.channels + self.gap, out.channels + self.gap];
        let [input, residual] = [values(shape.pixels() * in_stride, 1), values(out.pixels() * stride, 6)];
        let [height, width] = self.kernel;
        let (expand, weight) =
            (values(shape.channels * out.channels, 2), values(out.channels * height * width, 3));
        let [bias_between, bias] = [values(out.channels, 4), values(out.channels, 5)];
        let mut between = vec![0.0; shape.pixels() * out.channels];
        for (pixel, between) in between.chunks_mut(out.channels).enumerate() {
            for (c, to) in between.iter_mut().enumerate() {
                let product = |i: usize| {
                    f64::from(input[pixel * in_stride + i]) * f64::from(expand[i * out.channels + c])
                };
                let sum: f64 = (0..shape.channels).map(product).sum();
                *to = activate(self.activations[0], sum + f64::from(bias_between[c]));
            }
        }
        let mut output = vec![9.0; out.pixels() * stride];
        for pixel in 0..out.pixels() {
            let (image, y, x) =
                (pixel / out.width / out.height, pixel / out.width % out.height, pixel % out.width);
            for c in 0..out.channels {
                let mut sum = f64::from(bias[c]);
                for tap in 0..height * width {
                    let row = (y * self.stride + tap / width).wrapping_sub(self.padding);
                    let column = (x * self.stride + tap % width).wrapping_sub(self.padding);
                    if row < shape.height && column < shape.width {
                        let at = (image * shape.height + row) * shape.width + column;
                        sum += between[at * out.channels + c] * f64::from(weight[c * height * width + tap]);
                    }
                }
                if self.residual {
                    sum += f64::from(residual[pixel * stride + c]);
                }
                output[pixel * stride + c] = activate(self.activations[1], sum);
            }
        }
        output
    }

    fn check(&self) {
        let expected = self.expected();
        let (out, stride) = (self.output(), self.channels + self.gap);
        let bound = 1e-6 * (10 + self.shape.channels * self.kernel[0] * self.kernel[1]) as f64;
        for level in Level::all() {
            let (output, means) = self.run(level, 1);
            for (i, (value, expected)) in output.iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(*value) - expected).abs() < bound,
                    "{level}, {i}: {value}, not {expected}"
                );
            }
            for (i, mean) in means.iter().enumerate() {
                let (image, c) = (i / out.channels, i % out.channels);
                let pixels = out.height * out.width;
                let sum: f64 = (0..pixels).map(|p| expected[(image * pixels + p) * stride + c]).sum();
                assert!((f64::from(*mean) - sum / pixels as f64).abs() < bound, "{level}: mean {i}");
            }
            assert!(self.run(level, 2).0 == output, "{level}: the division of rows changes the result");
            assert!(self.run(level, 3) == (output, means), "{level}: threads change the result");
        }
    }
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::Identity), Just(Activation::ReLU6), Just(Activation::SiLU)]
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..3, 1..most(24), 1..most(24), 1..most(20), 1..most(70));
    let kernels = prop_oneof![
        Just([3, 3]),
        Just([5, 5]),
        Just([7, 7]),
        (1_usize..6, 1_usize..6).prop_map(|(a, b)| [a, b])
    ];
    let rest = (1_usize..4, 0_usize..4, 0_usize..5, any::<bool>(), [activation(), activation()]);
    (sizes, kernels, rest).prop_filter_map(
        "the kernel is larger than the input",
        |(
            (batch, height, width, in_channels, channels),
            kernel,
            (stride, padding, gap, residual, activations),
        )| {
            let shape = MapsShape { batch, height, width, channels: in_channels };
            let fits = height + 2 * padding >= kernel[0] && width + 2 * padding >= kernel[1];
            fits.then_some(Case { shape, channels, kernel, stride, padding, gap, residual, activations })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: common::cases(200),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(8),
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_is_the_loops(case in cases()) {
        case.check();
    }
}

/// More rows than are computed at once, and more than one task for an image; of many channels means are computed along.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn many_rows() {
    let shape = MapsShape { batch: 1, height: 40, width: 30, channels: 5 };
    let activations = [Activation::Identity, Activation::SiLU];
    let many = Case {
        shape,
        channels: 600,
        kernel: [3; 2],
        stride: 1,
        padding: 1,
        gap: 0,
        residual: false,
        activations,
    };
    many.check();
    for (size, kernel, stride) in [(60, 3, 1), (75, 5, 2), (112, 3, 2), (45, 2, 3), (40, 7, 1)] {
        let shape = MapsShape { batch: 1, height: size, width: size + 1, channels: 9 };
        Case {
            shape,
            channels: 56,
            kernel: [kernel; 2],
            stride,
            padding: kernel / 2,
            gap: 0,
            residual: false,
            activations: [Activation::ReLU6, Activation::Identity],
        }
        .check();
    }
}
