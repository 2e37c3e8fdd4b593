//! Checkpoints: one safetensors file with all tensors of a trained network and, as JSON in its metadata, what is needed to
//! use it: architecture, head, classes, transform.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_data::Transform;
use engraft_graph::{HeadSpec, Policy};
use engraft_tensor::{StateDict, WriteError, read_metadata};
use serde::{Deserialize, Serialize};

use crate::{Evaluation, FitOptions, SolutionSummary, Solver, TrainError};

/// The format that this version writes and reads. In format 1 the graphs of GoogLeNet and Inception normalised their input anew, on
/// top of the transform.
const FORMAT: u32 = 2;

/// The key of the JSON in the file's metadata.
const KEY: &str = "engraft";

/// A trained network.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it is.
    pub about: About,
    /// All tensors, under torchvision's names wherever the module is torchvision's.
    pub state: StateDict,
}

/// What a checkpoint is, as its metadata say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Name of the architecture.
    pub architecture: String,
    /// The module that the head replaced.
    pub cut: String,
    /// The head.
    pub head: HeadSpec,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How an image becomes an input.
    pub transform: Transform,
    /// The weights that it began with; unknown for files of older versions.
    #[serde(default)]
    pub weights: Option<WeightsRecord>,
    /// How it was trained.
    pub training: TrainingSummary,
}

/// The weights that a network began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsRecord {
    /// The file's name, or `random`.
    pub name: String,
    /// BLAKE3 of the tensors that were taken from it, in hexadecimal ([`StateDict::hash`]).
    pub hash: String,
    /// SPDX identifier of their licence, where it is known.
    pub licence: Option<String>,
}

/// Which photos were for what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Photos that were learnt from.
    pub train: usize,
    /// Photos that chose the best epoch.
    pub valid: usize,
    /// Photos of the test.
    pub test: usize,
    /// BLAKE3 of content, split and label of all of them, in hexadecimal: the same for the same photos, wherever they lie.
    pub hash: String,
}

/// How a network was trained and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// The version of the program.
    pub engraft_version: String,
    /// How the head was found.
    #[serde(default)]
    pub solver: Solver,
    /// What L-BFGS found.
    #[serde(default)]
    pub solution: Option<SolutionSummary>,
    /// Options of the loop.
    pub options: FitOptions,
    /// Which photos were for what; unknown for files of older versions.
    #[serde(default)]
    pub split: Option<SplitRecord>,
    /// Whether the backbone was frozen.
    pub frozen: bool,
    /// What was trained; unknown for files of older versions.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// The epoch that was kept, from 1; 0 if no epoch was better than the head that was found first.
    pub best_epoch: usize,
    /// On the validation images, after the epoch that was kept.
    pub valid: Evaluation,
    /// On the test images, if there were any.
    pub test: Option<Evaluation>,
    /// Images used for training.
    pub train_images: usize,
    /// Images that could not be used.
    pub skipped_images: usize,
}

/// The largest side in pixels of the image that a network sees. torchvision's own see 518 at most, and a pass at 4096 takes gigabytes already: what asks for
/// more is a slip, or a stranger's file that is to use the memory up.
pub const LARGEST_SIDE: u32 = 4096;

impl About {
    /// A stranger's file may ask for anything; what it asks for must be possible before memory is set aside for it.
    fn check(&self) -> Result<(), String> {
        let Transform { resize, crop, mean, std, .. } = &self.transform;
        // The part that is cut out is most of the image.
        for (side, largest) in [(crop, LARGEST_SIDE), (resize, 2 * LARGEST_SIDE)] {
            if !(1..=largest).contains(side) {
                return Err(format!(
                    "it asks for images of {side} pixels a side, and {largest} are the most"
                ));
            }
        }
        self.head.check().map_err(|error| error.to_string())?;
        if self.classes.len() != self.head.classes {
            return Err(format!(
                "it names {} classes, but its head has {}",
                self.classes.len(),
                self.head.classes
            ));
        }
        if mean.iter().chain(std).any(|value| !value.is_finite()) || std.contains(&0.0) {
            return Err("its transform divides by zero".into());
        }
        Ok(())
    }
}

/// What becomes of a file in the place where a checkpoint is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// There is none.
    New,
    /// It is replaced; what it was.
    Replaced(String),
    /// It is kept; why.
    Kept(String),
}

impl WeightsRecord {
    /// Of tensors that come from weights of this name.
    pub fn new(name: String, tensors: &StateDict, licence: Option<&str>) -> Self {
        let hash = blake3::Hash::from(tensors.hash()).to_hex().to_string();
        Self { name, hash, licence: licence.map(str::to_string) }
    }
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    format: u32,
    #[serde(flatten)]
    about: About,
}

impl Checkpoint {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the disk is full or the folder may not be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let metadata = Metadata { format: FORMAT, about: self.about.clone() };
        let json = serde_json::to_string(&metadata).map_err(TrainError::describe)?;
        // `format` is what PyTorch's and Hugging Face's readers look for.
        let metadata = BTreeMap::from([(KEY.to_string(), json), ("format".to_string(), "pt".to_string())]);
        self.state.write_safetensors(path, &metadata).map_err(WriteError::into)
    }

    /// What should become of the file at `path` when this checkpoint is to be written there. Nothing that is better, or
    /// something else, is replaced by accident: `named` says that the user has named the place, `finished` that the training
    /// ended as it should.
    pub fn replaces(&self, path: &Path, named: bool, finished: bool) -> Replacement {
        let place = path.display();
        let old = match Self::read_about(path) {
            Ok(old) => old,
            Err(_) if !path.exists() => return Replacement::New,
            Err(_) if named => return Replacement::Replaced(format!("{place}, which was no checkpoint")),
            Err(_) => {
                return Replacement::Kept(format!("{place} is there and is no checkpoint of this program"));
            }
        };
        let [old_accuracy, accuracy] = [&old, &self.about].map(|about| about.training.valid.accuracy);
        let was = format!("{place}, whose validation accuracy was {:.1} %", 100.0 * old_accuracy);
        if old.classes != self.about.classes && !named {
            return Replacement::Kept(format!(
                "{place} tells other classes apart ({})",
                old.classes.join(", ")
            ));
        }
        if !finished && old_accuracy > accuracy {
            return Replacement::Kept(format!(
                "{was}: better than what this training had when it ended early"
            ));
        }
        Replacement::Replaced(was)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is no checkpoint, or one of another version of the format.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let about = Self::read_about(path)?;
        let state =
            StateDict::read_safetensors(path).and_then(|state| state.check_finite(path).map(|()| state));
        Ok(Self { about, state: state.map_err(|error| TrainError::read(path, error))? })
    }

    /// Reads what a checkpoint is, without its tensors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_about(path: &Path) -> Result<About, TrainError> {
        let metadata = read_metadata(path).map_err(|error| TrainError::read(path, error))?;
        let no_checkpoint = || TrainError::NoCheckpoint { path: path.into() };
        let json: serde_json::Value = serde_json::from_str(metadata.get(KEY).ok_or_else(no_checkpoint)?)
            .map_err(|_| no_checkpoint())?;
        let format = json.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(TrainError::CheckpointVersion {
                path: path.into(),
                found: format.map_or_else(|| "unknown".into(), |format| format.to_string()),
                known: FORMAT,
            });
        }
        let damaged = |reason: String| TrainError::DamagedCheckpoint { path: path.into(), reason };
        let metadata: Metadata = serde_json::from_value(json).map_err(|error| damaged(error.to_string()))?;
        metadata.about.check().map_err(damaged)?;
        Ok(metadata.about)
    }
}
