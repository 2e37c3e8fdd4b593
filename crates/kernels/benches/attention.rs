//! Attention of the transformers of torchvision, layer norm and softmax.

mod common;

use common::Bench;
use engraft_kernels::{
    AttentionShape, LayerNorm, Matrix, MatrixMut, Scores, Similarity, TokenRows, Windows, attention,
    layer_norm, softmax,
};

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        let shape = |groups, tokens, heads, head_dim| AttentionShape { groups, tokens, heads, head_dim };
        plain(&bench, "vit_b_16, batch 1", shape(1, 197, 12, 64));
        plain(&bench, "vit_b_16, batch 8", shape(8, 197, 12, 64));
        plain(&bench, "vit_h_14 at 518, batch 1", shape(1, 1370, 16, 80));
        windows(&bench, "swin_t stage 1, batch 8", 8, 56, 3, false);
        windows(&bench, "swin_t stage 3, batch 8", 8, 14, 12, false);
        windows(&bench, "swin_v2_t stage 1, batch 8", 8, 56, 3, true);
        rows(&bench, [8 * 197, 768]);
        rows(&bench, [8 * 3136, 96]);
        rows(&bench, [197, 197]);
    }
}

/// Multiply-adds of both products, twice.
fn operations(shape: AttentionShape) -> usize {
    4 * shape.groups * shape.heads * shape.tokens.pow(2) * shape.head_dim
}

fn plain(bench: &Bench, name: &str, shape: AttentionShape) {
    let (rows, dim) = (shape.groups * shape.tokens, shape.heads * shape.head_dim);
    let values: Vec<f32> = (0..rows * 3 * dim).map(|i| (i as f32 * 0.37).sin()).collect();
    let qkv = Matrix { values: &values, stride: 3 * dim };
    let scores = Scores { similarity: Similarity::Product(0.125), bias: None, mask: None };
    let mut output = vec![0.0; rows * dim];
    bench.time(name, operations(shape), |pool| {
        attention(bench.level, pool, shape, qkv, scores, None, &mut output, dim);
    });
}

/// Shifted windows of seven by seven, heads of 32.
fn windows(bench: &Bench, name: &str, batch: usize, size: usize, heads: usize, cosine: bool) {
    let (side, tokens, dim) = (7, 49, heads * 32);
    let table = (0..size * size)
        .map(|place| {
            let (window, token) = (place / tokens, place % tokens);
            let y = window / (size / side) * side + token / side + 3;
            let x = window % (size / side) * side + token % side + 3;
            (y % size * size + x % size) as u32
        })
        .collect();
    let table = TokenRows::new(table, size * size);
    let count = size * size / tokens;
    let shape = AttentionShape { groups: batch * count, tokens, heads, head_dim: 32 };
    let rows = batch * size * size;
    let values: Vec<f32> = (0..rows * 3 * dim).map(|i| (i as f32 * 0.37).sin()).collect();
    let bias = vec![0.1; heads * tokens * tokens];
    // Every window has a seam in its middle; in an image of a shifted Swin only the last ones of rows and columns have.
    let half = |token: usize| token % side < side / 2;
    let seen = |query: usize, key: usize| if half(query) == half(key) { 0.0 } else { -100.0 };
    let mask: Vec<f32> =
        (0..count * tokens * tokens).map(|i| seen(i / tokens % tokens, i % tokens)).collect();
    let scales = vec![5.0; heads];
    let similarity = if cosine { Similarity::Cosine(&scales) } else { Similarity::Product(0.177) };
    let scores = Scores { similarity, bias: Some(&bias), mask: Some(&mask) };
    let windows = Windows { rows: &table, padding: &[] };
    let qkv = Matrix { values: &values, stride: 3 * dim };
    let mut output = vec![0.0; rows * dim];
    bench.time(name, operations(shape), |pool| {
        attention(bench.level, pool, shape, qkv, scores, Some(windows), &mut output, dim);
    });
}

fn rows(bench: &Bench, [rows, columns]: [usize; 2]) {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
    let input = Matrix { values: &values, stride: columns };
    let (gamma, beta) = (vec![1.0; columns], vec![0.0; columns]);
    let mut output = vec![0.0; rows * columns];
    let size = rows * columns;
    // Two additions and a multiplication for mean and variance, four for the result.
    bench.time(&format!("layer norm {rows} x {columns}"), 7 * size, |pool| {
        let (norm, output) = (
            LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-6 },
            MatrixMut { values: &mut output, stride: columns },
        );
        layer_norm(bench.level, pool, [rows, columns], input, norm, output);
    });
    // The exponential function's polynomial has about twenty.
    bench.time(&format!("softmax {rows} x {columns}"), 23 * size, |pool| {
        softmax(
            bench.level,
            pool,
            [rows, columns],
            input,
            MatrixMut { values: &mut output, stride: columns },
        );
    });
}
