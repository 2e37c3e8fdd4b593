//! `engraft features`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;
use engraft_tensor::write_safetensors_rows;
use serde_json::json;

use super::Outcome;
use crate::interrupt::stop_on_signal;
use crate::network::{DeviceArgs, NetworkArgs};
use crate::output::{check_out, image_bar, json_line, json_path, note, print_line};
use crate::photo_notes::PhotoNotes;

/// Write what a network makes of images: what its head sees, or the output of any module
#[derive(Args)]
#[command(override_usage = "engraft features [OPTIONS] --out FILE CHECKPOINT IMAGE...\n       \
                            engraft features [OPTIONS] --out FILE --arch ARCH [--weights FILE] IMAGE...")]
pub(crate) struct Features {
    #[command(flatten)]
    network: NetworkArgs,

    /// The module whose output is written (`layer3`, `features.4`); `output` for the logits. Without it what the head sees
    #[arg(long, value_name = "PATH")]
    at: Option<String>,

    /// The safetensors file: tensor `features` [n, ...], the images' paths in the metadata as JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    device: DeviceArgs,

    /// Print a JSON object when done (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Features {
    pub(crate) fn run(self) -> Outcome {
        check_out(&self.out)?;
        let (model, photos) = self.network.resolve()?;
        let turns = model.transform().exif_orientation;
        let mut extractor = model.extractor(self.at.as_deref(), self.device.device())?;
        let stop = stop_on_signal();
        let bar = image_bar("features");
        let count = photos.len();
        bar.set_length(count as u64);
        let row = extractor.shape().to_vec();
        let mut used = Vec::new();
        let mut failures = 0;
        let mut notes = PhotoNotes::default();
        let all = metadata(&photos)?;
        write_safetensors_rows(
            &self.out,
            "features",
            &row,
            (count, &all),
            |append| -> Result<_, Box<dyn Error>> {
                for output in extractor.features(photos) {
                    let output = output?;
                    match output.values {
                        Ok(values) => {
                            append(&values)?;
                            notes.add(output.notes, &output.path);
                            used.push(output.path);
                        }
                        Err(error) => {
                            failures += 1;
                            bar.suspend(|| note(&format!("error: {error}")));
                        }
                    }
                    bar.inc(1);
                    if stop.load(Ordering::Relaxed) {
                        return Err("stopped; nothing was written".into());
                    }
                }
                metadata(&used)
            },
        )?;
        bar.finish_and_clear();
        notes.print(turns);
        let shape = [&[used.len()], row.as_slice()].concat();
        if self.json {
            json_line(&json!({"event": "end", "out": json_path(&self.out), "shape": shape}))?;
        } else {
            let out = self.out.display();
            print_line(&format!("features {shape:?} of {} images in {out}", used.len()))?;
        }
        match failures {
            0 => Ok(()),
            _ => {
                Err(format!("{failures} of {count} images could not be used and are not in the file").into())
            }
        }
    }
}

fn metadata(paths: &[PathBuf]) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let paths: Vec<String> = paths.iter().map(|path| json_path(path)).collect();
    Ok(BTreeMap::from([("paths".to_string(), serde_json::to_string(&paths)?)]))
}
