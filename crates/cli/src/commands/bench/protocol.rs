//! The protocol of `bench/peers.py`, which lets a program live on between its turns, so that all are timed alike.

use std::error::Error;
use std::io;
use std::time::Instant;

use serde_json::json;

use super::Outcome;
use crate::output::json_line;

/// Answers each line `time SECONDS` of the standard input with the seconds of each pass in that time, and with the peak of the machine
/// right after them.
pub(super) fn answer(mut pass: impl FnMut() -> Outcome, peak_flops: impl Fn() -> f64) -> Outcome {
    for request in io::stdin().lines() {
        let request = request?;
        let seconds = request.strip_prefix("time ").and_then(|seconds| seconds.parse::<f64>().ok());
        let seconds = seconds.ok_or_else(|| format!("the request is not `time SECONDS`: {request}"))?;
        // Not counted: the caches are the previous program's, and its threads may still spin.
        passes(&mut pass, 0.2 * seconds, 1)?;
        let seconds = passes(&mut pass, seconds, 2)?;
        json_line(&json!({ "seconds": seconds, "peak_gflops": peak_flops() / 1e9 }))?;
    }
    Ok(())
}

/// The seconds of each of the passes that fill `seconds`; of `least` at least.
pub(super) fn passes(
    pass: &mut impl FnMut() -> Outcome,
    seconds: f64,
    least: usize,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut times = Vec::new();
    while times.len() < least || times.iter().sum::<f64>() < seconds {
        let start = Instant::now();
        pass()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}
