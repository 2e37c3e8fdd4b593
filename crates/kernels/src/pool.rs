//! Threads that wait by spinning, because a network is a hundred short loops.
//!
//! Waking a sleeping thread costs about 10 microseconds on Linux, a spinning one less than a tenth of one. A pass through a small network is over in a
//! few milliseconds, so that a pool that sleeps between its loops would spend a quarter of them on waking.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread without work spins before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// A fixed number of threads, of which the caller's is one.
///
/// What is computed does not depend on their number: tasks are handed out in order to whoever is free, and no two tasks write to
/// the same place.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    sleepers: Vec<Thread>,
    /// One loop at a time.
    busy: Mutex<()>,
}

struct Shared {
    /// Counts the loops; a change means that there is work.
    epoch: AtomicUsize,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    /// Workers that have not finished the current loop.
    active: AtomicUsize,
    asleep: Vec<AtomicBool>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// The current loop.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    /// Borrowed from the caller of [`Pool::run`], which returns only when no worker uses it any more.
    body: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `job` is written only while no worker is active, and published by `epoch` with release ordering.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure.
unsafe impl Send for Shared {}

impl Pool {
    /// With this many threads, at least one.
    pub fn new(threads: usize) -> Pool {
        let workers = threads.max(1) - 1;
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { tasks: 0, body: nothing }),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("engraft-{index}")).spawn(move || shared.work(index))
        };
        // With fewer threads than asked for, everything still works.
        let workers: Vec<JoinHandle<()>> = (0..workers).map_while(|index| spawn(index).ok()).collect();
        let sleepers = workers.iter().map(|worker| worker.thread().clone()).collect();
        Pool { shared, workers, sleepers, busy: Mutex::new(()) }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` with every number below `tasks`, on all threads, and returns when all calls have.
    ///
    /// # Panics
    /// When a call panicked. A `body` must not call `run` of the same pool.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(body);
            return;
        }
        let _one_at_a_time = self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        let borrowed: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only the lifetime is changed; below, this function waits until no worker uses the closure.
        let body: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(borrowed) };
        // SAFETY: no worker is active: the last loop waited for all of them.
        unsafe { *shared.job.get() = Job { tasks, body } };
        shared.next.store(0, Ordering::Relaxed);
        shared.active.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (asleep, thread) in shared.asleep.iter().zip(&self.sleepers) {
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take_tasks()));
        let mut rounds = 0u32;
        while shared.active.load(Ordering::Acquire) > 0 {
            rounds += 1;
            // A worker may have lost its core to another program.
            if rounds.is_multiple_of(1 << 10) { thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        match outcome {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => assert!(!panicked, "a task of a parallel loop panicked"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(index, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.take_tasks()));
            if outcome.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.active.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is another than `seen`, and returns it.
    fn wait(&self, index: usize, seen: usize) -> usize {
        let start = Instant::now();
        let mut rounds = 0u32;
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            rounds += 1;
            std::hint::spin_loop();
            if rounds.is_multiple_of(256) && start.elapsed() > SPIN {
                break;
            }
        }
        self.asleep[index].store(true, Ordering::SeqCst);
        // The caller looks at `asleep` after it has changed `epoch`: one of the two sees the other.
        let epoch = loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                break epoch;
            }
            thread::park();
        };
        self.asleep[index].store(false, Ordering::SeqCst);
        epoch
    }

    fn take_tasks(&self) {
        // SAFETY: the job was written before the epoch that this thread has seen, and is not written again before all are done.
        let Job { tasks, body } = unsafe { *self.job.get() };
        // SAFETY: `Pool::run` keeps the closure until all are done.
        let body = unsafe { &*body };
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            body(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Pool;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn workers_that_slept_wake_up() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let count = AtomicUsize::new(0);
            pool.run(50, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 50);
            std::thread::sleep(super::SPIN * 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(2);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(10, |task| assert!(task != 5, "five"));
        }));
        assert!(panic.is_err());
        let count = AtomicUsize::new(0);
        pool.run(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 10);
    }
}
