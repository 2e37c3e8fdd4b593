//! Functions of single values against loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{Activation, Function, Level, Matrix, MatrixMut, Pool, elementwise};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(100), failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_loop(rows in 1..most(300), columns in 1..most(70), gap in 0usize..4, which in 0usize..5, per_image in 1usize..9) {
        let stride = columns + gap;
        let [x, other] = [1, 2].map(|seed| values(rows * stride, seed));
        let [scale, shift] = [3, 4].map(|seed| values(columns, seed));
        let other_matrix = Matrix { values: &other, stride };
        let function = match which {
            0 => Function::Identity,
            1 => Function::Affine { scale: &scale, shift: &shift },
            2 => Function::Add(other_matrix),
            3 => Function::Multiply(other_matrix),
            _ => Function::Scale { scale: other_matrix, rows_per_image: per_image },
        };
        let expected = |row: usize, c: usize| {
            let (x, o) = (x[row * stride + c] as f64, other[row * stride + c] as f64);
            match which {
                0 => x,
                1 => x * scale[c] as f64 + shift[c] as f64,
                2 => x + o,
                3 => x * o,
                _ => x * other[row / per_image * stride + c] as f64,
            }
        };
        for level in Level::all() {
            for activation in [Activation::Identity, Activation::ReLU, Activation::LeakyReLU(0.25), Activation::Tanh] {
                let of_threads = |threads| {
                    let mut output = vec![9.0; rows * stride];
                    let x = Matrix { values: &x, stride };
                    let to = MatrixMut { values: &mut output, stride };
                    elementwise(level, &Pool::new(threads), [rows, columns], x, function, activation, to);
                    output
                };
                let output = of_threads(1);
                for (i, value) in output.iter().enumerate() {
                    let (row, c) = (i / stride, i % stride);
                    let expected = match (c < columns, activation) {
                        (false, _) => 9.0,
                        (true, Activation::ReLU) => expected(row, c).max(0.0),
                        (true, Activation::LeakyReLU(slope)) => {
                            let x = expected(row, c);
                            if x > 0.0 { x } else { slope as f64 * x }
                        }
                        (true, Activation::Tanh) => expected(row, c).tanh(),
                        (true, _) => expected(row, c),
                    };
                    prop_assert!((*value as f64 - expected).abs() < 1e-5, "{level}, {i}: {value}, not {expected}");
                }
                prop_assert!(of_threads(3) == output, "{level}: threads");
            }
        }
    }
}

/// Its slope may be any: none, negative, steeper than one.
#[test]
fn leaky_relu_is_torchs() {
    let x = [
        f32::NEG_INFINITY,
        -3.0e38,
        -2.5,
        -1.0e-40,
        -0.0,
        0.0,
        1.0e-40,
        0.75,
        3.0e38,
        f32::INFINITY,
        f32::NAN,
    ];
    for level in Level::all() {
        for slope in [0.01, 0.0, -0.5, 1.0, 1.5] {
            let mut y = [9.0; 11];
            let matrix = Matrix { values: &x, stride: 11 };
            let activation = Activation::LeakyReLU(slope);
            let to = MatrixMut { values: &mut y, stride: 11 };
            elementwise(level, &Pool::new(1), [1, 11], matrix, Function::Identity, activation, to);
            for (x, y) in x.into_iter().zip(y) {
                // As `torch.nn.functional.leaky_relu` is defined.
                let expected = if x > 0.0 { x } else { x * slope };
                assert!(y == expected || y.is_nan() && expected.is_nan(), "{level}: {y} for {x} and {slope}");
            }
        }
    }
}
