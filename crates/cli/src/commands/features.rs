//! `engraft features`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;
use engraft::{StateDict, Tensor};
use serde_json::json;

use super::Outcome;
use crate::interrupt::stop_on_signal;
use crate::network::{DeviceArgs, NetworkArgs};
use crate::output::{check_out, image_bar, json_line, json_path, note, print_line};

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
        let mut extractor = model.extractor(self.at.as_deref(), self.device.device())?;
        let stop = stop_on_signal();
        let bar = image_bar("features");
        let count = photos.len();
        bar.set_length(count as u64);
        let shape = extractor.shape().to_vec();
        let mut used = Vec::new();
        let mut values = Vec::new();
        let mut failures = 0;
        for output in extractor.features(photos) {
            let output = output?;
            match output.values {
                Ok(row) => {
                    values.extend(row);
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
        bar.finish_and_clear();
        self.write(&[&[used.len()], shape.as_slice()].concat(), values, &used)?;
        match failures {
            0 => Ok(()),
            _ => {
                Err(format!("{failures} of {count} images could not be used and are not in the file").into())
            }
        }
    }

    fn write(&self, shape: &[usize], values: Vec<f32>, paths: &[PathBuf]) -> Outcome {
        let features: StateDict =
            [("features".to_string(), Tensor::f32(shape, values))].into_iter().collect();
        let paths: Vec<String> = paths.iter().map(|path| json_path(path)).collect();
        let metadata = BTreeMap::from([("paths".to_string(), serde_json::to_string(&paths)?)]);
        features.write_safetensors(&self.out, &metadata)?;
        if self.json {
            json_line(&json!({"event": "end", "out": json_path(&self.out), "shape": shape}))?;
        } else {
            print_line(&format!("features {shape:?} of {} images in {}", paths.len(), self.out.display()))?;
        }
        Ok(())
    }
}
