//! Norms in training against f64: their statistics, what they give, and their gradients by central differences.

mod common;

use common::{assert_near, differences, on_all_levels, to_f64, values, with_gaps, without_gaps};
use engraft_kernels::{
    Activation, BatchNorm, FoldedNorm, GradientEpilogue, Matrix, batch_norm_affine, batch_norm_backward,
    batch_statistics, folded_norm_backward, layer_norm_backward, normalise,
};

const GAP: f32 = 7.5;
const EPS: f64 = 1e-5;

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::ReLU => x.max(0.0),
        Activation::ReLU6 => x.clamp(0.0, 6.0),
        Activation::SiLU => x / (1.0 + (-x).exp()),
        other => unreachable!("no case has {other:?}"),
    }
}

/// Mean and variance of each column.
fn statistics(x: &[f64], columns: usize) -> [Vec<f64>; 2] {
    let rows = (x.len() / columns) as f64;
    let mean: Vec<f64> =
        (0..columns).map(|c| x.iter().skip(c).step_by(columns).sum::<f64>() / rows).collect();
    let variance = (0..columns)
        .map(|c| x.iter().skip(c).step_by(columns).map(|x| (x - mean[c]).powi(2)).sum::<f64>() / rows)
        .collect();
    [mean, variance]
}

#[test]
fn statistics_of_a_batch() {
    for [rows, columns] in [[1, 1], [7, 5], [64, 130], [65, 24], [1000, 33], [5000, 3]] {
        for shift in [0.0, 1000.0] {
            let x: Vec<f32> = values(rows * columns, 1).iter().map(|x| x + shift).collect();
            let expected = statistics(&to_f64(&x), columns);
            let gapped = with_gaps(&x, columns, columns + 3, f32::NAN);
            let results = on_all_levels(|level, pool| {
                let (mut mean, mut variance) = (vec![0.0; columns], vec![0.0; columns]);
                let x = Matrix { values: &gapped, stride: columns + 3 };
                batch_statistics(level, pool, [rows, columns], x, &mut mean, &mut variance);
                vec![mean, variance]
            });
            for (level, results) in results {
                let what = format!("{level}, {rows}x{columns} around {shift}");
                // A mean of a thousand is half a ten thousandth from its neighbours: so much is a difference from it off.
                // Differences of values below 1 from the first row are below 2, where numbers are 2.4e-7 apart at the most.
                assert_near(&what, &results[0], &expected[0], f64::from(4e-7 + 1e-7 * shift));
                assert_near(&what, &results[1], &expected[1], 1e-6 * f64::from(1.0 + shift / 10.0));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 2],
    activation: Activation,
    batch: bool,
    residual: bool,
    in_place: bool,
    accumulate: bool,
}

impl Case {
    fn check(self) {
        let Case { sizes: [rows, columns], activation, batch, residual, in_place, accumulate } = self;
        let x: Vec<f32> = values(rows * columns, 1).iter().map(|x| 2.0 * x + 0.5).collect();
        let (dy, other) = (values(rows * columns, 2), values(rows * columns, 3));
        let gamma: Vec<f32> = values(columns, 4).iter().map(|x| 3.0 * x + 1.0).collect();
        let (beta, running) = (values(columns, 5), values(columns, 6));
        let before = values(rows * columns, 7);
        let forward = |x: &[f64], gamma: &[f64], beta: &[f64]| -> Vec<f64> {
            let [mut mean, mut variance] = statistics(x, columns);
            if !batch {
                mean = to_f64(&running);
                variance = running.iter().map(|x| 0.5 + f64::from(x.abs())).collect();
            }
            x.iter()
                .enumerate()
                .map(|(i, x)| {
                    let c = i % columns;
                    let y = (x - mean[c]) / (variance[c] + EPS).sqrt() * gamma[c] + beta[c];
                    activate(activation, y + if residual { f64::from(other[i]) } else { 0.0 })
                })
                .collect()
        };
        let loss = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum::<f64>();
        let (x64, gamma64, beta64) = (to_f64(&x), to_f64(&gamma), to_f64(&beta));
        let mut expected = [
            differences(&x, |x| loss(forward(x, &gamma64, &beta64))),
            differences(&gamma, |gamma| loss(forward(&x64, gamma, &beta64))),
            differences(&beta, |beta| loss(forward(&x64, &gamma64, beta))),
        ];
        if accumulate {
            expected[0].iter_mut().zip(&before).for_each(|(g, before)| *g += f64::from(*before));
            expected[1..].iter_mut().flatten().for_each(|g| *g += 0.5);
        }
        let expected_y = forward(&x64, &gamma64, &beta64);
        let [x_stride, y_stride, d_stride, to_stride] = [1, 2, 0, 4].map(|gap| columns + gap);
        let gapped = with_gaps(&x, columns, x_stride, f32::NAN);
        let results = on_all_levels(|level, pool| {
            let x = Matrix { values: &gapped, stride: x_stride };
            let (mut mean, mut variance) = (vec![0.0; columns], vec![0.0; columns]);
            batch_statistics(level, pool, [rows, columns], x, &mut mean, &mut variance);
            if !batch {
                mean.copy_from_slice(&running);
                variance.iter_mut().zip(&running).for_each(|(v, x)| *v = 0.5 + x.abs());
            }
            let rstd: Vec<f32> = variance.iter().map(|v| 1.0 / (v + EPS as f32).sqrt()).collect();
            let norm = BatchNorm { mean: &mean, rstd: &rstd, gamma: &gamma, beta: &beta, batch };
            let (mut scale, mut shift) = (vec![0.0; columns], vec![0.0; columns]);
            batch_norm_affine(norm, &mut scale, &mut shift);
            let mut y = vec![GAP; rows * y_stride];
            let added = residual.then_some(Matrix { values: &other, stride: columns });
            normalise(level, pool, [rows, columns], x, &scale, &shift, added, activation, &mut y, y_stride);
            let [mut dgamma, mut dbeta] = [vec![0.5; columns], vec![0.5; columns]];
            let start = if in_place { &dy } else { &before };
            let mut dx = with_gaps(start, columns, to_stride, GAP);
            let output = residual.then_some(Matrix { values: &y, stride: y_stride });
            let given = (!in_place).then_some(Matrix { values: &dy, stride: d_stride });
            batch_norm_backward(
                level,
                pool,
                [rows, columns],
                x,
                norm,
                activation,
                output,
                given,
                accumulate,
                &mut dgamma,
                &mut dbeta,
                Some((&mut dx, to_stride)),
                accumulate,
            );
            let mut alone = [vec![0.5; columns], vec![0.5; columns]];
            let [a, b] = &mut alone;
            let dy = Some(Matrix { values: &dy, stride: columns });
            batch_norm_backward(
                level,
                pool,
                [rows, columns],
                x,
                norm,
                activation,
                output,
                dy,
                accumulate,
                a,
                b,
                None,
                false,
            );
            assert!(
                [&dgamma, &dbeta] == [&alone[0], &alone[1]],
                "the sums do not depend on what else is wanted"
            );
            let dx = without_gaps(&dx, columns, to_stride, GAP);
            vec![dx, dgamma, dbeta, without_gaps(&y, columns, y_stride, GAP)]
        });
        for (level, results) in results {
            let what = format!("{level}, {self:?}");
            let of_sums = 2e-6 * (5.0 + 3.0 * (rows as f64).sqrt());
            assert_near(&what, &results[0], &expected[0], 2e-5);
            assert_near(&what, &results[1], &expected[1], of_sums);
            assert_near(&what, &results[2], &expected[2], of_sums);
            assert_near(&what, &results[3], &expected_y, 1e-5);
        }
    }
}

#[test]
fn batch_norms() {
    let sizes = [[7, 1], [6, 19], [70, 5]];
    for (i, activation) in
        [Activation::Identity, Activation::ReLU, Activation::ReLU6, Activation::SiLU].into_iter().enumerate()
    {
        for batch in [false, true] {
            let case = Case {
                sizes: sizes[i % 3],
                activation,
                batch,
                residual: false,
                in_place: false,
                accumulate: false,
            };
            case.check();
            Case { in_place: true, ..case }.check();
            Case { accumulate: true, ..case }.check();
            if activation != Activation::SiLU {
                Case { residual: true, in_place: true, sizes: [9, 37], ..case }.check();
            }
        }
    }
}

#[test]
fn layer_norms() {
    for [rows, columns] in [[1, 2], [5, 24], [3, 37], [130, 3]] {
        let (x, dy, gamma, beta) =
            (values(rows * columns, 1), values(rows * columns, 2), values(columns, 3), values(columns, 4));
        let before = values(rows * columns, 5);
        let forward = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
            let mut loss = 0.0;
            for (x, dy) in x.chunks(columns).zip(dy.chunks(columns)) {
                let mean = x.iter().sum::<f64>() / columns as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                for c in 0..columns {
                    let y = (x[c] - mean) / (variance + EPS).sqrt() * gamma[c] + beta[c];
                    loss += y * f64::from(dy[c]);
                }
            }
            loss
        };
        let (x64, gamma64, beta64) = (to_f64(&x), to_f64(&gamma), to_f64(&beta));
        for accumulate in [false, true] {
            let mut expected = [
                differences(&x, |x| forward(x, &gamma64, &beta64)),
                differences(&gamma, |gamma| forward(&x64, gamma, &beta64)),
                differences(&beta, |beta| forward(&x64, &gamma64, beta)),
            ];
            if accumulate {
                expected[0].iter_mut().zip(&before).for_each(|(g, before)| *g += f64::from(*before));
                expected[1..].iter_mut().flatten().for_each(|g| *g += 0.5);
                expected[0].iter_mut().zip(&x).for_each(|(g, z)| *g = if *z > 0.0 { *g } else { 0.0 });
            }
            let results = on_all_levels(|level, pool| {
                let [mut dgamma, mut dbeta] = [vec![0.5; columns], vec![0.5; columns]];
                let mut dx = with_gaps(&before, columns, columns + 2, GAP);
                let x = Matrix { values: &x, stride: columns };
                let activation = accumulate.then_some((Activation::ReLU, x));
                let epilogue = GradientEpilogue { accumulate, activation };
                let dy = Matrix { values: &dy, stride: columns };
                layer_norm_backward(
                    level,
                    pool,
                    [rows, columns],
                    x,
                    &gamma,
                    EPS as f32,
                    dy,
                    accumulate,
                    &mut dgamma,
                    &mut dbeta,
                    epilogue,
                    &mut dx,
                    columns + 2,
                );
                vec![without_gaps(&dx, columns, columns + 2, GAP), dgamma, dbeta]
            });
            for (level, results) in results {
                for (result, expected) in results.iter().zip(&expected) {
                    // Two values have a variance that may be small.
                    assert_near(&format!("{level}, {rows}x{columns}"), result, expected, 1e-4);
                }
            }
        }
    }
}

/// A linear layer and a norm with given statistics: what folding gives, and what the two give apart.
#[test]
fn folded_norms() {
    let [rows, inputs, channels] = [11, 5, 7];
    let (x, w, dy) = (values(rows * inputs, 1), values(channels * inputs, 2), values(rows * channels, 3));
    let (mean, gamma, beta) = (values(channels, 4), values(channels, 5), values(channels, 6));
    let rstd: Vec<f32> = values(channels, 7).iter().map(|x| 1.5 + x).collect();
    let loss = |w: &[f64], gamma: &[f64], beta: &[f64]| {
        let mut loss = 0.0;
        for row in 0..rows {
            for c in 0..channels {
                let z: f64 = (0..inputs).map(|i| f64::from(x[row * inputs + i]) * w[c * inputs + i]).sum();
                let y = (z - f64::from(mean[c])) * f64::from(rstd[c]) * gamma[c] + beta[c];
                loss += y * f64::from(dy[row * channels + c]);
            }
        }
        loss
    };
    let (w64, gamma64, beta64) = (to_f64(&w), to_f64(&gamma), to_f64(&beta));
    let mut dw = vec![0.0; w.len()];
    let mut dbias = vec![0.0; channels];
    for row in 0..rows {
        for c in 0..channels {
            dbias[c] += dy[row * channels + c];
            for i in 0..inputs {
                dw[c * inputs + i] += dy[row * channels + c] * x[row * inputs + i];
            }
        }
    }
    let mut dgamma = vec![0.0; channels];
    let norm = FoldedNorm { weight: &w, mean: &mean, rstd: &rstd, gamma: &gamma };
    folded_norm_backward(norm, &dbias, &mut dw, Some(&mut dgamma));
    assert_near("dw", &dw, &differences(&w, |w| loss(w, &gamma64, &beta64)), 1e-5);
    assert_near("dgamma", &dgamma, &differences(&gamma, |gamma| loss(&w64, gamma, &beta64)), 1e-5);
    assert_near("dbeta", &dbias, &differences(&beta, |beta| loss(&w64, &gamma64, beta)), 1e-5);
}
