//! What a training is told, and what it tells.

use std::path::Path;

use engraft_data::{Dataset, Note, Transform};
use engraft_graph::{Graft, HeadSpec, Policy, Trained};
use engraft_tensor::StateDict;

use crate::checkpoint::WeightsRecord;
use crate::linear::{SolutionSummary, Solver};
use crate::{CacheSettings, Checkpoint, Epoch, FitOptions};

/// What to train, and on what.
pub struct Job<'a> {
    /// Name of the architecture, for the checkpoint.
    pub architecture: &'a str,
    /// The weights that `state` has, for the checkpoint.
    pub weights: WeightsRecord,
    /// The network with its new head.
    pub graft: &'a Graft,
    /// The head.
    pub head: &'a HeadSpec,
    /// Values of all tensors: pretrained, and initial ones for the head.
    pub state: StateDict,
    /// How an image becomes an input.
    pub transform: &'a Transform,
    /// The images.
    pub dataset: &'a Dataset,
    /// What the paths of the ledger are relative to.
    pub root: &'a Path,
    /// What is trained, in which order.
    pub policy: &'a Policy,
    /// The parameters that the policy trains.
    pub trained: &'a Trained,
    /// Whether the batch norms of what is trained normalise by the statistics of the batch and update their running ones.
    pub live_norms: bool,
    /// How the head is found, if it is trained alone, or first.
    pub solver: Solver,
    /// How to train.
    pub options: &'a FitOptions,
    /// Where features are kept; `None` to keep none.
    pub cache: Option<&'a CacheSettings>,
    /// Whether an image that cannot be used is an error.
    pub strict: bool,
    /// Whether the run goes on although photos have changed.
    pub force: bool,
}

/// What a training tells while it runs.
pub enum Event<'a> {
    /// So much of something that takes a while is done.
    Progress {
        /// What is done, in a word.
        what: &'static str,
        /// Done.
        done: usize,
        /// To do.
        total: usize,
    },
    /// An image that cannot be used was left out.
    Skipped {
        /// Path and reason.
        reason: &'a str,
    },
    /// The features of all images are there.
    Features {
        /// Whether they are those that the head sees, to find it first.
        of_head: bool,
        /// How many images.
        images: usize,
        /// How many of them were in the cache.
        cached: usize,
        /// Wall time.
        seconds: f64,
    },
    /// What the pixels of some photos do not show of their files.
    PhotoNote {
        /// What it is.
        note: Note,
        /// How many photos.
        count: usize,
        /// The first of them.
        example: &'a Path,
    },
    /// Something that is worth knowing.
    Note(&'a str),
    /// Something that the user should know.
    Warning(&'a str),
    /// The head was found by L-BFGS.
    Solved(&'a SolutionSummary),
    /// The head was found, and the rest trains from there: how good the network is now, as epoch 0.
    HeadFound(&'a Epoch),
    /// An epoch is over.
    Epoch(&'a Epoch),
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    /// As it should.
    Done,
    /// It was stopped, and can go on.
    Stopped,
    /// It went astray, as this sentence says; the best epoch before is kept.
    Diverged(String),
}

/// A photo that a network takes for another class.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongPhoto {
    /// As in the ledger.
    pub path: String,
    /// Its class.
    pub label: String,
    /// What it is taken for.
    pub guess: String,
    /// How probable the network holds that to be, 0 to 1.
    pub probability: f32,
}

/// What a training gave.
pub struct Outcome {
    /// The network after its best epoch (0 for that of the head that was found first); `None` if it was stopped before one was done.
    pub checkpoint: Option<Checkpoint>,
    /// How it ended.
    pub end: RunEnd,
    /// Photos of the test, or without one of the validation, that the network takes for another class.
    pub wrong: Vec<WrongPhoto>,
    /// Whether the checkpoint is in the run's folder.
    pub kept: bool,
}
