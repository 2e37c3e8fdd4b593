//! `engraft train`

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use engraft_data::{Dataset, LabelMap, ListOptions, SplitSpec};
use engraft_engine::initial_state;
use engraft_graph::{Graft, Graph, HeadSpec};
use engraft_train::{FitOptions, Job, train};
use engraft_weights::cache_dir;

use super::{Outcome, usage};
use crate::interrupt::stop_on_ctrl_c;
use crate::network::{DeviceArgs, PretrainedArgs};
use crate::output::{check_out, note};
use crate::training_output::TrainingOutput;

/// Graft a new head on a pretrained network and train it on your images
///
/// DATA is a folder with `train`, `valid` (or `val`) and, if you have it, `test`, one folder a class in each; or a folder with
/// one folder a class, which is split for you; or a CSV file with a path and a label in each line.
#[derive(Args)]
#[command(override_usage = "engraft train [OPTIONS] --arch ARCH DATA")]
pub(crate) struct Train {
    /// Folder or CSV file with your images
    data: Option<PathBuf>,

    #[command(flatten)]
    pretrained: PretrainedArgs,

    /// Units of the hidden layers of the new head, in order; without it the head is one linear layer
    #[arg(long, value_name = "N", num_args = 1.., allow_negative_numbers = true)]
    hidden_units: Vec<OsString>,

    /// Probability of dropping a unit after each hidden layer
    #[arg(long, value_name = "P", default_value = "0.2", value_parser = dropout, allow_negative_numbers = true)]
    dropout: f64,

    /// Module that the head replaces, with all behind it (`classifier.6`, `layer3`); without it the whole classifier
    #[arg(long, value_name = "PATH")]
    cut: Option<String>,

    /// What stays as it is; by default the backbone, or nothing if the weights are random
    #[arg(long, value_enum)]
    freeze: Option<Freeze>,

    /// What becomes of auxiliary heads (googlenet, inception_v3): dropped, or trained along, which needs --freeze none
    #[arg(long, value_enum, value_name = "DROP|TRAIN", default_value = "drop", hide_possible_values = true)]
    aux: Aux,

    /// Passes over the training images
    #[arg(long, value_name = "N", default_value = "10", value_parser = positive, allow_negative_numbers = true)]
    epochs: usize,

    /// Step size of the optimiser, Adam
    #[arg(long, value_name = "LR", default_value = "0.001", value_parser = learning_rate, allow_negative_numbers = true)]
    learning_rate: f64,

    /// Images in a step
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive, allow_negative_numbers = true)]
    batch_size: usize,

    /// Decides splits, initial values, order and dropout: the same seed gives the same result
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,

    /// CSV file with paths, relative to DATA, and labels
    #[arg(long, value_name = "CSV")]
    labels: Option<PathBuf>,

    /// Classes for the labels of a CSV file, as in `0=ok,0.333=ok,0.667=defective,1=defective`
    #[arg(long, value_name = "LABEL=CLASS,..", value_parser = label_map)]
    map: Option<LabelMap>,

    /// Share of each class for validation, where DATA has no split of its own
    #[arg(long, value_name = "SHARE", default_value = "0.15")]
    valid: f64,

    /// Share of each class for the test, where DATA has no split of its own
    #[arg(long, value_name = "SHARE", default_value = "0.15")]
    test: f64,

    /// Where to write the trained network; by default named after DATA and the architecture
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    /// Compute all features anew, and do not keep them
    #[arg(long)]
    no_cache: bool,

    /// End with an error if an image cannot be used, instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// Print one JSON object a line (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// What becomes of auxiliary heads.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Aux {
    Drop,
    Train,
}

/// What is not trained.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Freeze {
    /// All but the new head, whose inputs are then computed once
    Backbone,
    /// Nothing: every weight is trained
    None,
}

impl Train {
    pub(crate) fn run(mut self) -> Outcome {
        let start = Instant::now();
        let (data, hidden_units) = self.data_and_hidden_units()?;
        let arch = self.pretrained.arch.clone().ok_or_else(|| usage("which network? pass --arch ARCH"))?;
        let engine = self.device.engine()?;
        let out = self.out.clone().unwrap_or_else(|| default_out(&data, &arch));
        check_out(&out)?;
        let dataset = self.dataset(&data)?;
        let head = HeadSpec { hidden_units, classes: dataset.classes.len(), dropout: self.dropout };
        let choice = self.pretrained.choose(&arch)?;
        let network = choice.network()?;
        let by_default = if choice.is_random() { Freeze::None } else { Freeze::Backbone };
        let freeze = self.freeze.unwrap_or(by_default) == Freeze::Backbone;
        let graft = self.graft(&network, &head, freeze)?;
        let transform = choice.transform();
        if let Some(text) = choice.licence_note() {
            note(&text);
        }
        let mut state = choice.load(&network, Some(&graft), self.seed)?;
        let is_new = |name: &str| graft.is_of_head(name) || state.get(name).is_none();
        let new: Vec<_> = graft.graph.state().into_iter().filter(|tensor| is_new(&tensor.name)).collect();
        for (name, tensor) in initial_state(&new, self.seed) {
            state.insert(name, tensor);
        }
        let options = FitOptions {
            epochs: self.epochs,
            learning_rate: self.learning_rate,
            batch_size: self.batch_size,
            seed: self.seed,
        };
        let cache = (!self.no_cache).then(cache_dir);
        let job = Job {
            architecture: &arch,
            graft: &graft,
            head: &head,
            state,
            transform: &transform,
            dataset: &dataset,
            freeze,
            options: &options,
            cache: cache.as_deref(),
            strict: self.strict,
        };
        let mut output = TrainingOutput::new(self.json, options.epochs);
        output.start(&job, &data, &choice.weights(), &engine.device(), &out);
        let checkpoint = train(engine.as_ref(), job, stop_on_ctrl_c(), &mut |event| output.event(event))?;
        checkpoint.write(&out)?;
        output.end(&checkpoint, &out, start.elapsed().as_secs_f64());
        Ok(())
    }

    /// `--hidden-units 512 256 flowers/` means what it seems to mean, though the option takes all that follows.
    fn data_and_hidden_units(&mut self) -> Result<(PathBuf, Vec<usize>), Box<dyn Error>> {
        let is_data =
            |last: &mut OsString| units_in(last).iter().any(|units| units.parse::<usize>().is_err());
        if self.data.is_none() {
            self.data = self.hidden_units.pop_if(is_data).map(PathBuf::from);
        }
        let units = |text: String| match text.parse() {
            Ok(0) => Err(usage(
                "--hidden-units 0: a hidden layer needs at least one unit; leave the option away for a head of one linear layer",
            )),
            Ok(units) => Ok(units),
            Err(_) => Err(usage(&format!(
                "--hidden-units {text}: whole numbers are needed, as in --hidden-units 512 256"
            ))),
        };
        let hidden_units =
            self.hidden_units.iter().flat_map(units_in).map(units).collect::<Result<_, _>>()?;
        match self.data.take() {
            Some(data) => Ok((data, hidden_units)),
            None => Err(usage("which images? pass a folder or a CSV file")),
        }
    }

    fn graft(&self, network: &Graph, head: &HeadSpec, freeze: bool) -> Result<Graft, Box<dyn Error>> {
        let cut = self.cut.as_deref();
        if self.aux == Aux::Drop {
            return Ok(network.graft(head, cut)?);
        }
        if freeze {
            return Err(usage(
                "--aux train needs --freeze none: auxiliary heads help to train the layers before them, which are frozen",
            ));
        }
        let graft = network.graft_with_aux(head, cut)?;
        if graft.aux_heads.is_empty() {
            return Err(usage("--aux train: there are no auxiliary heads before the new one"));
        }
        Ok(graft)
    }

    fn dataset(&self, data: &Path) -> Result<Dataset, Box<dyn Error>> {
        let split = SplitSpec { valid: self.valid, test: self.test, seed: self.seed };
        let map = self.map.clone().unwrap_or_default();
        let dataset = match &self.labels {
            Some(list) => Dataset::from_list(list, &ListOptions { root: Some(data.into()), map }, &split)?,
            None => Dataset::open(data, &ListOptions { root: None, map }, &split)?,
        };
        for ignored in &dataset.ignored {
            note(&format!("ignored {}: {}", ignored.path.display(), ignored.reason));
        }
        for warning in &dataset.warnings {
            note(&format!("note: {warning}"));
        }
        Ok(dataset)
    }
}

/// The numbers in `512,256`, or in `512`.
fn units_in(text: &OsString) -> Vec<String> {
    text.to_string_lossy().split(',').map(|units| units.trim().to_owned()).collect()
}

/// `flowers-vgg13.safetensors` for `photos/flowers/`.
fn default_out(data: &Path, arch: &str) -> PathBuf {
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.into());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = name.map_or_else(|| "images".into(), |name| name.to_string_lossy());
    PathBuf::from(format!("{name}-{arch}.safetensors"))
}

fn dropout(text: &str) -> Result<f64, String> {
    let valid = text.parse().ok().filter(|p| (0.0..1.0).contains(p));
    valid.ok_or_else(|| "a probability from 0 to below 1 is needed, as in 0.2".into())
}

fn learning_rate(text: &str) -> Result<f64, String> {
    let valid = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    valid.ok_or_else(|| "a number above 0 is needed, as in 0.003".into())
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a whole number above 0 is needed".into())
}

fn label_map(text: &str) -> Result<LabelMap, String> {
    text.parse().map_err(|error: engraft_data::DataError| error.to_string())
}
