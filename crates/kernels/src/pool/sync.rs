//! What the pool is made of: the standard library's parts, or loom's, which try the orders of what threads do.

#[cfg(all(loom, test))]
pub(super) use loom::{
    cell::UnsafeCell,
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};
#[cfg(not(all(loom, test)))]
pub(super) use std::{
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// [`std::cell::UnsafeCell`] with loom's methods.
#[cfg(not(all(loom, test)))]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(all(loom, test)))]
impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// How long a thread without work spins before it sleeps.
#[cfg(not(all(loom, test)))]
pub(super) const SPIN: std::time::Duration = std::time::Duration::from_micros(200);

/// How much of that is left.
#[cfg(not(all(loom, test)))]
pub(super) struct Patience {
    start: std::time::Instant,
    rounds: u32,
}

#[cfg(not(all(loom, test)))]
impl Patience {
    pub(super) fn new() -> Patience {
        Patience { start: std::time::Instant::now(), rounds: 0 }
    }

    /// Waits a moment; false when the time is over.
    pub(super) fn spin(&mut self) -> bool {
        self.rounds += 1;
        hint::spin_loop();
        !self.rounds.is_multiple_of(256) || self.start.elapsed() <= SPIN
    }
}

/// A model has no clock: a thread without work sleeps at once.
#[cfg(all(loom, test))]
pub(super) struct Patience;

#[cfg(all(loom, test))]
impl Patience {
    pub(super) fn new() -> Patience {
        Patience
    }

    pub(super) fn spin(&mut self) -> bool {
        false
    }
}
