//! Gradients of products, and packing again, against plain loops in f64.

mod common;

use common::{assert_near, cases, most, on_all_levels, to_f64, values, with_gaps, without_gaps};
use engraft_kernels::{
    Activation, ConvGeometry, ConvWeights, Epilogue, GradientEpilogue, Level, Maps, MapsMut, MapsShape,
    Matrix, PackedMatrix, Pool, Prologue, conv, gemm, product_input_gradient, product_weight_gradient,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const GAP: f32 = 7.5;

fn input_gradient([m, n, k]: [usize; 3], [dy_gap, dx_gap]: [usize; 2], accumulate: bool, relu: bool) {
    let (dy, w, before, z) = (values(m * n, 1), values(n * k, 2), values(m * k, 3), values(m * k, 4));
    let mut expected = if accumulate { to_f64(&before) } else { vec![0.0; m * k] };
    for row in 0..m {
        for i in 0..n {
            for column in 0..k {
                expected[row * k + column] += f64::from(dy[row * n + i]) * f64::from(w[i * k + column]);
            }
        }
    }
    if relu {
        expected.iter_mut().zip(&z).for_each(|(g, z)| *g = if *z > 0.0 { *g } else { 0.0 });
    }
    let dy_rows = with_gaps(&dy, n, n + dy_gap, f32::NAN);
    let results = on_all_levels(|level, pool| {
        let mut weights = PackedMatrix::zeros(level, n, k);
        weights.pack_rows(pool, Matrix { values: &w, stride: k });
        let mut dx = with_gaps(&before, k, k + dx_gap, GAP);
        let activation = relu.then_some((Activation::ReLU, Matrix { values: &z, stride: k }));
        let epilogue = GradientEpilogue { accumulate, activation };
        let dy = Matrix { values: &dy_rows, stride: n + dy_gap };
        product_input_gradient(pool, m, dy, &weights, epilogue, &mut dx, k + dx_gap);
        vec![without_gaps(&dx, k, k + dx_gap, GAP)]
    });
    for (level, results) in results {
        assert_near(&format!("{level}, {m}x{n}x{k}"), &results[0], &expected, 1e-6 * (8.0 + n as f64));
    }
}

#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Affine,
    Scale(usize),
}

fn weight_gradient([m, n, k]: [usize; 3], [x_gap, dy_gap]: [usize; 2], before: Before, accumulate: bool) {
    let (x, dy, old) = (values(m * k, 1), values(m * n, 2), values(n * k, 3));
    let (shift, scale) = (values(k, 4), values(m * k, 5));
    let left = |row: usize, column: usize| {
        let x = f64::from(x[row * k + column]);
        match before {
            Before::Nothing => x,
            Before::Affine => (x * f64::from(scale[column]) + f64::from(shift[column])).max(0.0),
            Before::Scale(rows) => x * f64::from(scale[row / rows * k + column]),
        }
    };
    let mut expected = if accumulate { to_f64(&old) } else { vec![0.0; n * k] };
    for row in 0..m {
        for i in 0..n {
            for column in 0..k {
                expected[i * k + column] += f64::from(dy[row * n + i]) * left(row, column);
            }
        }
    }
    let (x_rows, dy_rows) = (with_gaps(&x, k, k + x_gap, f32::NAN), with_gaps(&dy, n, n + dy_gap, f32::NAN));
    let results = on_all_levels(|level, pool| {
        let prologue = match before {
            Before::Nothing => Prologue::None,
            Before::Affine => {
                Prologue::Affine { scale: &scale[..k], shift: &shift, activation: Activation::ReLU }
            }
            Before::Scale(rows_per_image) => {
                Prologue::ImageScale { scale: Matrix { values: &scale, stride: k }, rows_per_image }
            }
        };
        let mut dw = old.clone();
        let x = Matrix { values: &x_rows, stride: k + x_gap };
        let dy = Matrix { values: &dy_rows, stride: n + dy_gap };
        product_weight_gradient(level, pool, m, [n, k], x, prologue, dy, accumulate, &mut dw);
        vec![dw]
    });
    for (level, results) in results {
        let what = format!("{level}, {m}x{n}x{k}, {before:?}");
        assert_near(&what, &results[0], &expected, 1e-6 * (8.0 + (m as f64).sqrt() * 3.0));
    }
}

#[test]
fn gradients_of_the_input() {
    for sizes in [[1, 1, 1], [13, 40, 33], [40, 2100, 17], [5, 1024, 20], [70, 64, 100]] {
        input_gradient(sizes, [0, 0], false, false);
        input_gradient(sizes, [0, 5], true, true);
    }
}

#[test]
fn gradients_of_the_weight() {
    for sizes in [[1, 1, 1], [300, 7, 33], [2000, 40, 24], [1030, 300, 20], [520, 17, 700], [16, 50, 1100]] {
        weight_gradient(sizes, [0, 3], Before::Nothing, false);
        weight_gradient(sizes, [1, 0], Before::Affine, true);
        weight_gradient(sizes, [0, 0], Before::Scale(49), false);
    }
    // Rows of the left operand that share a place of the cache are copied.
    weight_gradient([270, 1020, 300], [0, 4], Before::Affine, false);
    weight_gradient([270, 1024, 300], [0, 0], Before::Nothing, true);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(60), rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn gradients_of_any_sizes(
        m in 0..most(60), n in 1..most(60), k in 1..most(60), gaps in [0..4_usize, 0..4], accumulate: bool, relu: bool,
    ) {
        input_gradient([m, n, k], gaps, accumulate, relu);
        let before = if relu { Before::Affine } else { Before::Nothing };
        weight_gradient([m, n, k], gaps, before, accumulate);
    }
}

#[test]
fn packing_again_is_packing() {
    let pool = Pool::new(2);
    for level in Level::all() {
        for [k, n] in [[1, 1], [5, 20], [37, 64], [70, 100], [1100, 24]] {
            let (w, x) = (values(k * n, 1), values(3 * k, 2));
            let product = |weights: &PackedMatrix| {
                let mut y = vec![0.0; 3 * n];
                let x = Matrix { values: &x, stride: k };
                gemm(&pool, 3, x, Prologue::None, weights, Epilogue::default(), &mut y, n);
                y
            };
            let expected = product(&PackedMatrix::new(level, k, n, |row, column| w[row * n + column]));
            let transposed: Vec<f32> = (0..n * k).map(|i| w[i % k * n + i / k]).collect();
            let mut weights = PackedMatrix::zeros(level, k, n);
            for _ in 0..2 {
                weights.pack_rows(&pool, Matrix { values: &w, stride: n });
                assert_eq!(product(&weights), expected, "{level}, {k}x{n}");
                weights.pack_rows(&pool, Matrix { values: &transposed[..], stride: 0 });
                weights.pack_transposed(&pool, Matrix { values: &transposed, stride: k });
                assert_eq!(product(&weights), expected, "{level}, {k}x{n}");
            }
        }
    }
}

#[test]
fn convolutions_weights_are_packed_again() {
    let pool = Pool::new(2);
    for level in Level::all() {
        for ([inputs, outputs], kernel, groups) in [
            ([3, 20], [3, 3], 1),
            ([40, 36], [1, 1], 1),
            ([24, 70], [3, 2], 2),
            ([64, 64], [3, 3], 8),
            ([64, 64], [3, 3], 16),
            ([12, 40], [7, 7], 1),
        ] {
            let geometry = ConvGeometry { kernel, stride: [1, 1], padding: [1, 0], dilation: [1, 1], groups };
            let shape = MapsShape { batch: 1, height: 9, width: 8, channels: inputs };
            let [height, width] = geometry.output_size(9, 8);
            let out = MapsShape { batch: 1, height, width, channels: outputs };
            let count = outputs * (inputs / groups) * kernel[0] * kernel[1];
            let (first, second, x) = (values(count, 1), values(count, 2), values(72 * inputs, 3));
            let convolved = |weights: &ConvWeights| {
                let mut y = vec![0.0; out.pixels() * outputs];
                conv(&pool, Maps::new(&x, shape), weights, Epilogue::default(), MapsMut::new(&mut y, out));
                y
            };
            let expected = convolved(&ConvWeights::new(level, &second, outputs, inputs, geometry));
            let mut weights = ConvWeights::new(level, &first, outputs, inputs, geometry);
            weights.pack(&pool, &second);
            assert_eq!(convolved(&weights), expected, "{level}, {inputs} to {outputs}, {geometry:?}");
        }
    }
}
