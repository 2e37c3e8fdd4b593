//! Gradients as in torchvision's networks. Lines of what waits for memory say how many values they read and write as operations.

mod common;

use common::Bench;
use engraft_kernels::{
    Activation, Adam, AttentionGradients, AttentionShape, BatchNorm, ConvGeometry, ConvGradientWeights,
    DepthwiseWeights, Epilogue, GradientEpilogue, Maps, MapsMut, MapsShape, Matrix, PackedMatrix,
    PoolGeometry, Prologue, Scores, Similarity, WinogradTile, WinogradWeights, activation_backward, adam,
    attention_backward, batch_norm_backward, batch_statistics, conv_input_gradient, conv_weight_gradient,
    depthwise_input_gradient, depthwise_weight_gradient, layer_norm_backward, max_pool_backward,
    product_input_gradient, product_weight_gradient, winograd, winograd_weight_gradient,
};

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        for shape in [
            [50176, 64, 64],
            [50176, 256, 64],
            [12544, 128, 512],
            [3136, 256, 1024],
            [784, 2048, 512],
            [3152, 768, 3072],
            [3152, 3072, 768],
            [200_704, 96, 16],
            [50176, 24, 144],
            [12544, 192, 32],
            [3136, 576, 96],
            [784, 960, 160],
            [784, 160, 960],
            [16, 4096, 4096],
        ] {
            products(&bench, shape);
        }
        for (batch, size, channels) in
            [(4, 112, 64), (16, 56, 64), (16, 28, 128), (16, 14, 256), (16, 7, 512)]
        {
            winograds(&bench, [batch, size], channels);
        }
        convolutions(&bench, [16, 224], [3, 64], [7, 2, 3], 1);
        convolutions(&bench, [16, 224], [3, 32], [3, 2, 1], 1);
        convolutions(&bench, [4, 224], [3, 64], [3, 1, 1], 1);
        convolutions(&bench, [16, 56], [64, 128], [3, 2, 1], 1);
        convolutions(&bench, [16, 28], [256, 256], [3, 2, 1], 1);
        convolutions(&bench, [16, 14], [512, 512], [3, 2, 1], 1);
        convolutions(&bench, [16, 56], [256, 512], [1, 2, 0], 1);
        convolutions(&bench, [16, 14], [1024, 2048], [1, 2, 0], 1);
        convolutions(&bench, [16, 28], [128, 32], [3, 1, 1], 1);
        convolutions(&bench, [16, 56], [128, 128], [3, 1, 1], 32);
        for (size, channels, kernel, stride) in [
            (112, 32, 3, 1),
            (112, 96, 3, 2),
            (56, 144, 3, 1),
            (14, 576, 3, 1),
            (7, 960, 3, 1),
            (56, 144, 5, 2),
            (28, 240, 5, 1),
            (14, 672, 5, 1),
            (56, 96, 7, 1),
            (14, 384, 7, 1),
        ] {
            depthwises(&bench, [16, size], channels, kernel, stride);
        }
        norms(&bench, [200_704, 96]);
        norms(&bench, [50176, 64]);
        norms(&bench, [12544, 512]);
        norms(&bench, [784, 2048]);
        rest(&bench);
    }
}

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn products(bench: &Bench, [m, n, k]: [usize; 3]) {
    let (level, operations) = (bench.level, 2 * m * n * k);
    let (x, dy, w) = (numbers(m * k, 0.37), numbers(m * n, 0.73), numbers(n * k, 0.11));
    let (mut dw, mut dx) = (vec![0.0; n * k], vec![0.0; m * k]);
    let [x, dy] = [(&x, k), (&dy, n)].map(|(values, stride)| Matrix { values, stride });
    bench.time(&format!("product {m}x{n}x{k}, weight"), operations, |pool| {
        product_weight_gradient(level, pool, m, [n, k], x, Prologue::None, dy, false, &mut dw);
    });
    let mut weights = PackedMatrix::zeros(level, n, k);
    weights.pack_rows(&bench.pool, Matrix { values: &w, stride: k });
    bench.time(&format!("product {m}x{n}x{k}, input"), operations, |pool| {
        product_input_gradient(pool, m, dy, &weights, GradientEpilogue::default(), &mut dx, k);
    });
    if m < 1000 {
        bench.time(&format!("product {m}x{n}x{k}, packing"), n * k, |pool| {
            weights.pack_rows(pool, Matrix { values: &w, stride: k });
        });
        let mut weights = PackedMatrix::zeros(level, k, n);
        bench.time(&format!("product {m}x{n}x{k}, packing transposed"), n * k, |pool| {
            weights.pack_transposed(pool, Matrix { values: &w, stride: k });
        });
    }
}

fn winograds(bench: &Bench, [batch, size]: [usize; 2], channels: usize) {
    let (level, shape) = (bench.level, MapsShape { batch, height: size, width: size, channels });
    let operations = 2 * shape.pixels() * channels * channels * 9;
    let [x, dy] = [0.37, 0.73].map(|step| numbers(shape.pixels() * channels, step));
    let w = numbers(channels * channels * 9, 0.11);
    let (mut dw, mut dx) = (vec![0.0; w.len()], vec![0.0; x.len()]);
    let name = format!("winograd {batch}x{size}x{size}x{channels}");
    bench.time(&format!("{name}, weight"), operations, |pool| {
        let (x, dy) = (Maps::new(&x, shape), Maps::new(&dy, shape));
        winograd_weight_gradient(level, pool, x, dy, [1, 1], false, &mut dw);
    });
    let mut weights = WinogradWeights::zeros(level, WinogradTile::F4, channels, channels);
    bench.time(&format!("{name}, packing"), w.len(), |pool| weights.pack_rotated(pool, &w));
    bench.time(&format!("{name}, input"), operations, |pool| {
        let to = MapsMut::new(&mut dx, shape);
        winograd(pool, Maps::new(&dy, shape), &weights, [1, 1], Epilogue::default(), to);
    });
}

fn convolutions(
    bench: &Bench,
    [batch, size]: [usize; 2],
    [inputs, outputs]: [usize; 2],
    [kernel, stride, padding]: [usize; 3],
    groups: usize,
) {
    let geometry = ConvGeometry {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [1; 2],
        groups,
    };
    let (level, shape) = (bench.level, MapsShape { batch, height: size, width: size, channels: inputs });
    let [height, width] = geometry.output_size(size, size);
    let out = MapsShape { batch, height, width, channels: outputs };
    let w = numbers(outputs * inputs / groups * kernel * kernel, 0.11);
    let operations = 2 * out.pixels() * w.len();
    let (x, dy) = (numbers(shape.pixels() * inputs, 0.37), numbers(out.pixels() * outputs, 0.73));
    let (mut dw, mut dx) = (vec![0.0; w.len()], vec![0.0; x.len()]);
    let name =
        format!("conv {batch}x{size}x{size}, {inputs} to {outputs}, {kernel}/{stride}, {groups} groups");
    bench.time(&format!("{name}, weight"), operations, |pool| {
        let (x, dy) = (Maps::new(&x, shape), Maps::new(&dy, out));
        conv_weight_gradient(level, pool, x, dy, geometry, false, &mut dw);
    });
    if inputs > 3 {
        let mut weights = ConvGradientWeights::zeros(level, outputs, inputs, geometry);
        bench.time(&format!("{name}, packing"), w.len(), |pool| weights.pack(pool, &w));
        bench.time(&format!("{name}, input"), operations, |pool| {
            let (dy, to) = (Maps::new(&dy, out), MapsMut::new(&mut dx, shape));
            conv_input_gradient(pool, dy, &weights, GradientEpilogue::default(), to);
        });
    }
}

fn depthwises(bench: &Bench, [batch, size]: [usize; 2], channels: usize, kernel: usize, stride: usize) {
    let (level, shape) = (bench.level, MapsShape { batch, height: size, width: size, channels });
    let (padding, kernel, stride) = ([kernel / 2; 2], [kernel; 2], [stride; 2]);
    let out = MapsShape { height: size.div_ceil(stride[0]), width: size.div_ceil(stride[0]), ..shape };
    let w = numbers(channels * kernel[0] * kernel[1], 0.11);
    let (x, dy) = (numbers(shape.pixels() * channels, 0.37), numbers(out.pixels() * channels, 0.73));
    let (mut dw, mut dx) = (vec![0.0; w.len()], vec![0.0; x.len()]);
    let operations = 2 * out.pixels() * w.len();
    let name = format!("depthwise {batch}x{size}x{size}x{channels}, {}/{}", kernel[0], stride[0]);
    bench.time(&format!("{name}, weight"), operations, |pool| {
        let (x, dy) = (Maps::new(&x, shape), Maps::new(&dy, out));
        depthwise_weight_gradient(level, pool, x, dy, kernel, stride, padding, [1, 1], false, &mut dw);
    });
    let geometry = ConvGeometry { kernel, stride, padding, dilation: [1; 2], groups: channels };
    let weights = DepthwiseWeights::new(level, &w, channels, geometry);
    bench.time(&format!("{name}, input"), operations, |pool| {
        let (dy, to) = (Maps::new(&dy, out), MapsMut::new(&mut dx, shape));
        depthwise_input_gradient(pool, dy, &weights, GradientEpilogue::default(), to);
    });
}

fn norms(bench: &Bench, [rows, columns]: [usize; 2]) {
    let level = bench.level;
    let (x, mut d) = (numbers(rows * columns, 0.37), numbers(rows * columns, 0.73));
    let x = Matrix { values: &x, stride: columns };
    let (mut mean, mut variance) = (vec![0.0; columns], vec![0.0; columns]);
    bench.time(&format!("batch norm {rows}x{columns}, statistics"), rows * columns, |pool| {
        batch_statistics(level, pool, [rows, columns], x, &mut mean, &mut variance);
    });
    let (rstd, gamma, beta) = (vec![1.4; columns], vec![1.0; columns], vec![0.1; columns]);
    let norm = BatchNorm { mean: &mean, rstd: &rstd, gamma: &gamma, beta: &beta, batch: true };
    let (mut dgamma, mut dbeta) = (vec![0.0; columns], vec![0.0; columns]);
    for activation in [Activation::ReLU, Activation::SiLU] {
        bench.time(&format!("batch norm {rows}x{columns}, {activation:?}"), 5 * rows * columns, |pool| {
            batch_norm_backward(
                level,
                pool,
                [rows, columns],
                x,
                norm,
                activation,
                None,
                None,
                false,
                &mut dgamma,
                &mut dbeta,
                Some((&mut d, columns)),
                false,
            );
        });
    }
}

fn rest(bench: &Bench) {
    let level = bench.level;
    let [rows, columns] = [3152, 768];
    let (x, dy) = (numbers(rows * columns, 0.37), numbers(rows * columns, 0.73));
    let [x, dy] = [&x, &dy].map(|values| Matrix { values, stride: columns });
    let (gamma, mut dgamma, mut dbeta) = (vec![1.0; columns], vec![0.0; columns], vec![0.0; columns]);
    let mut dx = vec![0.0; rows * columns];
    bench.time("layer norm 3152x768", 3 * rows * columns, |pool| {
        let sizes = [rows, columns];
        let epilogue = GradientEpilogue::default();
        layer_norm_backward(
            level,
            pool,
            sizes,
            x,
            &gamma,
            1e-6,
            dy,
            false,
            &mut dgamma,
            &mut dbeta,
            epilogue,
            &mut dx,
            columns,
        );
    });
    for activation in [Activation::GELU, Activation::SiLU, Activation::Hardswish] {
        bench.time(&format!("{activation:?} 3152x768"), 3 * rows * columns, |pool| {
            activation_backward(level, pool, [rows, columns], activation, x, Some(dy), &mut dx, columns);
        });
    }
    for (shape, bias) in [([16, 197, 12, 64], false), ([1024, 49, 3, 32], true), ([64, 49, 12, 32], true)] {
        let [groups, tokens, heads, head_dim] = shape;
        let shape = AttentionShape { groups, tokens, heads, head_dim };
        let dim = heads * head_dim;
        let (qkv, dy) = (numbers(groups * tokens * 3 * dim, 0.37), numbers(groups * tokens * dim, 0.73));
        let mut dqkv = vec![0.0; qkv.len()];
        let (of_bias, mut d_bias) = (vec![0.1; heads * tokens * tokens], vec![0.0; heads * tokens * tokens]);
        let operations = 10 * groups * heads * tokens * tokens * head_dim;
        bench.time(&format!("attention {groups}x{tokens}x{heads}x{head_dim}"), operations, |pool| {
            let scores = Scores {
                similarity: Similarity::Product(0.125),
                bias: bias.then_some(&of_bias[..]),
                mask: None,
            };
            let gradients =
                AttentionGradients { bias: bias.then_some(&mut d_bias[..]), ..AttentionGradients::default() };
            let [qkv, dy] = [(&qkv, 3 * dim), (&dy, dim)].map(|(values, stride)| Matrix { values, stride });
            attention_backward(level, pool, shape, qkv, scores, None, dy, &mut dqkv, 3 * dim, gradients);
        });
    }
    let shape = MapsShape { batch: 16, height: 112, width: 112, channels: 64 };
    let out = MapsShape { height: 56, width: 56, ..shape };
    let (x, dy) = (numbers(shape.pixels() * 64, 0.37), numbers(out.pixels() * 64, 0.73));
    let mut dx = vec![0.0; x.len()];
    bench.time("max pool 16x112x112x64, 3/2", 2 * x.len() + dy.len(), |pool| {
        let window = PoolGeometry { kernel: 3, stride: 2, padding: 1 };
        let (x, dy, to) = (Maps::new(&x, shape), Maps::new(&dy, out), MapsMut::new(&mut dx, shape));
        max_pool_backward(level, pool, x, window, dy, GradientEpilogue::default(), to);
    });
    let len = 10_000_000;
    let (mut w, g, mut m, mut s) = (numbers(len, 0.1), numbers(len, 0.2), vec![0.0; len], vec![0.0; len]);
    let rule = Adam {
        learning_rate: 1e-3,
        weight_decay: 0.0,
        decoupled: false,
        betas: [0.9, 0.999],
        eps: 1e-8,
        updates: 10,
    };
    bench.time("adam 10,000,000", 7 * len, |pool| adam(level, pool, rule, 1.0, &mut w, &g, &mut m, &mut s));
}
