//! What stands at the kernels' doors: arguments that do not fit each other are refused, whatever they are, and sizes of zero are not.
//!
//! A kernel's arguments are made from a list of numbers, which fit each other; then some are replaced. Whatever comes of it, no value
//! beyond a slice may be read or written, to which `guarded.rs` sees.

mod common;
#[path = "common/gradient_doors.rs"]
mod gradient_doors;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use engraft_kernels::{
    Activation, AttentionShape, ConvGeometry, ConvWeights, DepthwiseWeights, Epilogue, ExpandWeights,
    Function, LayerNorm, Level, Maps, MapsMut, MapsShape, Matrix, MatrixMut, PackedMatrix, Pool,
    PoolGeometry, Prologue, Scores, Similarity, TokenRows, Windows, WinogradTile, WinogradWeights,
    adaptive_avg_pool, attention, avg_pool, conv, depthwise, elementwise, expand_depthwise, gemm, layer_norm,
    max_pool, softmax, strided_copy, to_channels_last, winograd,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A number among a kernel's arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    /// The length of a slice, no longer than it must be.
    Length(usize),
    /// The distance of an output's rows of so many columns, of which there are several.
    Apart(usize),
    /// A size, a stride, or what else there is.
    Other(usize),
    /// As `Other`, of which scratch is made, so that none is tried which memory might hold.
    Padding(usize),
}

use Number::{Apart, Length, Other, Padding};

/// Numbers with which something might go wrong: their products are none, or zero.
const HUGE: [usize; 4] = [usize::MAX, usize::MAX / 2 + 1, 1 << (usize::BITS - 2), 1 << (usize::BITS / 2)];

impl Number {
    fn right(self) -> usize {
        match self {
            Length(n) | Apart(n) | Other(n) | Padding(n) => n,
        }
    }

    /// Others in its place.
    fn others(self) -> Vec<usize> {
        let near = |n: usize| vec![0, 1, n / 2, n.saturating_sub(1)];
        match self {
            Length(n) => near(n),
            Padding(n) => [near(n), vec![n + 1, n + 3], HUGE[..2].to_vec()].concat(),
            Apart(n) | Other(n) => [near(n), vec![n + 1, 2 * n + 1], HUGE.to_vec()].concat(),
        }
    }
}

/// A kernel, and numbers that fit each other.
struct Door {
    name: &'static str,
    numbers: Vec<Number>,
    call: fn(Level, &Pool, &[usize]),
}

impl Door {
    /// Whether the call came to an end without a panic.
    fn passes(&self, level: Level, pool: &Pool, numbers: &[usize]) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.call)(level, pool, numbers))).is_ok()
    }

    fn right(&self) -> Vec<usize> {
        self.numbers.iter().map(|number| number.right()).collect()
    }
}

/// Panics are what is tested here: their messages would be all that is seen.
fn quietly() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let here = panic.location().is_some_and(|location| location.file().ends_with("doors.rs"));
            if here || std::thread::current().name().is_none_or(|name| !name.contains("refused")) {
                hook(panic);
            }
        }));
    });
}

/// Of a length that may be any.
fn values(len: usize) -> Vec<f32> {
    common::values(len, 1)
}

fn shape([batch, height, width, channels]: [usize; 4]) -> MapsShape {
    MapsShape { batch, height, width, channels }
}

/// The first `N` numbers, and those behind them.
fn cut<const N: usize>(numbers: &[usize]) -> ([usize; N], &[usize]) {
    let (first, rest) = numbers.split_at(N);
    (first.try_into().expect("so many numbers"), rest)
}

fn call_gemm(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([m, a, a_stride, bias, residual, residual_stride, c, c_stride], rest) = cut::<8>(numbers);
    let ([scale, shift, images, scale_stride, rows_per_image], _) = cut::<5>(rest);
    let (a, bias, residual, scales) = (values(a), values(bias), values(residual), values(images));
    let (scale, shift) = (values(scale), values(shift));
    let b = PackedMatrix::new(level, 9, 21, |i, j| (i + j) as f32);
    let image_scale = Matrix { values: &scales, stride: scale_stride };
    for prologue in [
        Prologue::None,
        Prologue::Affine { scale: &scale, shift: &shift, activation: Activation::ReLU },
        Prologue::ImageScale { scale: image_scale, rows_per_image },
    ] {
        let mut c = vec![0.0; c];
        let residual = Some(Matrix { values: &residual, stride: residual_stride });
        let epilogue = Epilogue { bias: Some(&bias), residual, activation: Activation::SiLU };
        gemm(pool, m, Matrix { values: &a, stride: a_stride }, prologue, &b, epilogue, &mut c, c_stride);
    }
}

fn call_packing(level: Level, _: &Pool, numbers: &[usize]) {
    let ([len, stride, k, n], _) = cut::<4>(numbers);
    // No more than memory could hold.
    if k < 1 << 10 && n < 1 << 10 {
        PackedMatrix::of_rows(level, k, n, Matrix { values: &values(len), stride });
    }
}

fn call_elementwise(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([rows, columns, x, x_stride, other, other_stride, images, rows_per_image], rest) = cut::<8>(numbers);
    let ([scale, shift, y, y_stride], _) = cut::<4>(rest);
    let (x, other, images, scale, shift) =
        (values(x), values(other), values(images), values(scale), values(shift));
    let x = Matrix { values: &x, stride: x_stride };
    let other = Matrix { values: &other, stride: other_stride };
    let of_images = Function::Scale { scale: Matrix { values: &images, stride: columns }, rows_per_image };
    let affine = Function::Affine { scale: &scale, shift: &shift };
    for function in [Function::Identity, affine, Function::Add(other), Function::Multiply(other), of_images] {
        let mut y = vec![0.0; y];
        let output = MatrixMut { values: &mut y, stride: y_stride };
        elementwise(level, pool, [rows, columns], x, function, Activation::GELU, output);
    }
}

fn call_norms(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([rows, columns, x, x_stride, gamma, beta, y, y_stride], _) = cut::<8>(numbers);
    let (x, gamma, beta) = (values(x), values(gamma), values(beta));
    let x = Matrix { values: &x, stride: x_stride };
    let mut y = vec![0.0; y];
    let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-5 };
    layer_norm(level, pool, [rows, columns], x, norm, MatrixMut { values: &mut y, stride: y_stride });
    softmax(level, pool, [rows, columns], x, MatrixMut { values: &mut y, stride: y_stride });
}

fn call_conv(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, out_channels, in_channels, kernel, step, padding, dilation, groups], rest) = cut::<8>(rest);
    let ([out_height, out_width, y, y_stride, bias, residual], _) = cut::<6>(rest);
    let geometry = ConvGeometry {
        kernel: [kernel; 2],
        stride: [step; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups,
    };
    let weights = ConvWeights::new(level, &values(weight), out_channels, in_channels, geometry);
    let (x, bias, residual, mut y) = (values(x), values(bias), values(residual), vec![0.0; y]);
    let input = Maps { values: &x, shape: shape([batch, height, width, channels]), stride: x_stride };
    let residual = Some(Matrix { values: &residual, stride: out_channels });
    let epilogue = Epilogue { bias: Some(&bias), residual, activation: Activation::ReLU };
    let out = shape([batch, out_height, out_width, out_channels]);
    conv(pool, input, &weights, epilogue, MapsMut { values: &mut y, shape: out, stride: y_stride });
}

fn call_depthwise(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, out_channels, groups, kernel, step, padding, dilation], rest) = cut::<7>(rest);
    let ([out_height, out_width, y, y_stride, bias, residual, means], _) = cut::<7>(rest);
    let geometry = ConvGeometry {
        kernel: [kernel; 2],
        stride: [step; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups,
    };
    let weights = DepthwiseWeights::new(level, &values(weight), out_channels, geometry);
    let (x, bias, residual) = (values(x), values(bias), values(residual));
    let (mut y, mut means) = (vec![0.0; y], vec![0.0; means]);
    let input = Maps { values: &x, shape: shape([batch, height, width, channels]), stride: x_stride };
    let residual = Some(Matrix { values: &residual, stride: out_channels });
    let epilogue = Epilogue { bias: Some(&bias), residual, activation: Activation::ReLU };
    let out = shape([batch, out_height, out_width, out_channels]);
    let output = MapsMut { values: &mut y, shape: out, stride: y_stride };
    depthwise(pool, input, &weights, epilogue, Some(&mut means), output);
}

fn call_expand(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, kernel, step, padding], rest) = cut::<4>(rest);
    let ([out_height, out_width, y, y_stride, between, bias, residual, means], _) = cut::<8>(rest);
    let expand = PackedMatrix::new(level, 6, 21, |i, j| (i + j) as f32);
    let weights = ExpandWeights::new(expand, &values(weight), [kernel; 2]);
    let (x, between, bias, residual) = (values(x), values(between), values(bias), values(residual));
    let (mut y, mut means) = (vec![0.0; y], vec![0.0; means]);
    let input = Maps { values: &x, shape: shape([batch, height, width, channels]), stride: x_stride };
    let between = Epilogue { bias: Some(&between), ..Epilogue::default() };
    let residual = Some(Matrix { values: &residual, stride: 21 });
    let epilogue = Epilogue { bias: Some(&bias), residual, activation: Activation::ReLU };
    let output =
        MapsMut { values: &mut y, shape: shape([batch, out_height, out_width, 21]), stride: y_stride };
    let (step, padding) = ([step; 2], [padding; 2]);
    expand_depthwise(pool, input, &weights, between, step, padding, epilogue, Some(&mut means), output);
}

fn call_winograd(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([weight, out_channels, in_channels, padding], rest) = cut::<4>(rest);
    let ([out_height, out_width, y, y_stride, bias, residual], _) = cut::<6>(rest);
    let (x, bias, residual) = (values(x), values(bias), values(residual));
    let input = Maps { values: &x, shape: shape([batch, height, width, channels]), stride: x_stride };
    let out = shape([batch, out_height, out_width, out_channels]);
    for tile in [WinogradTile::F2, WinogradTile::F4] {
        let weights = WinogradWeights::new(level, tile, &values(weight), out_channels, in_channels);
        let residual = Some(Matrix { values: &residual, stride: out_channels });
        let epilogue = Epilogue { bias: Some(&bias), residual, activation: Activation::ReLU };
        let mut y = vec![0.0; y];
        let output = MapsMut { values: &mut y, shape: out, stride: y_stride };
        winograd(pool, input, &weights, [padding; 2], epilogue, output);
    }
}

fn call_pools(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, x_stride], rest) = cut::<6>(numbers);
    let ([kernel, stride, padding, out_height, out_width, y, y_stride], _) = cut::<7>(rest);
    let x = values(x);
    let input = Maps { values: &x, shape: shape([batch, height, width, channels]), stride: x_stride };
    let out = shape([batch, out_height, out_width, channels]);
    let window = PoolGeometry { kernel, stride, padding };
    let mut y = vec![0.0; y];
    let mut output = |run: &dyn Fn(MapsMut<'_>)| {
        run(MapsMut { values: &mut y, shape: out, stride: y_stride });
    };
    output(&|output| adaptive_avg_pool(level, pool, input, output));
    output(&|output| max_pool(level, pool, input, window, output));
    output(&|output| avg_pool(level, pool, input, window, true, output));
    output(&|output| avg_pool(level, pool, input, window, false, output));
}

fn call_to_channels_last(_: Level, pool: &Pool, numbers: &[usize]) {
    let ([batch, height, width, channels, x, y, y_stride], _) = cut::<7>(numbers);
    let mut y = vec![0.0; y];
    let shape = shape([batch, height, width, channels]);
    to_channels_last(pool, &values(x), MapsMut { values: &mut y, shape, stride: y_stride });
}

fn call_strided_copy(_: Level, pool: &Pool, numbers: &[usize]) {
    let ([a, b, c, from, from_a, from_b, from_c], rest) = cut::<7>(numbers);
    let ([to, to_a, to_b, to_c], _) = cut::<4>(rest);
    let (from, mut to) = (values(from), vec![0.0; to]);
    let from_strides = [from_a, from_b, from_c];
    strided_copy(pool, &[a, b, c], (&from, &from_strides), (&mut to, &[to_a, to_b, to_c]));
}

fn call_attention(level: Level, pool: &Pool, numbers: &[usize]) {
    let ([groups, tokens, heads, head_dim, qkv, qkv_stride], rest) = cut::<6>(numbers);
    let ([bias, mask, scales, table, padding, y, y_stride], _) = cut::<7>(rest);
    let shape = AttentionShape { groups, tokens, heads, head_dim };
    let (qkv, bias, mask, padding) = (values(qkv), values(bias), values(mask), values(padding));
    let qkv = Matrix { values: &qkv, stride: qkv_stride };
    let scales = vec![0.5; scales];
    let mut y = vec![0.0; y];
    let scores = Scores { similarity: Similarity::Product(0.5), bias: Some(&bias), mask: Some(&mask) };
    attention(level, pool, shape, qkv, scores, None, &mut y, y_stride);
    // The last token of each image is not in it.
    let rows = (0..table as u32).map(|row| if row % 8 == 7 { TokenRows::PADDING } else { row }).collect();
    let rows = TokenRows::new(rows, table);
    let windows = Some(Windows { rows: &rows, padding: &padding });
    let scores = Scores { similarity: Similarity::Cosine(&scales), ..scores };
    attention(level, pool, shape, qkv, scores, windows, &mut y, y_stride);
}

/// Numbers of maps without gaps: sizes, length and stride.
fn maps(sizes: [usize; 4]) -> Vec<Number> {
    let [batch, height, width, channels] = sizes;
    let mut numbers = sizes.map(Other).to_vec();
    numbers.extend([Length(batch * height * width * channels), Other(channels)]);
    numbers
}

fn doors() -> Vec<Door> {
    let mut doors = gradient_doors::doors();
    doors.extend([
        Door {
            name: "gemm",
            numbers: vec![
                Other(10),
                Length(9 * 9 + 9),
                Other(9),
                Length(21),
                Length(9 * 21 + 21),
                Other(21),
                Length(9 * 21 + 21),
                Apart(21),
                Length(9),
                Length(9),
                Length(4 * 9 + 9),
                Other(9),
                Other(2),
            ],
            call: call_gemm,
        },
        Door {
            name: "of_rows",
            numbers: vec![Length(4 * 25 + 23), Other(25), Other(5), Other(23)],
            call: call_packing,
        },
        Door {
            name: "elementwise",
            numbers: vec![
                Other(10),
                Other(21),
                Length(9 * 22 + 21),
                Other(22),
                Length(9 * 23 + 21),
                Other(23),
                Length(5 * 21),
                Other(2),
                Length(21),
                Length(21),
                Length(9 * 21 + 21),
                Apart(21),
            ],
            call: call_elementwise,
        },
        Door {
            name: "norms",
            numbers: vec![
                Other(10),
                Other(21),
                Length(9 * 22 + 21),
                Other(22),
                Length(21),
                Length(21),
                Length(9 * 21 + 21),
                Apart(21),
            ],
            call: call_norms,
        },
        conv_door("conv", [6, 20], 1),
        conv_door("grouped conv", [24, 24], 3),
        conv_door("conv in groups of four", [20, 20], 5),
        depthwise_door("depthwise", 21, 1),
        depthwise_door("depthwise, three outputs a channel", 7, 3),
        Door {
            name: "expand_depthwise",
            numbers: [
                maps([2, 6, 6, 6]),
                vec![Length(21 * 9), Other(3), Other(2), Padding(1)],
                vec![Other(3), Other(3), Length(17 * 21 + 21), Apart(21)],
                vec![Length(21), Length(21), Length(18 * 21), Length(2 * 21)],
            ]
            .concat(),
            call: call_expand,
        },
        Door {
            name: "winograd",
            numbers: [
                maps([2, 5, 5, 6]),
                vec![Length(21 * 6 * 9), Other(21), Other(6), Padding(1)],
                vec![Other(5), Other(5), Length(49 * 21 + 21), Apart(21), Length(21), Length(50 * 21)],
            ]
            .concat(),
            call: call_winograd,
        },
        Door {
            name: "pools",
            numbers: [
                maps([2, 7, 7, 21]),
                vec![Other(3), Other(2), Padding(1), Other(4), Other(4), Length(31 * 21 + 21), Apart(21)],
            ]
            .concat(),
            call: call_pools,
        },
        Door {
            name: "to_channels_last",
            numbers: [[2, 5, 6, 3].map(Other).to_vec(), vec![Length(180), Length(59 * 3 + 3), Apart(3)]]
                .concat(),
            call: call_to_channels_last,
        },
        Door {
            name: "strided_copy",
            numbers: [
                [3, 4, 5].map(Other).to_vec(),
                vec![Length(60), Other(1), Other(3), Other(12)],
                vec![Length(60), Apart(20), Other(5), Other(1)],
            ]
            .concat(),
            call: call_strided_copy,
        },
        Door {
            name: "attention",
            numbers: vec![
                Other(4),
                Other(8),
                Other(2),
                Other(5),
                Length(31 * 30 + 30),
                Other(30),
                Length(2 * 64),
                Length(2 * 64),
                Length(2),
                // The table of two windows an image.
                Length(16),
                Length(30),
                Length(31 * 10 + 10),
                Apart(10),
            ],
            call: call_attention,
        },
    ]);
    doors
}

fn conv_door(name: &'static str, [inputs, outputs]: [usize; 2], groups: usize) -> Door {
    let numbers = [
        maps([2, 6, 6, inputs]),
        vec![Length(outputs * inputs / groups * 9), Other(outputs), Other(inputs), Other(3), Other(1)],
        vec![Padding(1), Other(1), Other(groups), Other(6), Other(6)],
        vec![Length(72 * outputs), Apart(outputs), Length(outputs), Length(72 * outputs)],
    ];
    Door { name, numbers: numbers.concat(), call: call_conv }
}

fn depthwise_door(name: &'static str, inputs: usize, multiplier: usize) -> Door {
    let outputs = inputs * multiplier;
    let numbers = [
        maps([2, 6, 6, inputs]),
        vec![Length(outputs * 9), Other(outputs), Other(inputs), Other(3), Other(2), Padding(1), Other(1)],
        vec![Other(3), Other(3), Length(18 * outputs), Apart(outputs)],
        vec![Length(outputs), Length(18 * outputs), Length(2 * outputs)],
    ];
    Door { name, numbers: numbers.concat(), call: call_depthwise }
}

#[test]
fn slices_that_are_too_short_and_rows_that_overlap_are_refused() {
    quietly();
    for level in Level::all() {
        let pool = Pool::new(2);
        for door in doors() {
            let right = door.right();
            assert!(door.passes(level, &pool, &right), "{level}: {} refuses what fits", door.name);
            for (place, number) in door.numbers.iter().enumerate() {
                if let Length(n) | Apart(n) = *number {
                    let mut numbers = right.clone();
                    numbers[place] = n - 1;
                    let passes = door.passes(level, &pool, &numbers);
                    assert!(!passes, "{level}: {} with {n} - 1 for number {place}", door.name);
                }
            }
        }
    }
}

/// Calls each kernel with one number after the other replaced; what is not refused must work.
#[test]
fn numbers_that_do_not_fit_are_refused_or_harmless() {
    quietly();
    for level in Level::all() {
        let pool = Pool::new(1);
        for door in doors() {
            for (place, number) in door.numbers.iter().enumerate() {
                for other in number.others() {
                    let mut numbers = door.right();
                    numbers[place] = other;
                    door.passes(level, &pool, &numbers);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 20 } else { 3_000 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn several_numbers_that_do_not_fit_are_refused_or_harmless(
        door in any::<prop::sample::Index>(),
        replaced in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 2..5),
    ) {
        quietly();
        let doors = doors();
        let door = door.get(&doors);
        let mut numbers = door.right();
        for [place, other] in replaced {
            let place = place.index(numbers.len());
            numbers[place] = *other.get(&door.numbers[place].others());
        }
        let pool = Pool::new(1);
        for level in Level::all() {
            door.passes(level, &pool, &numbers);
        }
    }
}

/// No images, no channels, no rows: there is nothing to do, or only the bias.
#[test]
fn sizes_of_zero() {
    let pool = Pool::new(2);
    for level in Level::all() {
        let (nothing, mut none): ([f32; 0], [f32; 0]) = ([], []);
        let epilogue = Epilogue::default;
        let empty = Matrix { values: &nothing, stride: 0 };
        // m, k and n.
        let packed = |k, n| PackedMatrix::new(level, k, n, |_, _| 1.0);
        gemm(&pool, 0, empty, Prologue::None, &packed(3, 4), epilogue(), &mut none, 4);
        gemm(&pool, 0, empty, Prologue::None, &packed(0, 0), epilogue(), &mut none, 0);
        gemm(
            &pool,
            2,
            Matrix { values: &[1.0; 6], stride: 3 },
            Prologue::None,
            &packed(3, 0),
            epilogue(),
            &mut none,
            0,
        );
        let mut y = [9.0; 8];
        let bias = [1.0, 2.0, 3.0, 4.0];
        let with_bias = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        gemm(&pool, 2, empty, Prologue::None, &packed(0, 4), with_bias, &mut y, 4);
        assert_eq!(y, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);

        // Maps: no images; no pixels in the output; no channels in the input.
        for (sizes, padding) in [([0, 4, 4, 3], 1), ([1, 1, 1, 3], 0), ([0, 0, 0, 3], 0)] {
            let geometry = ConvGeometry {
                kernel: [3; 2],
                stride: [1; 2],
                padding: [padding; 2],
                dilation: [1; 2],
                groups: 1,
            };
            let input = shape(sizes);
            let [height, width] = geometry.output_size(input.height, input.width);
            let output = MapsShape { height, width, ..input };
            let x = values(input.pixels() * 3);
            let mut y = vec![0.0; output.pixels() * 3];
            let mut means = vec![0.0; input.batch * 3];
            let maps = Maps::new(&x, input);
            let weights = ConvWeights::new(level, &[1.0; 81], 3, 3, geometry);
            conv(&pool, maps, &weights, epilogue(), MapsMut::new(&mut y, output));
            let weights = DepthwiseWeights::new(level, &[1.0; 27], 3, ConvGeometry { groups: 3, ..geometry });
            let (means, step) = (Some(&mut means[..]), [1; 2]);
            depthwise(&pool, maps, &weights, epilogue(), means, MapsMut::new(&mut y, output));
            let weights = ExpandWeights::new(packed(3, 3), &[1.0; 27], [3; 2]);
            let to = MapsMut::new(&mut y, output);
            expand_depthwise(&pool, maps, &weights, epilogue(), step, [padding; 2], epilogue(), None, to);
            for tile in [WinogradTile::F2, WinogradTile::F4] {
                let weights = WinogradWeights::new(level, tile, &[1.0; 81], 3, 3);
                winograd(&pool, maps, &weights, [padding; 2], epilogue(), MapsMut::new(&mut y, output));
            }
            let window = PoolGeometry { kernel: 3, stride: 1, padding };
            max_pool(level, &pool, maps, window, MapsMut::new(&mut y, output));
            adaptive_avg_pool(level, &pool, maps, MapsMut::new(&mut y, output));
            to_channels_last(&pool, &y, MapsMut::new(&mut none, MapsShape { batch: 0, ..output }));
        }
        for (kernel, padding) in [(3, 1), (1, 0), (3, 0)] {
            let geometry = ConvGeometry {
                kernel: [kernel; 2],
                stride: [1; 2],
                padding: [padding; 2],
                dilation: [1; 2],
                groups: 1,
            };
            let input = shape([2, 4, 4, 0]);
            let [height, width] = geometry.output_size(4, 4);
            let output = MapsShape { height, width, channels: 4, ..input };
            let expected = bias.repeat(output.pixels());
            let maps = Maps::new(&nothing, input);
            let mut y = vec![9.0; output.pixels() * 4];
            let weights = ConvWeights::new(level, &nothing, 4, 0, geometry);
            conv(&pool, maps, &weights, with_bias, MapsMut::new(&mut y, output));
            assert_eq!(y, expected);
            // No channels in the output.
            let weights = ConvWeights::new(level, &nothing, 0, 4, geometry);
            let x = values(2 * 16 * 4);
            let input = Maps::new(&x, shape([2, 4, 4, 4]));
            let to = MapsMut::new(&mut none, MapsShape { channels: 0, ..output });
            conv(&pool, input, &weights, epilogue(), to);
            if kernel == 3 {
                for tile in [WinogradTile::F2, WinogradTile::F4] {
                    y.fill(9.0);
                    let weights = WinogradWeights::new(level, tile, &nothing, 4, 0);
                    let to = MapsMut::new(&mut y, output);
                    winograd(&pool, maps, &weights, [padding; 2], with_bias, to);
                    assert_eq!(y, expected);
                }
            }
            y.fill(9.0);
            let weights = ExpandWeights::new(packed(0, 4), &vec![0.0; 4 * kernel * kernel], [kernel; 2]);
            let to = MapsMut::new(&mut y, output);
            let (between, step, padding) = (epilogue(), [1; 2], [padding; 2]);
            expand_depthwise(&pool, maps, &weights, between, step, padding, with_bias, None, to);
            assert_eq!(y, expected);
        }

        // Rows and columns.
        for [rows, columns] in [[0, 5], [5, 0], [0, 0]] {
            let function = Function::Identity;
            let activation = Activation::ReLU;
            let to = MatrixMut { values: &mut none, stride: columns };
            elementwise(level, &pool, [rows, columns], empty, function, activation, to);
            let to = MatrixMut { values: &mut none, stride: columns };
            softmax(level, &pool, [rows, columns], empty, to);
            let norm = LayerNorm { gamma: &[1.0; 5], beta: &[1.0; 5], eps: 1e-5 };
            let to = MatrixMut { values: &mut none, stride: columns };
            layer_norm(level, &pool, [rows, columns], empty, norm, to);
        }
        strided_copy(&pool, &[3, 0], (&nothing, &[0, 1]), (&mut none, &[0, 1]));
        strided_copy(&pool, &[], (&[1.0], &[]), (&mut y[..1], &[]));
        let scores = Scores { similarity: Similarity::Product(1.0), bias: None, mask: None };
        for [groups, tokens, heads, head_dim] in [[0, 4, 2, 8], [2, 0, 2, 8], [2, 4, 0, 8], [2, 4, 2, 0]] {
            let shape = AttentionShape { groups, tokens, heads, head_dim };
            attention(level, &pool, shape, empty, scores, None, &mut none, heads * head_dim);
        }
    }
}
