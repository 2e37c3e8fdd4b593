//! rten as a peer of the benchmark: `rten-peer FOLDER THREADS` speaks the protocol of `bench/peers.py`.
//!
//! FOLDER holds `model.onnx`, `input.npy` and `logits.npy`, which `peers.py export` writes.

use std::error::Error;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rten::{ModelOptions, RunOptions, ThreadPool};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor, TensorView};

/// As in `peers.py`.
const TOLERANCE: f32 = 1e-3;
/// The one in `Cargo.toml`.
const RTEN_VERSION: &str = "0.27.0";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, threads] = &arguments[..] else {
        return Err("rten-peer FOLDER THREADS".into());
    };
    let folder = Path::new(folder);
    let pool = Arc::new(ThreadPool::with_num_threads(threads.parse()?));

    let started = Instant::now();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(folder.join("model.onnx"))?;
    let load_seconds = started.elapsed().as_secs_f64();
    let images = npy(&folder.join("input.npy"))?;
    let expected = npy(&folder.join("logits.npy"))?;
    let run = |images: TensorView| -> Result<Vec<f32>, Box<dyn Error>> {
        let mut options = RunOptions::default();
        options.thread_pool = Some(pool.clone());
        Ok(Tensor::try_from(model.run_one(images.into(), Some(options))?)?.to_vec())
    };

    let started = Instant::now();
    let logits = run(images.view())?;
    let first_pass_seconds = started.elapsed().as_secs_f64();
    let expected = expected.to_vec();
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    let difference = largest(&mut logits.iter().zip(&expected).map(|(ours, theirs)| ours - theirs));
    let error = difference / largest(&mut expected.iter().copied());
    if logits.len() != expected.len() || error > TOLERANCE || logits.iter().any(|logit| logit.is_nan()) {
        return Err(format!("its logits differ from PyTorch's by {error:.1e} of the largest").into());
    }
    print!(
        r#"{{"versions": {{"rten": "{RTEN_VERSION}"}}, "error": {error:e}, "avx512": {}, "#,
        sees_avx512()
    );
    println!(r#""load_seconds": {load_seconds}, "first_pass_seconds": {first_pass_seconds}}}"#);

    for request in io::stdin().lock().lines() {
        let request = request?;
        let seconds: f64 =
            request.strip_prefix("time ").ok_or("the request is not `time SECONDS`")?.parse()?;
        let passes = |seconds: f64, least: usize| -> Result<Vec<f64>, Box<dyn Error>> {
            let mut times = Vec::new();
            while times.len() < least || times.iter().sum::<f64>() < seconds {
                let start = Instant::now();
                run(images.view())?;
                times.push(start.elapsed().as_secs_f64());
            }
            Ok(times)
        };
        // Not timed: the caches are the previous peer's, and its threads may still spin.
        passes(0.2 * seconds, 1)?;
        println!(r#"{{"seconds": {:?}}}"#, passes(seconds, 2)?);
    }
    Ok(())
}

/// A file of C-ordered f32 values that numpy wrote.
fn npy(path: &Path) -> Result<Tensor, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    // Magic, version, the header's length; then the header, a Python dictionary.
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end])?;
    let shape =
        header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')')).ok_or("no shape")?.0;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let values: Vec<f32> =
        bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Tensor::from_data(&shape, values))
}

/// Whether this process sees a machine that has AVX-512.
fn sees_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
