//! `engraft features`

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use engraft_data::Batches;
use engraft_tensor::{StateDict, Tensor};
use engraft_train::image_batch;
use serde_json::json;

use super::Outcome;
use crate::interrupt::stop_on_ctrl_c;
use crate::network::{DeviceArgs, NetworkArgs};
use crate::output::{check_out, image_bar, json_line, json_path, note};

/// Images in a batch.
const BATCH: usize = 16;

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
        let (mut ready, paths) = self.network.resolve()?;
        let graph = match &self.at {
            Some(path) => ready.graph.until(ready.graph.module_output(path)?),
            None => ready.graph.before_head(Some(&ready.head))?,
        };
        let network = self.device.engine()?.network(&graph, std::mem::take(&mut ready.state))?;
        let stop = stop_on_ctrl_c();
        let bar = image_bar("features");
        bar.set_length(paths.len() as u64);
        let mut used = Vec::new();
        let mut values = Vec::new();
        let mut failures = 0;
        for batch in Batches::new(paths.clone(), ready.transform.clone(), BATCH) {
            for failed in &batch.failed {
                failures += 1;
                bar.suspend(|| note(&format!("error: {}", failed.error)));
            }
            bar.inc(batch.paths() as u64);
            if !batch.pictures.is_empty() {
                let output = network.forward(&image_batch(batch.images, &ready.transform))?;
                values.extend_from_slice(output.as_f32().unwrap_or_default());
            }
            used.extend(batch.pictures.iter().map(|picture| paths[picture.index].as_path()));
            if stop.load(Ordering::Relaxed) {
                return Err("stopped; nothing was written".into());
            }
        }
        bar.finish_and_clear();
        let shape = [&[used.len()], graph.output_shape()?.as_slice()].concat();
        self.write(&shape, values, &used)?;
        match failures {
            0 => Ok(()),
            _ => {
                Err(format!("{failures} of {} images could not be used and are not in the file", paths.len())
                    .into())
            }
        }
    }

    fn write(&self, shape: &[usize], values: Vec<f32>, paths: &[&Path]) -> Outcome {
        let features: StateDict =
            [("features".to_string(), Tensor::f32(shape, values))].into_iter().collect();
        let paths: Vec<String> = paths.iter().map(|path| json_path(path)).collect();
        let metadata = BTreeMap::from([("paths".to_string(), serde_json::to_string(&paths)?)]);
        features.write_safetensors(&self.out, &metadata)?;
        if self.json {
            json_line(&json!({"event": "end", "out": json_path(&self.out), "shape": shape}))?;
        } else {
            writeln!(io::stdout(), "features {shape:?} of {} images in {}", paths.len(), self.out.display())?;
        }
        Ok(())
    }
}
