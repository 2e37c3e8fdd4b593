//! What `engraft train` prints: a banner, a bar, a line an epoch, the end; or the same as JSON (docs/json.md).

use engraft::{
    Epoch, Evaluation, Event, Note, Op, Part, Replacement, RunEnd, Schedule, SolutionSummary, Solver, Start,
    Trained, TrainingEvent,
};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::network::LoadingOutput;
use crate::output::{image_bar, json_line, json_number, json_path, note, percent, print_line};
use crate::photo_notes::photo_note;

/// How many classes are named with their recall, and how many wrong photos.
const NAMED: usize = 5;

/// How many classes are few enough to be named all.
const FEW_CLASSES: usize = 8;

/// Prints what a training tells. A standard output that is closed ends nothing: the checkpoint is what counts.
pub(crate) struct TrainingOutput {
    json: bool,
    epochs: usize,
    exif_orientation: bool,
    bar: Option<ProgressBar>,
    loading: LoadingOutput,
}

impl TrainingOutput {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, epochs: 0, exif_orientation: false, bar: None, loading: LoadingOutput::default() }
    }

    pub(crate) fn event(&mut self, event: TrainingEvent<'_>) {
        match event {
            TrainingEvent::Start(start) => self.start(start),
            TrainingEvent::Loading(event) => self.loading.event(event),
            TrainingEvent::Note(text) => note(text),
            TrainingEvent::Run(event) => self.run(event),
        }
    }

    fn start(&mut self, start: &Start<'_>) {
        let Start { config, job, weights, device, out, run, resumed, .. } = start;
        self.epochs = config.epochs;
        self.exif_orientation = config.exif_orientation;
        let dataset = job.dataset;
        let [train, valid, test] = [&dataset.train, &dataset.valid, &dataset.test].map(Vec::len);
        let transform = job.transform;
        let is_solved = job.solver == Solver::Lbfgs;
        let has_steps = !is_solved || job.policy.head_first;
        let head_alone = job.policy.part == Part::Head;
        let json = || {
            json!({
                "event": "start",
                "architecture": config.arch,
                "weights": weights,
                "licence": job.weights.licence,
                "graft": job.graft.report.to_string(),
                "cut": job.graft.report.path,
                "hidden_units": job.head.hidden_units,
                "dropout": job.head.dropout,
                "train": job.policy,
                "trained_modules": job.trained.modules,
                "trained_parameters": job.trained.parameters,
                "norm": if job.live_norms { "live" } else { "frozen" },
                "freeze": if head_alone { "backbone" } else { "none" },
                "solver": job.solver,
                "epochs": config.epochs,
                "learning_rate": config.learning_rate,
                "backbone_learning_rate": config.backbone_learning_rate,
                "schedule": job.options.schedule,
                "batch_size": job.options.batch_size,
                "seed": config.seed,
                "device": device,
                "data": json_path(start.data),
                "read_as": start.reading,
                "classes": dataset.classes,
                "images": {"train": train, "valid": valid, "test": test},
                "transform": {
                    "resize": transform.resize,
                    "crop": transform.crop,
                    "interpolation": transform.interpolation,
                    "mean": transform.mean.map(json_number),
                    "std": transform.std.map(json_number),
                    "exif_orientation": transform.exif_orientation,
                },
                "cache": job.cache.map(|cache| json_path(&cache.folder)),
                "strict": job.strict,
                "checkpoint": json_path(out),
                "run": json_path(run),
                "resumed": resumed,
            })
        };
        let units: Vec<String> = job.head.hidden_units.iter().map(usize::to_string).collect();
        let first = match (head_alone, job.policy.head_first) {
            (true, _) => "the new head, ",
            (_, true) => "the head first, then ",
            _ => "",
        };
        let rates = match (head_alone, job.policy.head_first) {
            (true, _) => format!("{}", job.options.learning_rate),
            (false, true) => format!("{}", job.options.backbone_rate()),
            (false, false) if job.options.backbone_rate() == job.options.learning_rate => {
                format!("{}", job.options.learning_rate)
            }
            (false, false) => format!(
                "{} for the head, {} for the rest",
                job.options.learning_rate,
                job.options.backbone_rate()
            ),
        };
        let schedule = if job.options.schedule == Schedule::Cosine { ", falling to zero" } else { "" };
        let norms = if job.live_norms { "live" } else { "frozen" };
        let trains_norms = job.graft.graph.nodes().iter().any(|node| {
            matches!(node.op, Op::BatchNorm2d(_)) && job.trained.contains(&format!("{}.weight", node.module))
        });
        let data = format!(
            "{}: {} classes, {train} images for training, {valid} for validation, {test} for the test",
            start.data.display(),
            dataset.classes.len(),
        );
        let text = || {
            let lines = [
                Some(format!("data           {data}")),
                Some(format!("read as        {}", start.reading)),
                Some(format!("architecture   {}, weights {weights}", config.arch)),
                Some(format!("head           {}", job.graft.report)),
                (!units.is_empty()).then(|| format!("hidden units   {}", units.join(" "))),
                (!units.is_empty()).then(|| format!("dropout        {}", job.head.dropout)),
                is_solved.then(|| "solver         lbfgs, its strength chosen by cross-validation".into()),
                has_steps.then(|| format!("epochs         {}", config.epochs)),
                has_steps.then(|| format!("learning rate  {rates}{schedule}")),
                Some(format!("device         {device}")),
                Some(format!("trained        {first}{}", job.trained)),
                trains_norms.then(|| format!("batch norms    {norms} statistics")),
                Some(format!("run            {}", run.display())),
                resumed.map(|epochs| format!("resumed        after {epochs} epochs")),
            ];
            lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
        };
        self.line(json, text);
    }

    fn run(&mut self, event: Event<'_>) {
        match event {
            Event::Progress { what, done, total } => {
                let bar = self.bar.get_or_insert_with(|| image_bar(what));
                bar.set_prefix(what);
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            Event::Skipped { reason } => self.aside(&format!("left out {reason}")),
            Event::PhotoNote { note, count, example } => {
                let hint = match note {
                    Note::Turned if !self.exif_orientation => {
                        "; they are taken as they lie in the file, --exif-orientation turns them"
                    }
                    _ => "",
                };
                self.aside(&format!("{}{hint}", photo_note(note, count, example)));
            }
            Event::Note(text) => self.aside(&format!("note: {text}")),
            Event::Warning(text) => self.aside(&format!("warning: {text}")),
            Event::Features { of_head, images, cached, seconds } => {
                self.end_bar();
                let name = if of_head { "for the head" } else { "features" };
                self.line(
                    || {
                        json!({
                            "event": "features",
                            "of_head": of_head,
                            "images": images,
                            "cached": cached,
                            "seconds": seconds,
                        })
                    },
                    || format!("{name:<14} {images} images, {cached} of them from the cache, {seconds:.1} s"),
                );
            }
            Event::Solved(solution) => {
                self.end_bar();
                self.solved(solution);
            }
            Event::HeadFound(Epoch { valid, .. }) => {
                self.end_bar();
                self.line(
                    || json!({"event": "head", "valid_loss": valid.loss, "valid_accuracy": valid.accuracy}),
                    || {
                        let accuracy = percent(valid.accuracy);
                        format!(
                            "head found     validation loss {:.4}  accuracy {accuracy}; the rest trains from here",
                            valid.loss
                        )
                    },
                );
            }
            Event::Epoch(epoch) => {
                self.end_bar();
                self.epoch(epoch);
            }
        }
    }

    fn solved(&self, solution: &SolutionSummary) {
        let SolutionSummary { strength, folds, accuracy, accuracy_error, seconds, .. } = solution;
        self.line(
            || {
                json!({
                    "event": "solved",
                    "strength": strength,
                    "folds": folds,
                    "cross_validated_accuracy": accuracy,
                    "cross_validated_accuracy_error": accuracy_error,
                    "seconds": seconds,
                })
            },
            || {
                let chosen = match (accuracy, accuracy_error) {
                    (Some(accuracy), Some(error)) => format!(
                        ", chosen by {folds} folds of the training images: accuracy {} +- {}",
                        percent(*accuracy),
                        percent(*error)
                    ),
                    _ => String::new(),
                };
                format!("solved         strength {strength:.1e}{chosen}, {seconds:.1} s")
            },
        );
    }

    fn epoch(&self, Epoch { epoch, train_loss, valid, seconds }: &Epoch) {
        self.line(
            || {
                json!({
                    "event": "epoch",
                    "epoch": epoch,
                    "train_loss": train_loss,
                    "valid_loss": valid.loss,
                    "valid_accuracy": valid.accuracy,
                    "seconds": seconds,
                })
            },
            || {
                let count = format!("{epoch}/{}", self.epochs);
                let accuracy = percent(valid.accuracy);
                format!(
                    "epoch {count:>7}  train loss {train_loss:.4}  validation loss {:.4}  accuracy {accuracy}  {seconds:.1} s",
                    valid.loss
                )
            },
        );
    }

    pub(crate) fn end(&mut self, trained: &Trained, seconds: f64) {
        self.end_bar();
        let Some(checkpoint) = &trained.checkpoint else {
            let json = || {
                json!({
                    "event": "end",
                    "ended": "stopped",
                    "checkpoint": null,
                    "run": json_path(&trained.run),
                    "seconds": seconds,
                })
            };
            let text = || {
                format!(
                    "stopped        before the first epoch was done; nothing is lost\ngo on with     engraft train --resume {}",
                    trained.run.display()
                )
            };
            return self.line(json, text);
        };
        let about = &checkpoint.about;
        let training = &about.training;
        let measured = training.test.as_ref().unwrap_or(&training.valid);
        let json = || {
            json!({
                "event": "end",
                "ended": match &trained.end {
                    RunEnd::Done => "done",
                    RunEnd::Stopped => "stopped",
                    RunEnd::Diverged(_) => "diverged",
                },
                "best_epoch": training.best_epoch,
                "best_valid_accuracy": training.valid.accuracy,
                "test_accuracy": training.test.as_ref().map(|test| test.accuracy),
                "interval": measured.interval(),
                "baseline": measured.baseline(),
                "recall": recall_json(measured, &about.classes),
                "wrong": trained.wrong.iter().map(|wrong| json!({
                    "path": wrong.path, "label": wrong.label, "guess": wrong.guess,
                    "probability": json_number(wrong.probability),
                })).collect::<Vec<_>>(),
                "checkpoint": trained.out.as_deref().map(json_path),
                "run": json_path(&trained.run),
                "ledger": json_path(&trained.ledger),
                "seconds": seconds,
                "images_skipped": training.skipped_images,
            })
        };
        let text = || self.end_text(trained, seconds);
        self.line(json, text);
    }

    fn end_text(&self, trained: &Trained, seconds: f64) -> String {
        let Some(checkpoint) = &trained.checkpoint else { return String::new() };
        let about = &checkpoint.about;
        let training = &about.training;
        let accuracy = percent(training.valid.accuracy);
        let best = match (training.solver, training.best_epoch) {
            (Solver::Lbfgs, _) if training.frozen => {
                format!("validation     accuracy {accuracy} on {} images", training.valid.examples)
            }
            (_, 0) => {
                format!("best           the head alone: no epoch was better than {accuracy} in validation")
            }
            (_, epoch) => format!("best           epoch {epoch}, validation accuracy {accuracy}"),
        };
        let mut lines = vec![best];
        let (name, measured) = match &training.test {
            Some(test) => ("test", test),
            None => ("validation", &training.valid),
        };
        let [low, high] = measured.interval();
        if training.test.is_some() {
            lines.push(format!(
                "test           accuracy {} on {} images",
                percent(measured.accuracy),
                measured.examples
            ));
        }
        lines.push(format!(
            "margin         by {} {name} images the true accuracy lies between {} and {} (95 % confidence)",
            measured.examples,
            percent(low),
            percent(high)
        ));
        if let Some(commonest) = commonest(measured, &about.classes) {
            let baseline = percent(measured.baseline());
            lines.push(format!("baseline       always saying {commonest} would give {baseline}"));
            if measured.accuracy <= measured.baseline() {
                lines.push(format!(
                    "careful        this is no better than always saying {commonest}: the classes are not told apart"
                ));
            }
        }
        lines.push(format!("recall         {}", recall_text(measured, &about.classes)));
        if !trained.wrong.is_empty() {
            let named = trained.wrong.iter().take(NAMED).map(|wrong| {
                format!(
                    "\n               {}: {} taken for {} ({})",
                    wrong.path,
                    wrong.label,
                    wrong.guess,
                    percent(f64::from(wrong.probability))
                )
            });
            let rest = trained.wrong.len().saturating_sub(NAMED);
            let rest = if rest > 0 { format!("\n               and {rest} more") } else { String::new() };
            lines.push(format!(
                "wrong          {} of {} {name} images; all are in {}{}{rest}",
                trained.wrong.len(),
                measured.examples,
                trained.ledger.display(),
                named.collect::<String>(),
            ));
        }
        if training.skipped_images > 0 {
            lines.push(format!(
                "left out       {} images that cannot be used (see above)",
                training.skipped_images
            ));
        }
        match &trained.end {
            RunEnd::Done => {}
            RunEnd::Stopped => {
                lines.push(format!(
                    "stopped        go on with engraft train --resume {}",
                    trained.run.display()
                ));
            }
            RunEnd::Diverged(why) => lines.push(format!("diverged       {why}")),
        }
        match (&trained.out, &trained.replacement) {
            (Some(out), replacement) => {
                if let Replacement::Replaced(old) = replacement {
                    lines.push(format!("replaced       {old}"));
                }
                lines.push(format!("saved          {} ({seconds:.1} s in all)", out.display()));
                lines.push(format!("try it         engraft predict {} IMAGE...", out.display()));
            }
            (None, Replacement::Kept(why)) => {
                lines.push(format!("not replaced   {why}"));
                lines.push(format!("saved          {} ({seconds:.1} s in all)", trained.best.display()));
                lines.push(format!("try it         engraft predict {} IMAGE...", trained.best.display()));
            }
            (None, _) => {}
        }
        lines.join("\n")
    }

    /// A line beside the results, above a bar that is drawn.
    fn aside(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        let _ = match self.json {
            true => json_line(&json()),
            false => print_line(&text()),
        };
    }
}

/// The class that most examples have.
pub(crate) fn commonest<'a>(measured: &Evaluation, classes: &'a [String]) -> Option<&'a str> {
    let most = measured.classes.iter().map(|class| class.examples).max()?;
    let place = measured.classes.iter().position(|class| class.examples == most)?;
    classes.get(place).map(String::as_str)
}

fn recall_json(measured: &Evaluation, classes: &[String]) -> Vec<Value> {
    let entry = |(class, count): (&String, &engraft::ClassCount)| json!({"class": class, "images": count.examples, "right": count.right});
    classes.iter().zip(&measured.classes).map(entry).collect()
}

/// `ants 97.1 % of 70, bees 94.0 % of 83`; of many classes the worst.
pub(crate) fn recall_text(measured: &Evaluation, classes: &[String]) -> String {
    let share = |count: &engraft::ClassCount| count.right as f64 / count.examples.max(1) as f64;
    let mut counted: Vec<_> =
        classes.iter().zip(&measured.classes).filter(|(_, count)| count.examples > 0).collect();
    let all = counted.len() <= FEW_CLASSES;
    if !all {
        counted.sort_by(|a, b| share(a.1).total_cmp(&share(b.1)));
        counted.truncate(NAMED);
    }
    let text = |(class, count): &(&String, &engraft::ClassCount)| {
        format!("{class} {} of {}", percent(share(count)), count.examples)
    };
    let text = counted.iter().map(text).collect::<Vec<_>>().join(", ");
    if all { text } else { format!("worst: {text}") }
}
