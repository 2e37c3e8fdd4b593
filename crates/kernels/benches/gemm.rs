//! Products as in torchvision's networks.

mod common;

use common::Bench;
use engraft_kernels::{Activation, Epilogue, Matrix, PackedMatrix, Prologue, gemm};

fn main() {
    for threads in [1, 2] {
        let bench = Bench::new(threads);
        for shape in [
            [3136, 64, 256],
            [3136, 256, 64],
            [784, 512, 128],
            [6272, 512, 128],
            [1576, 768, 3072],
            [1576, 3072, 768],
            [392, 1152, 192],
            [6272, 1536, 384],
            [12544, 16, 96],
            [12544, 96, 24],
            [784, 240, 40],
            [49, 960, 160],
            [1, 4096, 1000],
        ] {
            time(&bench, shape, 0, Prologue::None);
        }
        // Rows whose beginnings share a place of the cache, and the same with a gap between them.
        for gap in [0, 16] {
            for shape in
                [[196, 1024, 256], [1568, 1024, 256], [49, 2048, 512], [392, 2048, 512], [1568, 512, 128]]
            {
                time(&bench, shape, gap, Prologue::None);
            }
        }
        let (scale, shift) = (vec![0.5; 8 * 1024], vec![0.1; 1024]);
        let activation = Activation::ReLU;
        for shape in [[3136, 128, 128], [784, 256, 128], [196, 512, 128], [1568, 512, 128], [49, 1000, 128]] {
            time(&bench, shape, 0, Prologue::Affine { scale: &scale, shift: &shift, activation });
        }
        for (shape, rows_per_image) in [([784, 144, 40], 784), ([1568, 480, 80], 196), ([196, 672, 112], 196)]
        {
            let scale = Matrix { values: &scale, stride: shape[1] };
            time(&bench, shape, 0, Prologue::ImageScale { scale, rows_per_image });
        }
    }
}

fn time(bench: &Bench, [m, k, n]: [usize; 3], gap: usize, prologue: Prologue<'_>) {
    let stride = k + gap;
    let a: Vec<f32> = (0..m * stride).map(|i| (i as f32 * 0.37).sin()).collect();
    let b = PackedMatrix::new(bench.level, k, n, |i, j| ((i * n + j) as f32 * 0.73).sin());
    let (bias, mut c) = (vec![0.1; n], vec![0.0; m * n]);
    let before = match prologue {
        Prologue::None => "",
        Prologue::Affine { .. } => ", affine",
        Prologue::ImageScale { .. } => ", scaled images",
    };
    let name = format!("{m}x{k}x{n}, gap {gap}{before}");
    bench.time(&name, 2 * m * k * n, |pool| {
        let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Activation::ReLU };
        gemm(pool, m, Matrix { values: &a, stride }, prologue, &b, epilogue, &mut c, n);
    });
}
