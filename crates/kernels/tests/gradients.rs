//! The gradients of single values, rows and pools, sums over rows, the loss and the update rules, against f64.

mod common;

use common::{assert_near, differences, on_all_levels, to_f64, values, with_gaps, without_gaps};
use engraft_kernels::{
    Activation, Adam, GradientEpilogue, Maps, MapsMut, MapsShape, Matrix, MatrixMut, PoolGeometry, Sgd,
    activation_backward, adam, adaptive_avg_pool, adaptive_avg_pool_backward, add_rows, average, avg_pool,
    avg_pool_backward, column_products, column_sums, cross_entropy, max_pool_backward, scale, scale_images,
    sgd, softmax, softmax_backward, sum_of_squares,
};

const GAP: f32 = 7.5;

const ACTIVATIONS: [Activation; 10] = [
    Activation::Identity,
    Activation::ReLU,
    Activation::LeakyReLU(0.2),
    Activation::ReLU6,
    Activation::SiLU,
    Activation::Hardswish,
    Activation::Hardsigmoid,
    Activation::Sigmoid,
    Activation::GELU,
    Activation::Tanh,
];

fn activate(activation: Activation, x: f64) -> f64 {
    let clamped = (x + 3.0).clamp(0.0, 6.0) / 6.0;
    match activation {
        Activation::Identity => x,
        Activation::ReLU => x.max(0.0),
        Activation::LeakyReLU(slope) => x.max(0.0) + f64::from(slope) * x.min(0.0),
        Activation::ReLU6 => x.clamp(0.0, 6.0),
        Activation::SiLU => x / (1.0 + (-x).exp()),
        Activation::Hardswish => x * clamped,
        Activation::Hardsigmoid => clamped,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::GELU => x / 2.0 * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
        Activation::Tanh => x.tanh(),
    }
}

#[test]
fn derivatives_of_activations() {
    let [rows, columns] = [40, 37];
    let dense: Vec<f32> = (0..rows * columns).map(|i| (i as f32 - 740.3) / 74.0).collect();
    let dy = values(rows * columns, 2);
    let gapped = with_gaps(&dense, columns, columns + 1, f32::NAN);
    for activation in ACTIVATIONS {
        let expected: Vec<f64> = dense
            .iter()
            .zip(&dy)
            .map(|(x, dy)| {
                let (x, step) = (f64::from(*x), 1e-5);
                let slope = (activate(activation, x + step) - activate(activation, x - step)) / (2.0 * step);
                slope * f64::from(*dy)
            })
            .collect();
        let results = on_all_levels(|level, pool| {
            let (z, sizes) = (Matrix { values: &gapped, stride: columns + 1 }, [rows, columns]);
            let mut apart = vec![GAP; rows * (columns + 2)];
            let given = Some(Matrix { values: &dy, stride: columns });
            activation_backward(level, pool, sizes, activation, z, given, &mut apart, columns + 2);
            let mut in_place = dy.clone();
            activation_backward(level, pool, sizes, activation, z, None, &mut in_place, columns);
            vec![without_gaps(&apart, columns, columns + 2, GAP), in_place]
        });
        for (level, results) in results {
            assert_near(&format!("{level}, {activation:?}"), &results[0], &expected, 1e-6);
            assert_eq!(results[0], results[1], "{level}, {activation:?} in place");
        }
    }
}

/// Where derivatives have steps, and far away.
#[test]
fn derivatives_at_the_edges() {
    let inf = f32::INFINITY;
    for (activation, z, expected) in [
        (Activation::ReLU, vec![-1.0, 0.0, 1e-30, inf], vec![0.0, 0.0, 1.0, 1.0]),
        (Activation::LeakyReLU(0.5), vec![-1.0, 0.0, 1e-30, inf], vec![0.5, 0.5, 1.0, 1.0]),
        (Activation::ReLU6, vec![0.0, 1e-30, 5.999, 6.0, inf], vec![0.0, 1.0, 1.0, 0.0, 0.0]),
        (Activation::Hardsigmoid, vec![-3.0, 3.0, -inf], vec![0.0, 0.0, 0.0]),
        (Activation::Hardswish, vec![-3.0, 3.0, -inf, inf], vec![0.0, 1.0, 0.0, 1.0]),
        (Activation::SiLU, vec![-200.0, -inf, 200.0, inf], vec![0.0, 0.0, 1.0, 1.0]),
        (Activation::GELU, vec![-200.0, -inf, 200.0, inf], vec![0.0, 0.0, 1.0, 1.0]),
        (Activation::Tanh, vec![-200.0, -inf, 200.0, inf], vec![0.0; 4]),
        (Activation::Sigmoid, vec![-200.0, -inf, 200.0, inf], vec![0.0; 4]),
    ] {
        let results = on_all_levels(|level, pool| {
            let mut dx = vec![1.0; z.len()];
            let matrix = Matrix { values: &z, stride: z.len() };
            activation_backward(level, pool, [1, z.len()], activation, matrix, None, &mut dx, z.len());
            vec![dx]
        });
        for (level, results) in results {
            assert_near(&format!("{level}, {activation:?}"), &results[0], &expected, 1e-12);
        }
    }
}

#[test]
fn softmaxes() {
    for [rows, columns] in [[1, 1], [5, 24], [30, 37]] {
        let (x, dy) = (values(rows * columns, 1), values(rows * columns, 2));
        let expected = differences(&x, |x| {
            let of_row = |(x, dy): (&[f64], &[f32])| {
                let sum: f64 = x.iter().map(|x| x.exp()).sum();
                x.iter().zip(dy).map(|(x, dy)| x.exp() / sum * f64::from(*dy)).sum::<f64>()
            };
            x.chunks(columns).zip(dy.chunks(columns)).map(of_row).sum()
        });
        let dy = with_gaps(&dy, columns, columns + 3, f32::NAN);
        let results = on_all_levels(|level, pool| {
            let mut y = vec![0.0; rows * columns];
            let output = MatrixMut { values: &mut y, stride: columns };
            softmax(level, pool, [rows, columns], Matrix { values: &x, stride: columns }, output);
            let mut dx = vec![GAP; rows * (columns + 1)];
            let [y, dy] =
                [(&y, columns), (&dy, columns + 3)].map(|(values, stride)| Matrix { values, stride });
            softmax_backward(level, pool, [rows, columns], y, dy, &mut dx, columns + 1);
            vec![without_gaps(&dx, columns, columns + 1, GAP)]
        });
        for (level, results) in results {
            assert_near(&format!("{level}, {rows}x{columns}"), &results[0], &expected, 1e-6);
        }
    }
}

#[test]
fn losses() {
    for [rows, classes] in [[1, 1], [16, 10], [7, 37]] {
        let logits: Vec<f32> = values(rows * classes, 1).iter().map(|x| 5.0 * x).collect();
        // Some classes do not count, and a row's coefficients need not add up to one.
        let coefficients: Vec<f32> = values(rows * classes, 2).iter().map(|x| x.max(0.0)).collect();
        let loss = |logits: &[f64]| {
            let mut loss = 0.0;
            for (x, coefficients) in logits.chunks(classes).zip(coefficients.chunks(classes)) {
                let sum: f64 = x.iter().map(|x| x.exp()).sum();
                let of_class = |(x, c): (&f64, &f32)| f64::from(*c) * (sum.ln() - x);
                loss += x.iter().zip(coefficients).map(of_class).sum::<f64>();
            }
            loss
        };
        let gapped = with_gaps(&logits, classes, classes + 2, f32::NAN);
        let results = on_all_levels(|level, pool| {
            let mut d = vec![GAP; rows * (classes + 1)];
            let x = Matrix { values: &gapped, stride: classes + 2 };
            let to = Some((&mut d[..], classes + 1));
            let loss = cross_entropy(level, pool, [rows, classes], x, &coefficients, to);
            assert_eq!(cross_entropy(level, pool, [rows, classes], x, &coefficients, None), loss);
            vec![without_gaps(&d, classes, classes + 1, GAP), vec![loss as f32]]
        });
        for (level, results) in results {
            let expected = loss(&to_f64(&logits));
            assert_near(&format!("{level}"), &results[1], &[expected], 1e-6 * (1.0 + expected));
            assert_near(&format!("{level}"), &results[0], &differences(&logits, loss), 1e-6);
        }
    }
    // A class that is impossible and does not count.
    let (level, pool) = (engraft_kernels::Level::detect(), engraft_kernels::Pool::new(1));
    let logits = Matrix { values: &[f32::NEG_INFINITY, 0.0], stride: 2 };
    assert_eq!(cross_entropy(level, &pool, [1, 2], logits, &[0.0, 1.0], None), 0.0);
}

fn shapes(
    [batch, height, width]: [usize; 3],
    [out_height, out_width]: [usize; 2],
    channels: usize,
) -> [MapsShape; 2] {
    [
        MapsShape { batch, height, width, channels },
        MapsShape { batch, height: out_height, width: out_width, channels },
    ]
}

/// The kernels of pools' means are linear: a gradient is the sum of what each output value gives back.
#[test]
fn means_of_windows() {
    let window = |kernel, stride, padding| Some(PoolGeometry { kernel, stride, padding });
    for (sizes, out, channels, window, counted) in [
        ([2, 8, 8], [4, 4], 19, window(2, 2, 0), true),
        ([1, 9, 7], [5, 4], 8, window(3, 2, 1), true),
        ([1, 9, 7], [5, 4], 33, window(3, 2, 1), false),
        ([2, 7, 5], [7, 5], 3, window(3, 1, 1), false),
        ([2, 7, 7], [1, 1], 24, None, true),
        ([1, 10, 7], [7, 7], 5, None, true),
        ([1, 3, 2], [7, 7], 5, None, true),
    ] {
        let [from, to] = shapes(sizes, out, channels);
        let (x, dy) = (values(from.pixels() * channels, 1), values(to.pixels() * channels, 2));
        for accumulate in [false, true] {
            let results = on_all_levels(|level, pool| {
                let mut y = vec![0.0; to.pixels() * channels];
                let (x_maps, y_maps) = (Maps::new(&x, from), MapsMut::new(&mut y, to));
                match window {
                    Some(window) => avg_pool(level, pool, x_maps, window, counted, y_maps),
                    None => adaptive_avg_pool(level, pool, x_maps, y_maps),
                }
                // <y, dy> = <x, dx>, for every x: so for this one and for those that are but one value.
                let stride = channels + 3;
                let mut dx = vec![if accumulate { 0.5 } else { GAP }; from.pixels() * stride];
                let dy_maps = Maps::new(&dy, to);
                let epilogue = GradientEpilogue { accumulate, activation: None };
                let dx_maps = MapsMut { values: &mut dx, shape: from, stride };
                match window {
                    Some(window) => {
                        avg_pool_backward(level, pool, window, counted, dy_maps, epilogue, dx_maps)
                    }
                    None => adaptive_avg_pool_backward(level, pool, dy_maps, epilogue, dx_maps),
                }
                let dx: Vec<f32> = dx.chunks(stride).flat_map(|row| row[..channels].to_vec()).collect();
                vec![y, dx]
            });
            for (level, results) in results {
                let dot = |a: &[f32], b: &[f32], less: f64| {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * (f64::from(*b) - less)).sum::<f64>()
                };
                let less = if accumulate { 0.5 } else { 0.0 };
                let [forward, backward] = [dot(&dy, &results[0], 0.0), dot(&x, &results[1], less)];
                let near = (forward - backward).abs() < 1e-4 * (1.0 + forward.abs());
                assert!(near, "{level}, {sizes:?} to {out:?}: {forward} and {backward}");
            }
        }
        // Each value's own.
        let (level, pool) = (engraft_kernels::Level::detect(), engraft_kernels::Pool::new(1));
        let mut dx = vec![0.0; x.len()];
        let (dy_maps, epilogue) = (Maps::new(&dy, to), GradientEpilogue::default());
        match window {
            Some(window) => {
                avg_pool_backward(
                    level,
                    &pool,
                    window,
                    counted,
                    dy_maps,
                    epilogue,
                    MapsMut::new(&mut dx, from),
                );
            }
            None => adaptive_avg_pool_backward(level, &pool, dy_maps, epilogue, MapsMut::new(&mut dx, from)),
        }
        for place in (0..x.len()).step_by(x.len() / 23 + 1) {
            let mut one = vec![0.0; x.len()];
            one[place] = 1.0;
            let mut y = vec![0.0; dy.len()];
            let (one, y_maps) = (Maps::new(&one, from), MapsMut::new(&mut y, to));
            match window {
                Some(window) => avg_pool(level, &pool, one, window, counted, y_maps),
                None => adaptive_avg_pool(level, &pool, one, y_maps),
            }
            let expected: f64 = y.iter().zip(&dy).map(|(y, dy)| f64::from(y * dy)).sum();
            assert!((f64::from(dx[place]) - expected).abs() < 1e-6, "{sizes:?} to {out:?} at {place}");
        }
    }
}

#[test]
fn largest_of_windows() {
    for (sizes, out, channels, window) in [
        ([2, 8, 8], [4, 4], 19, PoolGeometry { kernel: 2, stride: 2, padding: 0 }),
        ([1, 9, 7], [5, 4], 70, PoolGeometry { kernel: 3, stride: 2, padding: 1 }),
        ([2, 7, 5], [7, 5], 3, PoolGeometry { kernel: 3, stride: 1, padding: 1 }),
    ] {
        let [from, to] = shapes(sizes, out, channels);
        // Few different values, so that there are equals in a window.
        let x: Vec<f32> = values(from.pixels() * channels, 1).iter().map(|x| (2.0 * x).round()).collect();
        let (dy, z) = (values(to.pixels() * channels, 2), values(x.len(), 3));
        let mut expected = vec![0.0; x.len()];
        for pixel in 0..to.pixels() {
            let (row, column) = (pixel / to.width, pixel % to.width);
            let (image, row) = (row / to.height, row % to.height);
            for channel in 0..channels {
                let mut largest = None;
                for tap in 0..window.kernel * window.kernel {
                    let y = (row * window.stride + tap / window.kernel).checked_sub(window.padding);
                    let across = (column * window.stride + tap % window.kernel).checked_sub(window.padding);
                    let (Some(y), Some(across)) = (y, across) else { continue };
                    if y < from.height && across < from.width {
                        let place = ((image * from.height + y) * from.width + across) * channels + channel;
                        if largest.is_none_or(|at: usize| x[place] > x[at]) {
                            largest = Some(place);
                        }
                    }
                }
                expected[largest.unwrap()] += f64::from(dy[pixel * channels + channel]);
            }
        }
        for accumulate in [false, true] {
            let mut expected = expected.clone();
            if accumulate {
                expected.iter_mut().zip(&z).for_each(|(g, z)| *g = if *z > 0.0 { *g + 0.5 } else { 0.0 });
            }
            let results = on_all_levels(|level, pool| {
                let mut dx = vec![0.5; x.len()];
                let activation =
                    accumulate.then_some((Activation::ReLU, Matrix { values: &z, stride: channels }));
                let epilogue = GradientEpilogue { accumulate, activation };
                let (x, dy) = (Maps::new(&x, from), Maps::new(&dy, to));
                max_pool_backward(level, pool, x, window, dy, epilogue, MapsMut::new(&mut dx, from));
                vec![dx]
            });
            for (level, results) in results {
                assert_near(&format!("{level}, {sizes:?} to {out:?}"), &results[0], &expected, 1e-6);
            }
        }
    }
}

#[test]
fn sums_over_rows() {
    for [rows, columns, images] in [[1, 1, 1], [65, 19, 1], [130, 600, 2], [4097, 24, 1], [300, 40, 7]] {
        let (x, y) = (values(rows * columns, 1), values(rows * columns, 2));
        let per_image = rows.div_ceil(images);
        let images = rows.div_ceil(per_image);
        let (mut sums, mut products) = (vec![0.5; columns], vec![0.5; images * columns]);
        for row in 0..rows {
            for column in 0..columns {
                let x = f64::from(x[row * columns + column]);
                sums[column] += x;
                products[row / per_image * columns + column] += x * f64::from(y[row * columns + column]);
            }
        }
        let x = with_gaps(&x, columns, columns + 2, f32::NAN);
        for accumulate in [false, true] {
            let results = on_all_levels(|level, pool| {
                let start = if accumulate { 0.5 } else { GAP };
                let [mut a, mut b] = [vec![start; columns], vec![start; images * (columns + 1)]];
                let [x, y] =
                    [(&x, columns + 2), (&y, columns)].map(|(values, stride)| Matrix { values, stride });
                column_sums(level, pool, [rows, columns], x, accumulate, &mut a);
                column_products(
                    level,
                    pool,
                    [rows, columns],
                    x,
                    y,
                    per_image,
                    accumulate,
                    &mut b,
                    columns + 1,
                );
                let more = if accumulate { 0.0 } else { 0.5 };
                a.iter_mut().for_each(|a| *a += more);
                let mut b = without_gaps(&b, columns, columns + 1, start);
                b.iter_mut().for_each(|b| *b += more);
                vec![a, b]
            });
            for (level, results) in results {
                let tolerance = 1e-6 * (8.0 + 2.0 * (rows as f64).sqrt());
                assert_near(&format!("{level}, {rows}x{columns}"), &results[0], &sums, tolerance);
                assert_near(&format!("{level}, {rows}x{columns}"), &results[1], &products, tolerance);
            }
        }
    }
}

#[test]
fn rows_added_and_images_scaled() {
    let [rows, columns] = [70, 37];
    let (x, y) = (values(rows * columns, 1), values(rows * columns, 2));
    let factors = values(3, 3);
    let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| f64::from(*x) + f64::from(*y)).collect();
    let scaled: Vec<f64> =
        x.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(factors[i / columns / 30])).collect();
    let results = on_all_levels(|level, pool| {
        let mut to = with_gaps(&y, columns, columns + 2, GAP);
        let x = Matrix { values: &x, stride: columns };
        add_rows(level, pool, [rows, columns], x, &mut to, columns + 2);
        let sum = without_gaps(&to, columns, columns + 2, GAP);
        scale_images(level, pool, [rows, columns], x, &factors, 30, &mut to, columns + 2);
        vec![sum, without_gaps(&to, columns, columns + 2, GAP)]
    });
    for (level, results) in results {
        assert_near(&format!("{level}"), &results[0], &sum, 1e-6);
        assert_near(&format!("{level}"), &results[1], &scaled, 1e-6);
    }
}

/// What `torch.optim` gives: its own formulas in f64, as its documentation has them.
#[test]
fn update_rules() {
    let len = 20_011;
    let start = values(len, 1);
    let gradients: Vec<Vec<f32>> = (0..3).map(|step| values(len, 10 + step)).collect();
    let factor = 0.5;
    for nesterov in [false, true] {
        for (momentum, weight_decay) in [(0.0, 0.0), (0.0, 0.1), (0.9, 0.01)] {
            let rule =
                Sgd { learning_rate: 0.1, weight_decay, momentum, nesterov: nesterov && momentum > 0.0 };
            let (mut w, mut v) = (to_f64(&start), vec![0.0; len]);
            for gradient in &gradients {
                for i in 0..len {
                    let g = factor * f64::from(gradient[i]) + weight_decay * w[i];
                    v[i] = momentum * v[i] + g;
                    w[i] -= 0.1 * if rule.nesterov { g + momentum * v[i] } else { v[i] };
                }
            }
            let results = on_all_levels(|level, pool| {
                let (mut w, mut v) = (start.clone(), vec![0.0; len]);
                for gradient in &gradients {
                    let v = (momentum > 0.0).then_some(&mut v[..]);
                    sgd(level, pool, rule, factor as f32, &mut w, gradient, v);
                }
                vec![w]
            });
            for (level, results) in results {
                assert_near(&format!("{level}, {rule:?}"), &results[0], &w, 1e-6);
            }
        }
    }
    for (decoupled, weight_decay) in [(false, 0.0), (false, 0.1), (true, 0.1)] {
        let (mut w, mut m, mut s) = (to_f64(&start), vec![0.0; len], vec![0.0; len]);
        for (step, gradient) in gradients.iter().enumerate() {
            let t = step as i32 + 1;
            for i in 0..len {
                let mut g = factor * f64::from(gradient[i]);
                if decoupled {
                    w[i] -= 0.01 * weight_decay * w[i];
                } else {
                    g += weight_decay * w[i];
                }
                m[i] = 0.9 * m[i] + 0.1 * g;
                s[i] = 0.999 * s[i] + 0.001 * g * g;
                let (m, s) = (m[i] / (1.0 - 0.9_f64.powi(t)), s[i] / (1.0 - 0.999_f64.powi(t)));
                w[i] -= 0.01 * m / (s.sqrt() + 1e-8);
            }
        }
        let results = on_all_levels(|level, pool| {
            let (mut w, mut m, mut s) = (start.clone(), vec![0.0; len], vec![0.0; len]);
            for (step, gradient) in gradients.iter().enumerate() {
                let rule = Adam {
                    learning_rate: 0.01,
                    weight_decay,
                    decoupled,
                    betas: [0.9, 0.999],
                    eps: 1e-8,
                    updates: step as u64 + 1,
                };
                adam(level, pool, rule, factor as f32, &mut w, gradient, &mut m, &mut s);
            }
            vec![w]
        });
        for (level, results) in results {
            assert_near(&format!("{level}, decoupled {decoupled}"), &results[0], &w, 1e-6);
        }
    }
}

#[test]
fn averages_norms_and_scales() {
    let len = 40_013;
    let (x, y) = (values(len, 1), values(len, 2));
    let mean: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 0.9 * f64::from(*y) + 0.1 * f64::from(*x)).collect();
    let half: Vec<f64> = x.iter().map(|x| 0.3_f32 as f64 * f64::from(*x)).collect();
    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let results = on_all_levels(|level, pool| {
        let (mut mean, mut half) = (y.clone(), x.clone());
        average(level, pool, 0.9, &x, &mut mean);
        scale(level, pool, 0.3, &mut half);
        let sum = sum_of_squares(level, pool, &x);
        assert!((sum - squares).abs() < 1e-6 * squares, "{level}: {sum} instead of {squares}");
        vec![mean, half, vec![sum as f32]]
    });
    for (level, results) in results {
        assert_near(&format!("{level}"), &results[0], &mean, 1e-6);
        assert_near(&format!("{level}"), &results[1], &half, 1e-6);
    }
}
