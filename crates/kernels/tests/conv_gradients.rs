//! Gradients of convolutions against plain loops in f64.

mod common;

use common::{assert_near, cases, most, on_all_levels, to_f64, values, with_gaps, without_gaps};
use engraft_kernels::{
    Activation, ConvGeometry, ConvGradientWeights, DepthwiseWeights, Epilogue, GradientEpilogue, Level, Maps,
    MapsMut, MapsShape, Matrix, Pool, WinogradTile, WinogradWeights, conv_input_gradient,
    conv_weight_gradient, depthwise_input_gradient, depthwise_weight_gradient, winograd,
    winograd_weight_gradient,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const GAP: f32 = 7.5;

/// A convolution's shapes.
#[derive(Clone, Copy, Debug)]
struct Case {
    input: MapsShape,
    outputs: usize,
    geometry: ConvGeometry,
}

impl Case {
    fn new(
        [batch, height, width]: [usize; 3],
        [channels, outputs]: [usize; 2],
        geometry: ConvGeometry,
    ) -> Case {
        Case { input: MapsShape { batch, height, width, channels }, outputs, geometry }
    }

    fn output(&self) -> MapsShape {
        let MapsShape { batch, height, width, .. } = self.input;
        let [height, width] = self.geometry.output_size(height, width);
        MapsShape { batch, height, width, channels: self.outputs }
    }

    fn weight(&self) -> usize {
        let ConvGeometry { kernel, groups, .. } = self.geometry;
        self.outputs * self.input.channels / groups * kernel[0] * kernel[1]
    }

    /// Calls with the places of an input value, an output value and a weight that meet.
    fn each(&self, mut body: impl FnMut(usize, usize, usize)) {
        let (out, inputs) = (self.output(), self.input.channels / self.geometry.groups);
        let ConvGeometry { kernel, stride, padding, dilation, groups } = self.geometry;
        for pixel in 0..out.pixels() {
            let (row, x) = (pixel / out.width, pixel % out.width);
            let (image, y) = (row / out.height, row % out.height);
            for tap in 0..kernel[0] * kernel[1] {
                let in_y = (y * stride[0] + tap / kernel[1] * dilation[0]).checked_sub(padding[0]);
                let in_x = (x * stride[1] + tap % kernel[1] * dilation[1]).checked_sub(padding[1]);
                let (Some(in_y), Some(in_x)) = (in_y, in_x) else { continue };
                if in_y >= self.input.height || in_x >= self.input.width {
                    continue;
                }
                let in_pixel = (image * self.input.height + in_y) * self.input.width + in_x;
                for output in 0..self.outputs {
                    let first = output / (self.outputs / groups) * inputs;
                    for input in 0..inputs {
                        let weight = (output * inputs + input) * kernel[0] * kernel[1] + tap;
                        body(
                            in_pixel * self.input.channels + first + input,
                            pixel * self.outputs + output,
                            weight,
                        );
                    }
                }
            }
        }
    }

    fn gradients(&self, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 2] {
        let [mut dx, mut dw] = [vec![0.0; x.len()], vec![0.0; w.len()]];
        self.each(|input, output, weight| {
            let dy = f64::from(dy[output]);
            dx[input] += dy * f64::from(w[weight]);
            dw[weight] += dy * f64::from(x[input]);
        });
        [dx, dw]
    }

    /// Both gradients, by the kernels that `kind` says.
    fn check(&self, kind: Kind, gaps: [usize; 2], accumulate: bool, relu: bool) {
        let (input, out) = (self.input, self.output());
        let [x, w] = [values(input.pixels() * input.channels, 1), values(self.weight(), 2)];
        let dy = values(out.pixels() * self.outputs, 3);
        let [old_x, old_w, z] = [values(x.len(), 4), values(w.len(), 5), values(x.len(), 6)];
        let [mut dx, mut dw] = self.gradients(&x, &w, &dy);
        if accumulate {
            dx.iter_mut().zip(&old_x).for_each(|(g, old)| *g += f64::from(*old));
            dw.iter_mut().zip(&old_w).for_each(|(g, old)| *g += f64::from(*old));
        }
        if relu {
            dx.iter_mut().zip(&z).for_each(|(g, z)| *g = if *z > 0.0 { *g } else { 0.0 });
        }
        let [in_stride, out_stride] = [input.channels + gaps[0], self.outputs + gaps[1]];
        let x = with_gaps(&x, input.channels, in_stride, f32::NAN);
        let dy = with_gaps(&dy, self.outputs, out_stride, f32::NAN);
        let before = with_gaps(&old_x, input.channels, in_stride, GAP);
        let results = on_all_levels(|level, pool| {
            let (mut dx, mut dw) = (before.clone(), old_w.clone());
            let activation =
                relu.then_some((Activation::ReLU, Matrix { values: &z, stride: input.channels }));
            let epilogue = GradientEpilogue { accumulate, activation };
            let x = Maps { values: &x, shape: input, stride: in_stride };
            let dy = Maps { values: &dy, shape: out, stride: out_stride };
            let to = MapsMut { values: &mut dx, shape: input, stride: in_stride };
            let ConvGeometry { kernel, stride, padding, dilation, .. } = self.geometry;
            match kind {
                Kind::Conv => {
                    let mut weights =
                        ConvGradientWeights::zeros(level, self.outputs, input.channels, self.geometry);
                    weights.pack(pool, &old_w);
                    weights.pack(pool, &w);
                    conv_input_gradient(pool, dy, &weights, epilogue, to);
                    conv_weight_gradient(level, pool, x, dy, self.geometry, accumulate, &mut dw);
                }
                Kind::Winograd(tile) => {
                    let mut weights = WinogradWeights::zeros(level, tile, input.channels, self.outputs);
                    weights.pack_rotated(pool, &w);
                    winograd(pool, dy, &weights, padding.map(|p| 2 - p), Epilogue::default(), to);
                    winograd_weight_gradient(level, pool, x, dy, padding, accumulate, &mut dw);
                }
                Kind::Depthwise => {
                    let mut weights = DepthwiseWeights::new(level, &old_w, input.channels, self.geometry);
                    weights.pack(pool, &w);
                    depthwise_input_gradient(pool, dy, &weights, epilogue, to);
                    depthwise_weight_gradient(
                        level, pool, x, dy, kernel, stride, padding, dilation, accumulate, &mut dw,
                    );
                }
            }
            vec![without_gaps(&dx, input.channels, in_stride, GAP), dw]
        });
        let rounding = if matches!(kind, Kind::Winograd(_)) { 6.0 } else { 1.0 };
        let of_input = 1e-6 * rounding * (8.0 + (self.weight() / input.channels.max(1)) as f64);
        let of_weight = 1e-6 * rounding * (8.0 + 4.0 * (out.pixels() as f64).sqrt());
        for (level, results) in results {
            assert_near(&format!("dx, {level}, {self:?}"), &results[0], &dx, of_input);
            assert_near(&format!("dw, {level}, {self:?}"), &results[1], &dw, of_weight);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Conv,
    Winograd(WinogradTile),
    Depthwise,
}

fn geometry(
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
) -> ConvGeometry {
    ConvGeometry { kernel, stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups }
}

#[test]
fn convolutions_as_in_networks() {
    for (sizes, channels, geometry) in [
        ([2, 23, 23], [3, 20], geometry([7, 7], 2, 3, 1, 1)),
        ([2, 15, 14], [17, 33], geometry([3, 3], 1, 1, 1, 1)),
        ([2, 15, 14], [17, 33], geometry([3, 3], 2, 1, 1, 1)),
        ([3, 14, 14], [24, 40], geometry([1, 1], 2, 0, 1, 1)),
        ([2, 9, 9], [32, 64], geometry([1, 1], 1, 0, 1, 1)),
        ([2, 12, 12], [16, 24], geometry([2, 2], 2, 0, 1, 1)),
        ([1, 21, 21], [6, 6], geometry([5, 5], 4, 2, 1, 1)),
        ([2, 11, 11], [32, 32], geometry([3, 3], 1, 1, 1, 8)),
        ([2, 11, 11], [24, 48], geometry([3, 3], 2, 1, 1, 3)),
        ([2, 13, 13], [8, 16], geometry([3, 3], 1, 2, 2, 1)),
        ([1, 16, 16], [3, 8], geometry([4, 4], 4, 0, 1, 1)),
        ([1, 9, 9], [5, 5], geometry([1, 1], 3, 1, 1, 1)),
        ([2, 6, 6], [1024, 9], geometry([3, 3], 1, 1, 1, 1)),
        ([8, 30, 30], [9, 10], geometry([3, 3], 1, 1, 1, 1)),
    ] {
        let case = Case::new(sizes, channels, geometry);
        case.check(Kind::Conv, [0, 0], false, false);
        case.check(Kind::Conv, [3, 1], true, true);
    }
}

#[test]
fn winograds_gradients() {
    for (sizes, channels, padding) in [
        ([2, 14, 14], [16, 16], 1),
        ([1, 7, 9], [19, 37], 1),
        ([3, 5, 6], [8, 70], 0),
        ([2, 11, 10], [40, 9], 2),
        ([2, 40, 41], [12, 24], 1),
        ([1, 8, 8], [3, 16], 1),
    ] {
        let case = Case::new(sizes, channels, geometry([3, 3], 1, padding, 1, 1));
        for tile in [WinogradTile::F2, WinogradTile::F4] {
            case.check(Kind::Winograd(tile), [0, 0], false, false);
        }
        // The accumulated input's gradient is not Winograd's.
        let case_of_weight = |level: Level, pool: &Pool| {
            let (x, dy) = (
                values(case.input.pixels() * channels[0], 1),
                values(case.output().pixels() * channels[1], 3),
            );
            let mut dw = [values(case.weight(), 5), values(case.weight(), 5)];
            let (x, dy) = (Maps::new(&x, case.input), Maps::new(&dy, case.output()));
            winograd_weight_gradient(level, pool, x, dy, [padding; 2], true, &mut dw[0]);
            conv_weight_gradient(level, pool, x, dy, case.geometry, true, &mut dw[1]);
            dw.to_vec()
        };
        for (level, results) in on_all_levels(case_of_weight) {
            assert_near(&format!("{level}, {case:?}"), &results[0], &to_f64(&results[1]), 1e-3);
        }
    }
}

#[test]
fn depthwise_convolutions_as_in_networks() {
    for (sizes, channels, geometry) in [
        ([2, 15, 14], 20, geometry([3, 3], 1, 1, 1, 20)),
        ([2, 15, 14], 33, geometry([3, 3], 2, 1, 1, 33)),
        ([3, 14, 15], 40, geometry([5, 5], 1, 2, 1, 40)),
        ([3, 14, 15], 17, geometry([5, 5], 2, 2, 1, 17)),
        ([1, 17, 18], 8, geometry([7, 7], 1, 3, 1, 8)),
        ([2, 9, 9], 5, geometry([3, 3], 1, 2, 2, 5)),
        ([2, 9, 9], 16, geometry([1, 1], 1, 0, 1, 16)),
        ([2, 9, 9], 24, geometry([2, 3], 3, 1, 1, 24)),
        ([20, 4, 4], 48, geometry([3, 3], 1, 1, 1, 48)),
    ] {
        let case = Case::new(sizes, [channels, channels], geometry);
        case.check(Kind::Depthwise, [0, 0], false, false);
        case.check(Kind::Depthwise, [3, 1], true, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(80), rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn convolutions_of_any_sizes(
        sizes in [1..3_usize, 1..most(14), 1..most(14)],
        widths in [1..most(12), 1..most(12)],
        kernel in [1..5_usize, 1..5], stride in [1..4_usize, 1..4], padding in [0..3_usize, 0..3], dilation in [1..3_usize, 1..3],
        groups in 1..4_usize, gaps in [0..3_usize, 0..3], accumulate: bool, relu: bool,
    ) {
        let geometry = ConvGeometry { kernel, stride, padding, dilation, groups };
        Case::new(sizes, widths.map(|width| width * groups), geometry).check(Kind::Conv, gaps, accumulate, relu);
        let channels = 3 * widths[0];
        let geometry = ConvGeometry { groups: channels, ..geometry };
        Case::new(sizes, [channels; 2], geometry).check(Kind::Depthwise, gaps, accumulate, relu);
    }
}
