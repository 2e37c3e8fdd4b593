//! Pictures to batches, on all cores, beside the computation that consumes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rayon::prelude::*;

use crate::decode::Image;
use crate::error::ImageError;
use crate::transform::Transform;

/// The BLAKE3 hash of each file's content, in the order of `paths`: what names a picture in a cache,
/// wherever it lies.
///
/// Reads on all cores, 64 KiB at a time.
pub fn content_hashes<P: AsRef<Path> + Sync>(paths: &[P]) -> Vec<Result<[u8; 32], ImageError>> {
    let hash = |path: &P| -> std::io::Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize().into())
    };
    let named =
        |path: &P| hash(path).map_err(|source| ImageError::Read { path: path.as_ref().into(), source });
    paths.par_iter().map(named).collect()
}

/// Some pictures, ready for a network.
#[derive(Debug)]
pub struct Batch {
    /// Which of the paths the pictures come from, ascending: picture `i` is `paths[indices[i]]`.
    pub indices: Vec<usize>,
    /// `[indices.len(), 3, crop, crop]`.
    pub images: Vec<f32>,
    /// The paths before the next batch's that could not be used, with the reason.
    pub failed: Vec<(usize, ImageError)>,
}

/// Decodes and transforms pictures on all cores and yields them in batches, in the order of the paths,
/// whatever finishes first.
///
/// Every batch but the last holds as many pictures as asked for; files that fail are left out and named in
/// [`Batch::failed`]. A last batch of failures alone has no pictures.
///
/// Its threads are its own, not Rayon's, so that they go on while the consumer's computation keeps Rayon's
/// busy. They run ahead by at most two batches and one picture a core: that many times `12 * crop * crop`
/// bytes are held, and on each core one picture is being decoded (about 6 bytes a pixel; pictures beyond 24
/// megapixels one at a time: one of 12000 x 9000 needs 0.5 GB). Dropping it ends the threads after their
/// current picture.
///
/// ```no_run
/// use engraft_data::{Batches, Transform};
///
/// let paths = vec!["ant.jpg".into(), "bee.jpg".into()];
/// for batch in Batches::new(paths, Transform::imagenet(), 8) {
///     println!("{} pictures, {} failed", batch.indices.len(), batch.failed.len());
/// }
/// ```
pub struct Batches {
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
    batch: usize,
}

/// What the threads share.
struct Work {
    paths: Vec<PathBuf>,
    transform: Transform,
    /// How many pictures may be under way or waiting.
    window: usize,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The next path for a thread to take.
    next: usize,
    /// The next path for the consumer to take.
    taken: usize,
    done: BTreeMap<usize, Result<Vec<f32>, ImageError>>,
    stopped: bool,
}

impl Batches {
    /// Starts decoding `paths`. A `batch` of 0 is taken as 1.
    pub fn new(paths: Vec<PathBuf>, transform: Transform, batch: usize) -> Batches {
        let batch = batch.max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(paths.len());
        let work = Arc::new(Work {
            paths,
            transform,
            window: 2 * batch + cores,
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let start = |_| {
            let work = Arc::clone(&work);
            thread::spawn(move || work.run())
        };
        let threads = (0..threads).map(start).collect();
        Batches { work, threads, batch }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch { indices: Vec::new(), images: Vec::new(), failed: Vec::new() };
        while batch.indices.len() < self.batch {
            match self.work.take() {
                Some((index, Ok(image))) => {
                    if batch.indices.is_empty() {
                        let left = self.work.paths.len() - index;
                        batch.images.reserve_exact(self.batch.min(left) * image.len());
                    }
                    batch.indices.push(index);
                    batch.images.extend(image);
                }
                Some((index, Err(error))) => batch.failed.push((index, error)),
                None if batch.indices.is_empty() && batch.failed.is_empty() => return None,
                None => break,
            }
        }
        Some(batch)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.work.lock().stopped = true;
        self.work.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self) {
        while let Some(index) = self.claim() {
            let image = Image::open(&self.paths[index]);
            let input = image.map(|image| self.transform.apply(&image));
            self.lock().done.insert(index, input);
            self.changed.notify_all();
        }
    }

    /// The next path to work on, as soon as the window has room for it.
    fn claim(&self) -> Option<usize> {
        let full =
            |progress: &mut Progress| !progress.stopped && progress.next >= progress.taken + self.window;
        let mut progress = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if progress.stopped || progress.next == self.paths.len() {
            return None;
        }
        progress.next += 1;
        Some(progress.next - 1)
    }

    /// The next result in the order of the paths; waits for it.
    fn take(&self) -> Option<(usize, Result<Vec<f32>, ImageError>)> {
        let mut progress = self.lock();
        let index = progress.taken;
        if index == self.paths.len() {
            return None;
        }
        loop {
            if let Some(result) = progress.done.remove(&index) {
                progress.taken += 1;
                self.changed.notify_all();
                return Some((index, result));
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn threads_run_ahead_by_the_window_and_no_more() {
        let batches = Batches::new(vec!["nothing".into(); 300], Transform::imagenet(), 2);
        let patience = Instant::now() + Duration::from_secs(10);
        while batches.work.lock().done.len() < batches.work.window && Instant::now() < patience {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(batches.work.lock().next, batches.work.window);
        assert!(batches.work.window < 300);
    }
}
