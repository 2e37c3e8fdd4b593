//! Layer norm and softmax against plain loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{LayerNorm, Level, Matrix, MatrixMut, Pool, layer_norm, softmax};
use proptest::prelude::*;

/// What the gaps in the output are filled with.
const GAP: f32 = 7.5;

/// Values between `centre - 1` and `centre + 1`.
fn around(centre: f32, count: usize) -> Vec<f32> {
    values(count, count as u64).into_iter().map(|x| centre + x).collect()
}

/// Runs `kernel` on all levels and numbers of threads, and checks its rows against `row`'s.
fn check(
    [rows, columns]: [usize; 2],
    [input_gap, output_gap]: [usize; 2],
    centre: f32,
    tolerance: f64,
    kernel: impl Fn(Level, &Pool, Matrix<'_>, MatrixMut<'_>),
    row: impl Fn(&[f32]) -> Vec<f64>,
) {
    let (stride, output_stride) = (columns + input_gap, columns + output_gap);
    let input = around(centre, (rows - 1) * stride + columns);
    for level in Level::all() {
        let run = |threads: usize| {
            let mut output = vec![GAP; (rows - 1) * output_stride + columns];
            let to = MatrixMut { values: &mut output, stride: output_stride };
            kernel(level, &Pool::new(threads), Matrix { values: &input, stride }, to);
            output
        };
        let output = run(1);
        for (r, y) in output.chunks(output_stride).enumerate() {
            let expected = row(&input[r * stride..][..columns]);
            for (column, (&y, e)) in y.iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(y) - e).abs() <= tolerance * e.abs().max(1e-3),
                    "{level}: {y} instead of {e} in row {r}, column {column} of {columns}"
                );
            }
            assert!(y[columns..].iter().all(|&y| y == GAP), "{level} writes between the rows");
        }
        assert!(run(2) == output && run(3) == output, "{level}: threads change the result");
    }
}

fn check_layer_norm(shape: [usize; 2], gaps: [usize; 2], centre: f32) {
    let (gamma, beta) = (around(1.0, shape[1]), around(0.0, shape[1] + 1));
    // The rounding of the input's mean, seen in units of the deviation.
    let tolerance = 1e-3 + f64::from(centre) * 1e-3;
    check(
        shape,
        gaps,
        centre,
        tolerance,
        |level, pool, input, output| {
            let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-6 };
            layer_norm(level, pool, shape, input, norm, output);
        },
        |x| {
            let n = x.len() as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let value = |(i, &x): (usize, &f32)| {
                (f64::from(x) - mean) / (variance + 1e-6).sqrt() * f64::from(gamma[i]) + f64::from(beta[i])
            };
            x.iter().enumerate().map(value).collect()
        },
    );
}

fn check_softmax(shape: [usize; 2], gaps: [usize; 2], centre: f32) {
    check(
        shape,
        gaps,
        centre,
        1e-6,
        |level, pool, input, output| softmax(level, pool, shape, input, output),
        |x| {
            let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
            x.iter().map(|&x| f64::from(x).exp() / sum).collect()
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(64), failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(4), ..ProptestConfig::default() })]

    #[test]
    fn any_sizes(
        rows in 1..most(40),
        columns in 2..most(300),
        input_gap in 0_usize..9,
        output_gap in 0_usize..9,
    ) {
        check_layer_norm([rows, columns], [input_gap, output_gap], 0.0);
        check_softmax([rows, columns], [input_gap, output_gap], 0.0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn many_tasks() {
    check_layer_norm([197, 768], [0, 0], 0.0);
    check_softmax([100, 1000], [0, 0], 0.0);
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn far_from_zero() {
    check_layer_norm([3, 771], [0, 0], 100.0);
    check_softmax([3, 77], [0, 0], -500.0);
}

#[test]
fn one_column() {
    check_softmax([5, 1], [0, 0], 0.0);
    // The variance is zero, so that the mean's rounding is all there is.
    for level in Level::all() {
        let mut output = [GAP; 1];
        let input = Matrix { values: &[3.0], stride: 1 };
        let norm = LayerNorm { gamma: &[2.0], beta: &[0.25], eps: 1e-5 };
        let to = MatrixMut { values: &mut output, stride: 1 };
        layer_norm(level, &Pool::new(1), [1, 1], input, norm, to);
        assert_eq!(output, [0.25]);
    }
}

#[test]
fn infinities_and_nan() {
    let row = |values: [f32; 3]| {
        Level::all().into_iter().map(move |level| {
            let mut output = [GAP; 3];
            let to = MatrixMut { values: &mut output, stride: 3 };
            softmax(level, &Pool::new(1), [1, 3], Matrix { values: &values, stride: 3 }, to);
            output
        })
    };
    let least = f32::NEG_INFINITY;
    assert!(row([0.0, least, 0.0]).all(|y| y == [0.5, 0.0, 0.5]));
    assert!(row([least, least, least]).all(|y| y.iter().all(|y| y.is_nan())));
    assert!(row([0.0, f32::NAN, 0.0]).all(|y| y.iter().all(|y| y.is_nan())));
    assert!(row([0.0, f32::INFINITY, 0.0]).all(|y| y.iter().all(|y| y.is_nan())));
}
