//! Functions of single values against loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{Activation, Function, Level, Matrix, Pool, elementwise};
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
            for activation in [Activation::Identity, Activation::ReLU, Activation::Tanh] {
                let of_threads = |threads| {
                    let mut output = vec![9.0; rows * stride];
                    let x = Matrix { values: &x, stride };
                    elementwise(level, &Pool::new(threads), [rows, columns], x, function, activation, &mut output, stride);
                    output
                };
                let output = of_threads(1);
                for (i, value) in output.iter().enumerate() {
                    let (row, c) = (i / stride, i % stride);
                    let expected = match (c < columns, activation) {
                        (false, _) => 9.0,
                        (true, Activation::ReLU) => expected(row, c).max(0.0),
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
