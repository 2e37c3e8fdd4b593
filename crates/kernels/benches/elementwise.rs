//! Activations, in the first-level cache.

mod common;

use common::Bench;
use engraft_kernels::{Activation, Function, Matrix, MatrixMut, elementwise};

const VALUES: usize = 1 << 12;

fn main() {
    let bench = Bench::new(1);
    let input: Vec<f32> = (0..VALUES).map(|i| (i as f32 * 0.37).sin() * 8.0).collect();
    let mut output = vec![0.0; VALUES];
    for activation in [
        Activation::Identity,
        Activation::ReLU6,
        Activation::Hardswish,
        Activation::Sigmoid,
        Activation::SiLU,
        Activation::Tanh,
        Activation::GELU,
    ] {
        // One operation a value: giga-values a second.
        bench.time(&format!("{activation:?}"), VALUES, |pool| {
            let x = Matrix { values: &input, stride: VALUES };
            let size = [1, VALUES];
            let output = MatrixMut { values: &mut output, stride: VALUES };
            elementwise(bench.level, pool, size, x, Function::Identity, activation, output);
        });
    }
}
