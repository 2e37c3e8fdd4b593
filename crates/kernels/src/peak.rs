//! What the machine could do: multiply-adds without memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::simd::{Kernel, Simd};
use crate::{Level, Pool};

/// Independent sums: enough to hide the latency of a multiply-add on every machine known.
const SUMS: usize = 12;

/// Multiply-adds of each sum in a task.
const STEPS: usize = 20_000;

/// The most floating-point operations a second (a multiply-add is two) that all threads of the pool together reach in
/// registers alone, over about a tenth of a second.
pub fn peak_flops(level: Level, pool: &Pool) -> f64 {
    let begin = Instant::now();
    let mut best = 0.0_f64;
    while begin.elapsed() < Duration::from_millis(100) {
        let tasks = 4 * pool.threads();
        let lanes = AtomicUsize::new(0);
        let start = Instant::now();
        pool.run(tasks, |_| lanes.store(level.run(MultiplyAdds), Ordering::Relaxed));
        let operations = 2 * tasks * STEPS * SUMS * lanes.load(Ordering::Relaxed);
        best = best.max(operations as f64 / start.elapsed().as_secs_f64());
    }
    best
}

struct MultiplyAdds;

impl Kernel for MultiplyAdds {
    /// Lanes of a vector.
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        // SAFETY: the machine has the instruction set.
        unsafe {
            let factor = S::splat(std::hint::black_box(0.999));
            let mut sums = [S::splat(std::hint::black_box(1.0)); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = S::mul_add(*sum, factor, factor);
                }
            }
            let mut total = S::zero();
            for sum in sums {
                total = S::add(total, sum);
            }
            std::hint::black_box(S::sum(total));
        }
        S::LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_vector_is_not_slower() {
        let pool = Pool::new(1);
        let peaks: Vec<f64> = Level::all().into_iter().map(|level| peak_flops(level, &pool)).collect();
        assert!(peaks.iter().all(|peak| *peak > 1e8), "{peaks:?}");
    }
}
