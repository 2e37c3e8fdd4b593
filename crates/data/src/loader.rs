//! Pictures to batches, on all cores, beside the computation that consumes them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::decode::Decoded;
use crate::error::ImageError;
use crate::file::{self, ContentHash, FileStamp};
use crate::notes::Notes;
use crate::transform::Transform;

/// Some pictures, ready for a network, and what became of the other files among them.
///
/// Every path that was given is in one of `pictures`, `known` and `failed` of one batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// The pictures in `images`, in the order of their paths.
    pub pictures: Vec<Picture>,
    /// `[pictures.len(), 3, crop, crop]`.
    pub images: Vec<f32>,
    /// Files that were read and not decoded, because their content is known.
    pub known: Vec<Known>,
    /// Files that could not be used.
    pub failed: Vec<Failed>,
}

impl Batch {
    /// How many paths the batch accounts for.
    pub fn paths(&self) -> usize {
        self.pictures.len() + self.known.len() + self.failed.len()
    }
}

/// The bytes that were read of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// What they hash to. A picture of a [`Batch`] was decoded from these very bytes.
    pub hash: ContentHash,
    /// The file that they were all of, before and after it was read.
    pub stamp: FileStamp,
}

/// A picture of a [`Batch`].
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// Its path is `paths[index]`.
    pub index: usize,
    /// What was read.
    pub content: Content,
    /// What a user should know of it.
    pub notes: Notes,
}

/// A file that was not decoded.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its path is `paths[index]`.
    pub index: usize,
    /// What was read.
    pub content: Content,
}

/// A file that could not be used.
#[derive(Debug)]
pub struct Failed {
    /// Its path is `paths[index]`.
    pub index: usize,
    /// What was read, if it could be read.
    pub content: Option<Content>,
    /// Why it could not be used; the message begins with the path.
    pub error: ImageError,
}

/// A batch that is not full is handed out as soon as it has so many files that are known, so that a consumer
/// hears of them.
const MOST_KNOWN: usize = 1024;

/// Reads, decodes and transforms pictures on all cores and yields them in batches, in the order of the paths,
/// whatever finishes first.
///
/// A file is read once, and hashed and decoded from the same bytes. Every batch but the last holds as many
/// pictures as asked for, unless 1,024 known files lie among them. Files that fail are left out and named in
/// [`Batch::failed`]; a batch may have no pictures.
///
/// Its threads are its own, not Rayon's, so that they go on while the consumer's computation keeps Rayon's
/// busy. They run ahead by at most two batches and one picture a core: that many times `12 * crop * crop`
/// bytes are held, and on each core one file is being decoded (its bytes and about 6 bytes a pixel, 15 for a
/// progressive JPEG; pictures beyond 24 megapixels one at a time: one of 12000 x 9000 needs 0.5 GB). Dropping
/// it ends the threads after their current picture.
///
/// ```no_run
/// use engraft_data::{Batches, Transform};
///
/// let paths = vec!["ant.jpg".into(), "bee.jpg".into()];
/// for batch in Batches::new(paths, Transform::imagenet(), 8) {
///     println!("{} pictures, {} failed", batch.pictures.len(), batch.failed.len());
/// }
/// ```
pub struct Batches {
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
    batch: usize,
}

/// Whether what hashes to this need not be decoded.
type IsKnown = dyn Fn(&ContentHash) -> bool + Send + Sync;

/// What the threads share.
struct Work {
    paths: Vec<PathBuf>,
    transform: Transform,
    is_known: Box<IsKnown>,
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
    done: BTreeMap<usize, Outcome>,
    stopped: bool,
}

/// What became of a file.
enum Outcome {
    Picture(Content, Notes, Vec<f32>),
    Known(Content),
    Failed(Option<Content>, ImageError),
}

impl Batches {
    /// Starts decoding `paths`. A `batch` of 0 is taken as 1.
    pub fn new(paths: Vec<PathBuf>, transform: Transform, batch: usize) -> Batches {
        Batches::skipping(paths, transform, batch, |_| false)
    }

    /// As [`new`](Batches::new), but a file whose hash is known is not decoded; `|_| true` hashes alone.
    ///
    /// `known` is asked from several threads, and ahead of what the consumer has seen: of two files with one
    /// content that is not known yet, both may be decoded.
    pub fn skipping(
        paths: Vec<PathBuf>,
        transform: Transform,
        batch: usize,
        known: impl Fn(&ContentHash) -> bool + Send + Sync + 'static,
    ) -> Batches {
        let batch = batch.max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(paths.len());
        let work = Arc::new(Work {
            paths,
            transform,
            is_known: Box::new(known),
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
        let mut batch = Batch::default();
        while batch.pictures.len() < self.batch && batch.known.len() < MOST_KNOWN {
            let Some((index, outcome)) = self.work.take() else { break };
            match outcome {
                Outcome::Picture(content, notes, image) => {
                    if batch.pictures.is_empty() {
                        let left = self.work.paths.len() - index;
                        batch.images.reserve_exact(self.batch.min(left) * image.len());
                    }
                    batch.pictures.push(Picture { index, content, notes });
                    batch.images.extend(image);
                }
                Outcome::Known(content) => batch.known.push(Known { index, content }),
                Outcome::Failed(content, error) => batch.failed.push(Failed { index, content, error }),
            }
        }
        (batch.paths() > 0).then_some(batch)
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
            let path = &self.paths[index];
            // Whatever happens, the consumer gets an answer: it waits for each path in turn.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.outcome(path)))
                .unwrap_or_else(|_| Outcome::Failed(None, ImageError::Panicked { path: path.clone() }));
            self.lock().done.insert(index, outcome);
            self.changed.notify_all();
        }
    }

    fn outcome(&self, path: &Path) -> Outcome {
        let (bytes, stamp) = match file::read(path) {
            Ok(read) => read,
            Err(error) => return Outcome::Failed(None, error),
        };
        let content = Content { hash: blake3::hash(&bytes).into(), stamp };
        if (self.is_known)(&content.hash) {
            return Outcome::Known(content);
        }
        match Decoded::from_bytes(&bytes) {
            Ok(decoded) => {
                drop(bytes);
                let notes = decoded.notes;
                Outcome::Picture(content, notes, self.transform.apply(&self.transform.picture(decoded)))
            }
            Err(source) => Outcome::Failed(Some(content), ImageError::Decode { path: path.into(), source }),
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
    fn take(&self) -> Option<(usize, Outcome)> {
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
