//! What `engraft train` prints: a banner, a bar, a line an epoch, the end; or the same as JSON (docs/json.md).

use std::io::{self, Write};
use std::path::Path;

use engraft_train::{Checkpoint, Epoch, Event, Job};
use indicatif::ProgressBar;
use serde_json::json;

use crate::output::{image_bar, json_line, json_number, json_path, note, percent};

/// Prints what a training tells. A standard output that is closed ends nothing: the checkpoint is what counts.
pub(crate) struct TrainingOutput {
    json: bool,
    epochs: usize,
    bar: Option<ProgressBar>,
}

impl TrainingOutput {
    pub(crate) fn new(json: bool, epochs: usize) -> Self {
        Self { json, epochs, bar: None }
    }

    pub(crate) fn start(&self, job: &Job<'_>, data: &Path, weights: &str, device: &str, out: &Path) {
        let Job { architecture, graft, head, transform, dataset, freeze, options, strict, .. } = job;
        let [train, valid, test] = [&dataset.train, &dataset.valid, &dataset.test].map(Vec::len);
        let json = || {
            json!({
                "event": "start",
                "architecture": architecture,
                "weights": weights,
                "graft": graft.report.to_string(),
                "cut": graft.report.path,
                "hidden_units": head.hidden_units,
                "dropout": head.dropout,
                "freeze": if *freeze { "backbone" } else { "none" },
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "batch_size": options.batch_size,
                "seed": options.seed,
                "device": device,
                "data": json_path(data),
                "classes": dataset.classes,
                "images": {"train": train, "valid": valid, "test": test},
                "transform": {
                    "resize": transform.resize,
                    "crop": transform.crop,
                    "interpolation": transform.interpolation,
                    "mean": transform.mean.map(json_number),
                    "std": transform.std.map(json_number),
                },
                "cache": job.cache.map(json_path),
                "strict": strict,
                "checkpoint": json_path(out),
            })
        };
        let units: Vec<String> = head.hidden_units.iter().map(usize::to_string).collect();
        let trained = if *freeze { "the new head; the backbone is frozen" } else { "the whole network" };
        let data = format!(
            "{}: {} classes, {train} images for training, {valid} for validation, {test} for the test",
            data.display(),
            dataset.classes.len(),
        );
        let text = || {
            let lines = [
                format!("architecture   {architecture}, weights {weights}"),
                format!("head           {}", graft.report),
                format!("hidden units   {}", if units.is_empty() { "none".into() } else { units.join(" ") }),
                format!("dropout        {}", head.dropout),
                format!("epochs         {}", options.epochs),
                format!("learning rate  {}", options.learning_rate),
                format!("device         {device}"),
                format!("trained        {trained}"),
                format!("data           {data}"),
            ];
            lines.join("\n")
        };
        self.line(json, text);
    }

    pub(crate) fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Progress { done, total } => {
                let bar = self.bar.get_or_insert_with(|| image_bar("features"));
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            Event::Skipped { reason } => note(&format!("left out {reason}")),
            Event::LargeCache { bytes, free, folder } => note(&format!(
                "warning: the features take up to {:.1} GB of {:.1} GB that are free in {}; --no-cache keeps none",
                bytes as f64 / 1e9,
                free as f64 / 1e9,
                folder.display()
            )),
            Event::NotKept { bytes } => note(&format!(
                "note: what the frozen layers give is {:.1} MB a photo; reading it would take longer than computing it, so that it is not kept",
                bytes as f64 / 1e6
            )),
            Event::Warning(text) => note(&format!("warning: {text}")),
            Event::Features { images, cached, seconds } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                self.line(
                    || json!({"event": "features", "images": images, "cached": cached, "seconds": seconds}),
                    || {
                        format!(
                            "features       {images} images, {cached} of them from the cache, {seconds:.1} s"
                        )
                    },
                );
            }
            Event::Epoch(epoch) => self.epoch(epoch),
        }
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

    pub(crate) fn end(&self, checkpoint: &Checkpoint, out: &Path, seconds: f64) {
        let training = &checkpoint.about.training;
        let json = || {
            json!({
                "event": "end",
                "best_epoch": training.best_epoch,
                "best_valid_accuracy": training.valid.accuracy,
                "test_accuracy": training.test.map(|test| test.accuracy),
                "checkpoint": json_path(out),
                "seconds": seconds,
                "images_skipped": training.skipped_images,
            })
        };
        let accuracy = percent(training.valid.accuracy);
        let test = training
            .test
            .map(|test| format!("accuracy {} on {} images", percent(test.accuracy), test.examples));
        let skipped = Some(training.skipped_images).filter(|count| *count > 0);
        let text = || {
            let lines = [
                Some(format!("best           epoch {}, validation accuracy {accuracy}", training.best_epoch)),
                test.map(|test| format!("test           {test}")),
                skipped.map(|count| format!("left out       {count} images that cannot be used (see above)")),
                Some(format!("saved          {} ({seconds:.1} s in all)", out.display())),
                Some(format!("try it         engraft predict {} IMAGE...", out.display())),
            ];
            lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
        };
        self.line(json, text);
    }

    fn line(&self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) {
        let _ = match self.json {
            true => json_line(&json()),
            false => writeln!(io::stdout(), "{}", text()),
        };
    }
}
