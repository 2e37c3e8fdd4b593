//! What a loop costs beside its tasks: the time from one thread to all and back.

use std::hint::black_box;
use std::time::{Duration, Instant};

use engraft_kernels::Pool;

/// Prints the median time of a loop of `tasks` empty tasks on `threads` threads, with `pause` before each.
fn time(threads: usize, tasks: usize, pause: Duration, loops: usize) {
    let pool = Pool::new(threads);
    let mut times: Vec<Duration> = (0..loops)
        .map(|_| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let start = Instant::now();
            pool.run(tasks, |task| {
                black_box(task);
            });
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let [median, slow] = [loops / 2, loops * 99 / 100].map(|place| times[place].as_secs_f64() * 1e6);
    println!(
        "{threads} threads, {tasks:3} tasks, after {pause:?}: median {median:.2} us, 99 of 100 within {slow:.2} us"
    );
}

fn main() {
    for threads in [2, 4] {
        for tasks in [2, 16] {
            time(threads, tasks, Duration::ZERO, 100_000);
            // Longer than threads spin: they sleep.
            time(threads, tasks, Duration::from_millis(1), 1_000);
        }
    }
}
