//! `engraft info`

use std::path::PathBuf;

use clap::Args;
use engraft::{About, Checkpoint, Solver};
use serde_json::json;

use super::Outcome;
use crate::output::{json_line, json_path, percent, print_line};
use crate::training_output::{commonest, recall_text};

/// Say what a checkpoint is: what it tells apart, what it was trained on, how well, under which licence
#[derive(Args)]
pub(crate) struct Info {
    /// A checkpoint that `engraft train` wrote
    checkpoint: PathBuf,

    /// Print a JSON object: what the file's metadata say (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn run(self) -> Outcome {
        let about = Checkpoint::read_about(&self.checkpoint).map_err(engraft::Error::from)?;
        if self.json {
            let path = json_path(&self.checkpoint);
            json_line(&json!({"path": path, "about": about}))?;
            return Ok(());
        }
        for (name, text) in lines(&about) {
            print_line(&format!("{name:<14} {text}"))?;
        }
        Ok(())
    }
}

fn lines(about: &About) -> Vec<(&'static str, String)> {
    let training = &about.training;
    let units: Vec<String> = about.head.hidden_units.iter().map(usize::to_string).collect();
    let head = match units.is_empty() {
        true => "one linear layer".to_string(),
        false => format!("hidden layers of {} units, dropout {}", units.join(" "), about.head.dropout),
    };
    let mut lines = vec![
        ("classes", about.classes.join(", ")),
        ("architecture", about.architecture.clone()),
        ("head", format!("{head}, in the place of {}", about.cut)),
        ("image", {
            let transform = &about.transform;
            let turned = if transform.exif_orientation { ", turned as its EXIF data say" } else { "" };
            format!(
                "shorter side {} pixels, of which {} x {} from the centre{turned}",
                transform.resize, transform.crop, transform.crop
            )
        }),
    ];
    if let Some(weights) = &about.weights {
        let licence = weights.licence.as_ref();
        let licence =
            licence.map_or_else(String::new, |licence| format!(", licensed {licence}: no commercial use"));
        lines.push(("weights", format!("{}{licence}", weights.name)));
    }
    let trained = match &training.policy {
        Some(policy) => policy.to_string(),
        None if training.frozen => "head".into(),
        None => "all".into(),
    };
    lines.push(("trained", trained));
    if let Some(solution) = &training.solution {
        lines.push(("solver", format!("lbfgs, strength {:.1e}", solution.strength)));
    }
    lines.extend(match training.solver {
        Solver::Lbfgs if training.frozen => None,
        _ => {
            let options = &training.options;
            let text = format!(
                "epoch {} of {}, learning rate {}, batch size {}, seed {}",
                training.best_epoch, options.epochs, options.learning_rate, options.batch_size, options.seed
            );
            Some(("best", text))
        }
    });
    let split = training.split.clone().unwrap_or_default();
    let of_old = training.split.is_none().then_some(training.train_images);
    lines.push((
        "photos",
        format!(
            "{} for training, {} for validation, {} for the test, {} left out",
            of_old.unwrap_or(split.train),
            training.valid.examples,
            training.test.as_ref().map_or(0, |test| test.examples),
            training.skipped_images
        ),
    ));
    lines.push(("validation", format!("accuracy {}", percent(training.valid.accuracy))));
    if let Some(test) = &training.test {
        lines.push(("test", format!("accuracy {}", percent(test.accuracy))));
    }
    let measured = training.test.as_ref().unwrap_or(&training.valid);
    let [low, high] = measured.interval();
    lines.push((
        "margin",
        format!("the true accuracy lies between {} and {} (95 % confidence)", percent(low), percent(high)),
    ));
    if let Some(class) = commonest(measured, &about.classes) {
        lines
            .push(("baseline", format!("always saying {class} would give {}", percent(measured.baseline()))));
        lines.push(("recall", recall_text(measured, &about.classes)));
    }
    lines.push(("made by", format!("engraft {}", training.engraft_version)));
    lines
}
