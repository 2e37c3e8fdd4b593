//! Everything that decides what a training gives, in a form that can be written down.

use std::fs;
use std::path::{Path, PathBuf};

use engraft_data::{Dataset, LabelMap, ListOptions, SplitSpec, Transform};
use engraft_graph::{Graft, Graph, HeadSpec, Part, Policy};
use engraft_train::{FitOptions, LARGEST_BATCH, LARGEST_SIDE, Schedule, Solver, TrainError};
use serde::{Deserialize, Serialize};

use crate::{Error, Pretrained};

/// What to train, on what, and how: what a run's `config.toml` says.
///
/// Whatever does not change the result (threads, caches, where files are written) is no part of it.
///
/// ```
/// use engraft::Config;
///
/// let config = Config { epochs: 3, hidden_units: vec![256], ..Config::new("photos", "resnet18") };
/// assert!(config.to_toml().contains("epochs = 3"));
/// assert_eq!(Config::from_toml(&config.to_toml()), Ok(config));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder or CSV file with the photos.
    pub data: PathBuf,
    /// CSV file with paths, relative to `data`, and labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Classes for the labels of a CSV file, as [`LabelMap`] reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// Share of each class for validation, where the data have no split of their own.
    #[serde(default = "share")]
    pub valid: f64,
    /// Share of each class for the test, where the data have no split of their own.
    #[serde(default = "share")]
    pub test: f64,
    /// torchvision's name of the architecture.
    pub arch: String,
    /// As [`Pretrained::new`] takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Side of the square image in pixels, if not what the weights expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Whether weights of the user's own were trained with torchvision's `transform_input`.
    #[serde(default)]
    pub transform_input: bool,
    /// Whether photos are turned as their EXIF data say.
    #[serde(default)]
    pub exif_orientation: bool,
    /// Units of the hidden layers of the new head, in order.
    #[serde(default)]
    pub hidden_units: Vec<usize>,
    /// Probability of dropping a unit after each hidden layer.
    #[serde(default = "dropout")]
    pub dropout: f64,
    /// Module that the head replaces, with all behind it; `None` for the whole classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// What is trained; `None` for the head, or for everything if the weights are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Policy>,
    /// Which statistics the batch norms of what is trained use; `None` for frozen ones, or for live ones if the weights are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// What becomes of auxiliary heads.
    #[serde(default)]
    pub aux: Aux,
    /// How the head is found.
    #[serde(default)]
    pub solver: Solver,
    /// Passes over the training images.
    #[serde(default = "epochs")]
    pub epochs: usize,
    /// Step size of the optimiser, Adam, for the head.
    #[serde(default = "learning_rate")]
    pub learning_rate: f64,
    /// Step size for all else that trains; `None` for a tenth of the head's, or for the same if the weights are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone_learning_rate: Option<f64>,
    /// How the step sizes change on the way; `None` for a cosine where more than the head of a pretrained network trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Images in a step; `None` for 64, or for 32 where more than the head of a pretrained network trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<BatchSize>,
    /// Bytes of memory that training may take on the CPU; `None` for what is free. The last bits of a result depend on it where batches
    /// go through the network in parts: a run whose batches do has the limit that they do it for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Decides splits, initial values, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Whether an image that cannot be used is an error.
    #[serde(default)]
    pub strict: bool,
}

fn share() -> f64 {
    0.15
}

fn dropout() -> f64 {
    0.2
}

fn epochs() -> usize {
    10
}

fn learning_rate() -> f64 {
    0.001
}

/// Images in a step of a head, and of a network from scratch.
const BATCH_SIZE: usize = 64;

/// Images in a step of fine-tuning: the maps of so many fit into a laptop's memory, whatever the network.
const FINE_TUNING_BATCH_SIZE: usize = 32;

/// How many times smaller the steps of pretrained weights are than those of a new head.
const BACKBONE_CARE: f64 = 10.0;

/// The statistics by which the batch norms of what is trained normalise. Those of what is frozen are frozen, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// The running ones, which stay; weights and biases train.
    Frozen,
    /// Those of the batch, by which the running ones change.
    Live,
}

/// What becomes of auxiliary heads (googlenet, inception_v3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aux {
    /// They are left away.
    #[default]
    Drop,
    /// They are trained along, which needs [`Part::All`].
    Train,
}

/// How many images a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum BatchSize {
    /// So many.
    Images(usize),
    /// Where more than the head is trained, the largest power of two up to 64 that fits into the memory; otherwise 64.
    Auto,
}

/// A [`BatchSize`] as it is written: a number, or `"auto"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Images(usize),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Auto,
}

impl From<Written> for BatchSize {
    fn from(written: Written) -> Self {
        match written {
            Written::Images(images) => Self::Images(images),
            Written::Word(Word::Auto) => Self::Auto,
        }
    }
}

impl From<BatchSize> for Written {
    fn from(size: BatchSize) -> Self {
        match size {
            BatchSize::Images(images) => Self::Images(images),
            BatchSize::Auto => Self::Word(Word::Auto),
        }
    }
}

impl Config {
    /// A linear layer on the frozen network of this architecture, trained on the photos at `data`.
    pub fn new(data: impl Into<PathBuf>, arch: &str) -> Self {
        Self {
            data: data.into(),
            labels: None,
            map: None,
            valid: share(),
            test: share(),
            arch: arch.into(),
            weights: None,
            size: None,
            transform_input: false,
            exif_orientation: false,
            hidden_units: Vec::new(),
            dropout: dropout(),
            cut: None,
            train: None,
            norm: None,
            aux: Aux::Drop,
            solver: Solver::Auto,
            epochs: epochs(),
            learning_rate: learning_rate(),
            backbone_learning_rate: None,
            schedule: None,
            batch_size: None,
            memory: None,
            seed: 0,
            strict: false,
        }
    }

    /// Reads a configuration; what it does not say is as [`new`](Self::new) has it.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let said = |error: toml::de::Error| error.to_string().trim_end().to_string();
        let mut table: toml::Table = toml::from_str(text).map_err(said)?;
        match table.get("freeze") {
            None => toml::from_str(text).map_err(said),
            Some(_) => {
                said_as_now(&mut table)?;
                table.try_into().map_err(said)
            }
        }
    }

    /// Reads a configuration from a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no configuration.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |reason: String| Error::Config { path: path.into(), reason };
        let text = fs::read_to_string(path).map_err(|error| failed(format!("cannot read it: {error}")))?;
        Self::from_toml(&text).map_err(failed)
    }

    /// The whole configuration as text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("every field has a form in TOML: {error}"))
    }

    /// The fields, a line each, in which another configuration differs.
    pub fn difference(&self, other: &Config) -> Vec<String> {
        let [ours, theirs] = [self, other].map(|config| toml::Table::try_from(config).unwrap_or_default());
        let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let text = |value: Option<&toml::Value>| value.map_or_else(|| "nothing".into(), ToString::to_string);
        names
            .into_iter()
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .map(|name| format!("{name}: {} became {}", text(ours.get(name)), text(theirs.get(name))))
            .collect()
    }

    /// The same with nothing left open: paths are absolute, and what follows from other fields is said.
    ///
    /// # Errors
    /// When there are no such weights, images are larger than [`LARGEST_SIDE`], or L-BFGS is to find more than a linear head.
    pub fn resolved(&self) -> Result<Self, Error> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let pretrained = self.pretrained()?;
        let is_random = pretrained.is_random();
        let policy = self.train.clone().unwrap_or(if is_random { Policy::ALL } else { Policy::HEAD });
        let norm = self.norm.unwrap_or(if is_random { Norm::Live } else { Norm::Frozen });
        let head_alone = policy.part == Part::Head;
        let is_linear = self.hidden_units.is_empty() && (head_alone || policy.head_first);
        if self.solver == Solver::Lbfgs && !is_linear {
            return Err(TrainError::NotLinear.into());
        }
        let fine_tunes = !is_random && !head_alone;
        let (care, schedule, batch_size) = match fine_tunes {
            true => (BACKBONE_CARE, Schedule::Cosine, FINE_TUNING_BATCH_SIZE),
            false => (1.0, Schedule::Constant, BATCH_SIZE),
        };
        if let Some(size) = self.size.filter(|size| *size > LARGEST_SIDE) {
            return Err(Error::TooLarge { size });
        }
        Ok(Self {
            data: absolute(&self.data),
            labels: self.labels.as_deref().map(absolute),
            weights: Some(pretrained.weights_argument()),
            solver: self.solver.resolved(&self.hidden_units, head_alone || policy.head_first),
            train: Some(policy),
            norm: Some(norm),
            backbone_learning_rate: match head_alone {
                true => self.backbone_learning_rate,
                false => {
                    Some(self.backbone_learning_rate.unwrap_or_else(|| rounded(self.learning_rate / care)))
                }
            },
            schedule: Some(self.schedule.unwrap_or(schedule)),
            batch_size: Some(self.batch_size.unwrap_or(BatchSize::Images(batch_size))),
            ..self.clone()
        })
    }

    /// The architecture and the weights that are meant.
    ///
    /// # Errors
    /// When there are no such weights.
    pub fn pretrained(&self) -> Result<Pretrained, Error> {
        let pretrained = Pretrained::new(&self.arch, self.weights.as_deref())?;
        Ok(pretrained.with_size(self.size).with_transform_input(self.transform_input))
    }

    /// How an image becomes an input.
    ///
    /// # Errors
    /// When there are no such weights.
    pub fn transform(&self) -> Result<Transform, Error> {
        Ok(Transform { exif_orientation: self.exif_orientation, ..self.pretrained()?.transform() })
    }

    /// The photos.
    ///
    /// # Errors
    /// When they cannot be read as a dataset.
    pub fn dataset(&self) -> Result<Dataset, Error> {
        let split = SplitSpec { valid: self.valid, test: self.test, seed: self.seed };
        let map: LabelMap = self.map.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        Ok(match &self.labels {
            Some(list) => {
                Dataset::from_list(list, &ListOptions { root: Some(self.data.clone()), map }, &split)?
            }
            None => Dataset::open(&self.data, &ListOptions { root: None, map }, &split)?,
        })
    }

    /// The network with its new head.
    ///
    /// # Errors
    /// When the head does not fit, or there are no auxiliary heads that could be trained.
    pub fn graft(&self, network: &Graph, head: &HeadSpec) -> Result<Graft, Error> {
        let cut = self.cut.as_deref();
        if self.aux == Aux::Drop {
            return Ok(network.graft(head, cut)?);
        }
        if self.train.as_ref().is_some_and(|policy| policy.part != Part::All) {
            return Err(Error::AuxiliaryHeads(
                "auxiliary heads help to train the layers before them, which are frozen: train everything, or drop them",
            ));
        }
        let graft = network.graft_with_aux(head, cut)?;
        match graft.aux_heads.is_empty() {
            true => {
                Err(Error::AuxiliaryHeads("there are no auxiliary heads before the new one to be trained"))
            }
            false => Ok(graft),
        }
    }

    /// The options of the loop.
    pub fn fit_options(&self) -> FitOptions {
        FitOptions {
            epochs: self.epochs,
            learning_rate: self.learning_rate,
            backbone_learning_rate: self.backbone_learning_rate,
            schedule: self.schedule.unwrap_or_default(),
            batch_size: match self.batch_size {
                Some(BatchSize::Images(images)) => images,
                Some(BatchSize::Auto) => LARGEST_BATCH,
                None => BATCH_SIZE,
            },
            seed: self.seed,
        }
    }
}

/// A tenth of 0.003 as a person writes it.
fn rounded(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

/// A configuration of an older version says what is frozen, and not what is trained. Its runs go on as they were.
fn said_as_now(table: &mut toml::Table) -> Result<(), String> {
    let freeze = table.remove("freeze");
    let is_whole = freeze.as_ref().and_then(toml::Value::as_str) == Some("none");
    let new = match freeze.as_ref().and_then(toml::Value::as_str) {
        Some("backbone") => [("train", "head"), ("norm", "frozen"), ("schedule", "constant")],
        Some("none") => [("train", "all"), ("norm", "live"), ("schedule", "constant")],
        _ => return Err("freeze: this was `backbone` or `none`; now `train` says what is trained".into()),
    };
    for (name, value) in new {
        table.entry(name).or_insert(value.into());
    }
    if let Some(rate) = table.get("learning_rate").cloned().filter(|_| is_whole) {
        table.entry("backbone_learning_rate").or_insert(rate);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_sizes_are_numbers_or_auto() {
        let read = |line: &str| Config::from_toml(&format!("data = \"photos\"\narch = \"resnet18\"\n{line}"));
        for (line, size) in [
            ("", None),
            ("batch_size = 5", Some(BatchSize::Images(5))),
            ("batch_size = \"auto\"", Some(BatchSize::Auto)),
        ] {
            let config = read(line).unwrap();
            assert_eq!(config.batch_size, size);
            assert_eq!(Config::from_toml(&config.to_toml()), Ok(config));
        }
        assert!(read("batch_size = \"most\"").is_err());
    }
}
