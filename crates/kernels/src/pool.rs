//! Threads that wait by spinning, because a network is a hundred short loops.
//!
//! Waking a sleeping thread costs about 10 microseconds on Linux, and much more in a virtual machine; a spinning one less than a tenth
//! of one. A pass through a small network is over in a few milliseconds, so that a pool that sleeps between its loops would spend a
//! quarter of them on waking.
//!
//! A loop is a gate: the caller opens it, goes through the tasks, closes it, and waits for the threads that have come in. A thread that
//! comes too late finds it closed, and nobody has waited for it. What may happen in which order, `pool/model.rs` tries in full.

#[cfg(all(loom, test))]
mod model;
mod sync;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use sync::{Arc, AtomicBool, AtomicUsize, JoinHandle, Mutex, Ordering, Patience, UnsafeCell, hint, thread};

/// A fixed number of threads, of which the caller's is one.
///
/// What is computed does not depend on their number: tasks are handed out in order to whoever is free, and no two tasks write to
/// the same place.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whether there is a loop.
    busy: AtomicBool,
}

struct Shared {
    /// How many workers are inside, whether more may come in, and the number of the loop.
    gate: AtomicUsize,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    asleep: Vec<AtomicBool>,
    /// The first panic of a worker in this loop.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The gate's lowest bits count the workers inside.
const INSIDE: usize = (1 << 16) - 1;

/// Workers may come in.
const OPEN: usize = 1 << 16;

/// A task of this loop has panicked in a worker.
const PANICKED: usize = 1 << 17;

/// The pool ends.
const STOP: usize = 1 << 18;

/// The other bits are the number of the loop. It may wrap around: a worker that has slept meanwhile misses a loop at most.
const LOOP: usize = 1 << 19;

/// The current loop.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    /// Borrowed from the caller of [`Pool::run`], which returns only when no worker uses it any more.
    body: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `job` is written only while the gate is closed and nobody is inside, and read only by those who have come in.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure.
unsafe impl Send for Shared {}

impl Pool {
    /// With this many threads, at least one.
    pub fn new(threads: usize) -> Pool {
        let workers = threads.clamp(1, INSIDE) - 1;
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            gate: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { tasks: 0, body: nothing }),
            next: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("engraft-{index}")).spawn(move || shared.work(index))
        };
        // With fewer threads than asked for, everything still works.
        let workers = (0..workers).map_while(|index| spawn(index).ok()).collect();
        Pool { shared, workers, busy: AtomicBool::new(false) }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` with every number below `tasks`, on all threads, and returns when all calls have.
    ///
    /// There is one loop at a time: whoever calls `run` meanwhile, be it another thread or a task of the loop, makes all calls alone.
    ///
    /// # Panics
    /// As a call did. The others may have been made or not.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 || self.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(body);
            return;
        }
        let shared = &*self.shared;
        let borrowed: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only the lifetime is changed; below, this function waits until no worker uses the closure.
        let body: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(borrowed) };
        // SAFETY: the gate is closed, and the last loop waited until nobody was inside.
        shared.job.with_mut(|job| unsafe { *job = Job { tasks, body } });
        shared.next.store(0, Ordering::Relaxed);
        let last = shared.gate.load(Ordering::Relaxed) / LOOP;
        shared.gate.store((last + 1).wrapping_mul(LOOP) | OPEN, Ordering::SeqCst);
        // No more than find a task.
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers).take(tasks - 1) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.take_tasks()));
        let panic_of_worker = shared.close();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = outcome.err().or(panic_of_worker) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.fetch_or(STOP, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of tasks, and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// What a worker does.
    fn work(&self, index: usize) {
        let mut seen = 0;
        while let Some(number) = self.enter(index, seen) {
            seen = number;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_tasks())) {
                self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(panic);
                self.gate.fetch_or(PANICKED, Ordering::Relaxed);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a loop other than the one `seen`, and comes in; returns its number, or none at the end.
    fn enter(&self, index: usize, seen: usize) -> Option<usize> {
        let mut patience = Patience::new();
        loop {
            let gate = self.gate.load(Ordering::Relaxed);
            if gate & STOP != 0 {
                return None;
            }
            if is_new(gate, seen) {
                // With this come the job and all that the caller did before; whoever else comes in or leaves makes it fail.
                let entered =
                    self.gate.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed);
                if entered.is_ok() {
                    return Some(gate / LOOP);
                }
            } else if !patience.spin() {
                self.sleep(index, seen);
                patience = Patience::new();
            }
        }
    }

    /// Sleeps until there is a loop other than the one `seen`, or the end.
    fn sleep(&self, index: usize, seen: usize) {
        self.asleep[index].store(true, Ordering::SeqCst);
        // The caller looks at `asleep` after it has opened the gate: one of the two sees the other.
        loop {
            let gate = self.gate.load(Ordering::SeqCst);
            if gate & STOP != 0 || is_new(gate, seen) {
                break;
            }
            thread::park();
        }
        self.asleep[index].store(false, Ordering::Relaxed);
    }

    fn take_tasks(&self) {
        // SAFETY: whoever is here has come in, or has opened the gate; the job is not written before all have left.
        let Job { tasks, body } = self.job.with(|job| unsafe { *job });
        // SAFETY: `Pool::run` keeps the closure until all have left.
        let body = unsafe { &*body };
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            body(task);
        }
    }

    /// Ends the loop: waits for those inside, and returns the first panic of one of them.
    fn close(&self) -> Option<Box<dyn Any + Send>> {
        self.gate.fetch_and(!OPEN, Ordering::Relaxed);
        let mut rounds = 0_u32;
        loop {
            // With this comes all that the workers did.
            let gate = self.gate.load(Ordering::Acquire);
            if gate & INSIDE == 0 {
                let panicked = gate & PANICKED != 0;
                return panicked
                    .then(|| self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take())
                    .flatten();
            }
            rounds += 1;
            // A worker may have lost its core to another program.
            if rounds.is_multiple_of(1 << 10) { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}

/// Whether a gate is open for a loop other than the one `seen`.
fn is_new(gate: usize, seen: usize) -> bool {
    gate & OPEN != 0 && gate / LOOP != seen
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Pool, sync};

    /// How often each of `tasks` tasks ran in a loop.
    fn counts(pool: &Pool, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, |task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, if cfg!(miri) { 30 } else { 1000 }] {
                assert_eq!(counts(&pool, tasks), vec![1; tasks]);
            }
        }
    }

    /// Loops follow each other so closely that workers come late to one and find the next.
    #[test]
    fn many_short_loops() {
        let pool = Pool::new(4);
        for round in 0..if cfg!(miri) { 20 } else { 20_000 } {
            let tasks = 2 + round % 3;
            assert_eq!(counts(&pool, tasks), vec![1; tasks]);
        }
    }

    #[test]
    fn workers_that_slept_wake_up() {
        let pool = Pool::new(3);
        for _ in 0..if cfg!(miri) { 2 } else { 20 } {
            assert_eq!(counts(&pool, 50), vec![1; 50]);
            std::thread::sleep(sync::SPIN * 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(2);
        for _ in 0..if cfg!(miri) { 2 } else { 50 } {
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(10, |task| assert!(task != 5, "five"));
            }));
            assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"five"));
            assert_eq!(counts(&pool, 10), [1; 10]);
        }
    }

    #[test]
    fn a_task_may_run_a_loop() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        pool.run(4, |_| {
            pool.run(5, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 20);
    }

    #[test]
    fn several_threads_run_loops() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..if cfg!(miri) { 3 } else { 1000 } {
                        assert_eq!(counts(&pool, 6), [1; 6]);
                    }
                });
            }
        });
    }
}
