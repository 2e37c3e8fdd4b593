//! Features: what the frozen part of a network gives for images, each computed once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engraft_data::{Batches, ImageError, Transform, content_hashes};
use engraft_engine::Network;
use engraft_tensor::Tensor;

use crate::cache::ContentHash;
use crate::{FeatureCache, TrainError};

/// Images in a batch of the frozen part: few, so that its activations need little memory.
const BATCH: usize = 16;

/// New features are written to the disk as soon as there are so many bytes of them, or so much time has passed.
const FLUSH_BYTES: usize = 64 << 20;
const FLUSH_TIME: Duration = Duration::from_secs(5);

/// The features of some images.
pub struct Features {
    /// In the order of the paths; for an image that could not be used, the reason.
    pub rows: Vec<Result<Vec<f32>, String>>,
    /// How many were known already.
    pub cached: usize,
    /// Wall time.
    pub seconds: f64,
    /// Why the cache could not be written, if it could not.
    pub cache_warning: Option<String>,
}

/// Computes the features of images with the frozen part of a network, or takes them from the cache.
///
/// `progress` is told how many of the images that must be computed are done, and how many there are.
///
/// # Errors
/// When the images do not fit the network, or `stop` became true: what was computed until then is in the cache.
pub fn extract(
    network: &dyn Network,
    transform: &Transform,
    paths: &[PathBuf],
    cache: &mut FeatureCache,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Features, TrainError> {
    let start = Instant::now();
    let mut hashes: Vec<Result<ContentHash, String>> =
        content_hashes(paths).into_iter().map(|hash| hash.map_err(|error| error.to_string())).collect();
    let known =
        |hash: &Result<ContentHash, String>| hash.as_ref().is_ok_and(|hash| cache.get(hash).is_some());
    let cached = hashes.iter().filter(|hash| known(hash)).count();

    // Of several files with one content, the first is computed.
    let mut seen = HashSet::new();
    let is_new =
        |i: &usize| hashes[*i].as_ref().is_ok_and(|hash| cache.get(hash).is_none() && seen.insert(*hash));
    let missing: Vec<usize> = (0..paths.len()).filter(is_new).collect();
    let missing_paths: Vec<PathBuf> = missing.iter().map(|i| paths[*i].clone()).collect();
    let mut failed: HashMap<ContentHash, ImageError> = HashMap::new();
    let mut writer = Writer { cache, last: Instant::now(), warning: None };
    let mut done = 0;
    progress(0, missing.len());
    for batch in Batches::new(missing_paths, transform.clone(), BATCH) {
        done += batch.paths();
        for failure in batch.failed {
            if let Ok(hash) = hashes[missing[failure.index]] {
                failed.insert(hash, failure.error);
            }
        }
        if !batch.pictures.is_empty() {
            let output = network.forward(&image_batch(batch.images, transform))?;
            writer.insert(batch.pictures.iter().map(|picture| picture.content.hash), &output);
        }
        progress(done, missing.len());
        if stop.load(Ordering::Relaxed) {
            writer.flush();
            return Err(TrainError::Stopped);
        }
    }
    writer.flush();
    let cache_warning = writer.warning;

    for (hash, path) in hashes.iter_mut().zip(paths) {
        if let Some(error) = hash.as_ref().ok().and_then(|hash| failed.get(hash)) {
            *hash = Err(reason(error, path));
        }
    }
    let row =
        |hash: Result<ContentHash, String>| hash.map(|hash| cache.get(&hash).unwrap_or_default().to_vec());
    let rows = hashes.into_iter().map(row).collect();
    Ok(Features { rows, cached, seconds: start.elapsed().as_secs_f64(), cache_warning })
}

/// Why the file at `path` cannot be used, if one of the same content gave this error.
fn reason(error: &ImageError, path: &Path) -> String {
    match error {
        ImageError::Decode { source, .. } => format!("{}: {source}", path.display()),
        _ => error.to_string(),
    }
}

/// Images of a batch as a tensor `[batch, 3, crop, crop]`.
pub fn image_batch(images: Vec<f32>, transform: &Transform) -> Tensor {
    let crop = transform.crop as usize;
    Tensor::f32([images.len() / (3 * crop * crop).max(1), 3, crop, crop], images)
}

/// Puts features into the cache, and the cache onto the disk now and then.
struct Writer<'a> {
    cache: &'a mut FeatureCache,
    last: Instant,
    warning: Option<String>,
}

impl Writer<'_> {
    fn insert(&mut self, hashes: impl Iterator<Item = ContentHash>, output: &Tensor) {
        let width = self.cache.shape().iter().product::<usize>().max(1);
        for (hash, row) in hashes.zip(output.as_f32().unwrap_or_default().chunks_exact(width)) {
            self.cache.insert(hash, row.to_vec());
        }
        if self.cache.unwritten_bytes() >= FLUSH_BYTES || self.last.elapsed() >= FLUSH_TIME {
            self.flush();
        }
    }

    /// A disk that is full ends the caching, not the run.
    fn flush(&mut self) {
        if let Err(error) = self.cache.flush() {
            self.warning = Some(format!("{error}; the features of this run are not kept"));
            self.cache.forget_disk();
        }
        self.last = Instant::now();
    }
}
