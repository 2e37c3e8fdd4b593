//! Solves for a layer on features in a file, which is mapped, not read; `bench/solver.py` calls it.
//!
//!     solve_file FEATURES LABELS COLUMNS STRENGTHS THREADS SOLUTION
//!
//! FEATURES holds f32, row by row, LABELS a u32 for each row, both as this machine has them; STRENGTHS are divided by commas. Writes the weights,
//! `[classes, COLUMNS]`, and the biases to SOLUTION, as f32, and prints how it went as JSON.

use std::error::Error;
use std::fs::{self, File};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use engraft_solver::{Matrix, Options, solve};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [features, labels, columns, strengths, threads, solution] = arguments.as_slice() else {
        return Err("expected are FEATURES LABELS COLUMNS STRENGTHS THREADS SOLUTION".into());
    };
    let file = File::open(features)?;
    // SAFETY: no one changes the file while this short program runs.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    let values = bytemuck::try_cast_slice(&map).map_err(|error| format!("{features}: {error}"))?;
    let labels: Vec<u32> = fs::read(labels)?
        .chunks_exact(4)
        .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let classes = labels.iter().max().map_or(0, |label| *label as usize + 1);
    let options = Options {
        strengths: strengths.split(',').map(str::parse).collect::<Result<_, _>>()?,
        threads: threads.parse()?,
        ..Options::default()
    };
    let start = Instant::now();
    let mut cross_validation = 0.0;
    let stop = AtomicBool::new(false);
    let found =
        solve(&Matrix::new(values, columns.parse()?), &labels, classes, &options, &stop, &mut |progress| {
            let seconds = start.elapsed().as_secs_f64();
            if progress.tried < progress.strengths {
                cross_validation = seconds;
            }
            eprintln!("{seconds:7.1} s: pass {}, strength {}", progress.passes, progress.strength);
        })?;
    let seconds = start.elapsed().as_secs_f64();
    let layer: Vec<f32> = found.weight.iter().chain(&found.bias).copied().collect();
    fs::write(solution, bytemuck::cast_slice(&layer))?;
    let trials: Vec<_> = found
        .trials
        .iter()
        .map(|trial| {
            json!({
                "strength": trial.strength, "loss": trial.loss, "loss_error": trial.loss_error,
                "accuracy": trial.accuracy, "iterations": trial.iterations,
            })
        })
        .collect();
    let summary = json!({
        "seconds": seconds, "cross_validation_seconds": cross_validation, "strength": found.strength,
        "objective": found.objective, "iterations": found.iterations, "converged": found.converged,
        "passes": found.passes, "trials": trials,
    });
    println!("{summary}");
    Ok(())
}
