//! A NaN in the input is NaN in the output, as it is in PyTorch, whatever comes after it; other values do not know of it.

mod common;

use common::values;
use engraft_kernels::{
    Activation, ConvGeometry, ConvWeights, DepthwiseWeights, Epilogue, ExpandWeights, Function, Level, Maps,
    MapsMut, MapsShape, Matrix, MatrixMut, PackedMatrix, Pool, Prologue, WinogradTile, WinogradWeights, conv,
    depthwise, elementwise, expand_depthwise, gemm, winograd,
};

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

/// For every level and activation, with a residual and without.
fn all(test: impl Fn(Level, &Pool, Activation, bool)) {
    let pool = Pool::new(1);
    for level in Level::all() {
        for activation in ACTIVATIONS {
            for residual in [false, true] {
                test(level, &pool, activation, residual);
            }
        }
    }
}

/// Rows of `columns` values: NaN are all of those, and only those, of which `is_nan` is true.
fn check(output: &[f32], columns: usize, is_nan: impl Fn(usize, usize) -> bool, what: &str) {
    for (place, value) in output.iter().enumerate() {
        let (row, column) = (place / columns, place % columns);
        assert_eq!(value.is_nan(), is_nan(row, column), "{what}: {value} in row {row}, column {column}");
    }
}

#[test]
fn products() {
    let (m, k, n) = (17, 9, 43);
    let mut a = values(m * k, 1);
    a[5 * k + 3] = f32::NAN;
    let others = values(m * n, 1);
    let scale = vec![1.0; k];
    all(|level, pool, activation, residual| {
        let b = PackedMatrix::new(level, k, n, |i, j| (1 + i + j) as f32);
        let residual = residual.then_some(Matrix { values: &others, stride: n });
        for before in [None, Some(activation)] {
            let prologue = before.map_or(Prologue::None, |activation| Prologue::Affine {
                scale: &scale,
                shift: &scale,
                activation,
            });
            let mut c = vec![0.0; m * n];
            let epilogue = Epilogue { bias: None, residual, activation };
            gemm(pool, m, Matrix { values: &a, stride: k }, prologue, &b, epilogue, &mut c, n);
            check(&c, n, |row, _| row == 5, &format!("{level}, {activation:?} after {before:?}"));
        }
    });
}

#[test]
fn single_values() {
    let mut x = values(10 * 37, 1);
    x[4 * 37 + 20] = f32::NAN;
    let other = values(10 * 37, 1);
    all(|level, pool, activation, add| {
        let other = Matrix { values: &other, stride: 37 };
        let function = if add { Function::Add(other) } else { Function::Multiply(other) };
        let mut y = vec![0.0; 370];
        let x = Matrix { values: &x, stride: 37 };
        let output = MatrixMut { values: &mut y, stride: 37 };
        elementwise(level, pool, [10, 37], x, function, activation, output);
        check(&y, 37, |row, column| (row, column) == (4, 20), &format!("{level}, {activation:?}"));
    });
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn convolutions() {
    let input = MapsShape { batch: 1, height: 7, width: 9, channels: 40 };
    let (at_y, at_x, at_channel) = (2, 3, 21);
    let mut x = values(input.pixels() * 40, 1);
    x[(at_y * 9 + at_x) * 40 + at_channel] = f32::NAN;
    let others = values(input.pixels() * 40, 1);
    let inside = |row: usize| (row / 9).abs_diff(at_y) <= 1 && (row % 9).abs_diff(at_x) <= 1;
    all(|level, pool, activation, residual| {
        let residual = residual.then_some(Matrix { values: &others, stride: 40 });
        let epilogue = Epilogue { bias: None, residual, activation };
        let what = |kind: &str| format!("{kind}, {level}, {activation:?}");
        let maps = Maps::new(&x, input);
        let mut y = vec![0.0; others.len()];
        for groups in [1, 2, 5, 10] {
            let geometry =
                ConvGeometry { kernel: [3; 2], stride: [1; 2], padding: [1; 2], dilation: [1; 2], groups };
            let weights = ConvWeights::new(level, &vec![0.1; 40 * 40 / groups * 9], 40, 40, geometry);
            conv(pool, maps, &weights, epilogue, MapsMut::new(&mut y, input));
            let of_group = |column: usize| column * groups / 40 == at_channel * groups / 40;
            check(&y, 40, |row, column| inside(row) && of_group(column), &what(&format!("{groups} groups")));
        }
        let (step, padding) = ([1; 2], [1; 2]);
        let geometry = ConvGeometry { kernel: [3; 2], stride: step, padding, dilation: [1; 2], groups: 40 };
        let weights = DepthwiseWeights::new(level, &[0.1; 360], 40, geometry);
        depthwise(pool, maps, &weights, epilogue, None, MapsMut::new(&mut y, input));
        check(&y, 40, |row, column| inside(row) && column == at_channel, &what("depthwise"));
        let expand = PackedMatrix::new(level, 40, 40, |_, _| 0.1);
        let weights = ExpandWeights::new(expand, &[0.1; 360], [3; 2]);
        let between = Epilogue { activation, ..Epilogue::default() };
        let to = MapsMut::new(&mut y, input);
        expand_depthwise(pool, maps, &weights, between, step, padding, epilogue, None, to);
        check(&y, 40, |row, _| inside(row), &what("expand"));
        for tile in [WinogradTile::F2, WinogradTile::F4] {
            let weights = WinogradWeights::new(level, tile, &[0.1; 40 * 40 * 9], 40, 40);
            winograd(pool, maps, &weights, padding, epilogue, MapsMut::new(&mut y, input));
            // A tile's pixels share what they read.
            let values = y.chunks(40).enumerate().filter(|(row, _)| inside(*row));
            assert!(values.flat_map(|(_, pixel)| pixel).all(|value| value.is_nan()), "{}", what("Winograd"));
        }
    });
}
