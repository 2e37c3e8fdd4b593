//! `engraft predict`

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Outcome;
use crate::network::{DeviceArgs, NetworkArgs};
use crate::output::{json_line, json_number, json_path, note, percent, print_line};
use crate::photo_notes::PhotoNotes;

/// Say what is in images, by a checkpoint or by a pretrained network as it is
#[derive(Args)]
#[command(override_usage = "engraft predict [OPTIONS] CHECKPOINT IMAGE...\n       \
                            engraft predict [OPTIONS] --arch ARCH [--weights FILE] IMAGE...")]
pub(crate) struct Predict {
    #[command(flatten)]
    network: NetworkArgs,

    /// How many classes to name, the most probable first
    #[arg(long, value_name = "K", default_value = "5")]
    top_k: usize,

    /// JSON file with a name for each class, as in {"1": "daisy"}
    #[arg(long, value_name = "FILE")]
    category_names: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    /// Print one JSON object an image (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// A class and how probable it is.
struct Guess<'a> {
    class: &'a str,
    name: &'a str,
    probability: f32,
}

impl Predict {
    pub(crate) fn run(self) -> Outcome {
        let names = self.category_names.as_deref().map(read_names).transpose()?.unwrap_or_default();
        let (model, photos) = self.network.resolve()?;
        let turns = model.transform().exif_orientation;
        let mut predictor = model.predictor(self.device.device())?;
        let classes = predictor.classes().to_vec();
        let mut failures = 0;
        let mut notes = PhotoNotes::default();
        for prediction in predictor.predict(photos) {
            let prediction = prediction?;
            notes.add(prediction.notes, &prediction.path);
            match prediction.guesses {
                Ok(guesses) => {
                    let guess = |(class, probability): (usize, f32)| {
                        let class = &classes[class];
                        Guess { class, name: names.get(class).unwrap_or(class), probability }
                    };
                    let guesses: Vec<Guess<'_>> = guesses.into_iter().take(self.top_k).map(guess).collect();
                    self.print(&prediction.path, &guesses)?;
                }
                Err(error) => {
                    failures += 1;
                    self.print_failure(&prediction.path, &error.to_string())?;
                }
            }
        }
        notes.print(turns);
        match failures {
            0 => Ok(()),
            1 => Err("1 image could not be used".into()),
            _ => Err(format!("{failures} images could not be used").into()),
        }
    }

    fn print(&self, path: &Path, guesses: &[Guess<'_>]) -> io::Result<()> {
        if self.json {
            let top = guesses.iter().map(|Guess { class, name, probability }| {
                json!({"class": class, "name": name, "probability": json_number(*probability)})
            });
            return json_line(&json!({"path": json_path(path), "top": top.collect::<Vec<_>>()}));
        }
        let guess =
            |guess: &Guess<'_>| format!("\n  {:>7}  {}", percent(f64::from(guess.probability)), guess.name);
        print_line(&format!("{}{}", path.display(), guesses.iter().map(guess).collect::<String>()))
    }

    fn print_failure(&self, path: &Path, reason: &str) -> io::Result<()> {
        if self.json {
            return json_line(&json!({"path": json_path(path), "error": reason}));
        }
        note(&format!("error: {reason}"));
        Ok(())
    }
}

fn read_names(path: &Path) -> Result<HashMap<String, String>, Box<dyn Error>> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read the category names {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| {
        let example = r#"{"1": "daisy"}"#;
        format!("{}: a JSON object of names is needed, as in {example}: {error}", path.display()).into()
    })
}
