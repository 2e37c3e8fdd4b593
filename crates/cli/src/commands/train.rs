//! `engraft train`

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use engraft::{BatchSize, CacheSettings, Config, LabelMap, Part, Policy, Settings, Solver, cache_dir};

use super::{Outcome, usage};
use crate::interrupt::stop_on_signal;
use crate::network::{DeviceArgs, PretrainedArgs};
use crate::training_output::TrainingOutput;

/// Graft a new head on a pretrained network and train it on your images
///
/// DATA is a folder with one folder a class, which is split for you; or with `train`, `valid` and, if you have it, `test`, one folder
/// a class in each; or a CSV file with a path and a label in each line.
///
/// A run is a folder, `runs/NAME`: its configuration, a ledger of all photos, its metrics and its state, so that `--resume` goes on
/// after whatever ended it.
#[derive(Args)]
#[command(override_usage = "engraft train [OPTIONS] --arch ARCH DATA\n       \
                            engraft train --resume RUN\n       \
                            engraft train --config FILE [OPTIONS]")]
pub(crate) struct Train {
    /// Folder or CSV file with your images
    data: Option<PathBuf>,

    #[command(flatten)]
    pretrained: PretrainedArgs,

    /// Go on with a run that ended early, to the same result as if it had not: `runs/NAME`
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,

    /// Take options from the `config.toml` of a run; those that are given here count more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Name of the run: its folder in `runs`; by default named after DATA and the architecture
    #[arg(long, value_name = "NAME")]
    run: Option<String>,

    /// Units of the hidden layers of the new head, in order; without it the head is one linear layer
    #[arg(long, value_name = "N", num_args = 1.., allow_negative_numbers = true)]
    hidden_units: Vec<OsString>,

    /// Probability of dropping a unit after each hidden layer [default: 0.2]
    #[arg(long, value_name = "P", value_parser = dropout, allow_negative_numbers = true)]
    dropout: Option<f64>,

    /// Module that the head replaces, with all behind it (`classifier.6`, `layer3`); without it the whole classifier
    #[arg(long, value_name = "PATH")]
    cut: Option<String>,

    /// What is trained: `head`, the new head alone; `last:N`, also the last N blocks before it (last:1 is `layer4` of a ResNet);
    /// `from:PATH`, a module and all behind it; `norm`, the head and all norms; `all`, everything. `head+last:1` finds the head
    /// first, and trains from there; it keeps only what is better than the head alone. What is not trained is computed once an image
    /// [default: head; all if the weights are random]
    #[arg(long, value_name = "WHAT", value_parser = policy)]
    train: Option<Policy>,

    /// By which statistics the batch norms of what is trained normalise: `frozen`, those that came with the weights, as a batch of
    /// few photos knows them worse; or `live`, those of each batch, as there are none yet for random weights [default: frozen; live
    /// if the weights are random]
    #[arg(long, value_enum, value_name = "frozen|live", hide_possible_values = true)]
    norm: Option<Norm>,

    /// What becomes of auxiliary heads (googlenet, inception_v3): dropped, or trained along, which needs --train all
    #[arg(long, value_enum, value_name = "DROP|TRAIN", hide_possible_values = true)]
    aux: Option<Aux>,

    /// How the head is found, alone or first: a linear head on frozen features by L-BFGS, whose strength of regularisation is chosen by
    /// cross-validation, or any head by steps of Adam. `auto` is lbfgs where it can be, unless you say epochs, learning rate or
    /// batch size [default: auto]
    #[arg(long, value_name = "auto|lbfgs|adam", value_parser = solver)]
    solver: Option<Solver>,

    /// Passes over the training images, by Adam [default: 10]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    epochs: Option<usize>,

    /// Step size of Adam, for the head [default: 0.001]
    #[arg(long, value_name = "LR", value_parser = learning_rate, allow_negative_numbers = true)]
    learning_rate: Option<f64>,

    /// Step size for all else that is trained, and for a head that was found first [default: a tenth of --learning-rate; the same if
    /// the weights are random]
    #[arg(long, value_name = "LR", value_parser = learning_rate, allow_negative_numbers = true)]
    backbone_learning_rate: Option<f64>,

    /// Images in a step of Adam; `auto` is, where more than the head is trained, the largest power of two up to 64 that fits into the
    /// memory [default: 64; 32 if more than the head of a pretrained network is trained]
    #[arg(long, value_name = "N|auto", value_parser = batch_size, allow_negative_numbers = true)]
    batch_size: Option<BatchSize>,

    /// How much memory training may take on the CPU, as in `4GB`; what does not fit is computed in parts, or twice. By default four
    /// fifths of what is free
    #[arg(long, value_name = "SIZE", value_parser = memory_size, conflicts_with = "gpu")]
    memory: Option<u64>,

    /// Decides splits, initial values, order and dropout: the same seed gives the same result [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// CSV file with paths, relative to DATA, and labels
    #[arg(long, value_name = "CSV")]
    labels: Option<PathBuf>,

    /// Classes for the labels of a CSV file, as in `0=ok,0.333=ok,0.667=defective,1=defective`
    #[arg(long, value_name = "LABEL=CLASS,..", value_parser = label_map)]
    map: Option<String>,

    /// Share of each class for validation, where DATA has no split of its own [default: 0.15]
    #[arg(long, value_name = "SHARE")]
    valid: Option<f64>,

    /// Share of each class for the test, where DATA has no split of its own [default: 0.15]
    #[arg(long, value_name = "SHARE")]
    test: Option<f64>,

    /// Turn photos as their EXIF data say. Without it they are taken as they lie in the file, as PyTorch takes them
    #[arg(long)]
    exif_orientation: bool,

    /// Where to write the trained network; by default named after DATA and the architecture
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    /// Compute all features anew, and do not keep them
    #[arg(long)]
    no_cache: bool,

    /// How large the cache of features may become, as in `20GB`; what was used longest ago goes first. By default a
    /// quarter of what is free on the disk (`engraft cache` says it)
    #[arg(long, value_name = "SIZE", value_parser = byte_size)]
    cache_size: Option<u64>,

    /// Go on although photos or options have changed since; replace a better checkpoint
    #[arg(long)]
    force: bool,

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

/// By which statistics batch norms normalise.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Norm {
    Frozen,
    Live,
}

impl Train {
    pub(crate) fn run(mut self) -> Outcome {
        let start = Instant::now();
        let (data, hidden_units) = self.data_and_hidden_units()?;
        if self.cache_size.is_some() && self.no_cache {
            return Err(usage("--cache-size and --no-cache exclude each other"));
        }
        let cache =
            (!self.no_cache).then(|| CacheSettings { folder: cache_dir(), limit_bytes: self.cache_size });
        let settings = Settings {
            device: self.device.device(),
            cache,
            out: self.out.clone(),
            force: self.force,
            stop: stop_on_signal(),
        };
        let mut output = TrainingOutput::new(self.json);
        let trained = match &self.resume {
            Some(run) => {
                if self.config.is_some() || self.run.is_some() {
                    return Err(usage("--resume goes on with a run as it is: leave --config and --run away"));
                }
                let change = |config: Config| self.changed(config, data.as_deref(), &hidden_units);
                engraft::resume(run, &change, &settings, &mut |event| output.event(event))
            }
            None => {
                let config = match &self.config {
                    Some(file) => Config::read(file)?,
                    None => self.config_of_data(data.as_deref())?,
                };
                let config = self.changed(config, data.as_deref(), &hidden_units);
                let run = self.run.as_deref().map(run_folder).transpose()?;
                engraft::train(&config, run.as_deref(), &settings, &mut |event| output.event(event))
            }
        };
        output.end(&trained?, start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What has no default.
    fn config_of_data(&self, data: Option<&Path>) -> Result<Config, Box<dyn Error>> {
        let data = data.ok_or_else(|| usage("which images? pass a folder or a CSV file"))?;
        let arch = self.pretrained.arch.as_deref().ok_or_else(|| {
            usage(&format!(
                "which network? pass --arch ARCH, as in\n\n    engraft train {} --arch mobilenet_v2\n\n\
                 which is small and fast; resnet50 is larger and often better; `engraft models` lists all",
                data.display()
            ))
        })?;
        Ok(Config::new(data, arch))
    }

    /// A configuration with the options that were given.
    fn changed(&self, mut config: Config, data: Option<&Path>, hidden_units: &[usize]) -> Config {
        fn set<T: Clone>(field: &mut T, given: Option<&T>) {
            if let Some(value) = given {
                field.clone_from(value);
            }
        }
        set(&mut config.data, data.map(Path::to_path_buf).as_ref());
        set(&mut config.arch, self.pretrained.arch.as_ref());
        set(&mut config.dropout, self.dropout.as_ref());
        set(&mut config.solver, self.solver.as_ref());
        set(&mut config.epochs, self.epochs.as_ref());
        set(&mut config.learning_rate, self.learning_rate.as_ref());
        set(&mut config.seed, self.seed.as_ref());
        config.memory = self.memory.or(config.memory);
        set(&mut config.valid, self.valid.as_ref());
        set(&mut config.test, self.test.as_ref());
        if !hidden_units.is_empty() {
            config.hidden_units = hidden_units.to_vec();
        }
        let given = |given: &Option<String>, old: Option<String>| given.clone().or(old);
        config.weights = given(&self.pretrained.weights, config.weights);
        config.cut = given(&self.cut, config.cut);
        config.map = given(&self.map, config.map);
        config.size = self.pretrained.size.or(config.size);
        config.batch_size = self.batch_size.or(config.batch_size);
        config.backbone_learning_rate = self.backbone_learning_rate.or(config.backbone_learning_rate);
        config.labels = self.labels.clone().or(config.labels);
        config.exif_orientation |= self.exif_orientation;
        config.transform_input |= self.pretrained.transform_input;
        config.strict |= self.strict;
        config.train = self.train.clone().or(config.train);
        let norm = |norm| match norm {
            Norm::Frozen => engraft::Norm::Frozen,
            Norm::Live => engraft::Norm::Live,
        };
        config.norm = self.norm.map(norm).or(config.norm);
        if let Some(aux) = self.aux {
            config.aux = match aux {
                Aux::Drop => engraft::Aux::Drop,
                Aux::Train => engraft::Aux::Train,
            };
        }
        // Who says how steps are to be made wants steps, unless there are others than those of the head.
        let says_batch = self.batch_size.is_some_and(|size| size != BatchSize::Auto);
        let says_steps = self.epochs.is_some() || self.learning_rate.is_some() || says_batch;
        let has_others = config.train.as_ref().is_some_and(|policy| policy.part != Part::Head);
        if says_steps && !has_others && config.solver == Solver::Auto {
            config.solver = Solver::Adam;
        }
        config
    }

    /// `--hidden-units 512 256 flowers/` means what it seems to mean, though the option takes all that follows.
    fn data_and_hidden_units(&mut self) -> Result<(Option<PathBuf>, Vec<usize>), Box<dyn Error>> {
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
        Ok((self.data.take(), hidden_units))
    }
}

/// The numbers in `512,256`, or in `512`.
fn units_in(text: &OsString) -> Vec<String> {
    text.to_string_lossy().split(',').map(|units| units.trim().to_owned()).collect()
}

/// `runs/NAME`.
fn run_folder(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
    match is_name {
        true => Ok(Path::new("runs").join(name)),
        false => Err(usage(&format!("--run {name}: a name is needed, as in --run first-try, and no path"))),
    }
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

fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|error: engraft::GraphError| error.to_string())
}

fn batch_size(text: &str) -> Result<BatchSize, String> {
    match text {
        "auto" => Ok(BatchSize::Auto),
        _ => positive(text).map(BatchSize::Images).map_err(|problem| format!("{problem}, or auto")),
    }
}

/// As [`byte_size`], of memory, which cannot be none.
pub(crate) fn memory_size(text: &str) -> Result<u64, String> {
    byte_size(text)
        .ok()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a size is needed, as in 500MB or 4GB".into())
}

fn solver(text: &str) -> Result<Solver, String> {
    match text {
        "auto" => Ok(Solver::Auto),
        "lbfgs" => Ok(Solver::Lbfgs),
        "adam" => Ok(Solver::Adam),
        _ => Err("auto, lbfgs or adam is needed".into()),
    }
}

/// Bytes from `500MB`, `20 GB` or `1e9`.
pub(crate) fn byte_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 4] = [("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12)];
    let lower = text.trim().to_lowercase();
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((&lower, 1.0));
    let size = number.trim().parse::<f64>().ok().map(|number| number * bytes);
    match size.filter(|size| *size >= 0.0 && *size < 1e18) {
        Some(size) => Ok(size as u64),
        None => Err("a size is needed, as in 500MB or 20GB".into()),
    }
}

fn label_map(text: &str) -> Result<String, String> {
    let map: Result<LabelMap, _> = text.parse();
    map.map(|_| text.to_string()).map_err(|error| error.to_string())
}
