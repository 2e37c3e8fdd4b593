//! Convolution against plain loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{
    Activation, ConvGeometry, ConvWeights, Epilogue, Level, Maps, MapsMut, MapsShape, Matrix, Pool, conv,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What the gaps in the output are filled with; those in the input are NaN.
const GAP: f32 = 7.5;

#[derive(Clone, Copy, Debug)]
struct Case {
    input: MapsShape,
    out_channels: usize,
    geometry: ConvGeometry,
    /// Of the input, the output and the residual.
    gaps: [usize; 3],
    residual: bool,
    activation: Activation,
}

impl Case {
    /// A square kernel on images without gaps, and a ReLU behind it.
    fn new([batch, height, width, channels]: [usize; 4], out_channels: usize, square: [usize; 3]) -> Case {
        let [kernel, stride, padding] = square;
        Case {
            input: MapsShape { batch, height, width, channels },
            out_channels,
            geometry: ConvGeometry {
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: [padding; 2],
                dilation: [1; 2],
                groups: 1,
            },
            gaps: [0; 3],
            residual: false,
            activation: Activation::ReLU,
        }
    }

    fn groups(self, groups: usize) -> Case {
        Case { geometry: ConvGeometry { groups, ..self.geometry }, ..self }
    }

    fn check(self) {
        let Case { input: shape, out_channels, geometry, gaps, .. } = self;
        let [out_height, out_width] = geometry.output_size(shape.height, shape.width);
        let out_shape = MapsShape { height: out_height, width: out_width, channels: out_channels, ..shape };
        let input_stride = shape.channels + gaps[0];
        let mut input = values(shape.pixels() * input_stride, 1);
        input.chunks_mut(input_stride).for_each(|pixel| pixel[shape.channels..].fill(f32::NAN));
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let weight = values(out_channels * shape.channels / geometry.groups * taps, 2);
        let bias = values(out_channels, 3);
        let residual_stride = out_channels + gaps[2];
        let residual = values(out_shape.pixels() * residual_stride, 4);
        let residual = self.residual.then_some(Matrix { values: &residual, stride: residual_stride });
        let input = Maps { values: &input, shape, stride: input_stride };
        let expected = self.naive(input, &weight, &bias, residual);
        let terms = (shape.channels / geometry.groups * taps) as f64;
        for level in Level::all() {
            let weights = ConvWeights::new(level, &weight, out_channels, shape.channels, geometry);
            let stride = out_channels + gaps[1];
            let run = |threads: usize| {
                let mut output = vec![GAP; out_shape.pixels() * stride];
                let epilogue = Epilogue { bias: Some(&bias), residual, activation: self.activation };
                let maps = MapsMut { values: &mut output, shape: out_shape, stride };
                conv(&Pool::new(threads), input, &weights, epilogue, maps);
                output
            };
            let output = run(1);
            for (pixel, (y, expected)) in output.chunks(stride).zip(expected.chunks(out_channels)).enumerate()
            {
                for (channel, (&y, e)) in y.iter().zip(expected).enumerate() {
                    assert!(
                        (f64::from(y) - e).abs() <= 1e-6 * (8.0 + terms),
                        "{level}: {y} instead of {e} in pixel {pixel}, channel {channel} of {self:?}"
                    );
                }
                assert!(y[out_channels..].iter().all(|&y| y == GAP), "{level} writes between the pixels");
            }
            assert!(run(2) == output && run(3) == output, "{level}: threads change the result");
        }
    }

    fn naive(self, input: Maps<'_>, weight: &[f32], bias: &[f32], residual: Option<Matrix<'_>>) -> Vec<f64> {
        let ConvGeometry { kernel, stride, padding, dilation, groups } = self.geometry;
        let MapsShape { batch, height, width, channels } = input.shape;
        let [out_height, out_width] = self.geometry.output_size(height, width);
        let [inputs, outputs] = [channels / groups, self.out_channels / groups];
        let mut result = Vec::new();
        for pixel in 0..batch * out_height * out_width {
            let (image, y, x) =
                (pixel / out_width / out_height, pixel / out_width % out_height, pixel % out_width);
            for o in 0..self.out_channels {
                let mut sum = f64::from(bias[o]);
                for tap_y in 0..kernel[0] {
                    for tap_x in 0..kernel[1] {
                        let in_y = (y * stride[0] + tap_y * dilation[0]).wrapping_sub(padding[0]);
                        let in_x = (x * stride[1] + tap_x * dilation[1]).wrapping_sub(padding[1]);
                        if in_y >= height || in_x >= width {
                            continue;
                        }
                        let at =
                            ((image * height + in_y) * width + in_x) * input.stride + o / outputs * inputs;
                        for i in 0..inputs {
                            let w = weight[((o * inputs + i) * kernel[0] + tap_y) * kernel[1] + tap_x];
                            sum += f64::from(input.values[at + i]) * f64::from(w);
                        }
                    }
                }
                sum += residual.map_or(0.0, |r| f64::from(r.values[pixel * r.stride + o]));
                result.push(match self.activation {
                    Activation::Identity => sum,
                    Activation::ReLU => sum.max(0.0),
                    Activation::ReLU6 => sum.clamp(0.0, 6.0),
                    Activation::SiLU => sum / (1.0 + (-sum).exp()),
                    Activation::Hardswish => sum * (sum + 3.0).clamp(0.0, 6.0) / 6.0,
                    other => unreachable!("no case has {other:?}"),
                });
            }
        }
        result
    }
}

fn pair(range: std::ops::Range<usize>) -> impl Strategy<Value = [usize; 2]> {
    [range.clone(), range]
}

prop_compose! {
    fn case()(
        kernel in pair(1..5),
        stride in pair(1..4),
        padding in pair(0..3),
        dilation in pair(1..3),
        groups in prop_oneof![Just(1), Just(1), 1_usize..7],
        [inputs, outputs] in prop_oneof![pair(1..most(40)), pair(4..5), pair(8..9)],
        batch in 1..most(4),
        extra in pair(0..most(12)),
        gaps in [0_usize..4, 0_usize..4, 0_usize..4],
        residual: bool,
        activation in prop_oneof![Just(Activation::Identity), Just(Activation::ReLU), Just(Activation::SiLU)],
    ) -> Case {
        // The smallest input that the kernel fits, and more.
        let size = |axis: usize| {
            let window = (kernel[axis] - 1) * dilation[axis] + 1;
            window.saturating_sub(2 * padding[axis]).max(1) + extra[axis]
        };
        let input = MapsShape { batch, height: size(0), width: size(1), channels: groups * inputs };
        let geometry = ConvGeometry { kernel, stride, padding, dilation, groups };
        Case { input, out_channels: groups * outputs, geometry, gaps, residual, activation }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(200),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sizes(case in case()) {
        case.check();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn stems() {
    Case::new([2, 33, 37, 3], 64, [7, 2, 3]).check();
    Case::new([2, 31, 30, 3], 32, [3, 2, 1]).check();
    Case::new([1, 47, 45, 3], 64, [11, 4, 2]).check();
    Case::new([1, 48, 32, 3], 40, [16, 16, 0]).check();
    // Columns and rows behind the last window.
    Case::new([2, 19, 18, 3], 24, [4, 4, 0]).check();
    Case::new([2, 18, 19, 4], 24, [4, 5, 1]).check();
    let stem = Case::new([2, 21, 20, 3], 24, [3, 1, 1]);
    Case { gaps: [1, 2, 3], residual: true, ..stem }.check();
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn many_blocks() {
    Case::new([3, 23, 23, 20], 70, [3, 1, 1]).check();
    Case::new([2, 15, 15, 64], 100, [1, 2, 0]).check();
    Case::new([2, 23, 23, 48], 48, [3, 2, 1]).groups(12).check();
    Case::new([2, 23, 23, 64], 64, [3, 1, 1]).groups(8).check();
    Case::new([2, 15, 15, 72], 72, [3, 1, 1]).groups(3).check();
    Case::new([1, 9, 9, 17], 17, [3, 1, 1]).groups(17).check();
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn pixels_that_share_a_place_of_the_cache() {
    Case::new([2, 6, 6, 1024], 40, [3, 1, 1]).check();
    Case::new([2, 7, 7, 512], 40, [3, 2, 1]).check();
    Case::new([2, 7, 7, 512], 40, [1, 2, 0]).check();
    Case::new([2, 7, 7, 1024], 1024, [3, 2, 1]).groups(32).check();
    Case::new([1, 7, 7, 1024], 1024, [3, 1, 1]).groups(256).check();
}

/// The smallest of each way in which the input is read, for Miri.
#[test]
fn each_way_of_reading() {
    // Whole rows as they are, and copied with their zeros; tap after tap.
    Case::new([1, 4, 5, 3], 5, [3, 1, 0]).check();
    Case::new([1, 4, 5, 3], 5, [3, 2, 1]).check();
    Case::new([1, 4, 3, 9], 3, [3, 1, 1]).check();
    // Pixels that share a place of the cache, of a 1x1 kernel and of another.
    let alias = |case: Case| Case { gaps: [1024 - case.input.channels, 1, 0], ..case };
    alias(Case::new([1, 3, 4, 10], 3, [1, 2, 0])).check();
    alias(Case::new([1, 3, 4, 10], 3, [3, 1, 1])).check();
    // Groups of four, where they are and copied, and of eight.
    Case::new([1, 3, 4, 12], 12, [3, 2, 1]).groups(3).check();
    Case::new([1, 3, 9, 12], 12, [3, 1, 1]).groups(3).check();
    Case::new([1, 3, 4, 24], 24, [3, 2, 1]).groups(3).check();
}

/// Groups that are narrower than a vector, of which the last is not always full.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn narrow_groups() {
    let activations =
        [Activation::Identity, Activation::ReLU, Activation::ReLU6, Activation::SiLU, Activation::Hardswish];
    let mut number = 0;
    for width in [4, 8] {
        for groups in [2, 3, 5, 8] {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 1)] {
                // Strips of every length, and a map of one pixel.
                for size in [1, 7, 16, 30] {
                    let case =
                        Case::new([2, size, size + 1, width * groups], width * groups, [3, stride, dilation]);
                    let geometry = ConvGeometry { dilation: [dilation; 2], ..case.geometry };
                    let activation = activations[number % activations.len()];
                    let (residual, gaps) = (number % 2 == 1, [number % 3, number % 4, number % 5]);
                    Case { geometry, activation, residual, gaps, ..case }.groups(groups).check();
                    number += 1;
                }
            }
        }
    }
    // No padding, and a kernel that is not square.
    let case = Case::new([2, 9, 33, 40], 40, [3, 1, 0]).groups(5);
    case.check();
    Case { geometry: ConvGeometry { kernel: [2, 5], ..case.geometry }, ..case }.check();
    // A task copies no more than some rows.
    Case::new([1, 40, 56, 72], 72, [3, 1, 1]).groups(9).check();
}

#[test]
fn a_window_that_is_all_padding() {
    Case::new([1, 1, 1, 3], 5, [2, 1, 3]).check();
    Case::new([2, 2, 2, 12], 5, [2, 3, 4]).check();
    Case::new([1, 1, 1, 3], 5, [1, 3, 2]).check();
}

#[test]
#[should_panic(expected = "the output's sizes")]
fn another_size() {
    let geometry = Case::new([1, 4, 4, 2], 3, [3, 1, 0]).geometry;
    let level = Level::detect();
    let weights = ConvWeights::new(level, &[0.0; 54], 3, 2, geometry);
    let input = Maps::new(&[0.0; 32], MapsShape { batch: 1, height: 4, width: 4, channels: 2 });
    let mut output = [0.0; 48];
    let output = MapsMut::new(&mut output, MapsShape { batch: 1, height: 4, width: 4, channels: 3 });
    conv(&Pool::new(1), input, &weights, Epilogue::default(), output);
}
