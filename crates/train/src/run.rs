//! A whole training: from a network with a new head and a set of photos to a checkpoint, by way of a run's folder.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engraft_data::{ContentHash, Transform};
use engraft_engine::{Engine, Rule, Trainer, Training};
use engraft_graph::{Graph, Part, TensorSpec};
use engraft_tensor::StateDict;
use serde::Serialize;

use crate::checkpoint::{About, SplitRecord, TrainingSummary, WeightsRecord};
use crate::fit::{Divergence, FitEnd, FitEvent, Rest};
use crate::frozen::parts;
use crate::job::{Event, Job, Outcome, RunEnd, WrongPhoto};
use crate::ledger::{LedgerEntry, ledger_path, samples_of};
use crate::linear::{SolutionSummary, Solver, solve_head};
use crate::prepare::{Prepared, prepare};
use crate::{
    Checkpoint, Epoch, Evaluation, Examples, FitOptions, LedgerChanges, Progress, RunFolder, Schedule, Split,
    TrainError, evaluate, fit,
};

/// The state is written after an epoch if this much time has passed since the last time: a kill costs so much work, or an epoch.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// And if it is so many times as long as saving took, which for a large network is longer than a second.
const SAVING_SHARE: u32 = 10;

/// Trains in a run's folder, from its beginning or from where it rests. If `stop` becomes true, training ends after the batch, and the run
/// can go on later.
///
/// # Errors
/// When network, weights and images do not fit, no image of a split is usable, photos have changed since the run began, or
/// training diverges in its first epoch.
pub fn train(
    engine: &dyn Engine,
    job: Job<'_>,
    folder: &RunFolder,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    if job.dataset.valid.is_empty() {
        return Err(TrainError::NoImages("for validation".into()));
    }
    let trainable = |name: &str| job.trained.contains(name);
    let (frozen, rest) = parts(&job.graft.graph, trainable)?;

    let old_ledger = folder.ledger()?;
    let known: HashMap<&str, ContentHash> = old_ledger.iter().flatten().filter_map(known_content).collect();
    let photos = prepare(engine, &job, frozen.as_ref(), &known, stop, observe)?;
    let mut ledger = photos.ledger(&job);
    if let Some(changes) = old_ledger.as_deref().map(|old| changed_contents(old, &ledger))
        && !changes.is_harmless()
    {
        if !job.force {
            let (path, changes) = (folder.path().into(), changes.to_string());
            return Err(TrainError::PhotosChanged { path, changes });
        }
        observe(Event::Note(&format!("the photos have changed: {changes}")));
    }
    check_usable(&photos, &job)?;

    let [train, valid, test] =
        [Split::Train, Split::Valid, Split::Test].map(|split| photos.examples(split, &job));
    let options = job.options.clone();
    let mut run =
        Run { engine, job: &job, rest: &rest, folder, photos: &photos, options, saving_failed: false };
    run.or_warn(folder.write_ledger(&ledger), observe);
    run.or_warn(folder.write_about(&RunAbout::new(&job, &photos)), observe);
    let trained = match (job.policy.head_first, job.solver) {
        (true, _) => match run.find_head(&known, stop, observe)? {
            Found::Head { state, solution } => {
                // It is good already, and goes with the rest.
                run.options.learning_rate = run.options.backbone_rate();
                let trained = run.fit(&train, &valid, &trainable, Some(state), stop, observe)?;
                TrainedHead { solution, ..trained }
            }
            Found::Stopped(trained) => trained,
        },
        (false, Solver::Lbfgs) => run.solve(&train, &valid, stop, observe)?,
        (false, Solver::Auto | Solver::Adam) => run.fit(&train, &valid, &trainable, None, stop, observe)?,
    };
    let Some(best) = trained.best else {
        return Ok(Outcome { checkpoint: None, end: trained.end, wrong: Vec::new(), kept: false });
    };
    if trained.end == RunEnd::Stopped {
        let checkpoint = run.checkpoint(best.epoch, best.state, None, trained.solution);
        let kept = !run.saving_failed;
        return Ok(Outcome { checkpoint: Some(checkpoint), end: trained.end, wrong: Vec::new(), kept });
    }

    // What the ledger says at the end, the network said that is kept.
    let mut network = engine.network(&rest, best.state.clone())?;
    let mut wrong: [Vec<WrongPhoto>; 2] = Default::default();
    let mut measured = [None, None];
    for (place, (split, examples)) in [(Split::Valid, &valid), (Split::Test, &test)].into_iter().enumerate() {
        if examples.is_empty() {
            continue;
        }
        let evaluation =
            evaluate(&mut |input| network.forward(input), examples, job.options.batch_size, &mut |guess| {
                let entry = &mut ledger[photos.place(split, guess.index)];
                let class = &job.dataset.classes[guess.class];
                entry.guess = Some(class.clone());
                entry.probability = Some(guess.probability);
                if guess.class != guess.label {
                    wrong[place].push(WrongPhoto {
                        path: entry.path.clone(),
                        label: entry.label.clone(),
                        guess: class.clone(),
                        probability: guess.probability,
                    });
                }
            })?;
        measured[place] = Some(evaluation);
    }
    run.or_warn(folder.write_ledger(&ledger), observe);
    let [_, test_measured] = measured;
    let [valid_wrong, test_wrong] = wrong;
    let wrong = if test_measured.is_some() { test_wrong } else { valid_wrong };
    let last = trained.last_state.map(|state| run.checkpoint(best.epoch.clone(), state, None, None));
    let checkpoint = run.checkpoint(best.epoch, best.state, test_measured, trained.solution);
    let kept = folder.save_best(&checkpoint);
    let is_kept = kept.is_ok();
    run.or_warn(kept, observe);
    if let Some(last) = last {
        run.or_warn(folder.save_last(&last), observe);
    }
    Ok(Outcome { checkpoint: Some(checkpoint), end: trained.end, wrong, kept: is_kept })
}

/// What came of training, before the test.
struct TrainedHead {
    best: Option<Best>,
    last_state: Option<StateDict>,
    solution: Option<SolutionSummary>,
    end: RunEnd,
}

struct Best {
    epoch: Epoch,
    state: StateDict,
}

/// What came of looking for the head first.
enum Found {
    Head { state: StateDict, solution: Option<SolutionSummary> },
    Stopped(TrainedHead),
}

struct Run<'a> {
    engine: &'a dyn Engine,
    job: &'a Job<'a>,
    rest: &'a Graph,
    folder: &'a RunFolder,
    photos: &'a Prepared<'a>,
    options: FitOptions,
    /// Whether the user knows that the state cannot be saved.
    saving_failed: bool,
}

impl Run<'_> {
    /// Finds the head as if it were to be trained alone, in a folder of its own within the run's, or takes it from there.
    fn find_head(
        &mut self,
        known: &HashMap<&str, ContentHash>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Found, TrainError> {
        let (engine, job) = (self.engine, self.job);
        let is_of_head = |name: &str| job.graft.is_of_head(name);
        let found = |Checkpoint { about, state }: Checkpoint| Found::Head {
            state: state.into_iter().filter(|(name, _)| is_of_head(name)).collect(),
            solution: about.training.solution,
        };
        let folder = self.folder.of_head()?;
        if let Some(checkpoint) = folder.last()? {
            return Ok(found(checkpoint));
        }
        let (frozen, rest) = parts(&job.graft.graph, is_of_head)?;
        // What there is to say of the photos was said.
        let mut quiet = |event: Event<'_>| match event {
            Event::Features { images, cached, seconds, .. } => {
                observe(Event::Features { of_head: true, images, cached, seconds });
            }
            Event::Progress { .. } => observe(event),
            _ => {}
        };
        let photos = prepare(engine, job, frozen.as_ref(), known, stop, &mut quiet)?;
        let [train, valid] = [Split::Train, Split::Valid].map(|split| photos.examples(split, job));
        let options = FitOptions { schedule: Schedule::Constant, ..job.options.clone() };
        let mut run =
            Run { engine, job, rest: &rest, folder: &folder, photos: &photos, options, saving_failed: false };
        let trained = match job.solver {
            Solver::Lbfgs => run.solve(&train, &valid, stop, observe)?,
            Solver::Auto | Solver::Adam => run.fit(&train, &valid, &is_of_head, None, stop, observe)?,
        };
        match trained {
            TrainedHead { best: Some(best), end: RunEnd::Done | RunEnd::Diverged(_), solution, .. } => {
                if let RunEnd::Diverged(why) = trained.end {
                    observe(Event::Warning(&why));
                }
                let checkpoint = run.checkpoint(best.epoch, best.state, None, solution);
                run.or_warn(folder.save_last(&checkpoint), observe);
                Ok(found(checkpoint))
            }
            stopped => Ok(Found::Stopped(stopped)),
        }
    }

    fn solve(
        &mut self,
        train: &Examples<'_>,
        valid: &Examples<'_>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<TrainedHead, TrainError> {
        let start = Instant::now();
        let found = solve_head(self.rest, train, self.options.seed, stop, &mut |done, total| {
            observe(Event::Progress { what: "solving", done, total });
        })?;
        let Some((state, solution)) = found else {
            return Ok(TrainedHead { best: None, last_state: None, solution: None, end: RunEnd::Stopped });
        };
        let mut network = self.engine.network(self.rest, state.clone())?;
        let batch = self.options.batch_size;
        let mut on = |examples| evaluate(&mut |input| network.forward(input), examples, batch, &mut |_| {});
        let (train_loss, valid) = (on(train)?.loss, on(valid)?);
        let epoch = Epoch { epoch: 1, train_loss, valid, seconds: start.elapsed().as_secs_f64() };
        observe(Event::Solved(&solution));
        let metrics = self.folder.keep_metrics(0).and_then(|()| self.folder.append_metrics(&epoch));
        self.or_warn(metrics, observe);
        let best = Some(Best { epoch, state });
        Ok(TrainedHead { best, last_state: None, solution: Some(solution), end: RunEnd::Done })
    }

    /// Trains by steps, from a head that was found or from its initial values.
    fn fit(
        &mut self,
        train: &Examples<'_>,
        valid: &Examples<'_>,
        trainable: &dyn Fn(&str) -> bool,
        head: Option<StateDict>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<TrainedHead, TrainError> {
        let job = self.job;
        let training = Training {
            group: &|name| {
                let group = if job.graft.is_of_head(name) { FitOptions::HEAD } else { FitOptions::BACKBONE };
                trainable(name).then_some(group)
            },
            // A frozen part keeps its running statistics.
            live_norms: &|module| job.live_norms && trainable(&format!("{module}.weight")),
            rule: Rule::ADAM,
        };
        let of_rest = |spec: TensorSpec| {
            let found = head.as_ref().and_then(|head| head.get(&spec.name));
            found.or_else(|| job.state.get(&spec.name)).cloned().map(|tensor| (spec.name, tensor))
        };
        let of_rest: StateDict = self.rest.state().into_iter().filter_map(of_rest).collect();
        let mut trainer = self.engine.trainer(self.rest, of_rest, &training)?;

        let rest = self.rest()?;
        self.folder.keep_metrics(rest.as_ref().map_or(0, |rest| rest.progress.epochs))?;
        let mut saved = Instant::now();
        let mut pause = SAVE_EVERY;
        let mut best_saved = rest.as_ref().and_then(|rest| Some(rest.progress.best.as_ref()?.epoch));
        let rest = match rest {
            None if head.is_some() => Some(self.with_head(trainer.as_mut(), valid, observe)?),
            rest => rest,
        };
        let fitted = fit(trainer.as_mut(), train, valid, &self.options.clone(), rest, stop, &mut |event| {
            match event {
                FitEvent::Lost(index, reason) => {
                    let place = self.photos.place(Split::Train, index);
                    let path = self.photos.path(place).display();
                    observe(Event::Warning(&format!(
                        "{path} could be read before and cannot any more, and is left out of this epoch: {reason}"
                    )));
                }
                FitEvent::Epoch(epoch) => {
                    observe(Event::Epoch(epoch));
                    self.or_warn(self.folder.append_metrics(epoch), observe);
                }
                FitEvent::Rest(snapshot, progress, best_state) => {
                    let is_last = progress.epochs == self.options.epochs || progress.steps > 0;
                    if !is_last && saved.elapsed() < pause {
                        return Ok(());
                    }
                    let begin = Instant::now();
                    let mut save = || {
                        if let (Some(best), Some(state)) = (&progress.best, best_state)
                            && best_saved != Some(best.epoch)
                        {
                            self.folder.save_best(&self.checkpoint(
                                best.clone(),
                                state.clone(),
                                None,
                                None,
                            ))?;
                            best_saved = Some(best.epoch);
                        }
                        self.folder.save_state(snapshot(), progress)
                    };
                    let result = save();
                    self.or_warn(result, observe);
                    saved = Instant::now();
                    pause = SAVE_EVERY.max(SAVING_SHARE * begin.elapsed());
                }
            }
            Ok(())
        })?;
        let end = match fitted.end {
            FitEnd::Done => RunEnd::Done,
            FitEnd::Stopped => RunEnd::Stopped,
            FitEnd::Diverged(divergence) => {
                let text = self.divergence(&divergence);
                match fitted.best {
                    None => return Err(TrainError::Diverged(text)),
                    Some(_) => RunEnd::Diverged(text),
                }
            }
        };
        let best = fitted.best.zip(fitted.best_state).map(|(epoch, state)| Best { epoch, state });
        Ok(TrainedHead { best, last_state: Some(fitted.last_state), solution: None, end })
    }

    /// A training that begins with a head that was found: what is no better is not kept.
    fn with_head(
        &self,
        trainer: &mut dyn Trainer,
        valid: &Examples<'_>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Rest, TrainError> {
        let start = Instant::now();
        let batch = self.options.batch_size;
        let valid = evaluate(&mut |input| trainer.evaluate(input, false), valid, batch, &mut |_| {})?;
        let best = Epoch { epoch: 0, train_loss: 0.0, valid, seconds: start.elapsed().as_secs_f64() };
        observe(Event::HeadFound(&best));
        let progress = Progress { best: Some(best), ..Progress::default() };
        Ok(Rest { progress, snapshot: trainer.save(), best_state: Some(trainer.state(false)) })
    }

    /// Where the run rests, if it began before.
    fn rest(&self) -> Result<Option<Rest>, TrainError> {
        let Some((snapshot, mut progress)) = self.folder.state()? else { return Ok(None) };
        let best_state = match (&mut progress.best, self.folder.best()?) {
            (Some(best), Some(Checkpoint { about, mut state })) => {
                // A kill between the checkpoint and the state leaves that of a later epoch, with its own figures.
                (best.epoch, best.valid) = (about.training.best_epoch, about.training.valid);
                let of_rest = |spec: TensorSpec| state.remove(&spec.name).map(|tensor| (spec.name, tensor));
                Some(self.rest.state().into_iter().filter_map(of_rest).collect())
            }
            _ => None,
        };
        Ok(Some(Rest { progress, snapshot, best_state }))
    }

    /// A disk that is full ends the saving, not the training.
    fn or_warn(&mut self, result: Result<(), TrainError>, observe: &mut dyn FnMut(Event<'_>)) {
        match result {
            Ok(()) => self.saving_failed = false,
            Err(error) if !self.saving_failed => {
                self.saving_failed = true;
                observe(Event::Warning(&format!(
                    "{error}. Training goes on; what was saved before stays, and the next epoch is saved if there is room then"
                )));
            }
            Err(_) => {}
        }
    }

    fn divergence(&self, divergence: &Divergence) -> String {
        /// How many photos of the batch are named.
        const NAMED: usize = 4;
        let Divergence { epoch, step, what, indices } = divergence;
        let named: Vec<String> = indices
            .iter()
            .take(NAMED)
            .map(|index| {
                ledger_path(self.photos.path(self.photos.place(Split::Train, *index)), self.job.root)
            })
            .collect();
        let more = if indices.len() > NAMED { ", ..." } else { "" };
        let photos = match named.is_empty() {
            true => "the validation showed it".to_string(),
            false => format!("the photos of that step are {}{more}", named.join(", ")),
        };
        format!(
            "in step {step} of epoch {epoch} {what} is no finite number any more; {photos}. The last good \
             state is kept. Try a lower learning rate than {}",
            self.options.learning_rate
        )
    }

    fn checkpoint(
        &self,
        epoch: Epoch,
        mut trained: StateDict,
        test: Option<Evaluation>,
        solution: Option<SolutionSummary>,
    ) -> Checkpoint {
        let job = self.job;
        let take = |spec: TensorSpec| {
            let tensor = trained.remove(&spec.name).or_else(|| job.state.get(&spec.name).cloned())?;
            Some((spec.name, tensor))
        };
        let state = job.graft.graph.state().into_iter().filter_map(take).collect();
        let training = TrainingSummary {
            engraft_version: env!("CARGO_PKG_VERSION").into(),
            solver: job.solver,
            solution,
            options: job.options.clone(),
            split: Some(self.photos.split_record(job)),
            frozen: job.policy.part == Part::Head,
            policy: Some(job.policy.clone()),
            best_epoch: epoch.epoch,
            valid: epoch.valid,
            test,
            train_images: self.photos.count(Split::Train),
            skipped_images: self.photos.skipped(),
        };
        let about = About {
            architecture: job.architecture.into(),
            cut: job.graft.report.path.clone(),
            head: job.head.clone(),
            classes: job.dataset.classes.clone(),
            transform: job.transform.clone(),
            weights: Some(job.weights.clone()),
            training,
        };
        Checkpoint { about, state }
    }
}

/// What `about.json` says.
#[derive(Serialize)]
struct RunAbout<'a> {
    engraft_version: &'static str,
    architecture: &'a str,
    weights: &'a WeightsRecord,
    graft: String,
    classes: &'a [String],
    transform: &'a Transform,
    split: SplitRecord,
}

impl<'a> RunAbout<'a> {
    fn new(job: &'a Job<'a>, photos: &Prepared<'_>) -> Self {
        Self {
            engraft_version: env!("CARGO_PKG_VERSION"),
            architecture: job.architecture,
            weights: &job.weights,
            graft: job.graft.report.to_string(),
            classes: &job.dataset.classes,
            transform: job.transform,
            split: photos.split_record(job),
        }
    }
}

/// Path and content of a photo of an older ledger.
fn known_content(entry: &LedgerEntry) -> Option<(&str, ContentHash)> {
    let hash = blake3::Hash::from_hex(entry.hash.as_ref()?).ok()?;
    Some((&entry.path, hash.into()))
}

/// The photos whose content is not that of an older ledger.
fn changed_contents(old: &[LedgerEntry], new: &[LedgerEntry]) -> LedgerChanges {
    let new: HashMap<&str, &LedgerEntry> = new.iter().map(|entry| (entry.path.as_str(), entry)).collect();
    let is_changed = |old: &&LedgerEntry| new.get(old.path.as_str()).is_some_and(|new| new.hash != old.hash);
    let changed = old.iter().filter(is_changed).map(|entry| entry.path.clone());
    LedgerChanges { changed: changed.collect(), ..LedgerChanges::default() }
}

/// Each class needs an image to learn from, and validation needs one at all.
fn check_usable(photos: &Prepared<'_>, job: &Job<'_>) -> Result<(), TrainError> {
    let mut learnt = vec![false; job.dataset.classes.len()];
    for (place, (split, sample)) in samples_of(job.dataset).enumerate() {
        learnt[sample.label] |= split == Split::Train && photos.is_used(place);
    }
    if let Some(class) = learnt.iter().position(|learnt| !learnt) {
        return Err(TrainError::NoImages(format!("to train the class `{}`", job.dataset.classes[class])));
    }
    match photos.count(Split::Valid) {
        0 => Err(TrainError::NoImages("for validation".into())),
        _ => Ok(()),
    }
}
