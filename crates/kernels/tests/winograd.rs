//! Winograd's convolution against the direct sum in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{
    Activation, Epilogue, Level, Maps, MapsMut, MapsShape, Matrix, Pool, WinogradTile, WinogradWeights,
    winograd,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A layer and its data, with gaps between pixels.
#[derive(Debug)]
struct Case {
    input: Vec<f32>,
    input_shape: MapsShape,
    input_stride: usize,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    residual_stride: usize,
    activation: Activation,
    padding: [usize; 2],
    output_shape: MapsShape,
    output_stride: usize,
}

/// What an output slice holds before.
const UNTOUCHED: f32 = 1234.5;

impl Case {
    #[expect(clippy::too_many_arguments, reason = "a layer has that many sizes")]
    fn new(
        seed: u64,
        batch: usize,
        [height, width]: [usize; 2],
        [from, to]: [usize; 2],
        padding: [usize; 2],
        gaps: [usize; 3],
        ends: [bool; 2],
        activation: Activation,
    ) -> Case {
        let input_shape = MapsShape { batch, height, width, channels: from };
        let [height, width] = [height + 2 * padding[0] - 2, width + 2 * padding[1] - 2];
        let output_shape = MapsShape { batch, height, width, channels: to };
        let (input_stride, output_stride, residual_stride) = (from + gaps[0], to + gaps[1], to + gaps[2]);
        let len = |shape: MapsShape, stride: usize| (shape.pixels() - 1) * stride + shape.channels;
        Case {
            input: values(len(input_shape, input_stride), seed),
            input_shape,
            input_stride,
            weight: values(to * from * 9, seed + 1),
            bias: ends[0].then(|| values(to, seed + 2)),
            residual: ends[1].then(|| values(len(output_shape, residual_stride), seed + 3)),
            residual_stride,
            activation,
            padding,
            output_shape,
            output_stride,
        }
    }

    fn run(&self, level: Level, tile: WinogradTile, threads: usize) -> Vec<f32> {
        let channels = self.output_shape.channels;
        let weights = WinogradWeights::new(level, tile, &self.weight, channels, self.input_shape.channels);
        let len = (self.output_shape.pixels() - 1) * self.output_stride + channels;
        let mut output = vec![UNTOUCHED; len];
        let residual = self.residual.as_deref().map(|values| Matrix { values, stride: self.residual_stride });
        winograd(
            &Pool::new(threads),
            Maps { values: &self.input, shape: self.input_shape, stride: self.input_stride },
            &weights,
            self.padding,
            Epilogue { bias: self.bias.as_deref(), residual, activation: self.activation },
            MapsMut { values: &mut output, shape: self.output_shape, stride: self.output_stride },
        );
        output
    }

    /// The direct sum for output value `channel` of pixel `y`, `x` of an image.
    fn exact(&self, image: usize, y: usize, x: usize, channel: usize) -> f64 {
        let from = self.input_shape;
        let mut sum = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
        if let Some(residual) = &self.residual {
            let to = self.output_shape;
            let pixel = (image * to.height + y) * to.width + x;
            sum += f64::from(residual[pixel * self.residual_stride + channel]);
        }
        for (tap, (i, j)) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))).enumerate() {
            let y = (y + i).wrapping_sub(self.padding[0]);
            let x = (x + j).wrapping_sub(self.padding[1]);
            if y >= from.height || x >= from.width {
                continue;
            }
            let pixel = &self.input[((image * from.height + y) * from.width + x) * self.input_stride..];
            for (c, value) in pixel[..from.channels].iter().enumerate() {
                let weight = self.weight[(channel * from.channels + c) * 9 + tap];
                sum += f64::from(weight) * f64::from(*value);
            }
        }
        match self.activation {
            Activation::Identity => sum,
            Activation::ReLU => sum.max(0.0),
            Activation::ReLU6 => sum.clamp(0.0, 6.0),
            Activation::SiLU => sum / (1.0 + (-sum).exp()),
            other => unreachable!("no test uses {other:?}"),
        }
    }

    /// The largest error in units of the exact output's root mean square; gaps must be untouched.
    fn error(&self, output: &[f32]) -> f64 {
        let shape = self.output_shape;
        let (mut largest, mut squares) = (0.0_f64, 0.0);
        for pixel in 0..shape.pixels() {
            let (row, x) = (pixel / shape.width, pixel % shape.width);
            let values = &output[pixel * self.output_stride..];
            for (channel, value) in values[..shape.channels].iter().enumerate() {
                let exact = self.exact(row / shape.height, row % shape.height, x, channel);
                let error = (f64::from(*value) - exact).abs();
                // Also for NaN.
                largest = if error <= largest { largest } else { error };
                squares += exact * exact;
            }
            let gap = &values[shape.channels..self.output_stride.min(values.len())];
            assert!(gap.iter().all(|value| *value == UNTOUCHED), "a gap was written");
        }
        largest / (squares / (shape.pixels() * shape.channels) as f64).sqrt().max(1e-3)
    }
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1..most(20), 1..most(20), 1..most(40), 1..most(70), 0usize..6, 0usize..6);
    let ends = (any::<u64>(), [0usize..5, 0usize..5, 0usize..5], any::<[bool; 2]>(), 0usize..4);
    (sizes, ends)
        .prop_filter("no output", |((_, height, width, _, _, pad_y, pad_x), _)| {
            height + 2 * pad_y > 2 && width + 2 * pad_x > 2
        })
        .prop_map(|((batch, height, width, from, to, pad_y, pad_x), (seed, gaps, ends, activation))| {
            use Activation::{Identity, ReLU, ReLU6, SiLU};
            let activation = [Identity, ReLU, ReLU6, SiLU][activation];
            let seed = seed >> 8;
            Case::new(seed, batch, [height, width], [from, to], [pad_y, pad_x], gaps, ends, activation)
        })
}

#[test]
fn agrees_with_the_direct_sum() {
    let config = Config { cases: cases(24), failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&case(), |case| {
            for level in Level::all() {
                for tile in [WinogradTile::F2, WinogradTile::F4] {
                    let one = case.run(level, tile, 1);
                    let error = case.error(&one);
                    prop_assert!(error < 3e-5, "{level} {tile:?}: error {error}");
                    for threads in [2, 3] {
                        prop_assert!(case.run(level, tile, threads) == one, "{threads} threads differ");
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Layers that are divided in each of the ways there are, and strips that are not full.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn large_layers_are_divided_well() {
    let layers = [
        ([1, 75, 61], [33, 40]),
        ([3, 14, 14], [130, 150]),
        ([2, 29, 30], [70, 300]),
        ([9, 7, 7], [96, 260]),
    ];
    for (seed, ([batch, height, width], channels)) in (0..).zip(layers) {
        let case = Case::new(
            seed,
            batch,
            [height, width],
            channels,
            [1, 1],
            [0, 3, 1],
            [true, true],
            Activation::ReLU,
        );
        for level in Level::all().into_iter().skip(1) {
            for tile in [WinogradTile::F2, WinogradTile::F4] {
                let one = case.run(level, tile, 1);
                let error = case.error(&one);
                assert!(error < 3e-5, "{level} {tile:?} {channels:?}: error {error}");
                assert!(case.run(level, tile, 2) == one, "2 threads differ");
                assert!(case.run(level, tile, 3) == one, "3 threads differ");
            }
        }
    }
}

/// So much transformed input that threads share it in groups of tiles; one thread has no groups.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn groups_of_tiles_change_nothing() {
    let ends = [true, false];
    let case = Case::new(11, 1, [57, 57], [600, 300], [1, 1], [0; 3], ends, Activation::Identity);
    for level in Level::all().into_iter().skip(1) {
        let one = case.run(level, WinogradTile::F4, 1);
        let two = case.run(level, WinogradTile::F4, 2);
        assert!(one == two, "{level}: 2 threads differ");
        for (pixel, channel) in [(0, 0), (1805, 17), (3248, 299)] {
            let exact = case.exact(0, pixel / 57, pixel % 57, channel);
            let error = (f64::from(one[pixel * 300 + channel]) - exact).abs();
            assert!(error < 1e-3, "{level}: error {error} of {exact}");
        }
    }
}

/// The inputs of a trained network's middle: not negative, and many of them.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn errors_stay_small_with_many_channels() {
    let mut case = Case::new(7, 1, [14, 14], [512, 32], [1, 1], [0; 3], [false; 2], Activation::Identity);
    case.input.iter_mut().for_each(|x| *x = x.max(0.0));
    for level in Level::all() {
        let error = |tile| case.error(&case.run(level, tile, 1));
        let (f2, f4) = (error(WinogradTile::F2), error(WinogradTile::F4));
        println!("{level}: F2 {f2:.2e}, F4 {f4:.2e}");
        assert!(f2 < 1e-5 && f4 < 1e-4, "{level}: F2 {f2}, F4 {f4}");
    }
}
