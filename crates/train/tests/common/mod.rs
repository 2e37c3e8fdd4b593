//! What the tests of the store and its neighbours share.
#![allow(dead_code, reason = "no test needs all of it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use engraft_data::Transform;
use engraft_engine::{EngineError, Network};
use engraft_graph::{Builder, Graph, Op};
use engraft_tensor::{StateDict, Tensor};
use engraft_train::{FeatureStore, Frozen, StoreKey};

/// Room for everything.
pub const CACHE_SIZE: u64 = 1 << 40;

/// A frozen part that flattens images of a size and does nothing else.
pub fn flatten(size: usize) -> Graph {
    let (mut b, x) = Builder::new("Net", 3, size);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    b.finish(x)
}

/// What runs it: counts batches, and may have the user press Ctrl-C.
#[derive(Clone, Default)]
pub struct Flatten {
    pub batches: Arc<AtomicUsize>,
    pub stops_at: Option<(usize, &'static AtomicBool)>,
}

impl Network for Flatten {
    fn forward(&mut self, input: &Tensor) -> Result<Tensor, EngineError> {
        let count = self.batches.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((batches, stop)) = self.stops_at {
            stop.store(count == batches, Ordering::Relaxed);
        }
        let values = input.as_f32().unwrap().to_vec();
        Ok(Tensor::f32([input.shape[0], values.len() / input.shape[0]], values))
    }
}

impl Flatten {
    pub fn frozen(&self, size: usize) -> Frozen {
        Frozen::new(&flatten(size), Box::new(self.clone())).unwrap()
    }
}

pub fn transform(size: u32) -> Transform {
    Transform { resize: size, crop: size, ..Transform::imagenet() }
}

/// The store of [`flatten`]'s features.
pub fn open(root: &Path, size: usize) -> FeatureStore {
    open_within(root, size, CACHE_SIZE)
}

pub fn open_within(root: &Path, size: usize, cache_size: u64) -> FeatureStore {
    let (frozen, state) = (flatten(size), StateDict::new());
    let key =
        StoreKey { frozen: &frozen, state: &state, transform: &transform(size as u32), numerics: "test" };
    FeatureStore::open(root, &key, cache_size).unwrap()
}

/// Photos of one grey each.
pub fn photos(folder: &Path, greys: std::ops::Range<usize>) -> Vec<PathBuf> {
    let photo = |grey: usize| {
        let path = folder.join(format!("{grey}.ppm"));
        let header = format!("P6 {} 1 255\n", 1 + grey / 256);
        let pixels = vec![(grey % 256) as u8; 3 * (1 + grey / 256)];
        fs::write(&path, [header.as_bytes(), &pixels].concat()).unwrap();
        age(&path);
        path
    };
    greys.map(photo).collect()
}

/// Makes a file an hour old: one that was just written is not remembered.
pub fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The files of one extension.
pub fn files_of(folder: &Path, extension: &str) -> Vec<PathBuf> {
    files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}
