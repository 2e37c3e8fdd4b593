//! The pool in every order that its threads may run in, by loom.
//!
//! What tasks write lies in loom's cells, which fail when a thread reads or writes one that another may be writing: so a test also shows
//! that all that tasks did is there when `run` returns. The README says how to run this.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::cell::UnsafeCell;
use loom::sync::Arc;

use super::Pool;

/// A count for each task.
struct Counts(Vec<UnsafeCell<usize>>);

// SAFETY: loom sees to it that no two threads use a cell at a time.
unsafe impl Sync for Counts {}
// SAFETY: they are numbers.
unsafe impl Send for Counts {}

impl Counts {
    fn new(tasks: usize) -> Counts {
        Counts((0..tasks).map(|_| UnsafeCell::new(0)).collect())
    }

    fn count(&self, task: usize) {
        // SAFETY: see `Sync`.
        self.0[task].with_mut(|count| unsafe { *count += 1 });
    }

    fn all(&self) -> Vec<usize> {
        // SAFETY: see `Sync`.
        self.0.iter().map(|count| count.with(|count| unsafe { *count })).collect()
    }
}

/// Tries `test` in all orders with at most `switches` switches away from a thread that could go on.
fn model(switches: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(test);
}

fn every_task_once(pool: &Pool, tasks: usize) {
    let counts = Counts::new(tasks);
    pool.run(tasks, |task| counts.count(task));
    assert_eq!(counts.all(), vec![1; tasks]);
}

#[test]
fn every_task_runs_once_before_run_returns() {
    model(3, || every_task_once(&Pool::new(2), 2));
}

#[test]
fn three_threads() {
    model(2, || every_task_once(&Pool::new(3), 3));
}

/// A worker may come late to the first loop, and to the second.
#[test]
fn two_loops_follow_each_other() {
    model(3, || {
        let pool = Pool::new(2);
        every_task_once(&pool, 2);
        every_task_once(&pool, 3);
    });
}

#[test]
fn two_loops_of_three_threads() {
    model(1, || {
        let pool = Pool::new(3);
        every_task_once(&pool, 2);
        every_task_once(&pool, 2);
    });
}

#[test]
fn a_pool_ends_without_a_loop() {
    model(3, || drop(Pool::new(3)));
}

#[test]
fn a_panic_reaches_the_caller() {
    model(2, || {
        let pool = Pool::new(2);
        for panics in [0, 1] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(2, |task| {
                    if task == panics {
                        std::panic::resume_unwind(Box::new(task));
                    }
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&panics));
        }
        every_task_once(&pool, 2);
    });
}

#[test]
fn a_task_runs_a_loop() {
    model(2, || {
        let pool = Pool::new(2);
        let counts = Counts::new(4);
        pool.run(2, |outer| pool.run(2, |inner| counts.count(2 * outer + inner)));
        assert_eq!(counts.all(), [1; 4]);
    });
}

#[test]
fn two_threads_run_loops() {
    model(2, || {
        let pool = Arc::new(Pool::new(2));
        let other = loom::thread::spawn({
            let pool = Arc::clone(&pool);
            move || every_task_once(&pool, 2)
        });
        every_task_once(&pool, 2);
        other.join().unwrap();
    });
}
