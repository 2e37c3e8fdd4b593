//! From a configuration to a checkpoint: a run, from its beginning or from where it ended early.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use engraft_data::{Dataset, condensed};
use engraft_engine::{Engine, bytes_in_words, initial_state};
use engraft_graph::{Graft, HeadSpec, Part, Policy};
use engraft_tensor::{StateDict, WriteError, check_writable};
use engraft_train::{
    CacheSettings, Checkpoint, Event, Job, LARGEST_BATCH, Replacement, RunEnd, RunFolder, TrainError,
    WeightsRecord, WrongPhoto, as_in_ledger, plan_memory,
};
use engraft_weights::cache_dir;

use crate::{BatchSize, Config, Device, Error, Loading, Norm};

/// What does not change the result of a training.
pub struct Settings<'a> {
    /// Where it computes.
    pub device: Device,
    /// Where features are kept; `None` to keep none.
    pub cache: Option<CacheSettings>,
    /// Where the checkpoint is written; `None` for `DATA-ARCH.safetensors` in the current folder.
    pub out: Option<PathBuf>,
    /// Whether to go on although photos or options have changed, and to replace a better checkpoint.
    pub force: bool,
    /// Ends the training after the batch when it becomes true.
    pub stop: &'a AtomicBool,
}

impl Default for Settings<'_> {
    /// The processor, the usual cache folder, and never stopped.
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self {
            device: Device::default(),
            cache: Some(CacheSettings { folder: cache_dir(), limit_bytes: None }),
            out: None,
            force: false,
            stop: &NEVER,
        }
    }
}

/// What a training tells while it runs.
pub enum TrainingEvent<'a> {
    /// It begins: all that is decided.
    Start(&'a Start<'a>),
    /// Of loading weights.
    Loading(Loading<'a>),
    /// Something that the user should know of photos, weights or options.
    Note(&'a str),
    /// Of features and epochs.
    Run(Event<'a>),
}

/// What is decided when a training begins.
pub struct Start<'a> {
    /// The configuration, resolved.
    pub config: &'a Config,
    /// The photos as they were named.
    pub data: &'a Path,
    /// How the photos were read, as in `train/ 244, valid/ 153; ants 193, bees 204`.
    pub reading: &'a str,
    /// What is done.
    pub job: &'a Job<'a>,
    /// How the weights are called.
    pub weights: &'a str,
    /// The device as a person would call it.
    pub device: &'a str,
    /// Where the checkpoint will be written.
    pub out: &'a Path,
    /// The folder of the run.
    pub run: &'a Path,
    /// Epochs that were done before, if this goes on with a run.
    pub resumed: Option<usize>,
}

/// What a training gave.
pub struct Trained {
    /// The network after its best epoch; `None` if it was stopped before one was done.
    pub checkpoint: Option<Checkpoint>,
    /// How it ended.
    pub end: RunEnd,
    /// Photos of the test, or without one of the validation, that the network takes for another class.
    pub wrong: Vec<WrongPhoto>,
    /// Where the checkpoint was written; `None` if nothing, or only into the run's folder.
    pub out: Option<PathBuf>,
    /// What became of a checkpoint that was there.
    pub replacement: Replacement,
    /// The folder of the run.
    pub run: PathBuf,
    /// The checkpoint in the run's folder.
    pub best: PathBuf,
    /// The ledger of the run.
    pub ledger: PathBuf,
}

/// Trains as a configuration says, in a new run; `run` is its folder, by default `runs/DATA-ARCH` or, where that is taken, with a
/// number behind it.
///
/// # Errors
/// When photos, weights and options do not fit together, nothing can be learnt, or files cannot be written.
pub fn train(
    config: &Config,
    run: Option<&Path>,
    settings: &Settings<'_>,
    observe: &mut dyn FnMut(TrainingEvent<'_>),
) -> Result<Trained, Error> {
    let resolved = config.resolved()?;
    let name = name_of(config);
    let path = match run {
        Some(path) => path.to_path_buf(),
        None => free_run(&name),
    };
    if path.join("config.toml").exists() {
        return Err(TrainError::RunExists { path }.into());
    }
    let out = settings.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.safetensors")));
    Training { config: &resolved, data: &config.data, out, settings }.run(&path, false, observe)
}

/// Goes on with a run that ended early, to the same bits as if it had not. `change` may change its configuration, as options on a command line do.
///
/// # Errors
/// As [`train`]; and when photos or options have changed since, unless they are forced.
pub fn resume(
    run: &Path,
    change: &dyn Fn(Config) -> Config,
    settings: &Settings<'_>,
    observe: &mut dyn FnMut(TrainingEvent<'_>),
) -> Result<Trained, Error> {
    let path = run.join("config.toml");
    if !path.is_file() {
        return Err(TrainError::NoRun { path: run.into() }.into());
    }
    let old = Config::read(&path)?;
    let mut new = change(old.clone()).resolved()?;
    if new.batch_size == Some(BatchSize::Auto) {
        // It was chosen when the run began.
        new.batch_size = old.batch_size;
    }
    let difference = old.difference(&new);
    if !difference.is_empty() && !settings.force {
        return Err(Error::OptionsChanged { run: run.into(), difference: difference.join("; ") });
    }
    for line in difference {
        observe(TrainingEvent::Note(&format!("note: {line}")));
    }
    let out = settings.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.safetensors", name_of(&new))));
    Training { config: &new, data: &new.data, out, settings }.run(run, true, observe)
}

struct Training<'a> {
    config: &'a Config,
    /// As the user named it.
    data: &'a Path,
    out: PathBuf,
    settings: &'a Settings<'a>,
}

impl Training<'_> {
    fn run(
        &self,
        run: &Path,
        resumes: bool,
        observe: &mut dyn FnMut(TrainingEvent<'_>),
    ) -> Result<Trained, Error> {
        let Training { config, data, settings, .. } = self;
        let engine = settings.device.engine_within(config.memory)?;
        if self.out.is_dir() {
            let reason = std::io::Error::other("it is a folder; name a file");
            return Err(TrainError::from(WriteError::new(&self.out, reason)).into());
        }
        check_writable(&self.out).map_err(TrainError::from)?;
        let mut dataset = Config { data: data.to_path_buf(), ..(*config).clone() }.dataset()?;
        let root = if data.is_dir() { data } else { data.parent().unwrap_or(data) };
        notes_of(&dataset, root, &mut |text| observe(TrainingEvent::Note(text)));

        let folder = match resumes {
            true => Some(RunFolder::open(run)?),
            false => None,
        };
        if let Some(ledger) = folder.as_ref().map(RunFolder::ledger).transpose()?.flatten() {
            let before = dataset.clone();
            let changes = as_in_ledger(&mut dataset, &ledger, root);
            if !changes.is_harmless() {
                if !settings.force {
                    return Err(
                        TrainError::PhotosChanged { path: run.into(), changes: changes.to_string() }.into()
                    );
                }
                observe(TrainingEvent::Note(&format!("note: the photos have changed: {changes}")));
                dataset = before;
            }
        }

        let head = HeadSpec {
            hidden_units: config.hidden_units.clone(),
            classes: dataset.classes.len(),
            dropout: config.dropout,
        };
        let pretrained = config.pretrained()?;
        let network = pretrained.network()?;
        let graft = config.graft(&network, &head)?;
        let policy = config.train.clone().unwrap_or(Policy::HEAD);
        let trained = graft.trained(&policy.part)?;
        let transform = config.transform()?;
        for text in pretrained.notes() {
            observe(TrainingEvent::Note(&format!("note: {text}")));
        }
        let licence = pretrained.licence();
        if let Some(licence) = licence {
            observe(TrainingEvent::Note(&format!(
                "note: these weights are licensed {licence}: what is made with them may not be used commercially"
            )));
        }
        let mut state = pretrained.load(&network, Some(&graft), config.seed, &mut |event| {
            observe(TrainingEvent::Loading(event));
        })?;
        let weights = WeightsRecord::new(pretrained.weights_name(), &state, licence);
        let is_new = |name: &str| graft.is_of_head(name) || state.get(name).is_none();
        let new: Vec<_> = graft.graph.state().into_iter().filter(|tensor| is_new(&tensor.name)).collect();
        for (name, tensor) in initial_state(&new, config.seed) {
            state.insert(name, tensor);
        }

        let config =
            &self.within_memory(engine.as_ref(), &graft, &trained, &state, dataset.train.len(), observe)?;
        // Only now, when nothing that was typed can be wrong any more, the run gets its folder.
        let folder = match folder {
            Some(folder) => folder,
            None => RunFolder::create(run, &config.to_toml())?,
        };
        if resumes && settings.force {
            folder.write_config(&config.to_toml())?;
        }
        let options = config.fit_options();
        let job = Job {
            architecture: &config.arch,
            weights,
            graft: &graft,
            head: &head,
            state,
            transform: &transform,
            dataset: &dataset,
            root,
            policy: &policy,
            trained: &trained,
            live_norms: config.norm == Some(Norm::Live),
            solver: config.solver,
            options: &options,
            cache: settings.cache.as_ref(),
            strict: config.strict,
            force: settings.force,
        };
        let resumed = folder.state()?.map(|(_, progress)| progress.epochs).filter(|_| resumes);
        observe(TrainingEvent::Start(&Start {
            config,
            data,
            reading: &dataset.reading.to_string(),
            job: &job,
            weights: &pretrained.weights_name(),
            device: &engine.device(),
            out: &self.out,
            run,
            resumed,
        }));
        let outcome = engraft_train::train(engine.as_ref(), job, &folder, settings.stop, &mut |event| {
            observe(TrainingEvent::Run(event));
        })?;
        let mut trained = Trained {
            checkpoint: outcome.checkpoint,
            end: outcome.end,
            wrong: outcome.wrong,
            out: None,
            replacement: Replacement::New,
            run: run.into(),
            best: folder.best_path(),
            ledger: folder.ledger_path(),
        };
        if let Some(checkpoint) = &trained.checkpoint {
            trained.replacement = match settings.force {
                true => Replacement::New,
                false => checkpoint.replaces(&self.out, settings.out.is_some(), trained.end == RunEnd::Done),
            };
            if !matches!(trained.replacement, Replacement::Kept(_)) {
                checkpoint.write(&self.out).map_err(|error| match outcome.kept {
                    true => Error::NotWritten { error: error.to_string(), best: trained.best.clone() },
                    false => error.into(),
                })?;
                trained.out = Some(self.out.clone());
            }
        }
        Ok(trained)
    }
}

impl Training<'_> {
    /// The configuration for so many photos with a batch size, and with the limit on memory if the result depends on it; says what is done to
    /// stay within it.
    fn within_memory(
        &self,
        engine: &dyn Engine,
        graft: &Graft,
        trained: &engraft_graph::Trained,
        state: &StateDict,
        photos: usize,
        observe: &mut dyn FnMut(TrainingEvent<'_>),
    ) -> Result<Config, Error> {
        let given = match self.config.batch_size {
            Some(BatchSize::Images(images)) => Some(images),
            Some(BatchSize::Auto) | None => None,
        };
        let mut config = self.config.clone();
        if config.train.as_ref().is_none_or(|policy| policy.part == Part::Head) {
            config.batch_size = Some(BatchSize::Images(given.unwrap_or(LARGEST_BATCH)));
            return Ok(config);
        }
        // No batch has more photos than there are.
        let largest = given.map(|images| images.min(photos).max(1));
        let live_norms = config.norm == Some(Norm::Live);
        let (batch, plan) = plan_memory(engine, graft, trained, live_norms, state, largest)?;
        config.batch_size = Some(BatchSize::Images(given.unwrap_or(batch)));
        let limit = plan.and_then(|plan| plan.limit);
        if given.is_none() {
            let most = limit.filter(|_| batch < LARGEST_BATCH).map_or_else(String::new, |limit| {
                format!(", the most that fit into {}", bytes_in_words(limit))
            });
            observe(TrainingEvent::Note(&format!("note: batches of {batch} images{most}")));
        }
        if let Some(note) = plan.and_then(|plan| plan.note()) {
            observe(TrainingEvent::Note(&format!("note: {note}")));
        }
        if plan.is_some_and(|plan| plan.images < plan.batch) {
            config.memory = limit;
        }
        Ok(config)
    }
}

/// What is unusual about the photos, in sentences.
fn notes_of(dataset: &Dataset, root: &Path, note: &mut dyn FnMut(&str)) {
    for sentence in condensed(&dataset.ignored, root) {
        note(&format!("note: {sentence}"));
    }
    for warning in &dataset.warnings {
        note(&format!("note: {warning}"));
    }
}

/// `flowers-vgg13` for `photos/flowers/` and `vgg13`.
fn name_of(config: &Config) -> String {
    let absolute = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = name.map_or_else(|| "images".into(), |name| name.to_string_lossy());
    format!("{name}-{}", config.arch)
}

/// The first of `runs/NAME`, `runs/NAME-2`, ... that is not there.
fn free_run(name: &str) -> PathBuf {
    let path = |number: usize| match number {
        1 => Path::new("runs").join(name),
        _ => Path::new("runs").join(format!("{name}-{number}")),
    };
    (1..).map(path).find(|path| !path.exists()).unwrap_or_else(|| path(1))
}
