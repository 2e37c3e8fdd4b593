//! A whole training: from a network with a new head and a set of images to a checkpoint.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use engraft_data::{Dataset, Sample, Transform};
use engraft_engine::{Engine, Training};
use engraft_graph::{Graft, Graph, HeadSpec, TensorSpec};
use engraft_tensor::StateDict;

use crate::checkpoint::{About, TrainingSummary};
use crate::{
    Checkpoint, Epoch, Evaluation, Examples, Extraction, ExtractionEvent, FeatureStore, FitOptions, Frozen,
    Index, Row, StoreKey, TrainError, default_cache_size, evaluate, fit, frozen_frontier,
};

/// What to train, and on what.
pub struct Job<'a> {
    /// Name of the architecture, for the checkpoint.
    pub architecture: &'a str,
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
    /// Whether the head alone is trained, on features that are computed once.
    pub freeze: bool,
    /// How to train.
    pub options: &'a FitOptions,
    /// The program's cache folder; `None` to keep no features.
    pub cache: Option<&'a Path>,
    /// Whether an image that cannot be used is an error.
    pub strict: bool,
}

/// What a training tells while it runs.
pub enum Event<'a> {
    /// So many of the images that must be computed are done.
    Progress {
        /// Images done.
        done: usize,
        /// Images to do.
        total: usize,
    },
    /// An image that cannot be used was left out.
    Skipped {
        /// Path and reason.
        reason: &'a str,
    },
    /// The features of all images are there.
    Features {
        /// How many images.
        images: usize,
        /// How many of them were in the cache.
        cached: usize,
        /// Wall time.
        seconds: f64,
    },
    /// Features will take more than a tenth of the free disk.
    LargeCache {
        /// What they may take, in bytes.
        bytes: u64,
        /// What is free, in bytes.
        free: u64,
        /// Where.
        folder: &'a Path,
    },
    /// Features take more room than they save time, and are computed at each pass.
    NotKept {
        /// Of one photo.
        bytes: u64,
    },
    /// Something that the user should know.
    Warning(&'a str),
    /// An epoch is over.
    Epoch(&'a Epoch),
}

impl<'a> From<ExtractionEvent<'a>> for Event<'a> {
    fn from(event: ExtractionEvent<'a>) -> Event<'a> {
        match event {
            ExtractionEvent::Progress { done, total } => Event::Progress { done, total },
            ExtractionEvent::Large { bytes, free, folder } => Event::LargeCache { bytes, free, folder },
            ExtractionEvent::NotKept { bytes } => Event::NotKept { bytes },
            ExtractionEvent::Warning(text) => Event::Warning(text),
        }
    }
}

/// Trains and returns the network after its best epoch. If `stop` becomes true, training ends after the batch, and what was
/// reached is returned.
///
/// # Errors
/// When network, weights and images do not fit, no image of a split is usable, or training diverges.
pub fn train(
    engine: &dyn Engine,
    job: Job<'_>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Checkpoint, TrainError> {
    if job.dataset.valid.is_empty() {
        return Err(TrainError::NoImages("for validation".into()));
    }
    let graph = &job.graft.graph;
    let trainable = |name: &str| !job.freeze || job.graft.is_of_head(name);
    let splits = [&job.dataset.train, &job.dataset.valid, &job.dataset.test];
    let paths: Vec<PathBuf> = splits.into_iter().flatten().map(|sample| sample.path.clone()).collect();
    let mut index = job.cache.map_or_else(Index::none, Index::open);
    let (rest, mut part) = match frozen_frontier(graph, trainable) {
        None => (graph.clone(), None),
        Some(frontier) => {
            let (frozen, rest) = graph.split(frontier);
            (rest, Some(frozen_part(engine, &job, &frozen)?))
        }
    };
    let extraction = Extraction {
        paths: &paths,
        transform: job.transform,
        index: &mut index,
        frozen: part.as_mut().map(|(frozen, store)| (&*frozen, store)),
    };
    let photos = extraction.run(stop, &mut |event| observe(event.into()))?;
    if part.is_some() {
        observe(Event::Features { images: paths.len(), cached: photos.cached, seconds: photos.seconds });
    }

    let skipped = photos.faults.len();
    for reason in photos.faults.values() {
        observe(Event::Skipped { reason });
    }
    if let Some(first) = photos.faults.values().next().filter(|_| job.strict) {
        return Err(TrainError::Strict { count: skipped, first: first.clone() });
    }
    let mut begin = 0;
    let [train, valid, test] = splits.map(|samples| {
        let usable: Vec<(Row, &Sample)> = (begin..)
            .zip(samples)
            .filter(|(i, _)| !photos.faults.contains_key(i))
            .map(|(i, sample)| (photos.rows[i], sample))
            .collect();
        begin += samples.len();
        match &part {
            None => {
                let samples = usable.into_iter().map(|(_, sample)| sample.clone()).collect();
                Examples::images(samples, job.transform)
            }
            Some((frozen, store)) => Examples::features(store.rows(), usable, frozen, job.transform),
        }
    });
    check_usable(&train, &valid, &job)?;

    let training = Training { trainable: &trainable, seed: job.options.seed };
    let mut trainer = engine.trainer(&rest, &job.state, training)?;
    let fitted =
        fit(trainer.as_mut(), &train, &valid, job.options, stop, &mut |epoch| observe(Event::Epoch(epoch)))?;
    if let Some(epoch) = fitted.diverged {
        observe(Event::Warning(&format!(
            "in epoch {epoch} the loss was no number any more, and training ended; the best epoch before it is kept. A lower \
             learning rate may do better"
        )));
    }
    let test = match test.is_empty() {
        true => None,
        false => {
            let network = engine.network(&rest, fitted.best_state.clone())?;
            Some(evaluate(network.as_ref(), &test, job.options.batch_size)?)
        }
    };
    Ok(checkpoint(job, fitted.best, fitted.best_state, test, train.len(), skipped))
}

/// The frozen part of the network, and the store of its features.
fn frozen_part(
    engine: &dyn Engine,
    job: &Job<'_>,
    graph: &Graph,
) -> Result<(Frozen, FeatureStore), TrainError> {
    let store = match job.cache {
        Some(root) => {
            let numerics = &engine.numerics();
            let key = StoreKey { frozen: graph, state: &job.state, transform: job.transform, numerics };
            FeatureStore::open(root, &key, default_cache_size(root))?
        }
        None => FeatureStore::temporary(graph)?,
    };
    let of_frozen = |spec: TensorSpec| job.state.get(&spec.name).cloned().map(|tensor| (spec.name, tensor));
    let network = engine.network(graph, graph.state().into_iter().filter_map(of_frozen).collect())?;
    Ok((Frozen::new(graph, network)?, store))
}

/// Each class needs an image to learn from, and validation needs one at all.
fn check_usable(train: &Examples<'_>, valid: &Examples<'_>, job: &Job<'_>) -> Result<(), TrainError> {
    let labels: HashSet<usize> = train.labels().iter().copied().collect();
    let classes = &job.dataset.classes;
    if let Some(class) = (0..classes.len()).find(|class| !labels.contains(class)) {
        return Err(TrainError::NoImages(format!("to train the class `{}`", classes[class])));
    }
    if valid.is_empty() {
        return Err(TrainError::NoImages("for validation".into()));
    }
    Ok(())
}

fn checkpoint(
    job: Job<'_>,
    best: Epoch,
    best_state: StateDict,
    test: Option<Evaluation>,
    train_images: usize,
    skipped_images: usize,
) -> Checkpoint {
    let mut given = job.state;
    let mut trained = best_state;
    let mut take = |spec: TensorSpec| {
        let tensor = trained.remove(&spec.name).or_else(|| given.remove(&spec.name))?;
        Some((spec.name, tensor))
    };
    let state = job.graft.graph.state().into_iter().filter_map(&mut take).collect();
    let training = TrainingSummary {
        engraft_version: env!("CARGO_PKG_VERSION").into(),
        options: job.options.clone(),
        frozen: job.freeze,
        best_epoch: best.epoch,
        valid: best.valid,
        test,
        train_images,
        skipped_images,
    };
    let about = About {
        architecture: job.architecture.into(),
        cut: job.graft.report.path.clone(),
        head: job.head.clone(),
        classes: job.dataset.classes.clone(),
        transform: job.transform.clone(),
        training,
    };
    Checkpoint { about, state }
}
