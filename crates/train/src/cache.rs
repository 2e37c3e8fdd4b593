//! The feature cache: what the frozen part of a network gave for an image, kept on disk.
//!
//! A folder for each frozen part and transform holds shards: safetensors files with the features of some images, `[n, ..]`, and
//! the BLAKE3 hashes of the images' files in the metadata. A shard is written under a temporary name and renamed to the hash
//! of its own content, so that processes may be killed, and work side by side, at any moment: a shard is there whole or not at
//! all. One whose content does not fit its name is ignored, and its images are computed again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engraft_data::Transform;
use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor, TensorData, WriteError, read_metadata};

use crate::TrainError;

/// BLAKE3 of an image file's content.
pub type ContentHash = [u8; 32];

/// Changes when the meaning of cached features does.
const VERSION: u32 = 1;

const EXTENSION: &str = "safetensors";
const IMAGES: &str = "images";

/// The features of images by one frozen part and transform, in memory and, unless it is not wanted, on disk.
pub struct FeatureCache {
    folder: Option<PathBuf>,
    shape: Vec<usize>,
    rows: HashMap<ContentHash, Vec<f32>>,
    unwritten: Vec<ContentHash>,
}

impl FeatureCache {
    /// Opens the cache for what a graph computes with a state dict from images that a transform prepares; `root` is the cache
    /// folder of the program, which need not exist.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(
        root: &Path,
        frozen: &Graph,
        state: &StateDict,
        transform: &Transform,
    ) -> Result<Self, TrainError> {
        let folder = features_folder(root).join(key(frozen, state, transform)?);
        fs::create_dir_all(&folder).map_err(|error| TrainError::cache(&folder, error))?;
        let mut cache = Self::in_memory(frozen)?;
        let entries = fs::read_dir(&folder).map_err(|error| TrainError::cache(&folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| TrainError::cache(&folder, error))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                cache.read_shard(&path);
            }
        }
        Ok(Self { folder: Some(folder), ..cache })
    }

    /// A cache that nothing is read from and nothing written to.
    ///
    /// # Errors
    /// When the graph cannot take the input that it was designed for.
    pub fn in_memory(frozen: &Graph) -> Result<Self, TrainError> {
        let shape = frozen.output_shape()?;
        Ok(Self { folder: None, shape, rows: HashMap::new(), unwritten: Vec::new() })
    }

    /// The shape of one image's features.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The features of an image, if they are known.
    pub fn get(&self, image: &ContentHash) -> Option<&[f32]> {
        self.rows.get(image).map(Vec::as_slice)
    }

    /// Adds the features of an image, which [`flush`](Self::flush) will write.
    pub fn insert(&mut self, image: ContentHash, features: Vec<f32>) {
        if self.rows.insert(image, features).is_none() {
            self.unwritten.push(image);
        }
    }

    /// How many bytes wait to be written.
    pub fn unwritten_bytes(&self) -> usize {
        self.unwritten.len() * self.shape.iter().product::<usize>() * size_of::<f32>()
    }

    /// Writes nothing any more, as after an error of the disk.
    pub fn forget_disk(&mut self) {
        self.folder = None;
    }

    /// Writes what was added since the last time.
    ///
    /// # Errors
    /// When the disk is full, or the folder may not be written. What was written before stays.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let Some(folder) = self.folder.as_ref().filter(|_| !self.unwritten.is_empty()) else {
            return Ok(());
        };
        let values: Vec<f32> = self.unwritten.iter().flat_map(|image| &self.rows[image]).copied().collect();
        let names: Vec<String> = self.unwritten.iter().map(|image| hex(image)).collect();
        let shape = [&[self.unwritten.len()], self.shape.as_slice()].concat();
        let shard: StateDict = [("features".to_string(), Tensor::f32(shape, values))].into_iter().collect();
        let metadata = BTreeMap::from([(IMAGES.to_string(), names.join(" "))]);
        let path = folder.join(format!("{}.{EXTENSION}", content_name(&shard, &metadata)));
        shard.write_safetensors(&path, &metadata)?;
        self.unwritten.clear();
        Ok(())
    }

    fn read_shard(&mut self, path: &Path) {
        let Ok((shard, metadata)) =
            StateDict::read_safetensors(path).and_then(|shard| Ok((shard, read_metadata(path)?)))
        else {
            return;
        };
        let name = path.file_stem().and_then(|stem| stem.to_str());
        if name != Some(&content_name(&shard, &metadata)) {
            return;
        }
        let Some(TensorData::F32(values)) = shard.get("features").map(|tensor| &tensor.data) else { return };
        let images: Vec<&str> =
            metadata.get(IMAGES).map(|names| names.split(' ').collect()).unwrap_or_default();
        let width: usize = self.shape.iter().product();
        if images.len() * width == values.len() {
            let rows = values.chunks_exact(width.max(1)).map(<[f32]>::to_vec);
            self.rows.extend(images.into_iter().filter_map(unhex).zip(rows));
        }
    }
}

/// Where the program's cache folder keeps features.
pub fn features_folder(root: &Path) -> PathBuf {
    root.join("features")
}

/// Number of files and bytes below a folder; none for a folder that is not there.
///
/// # Errors
/// When a folder below it cannot be read.
pub fn disk_usage(folder: &Path) -> io::Result<(usize, u64)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        entries => entries?,
    };
    let mut total = (0, 0);
    for entry in entries {
        let entry = entry?;
        let (files, bytes) = match entry.file_type()?.is_dir() {
            true => disk_usage(&entry.path())?,
            false => (1, entry.metadata()?.len()),
        };
        total = (total.0 + files, total.1 + bytes);
    }
    Ok(total)
}

fn key(frozen: &Graph, state: &StateDict, transform: &Transform) -> Result<String, TrainError> {
    let needed: std::collections::HashSet<String> =
        frozen.state().into_iter().map(|spec| spec.name).collect();
    let description = serde_json::to_vec(&(VERSION, frozen, transform)).map_err(TrainError::describe)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&description).update(&state.hash_of(|name| needed.contains(name)));
    Ok(hex(&hasher.finalize().as_bytes()[..16]))
}

fn content_name(shard: &StateDict, metadata: &BTreeMap<String, String>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&shard.hash()).update(metadata.get(IMAGES).map_or(&[], |names| names.as_bytes()));
    hex(&hasher.finalize().as_bytes()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<ContentHash> {
    blake3::Hash::from_hex(text).ok().map(Into::into)
}
