//! The matrix product against plain loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{Activation, Epilogue, Level, Matrix, PackedMatrix, Pool, Prologue, gemm};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What the gaps in the result are filled with; those in the left operand are NaN.
const GAP: f32 = 7.5;

#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Affine(Activation),
    /// Rows of an image.
    Scale(usize),
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::ReLU => x.max(0.0),
        Activation::SiLU => x / (1.0 + (-x).exp()),
        other => unreachable!("no case has {other:?}"),
    }
}

/// `gaps` are of the left operand, the result and the residual; no residual if the last is none.
fn check([m, k, n]: [usize; 3], gaps: ([usize; 2], Option<usize>), before: Before, activation: Activation) {
    let ([a_gap, c_gap], residual_gap) = gaps;
    let (a_stride, c_stride) = (k + a_gap, n + c_gap);
    let mut a = values(m * a_stride, 1);
    a.chunks_mut(a_stride).for_each(|row| row[k..].fill(f32::NAN));
    let (b, bias, shift) = (values(k * n, 2), values(n, 3), values(k, 4));
    // A scale for each column, or for each image and column.
    let scale_stride = k + 3;
    let scale = values(m * scale_stride, 5);
    let residual_stride = n + residual_gap.unwrap_or(0);
    let residual = values(m * residual_stride, 6);
    let residual = residual_gap.map(|_| Matrix { values: &residual, stride: residual_stride });
    let prologue = match before {
        Before::Nothing => Prologue::None,
        Before::Affine(activation) => Prologue::Affine { scale: &scale[..k], shift: &shift, activation },
        Before::Scale(rows_per_image) => {
            Prologue::ImageScale { scale: Matrix { values: &scale, stride: scale_stride }, rows_per_image }
        }
    };
    let left = |row: usize, i: usize| {
        let x = f64::from(a[row * a_stride + i]);
        match before {
            Before::Nothing => x,
            Before::Affine(activation) => activate(activation, x * f64::from(scale[i]) + f64::from(shift[i])),
            Before::Scale(rows) => x * f64::from(scale[row / rows * scale_stride + i]),
        }
    };
    let mut expected = vec![0.0; m * n];
    for (row, expected) in expected.chunks_mut(n).enumerate() {
        for i in 0..k {
            let x = left(row, i);
            expected.iter_mut().zip(&b[i * n..]).for_each(|(sum, b)| *sum += x * f64::from(*b));
        }
        for (column, sum) in expected.iter_mut().enumerate() {
            let residual = residual.map_or(0.0, |r| f64::from(r.values[row * r.stride + column]));
            *sum = activate(activation, *sum + f64::from(bias[column]) + residual);
        }
    }
    for level in Level::all() {
        let packed = PackedMatrix::new(level, k, n, |i, j| b[i * n + j]);
        let run = |threads: usize| {
            let mut c = vec![GAP; m * c_stride];
            let epilogue = Epilogue { bias: Some(&bias), residual, activation };
            let a = Matrix { values: &a, stride: a_stride };
            gemm(&Pool::new(threads), m, a, prologue, &packed, epilogue, &mut c, c_stride);
            c
        };
        let c = run(1);
        for (row, (c, expected)) in c.chunks(c_stride).zip(expected.chunks(n)).enumerate() {
            for (column, (&c, e)) in c.iter().zip(expected).enumerate() {
                assert!(
                    (f64::from(c) - e).abs() <= 1e-6 * (8.0 + k as f64),
                    "{level}: {c} instead of {e} at {row}, {column} of {m}x{k}x{n}, {before:?}"
                );
            }
            assert!(c[n..].iter().all(|&c| c == GAP), "{level} writes between the rows");
        }
        assert!(run(2) == c && run(3) == c, "{level}: threads change the result");
    }
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::Identity), Just(Activation::ReLU), Just(Activation::SiLU)]
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![
        Just(Before::Nothing),
        activation().prop_map(Before::Affine),
        (1_usize..30).prop_map(Before::Scale)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(200),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(6),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sizes(
        m in 1..most(70),
        k in 0..most(60),
        n in 1..most(110),
        gaps in ([0_usize..9, 0_usize..9], prop_oneof![Just(None), (0_usize..5).prop_map(Some)]),
        before in before(),
        activation in activation(),
    ) {
        check([m, k, n], gaps, before, activation);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn many_blocks() {
    check([700, 70, 100], ([0, 0], None), Before::Nothing, Activation::ReLU);
    check([500, 128, 40], ([0, 24], Some(0)), Before::Affine(Activation::ReLU), Activation::Identity);
    check([300, 40, 300], ([0, 0], None), Before::Scale(49), Activation::Identity);
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn rows_that_share_a_place_of_the_cache() {
    check([60, 1024, 24], ([0, 0], None), Before::Nothing, Activation::ReLU);
    check([60, 1000, 24], ([24, 0], None), Before::Affine(Activation::SiLU), Activation::ReLU);
}

#[test]
fn rows_that_are_multiplied_in_runs() {
    if cfg!(miri) {
        return check([3, 1030, 2], ([0, 3], Some(2)), Before::Scale(2), Activation::SiLU);
    }
    check([33, 1025, 40], ([0, 3], Some(2)), Before::Nothing, Activation::SiLU);
    check([40, 2500, 20], ([0, 0], Some(0)), Before::Affine(Activation::ReLU), Activation::ReLU);
    check([17, 3072, 50], ([0, 0], None), Before::Scale(5), Activation::SiLU);
}
