//! A whole training: from a network with a new head and a set of images to a checkpoint.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_data::{Batches, Dataset, Sample, Transform};
use engraft_engine::{Engine, Training};
use engraft_graph::{Graft, Graph, HeadSpec, NodeId, TensorSpec};
use engraft_tensor::StateDict;

use crate::checkpoint::{About, TrainingSummary};
use crate::{
    Checkpoint, Epoch, Evaluation, Examples, FeatureCache, FitOptions, TrainError, evaluate, extract, fit,
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
    /// Something that the user should know.
    Warning(&'a str),
    /// An epoch is over.
    Epoch(&'a Epoch),
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
    let frontier = graph.frontier(trainable);
    let (frozen, rest) = graph.split(frontier);

    let splits = [&job.dataset.train, &job.dataset.valid, &job.dataset.test];
    let paths: Vec<PathBuf> = splits.into_iter().flatten().map(|sample| sample.path.clone()).collect();
    let prepared = prepare(engine, &job, (&frozen, frontier), &paths, stop, observe)?;

    let mut skipped = 0;
    for reason in prepared.failed.iter().flatten() {
        skipped += 1;
        observe(Event::Skipped { reason });
    }
    if let Some(first) = prepared.failed.iter().flatten().next().filter(|_| job.strict) {
        return Err(TrainError::Strict { count: skipped, first: first.clone() });
    }
    let mut begin = 0;
    let [train, valid, test] = splits.map(|samples| {
        let range = begin..begin + samples.len();
        begin = range.end;
        prepared.examples(samples, range, job.transform)
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

/// What is known of the images before training: features, or no more than whether they decode.
struct Prepared {
    shape: Option<Vec<usize>>,
    rows: Vec<Vec<f32>>,
    /// Why an image cannot be used.
    failed: Vec<Option<String>>,
}

impl Prepared {
    fn examples<'a>(
        &self,
        samples: &[Sample],
        range: std::ops::Range<usize>,
        transform: &'a Transform,
    ) -> Examples<'a> {
        let usable = samples.iter().zip(range).filter(|(_, i)| self.failed[*i].is_none());
        match &self.shape {
            None => {
                Examples::Images { samples: usable.map(|(sample, _)| sample.clone()).collect(), transform }
            }
            Some(shape) => {
                let mut values = Vec::new();
                let mut labels = Vec::new();
                for (sample, i) in usable {
                    values.extend_from_slice(&self.rows[i]);
                    labels.push(sample.label);
                }
                Examples::Features { shape: shape.clone(), values, labels }
            }
        }
    }
}

fn prepare(
    engine: &dyn Engine,
    job: &Job<'_>,
    (frozen, frontier): (&Graph, NodeId),
    paths: &[PathBuf],
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Prepared, TrainError> {
    if frontier == NodeId(0) {
        let mut failed = vec![None; paths.len()];
        for batch in Batches::new(paths.to_vec(), job.transform.clone(), 1) {
            for failure in batch.failed {
                failed[failure.index] = Some(failure.error.to_string());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(TrainError::Stopped);
            }
        }
        return Ok(Prepared { shape: None, rows: Vec::new(), failed });
    }
    let mut cache = match job.cache {
        Some(root) => FeatureCache::open(root, frozen, &job.state, job.transform)?,
        None => FeatureCache::in_memory(frozen)?,
    };
    let of_frozen = |spec: TensorSpec| job.state.get(&spec.name).cloned().map(|tensor| (spec.name, tensor));
    let network = engine.network(frozen, frozen.state().into_iter().filter_map(of_frozen).collect())?;
    let features = extract(network.as_ref(), job.transform, paths, &mut cache, stop, &mut |done, total| {
        observe(Event::Progress { done, total });
    })?;
    if let Some(warning) = &features.cache_warning {
        observe(Event::Warning(warning));
    }
    observe(Event::Features { images: paths.len(), cached: features.cached, seconds: features.seconds });
    let failed = features.rows.iter().map(|row| row.as_ref().err().cloned()).collect();
    let rows = features.rows.into_iter().map(Result::unwrap_or_default).collect();
    Ok(Prepared { shape: Some(cache.shape().to_vec()), rows, failed })
}

/// Each class needs an image to learn from, and validation needs one at all.
fn check_usable(train: &Examples<'_>, valid: &Examples<'_>, job: &Job<'_>) -> Result<(), TrainError> {
    let labels: HashSet<usize> = match train {
        Examples::Features { labels, .. } => labels.iter().copied().collect(),
        Examples::Images { samples, .. } => samples.iter().map(|sample| sample.label).collect(),
    };
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
