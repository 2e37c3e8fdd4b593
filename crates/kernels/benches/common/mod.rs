//! Times kernels against what the machine could do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use engraft_kernels::{Level, Pool, peak_flops};

/// Times closures on one pool of threads, and prints a line for each.
pub struct Bench {
    /// The instruction set that is measured.
    pub level: Level,
    /// The threads that compute.
    pub pool: Pool,
    peak: f64,
}

impl Bench {
    /// The best instruction set with this many threads.
    pub fn new(threads: usize) -> Bench {
        let (level, pool) = (Level::detect(), Pool::new(threads));
        let peak = peak_flops(level, &pool);
        println!("{level}, {threads} threads, peak {:.0} GFLOP/s", peak / 1e9);
        Bench { level, pool, peak }
    }

    /// The best time of `kernel` in about 0.3 s, which does `operations` (a multiply-add is two).
    pub fn time(&self, name: &str, operations: usize, mut kernel: impl FnMut(&Pool)) {
        let begin = Instant::now();
        let mut best = f64::INFINITY;
        while begin.elapsed() < Duration::from_millis(300) {
            let start = Instant::now();
            kernel(black_box(&self.pool));
            best = best.min(start.elapsed().as_secs_f64());
        }
        let speed = operations as f64 / best;
        let share = 100.0 * speed / self.peak;
        println!("{name:48} {:9.3} ms {:7.1} GFLOP/s {share:5.1} %", best * 1e3, speed / 1e9);
    }
}
