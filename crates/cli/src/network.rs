//! From what was typed to a network with its weights: an architecture and a weights file, or a checkpoint.

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedI64ValueParser};
use engraft_burn::BurnEngine;
use engraft_cpu::{CpuEngine, default_threads};
use engraft_data::{Interpolation, Transform, images_below};
use engraft_engine::{Engine, initial_state};
use engraft_graph::{Graft, Graph, TensorKind, TensorSpec};
use engraft_tensor::StateDict;
use engraft_train::Checkpoint;
use engraft_weights::{
    Head, Progress, Source, find_or_download, interpolate_positions, match_state, read_state_dict,
};
use engraft_zoo::{PublishedWeights, WEIGHTS, default_weights, weights_by_tag, weights_of_file};

use crate::commands::usage;
use crate::output::{byte_bar, note};

/// Parses the name of an architecture, and suggests the nearest for another.
pub(crate) fn architecture_names() -> PossibleValuesParser {
    PossibleValuesParser::new(engraft_zoo::architectures())
}

/// A number of threads.
pub(crate) fn thread_count() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1024)
}

/// Where the computing is done.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// Compute on a GPU (needs a build with the feature cuda, rocm, metal or vulkan)
    #[arg(long)]
    gpu: bool,

    /// Threads of the frozen part's pass on the CPU, which do not change the result; by default one a core
    #[arg(long, value_name = "N", value_parser = thread_count())]
    threads: Option<u32>,
}

impl DeviceArgs {
    /// The engine that runs, and trains, on the device.
    pub(crate) fn engine(&self) -> Result<Box<dyn Engine>, Box<dyn Error>> {
        if self.gpu {
            return Ok(Box::new(BurnEngine::gpu()?));
        }
        Ok(Box::new(cpu_engine(self.threads)))
    }
}

/// Ours runs, Burn trains.
pub(crate) fn cpu_engine(threads: Option<u32>) -> CpuEngine {
    let threads = threads.map_or_else(default_threads, |threads| threads as usize);
    CpuEngine::new(threads, BurnEngine::cpu())
}

/// A pretrained network by name.
#[derive(Args, Clone)]
pub(crate) struct PretrainedArgs {
    /// Name of the architecture, as in torchvision (`resnet18`, `vgg13`, ...)
    #[arg(long, value_name = "ARCH", value_parser = architecture_names(), hide_possible_values = true)]
    pub(crate) arch: Option<String>,

    /// Weights: a .pth or .safetensors file; the name of published weights, as in IMAGENET1K_V1; or `random`. Without it
    /// torchvision's newest are taken. Published weights come from PyTorch's cache, or are downloaded
    #[arg(long, value_name = "FILE|NAME|random")]
    pub(crate) weights: Option<String>,

    /// Side of the square image that the network sees, in pixels, where it can take another than its weights expect
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) size: Option<u32>,
}

/// A network that is to run on images: `CHECKPOINT IMAGE...`, or `--arch ARCH IMAGE...`.
#[derive(Args)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    pretrained: PretrainedArgs,

    /// A checkpoint that `engraft train` wrote, unless there is --arch; then image files, or folders of them
    #[arg(required = true, value_name = "CHECKPOINT|IMAGE")]
    paths: Vec<PathBuf>,
}

impl NetworkArgs {
    /// The network and the image files. A folder stands for all images in it and below.
    pub(crate) fn resolve(&self) -> Result<(Ready, Vec<PathBuf>), Box<dyn Error>> {
        let (ready, given) = match (&self.pretrained.arch, self.paths.split_first()) {
            (Some(arch), _) => (self.pretrained.choose(arch)?.ready()?, self.paths.as_slice()),
            (None, Some(_)) if self.pretrained.size.is_some() => {
                return Err(usage("--size needs --arch; a checkpoint has the size that it was trained with"));
            }
            (None, Some((checkpoint, images))) if self.pretrained.weights.is_none() => {
                (from_checkpoint(checkpoint)?, images)
            }
            _ => return Err(usage("--weights needs --arch, the architecture that they belong to")),
        };
        if given.is_empty() {
            return Err(usage("which images? pass files or folders after the checkpoint"));
        }
        let mut images = Vec::new();
        for path in given {
            if path.is_dir() {
                images.extend(images_below(path)?.images);
            } else {
                images.push(path.clone());
            }
        }
        if images.is_empty() {
            let folders: Vec<String> = given.iter().map(|path| path.display().to_string()).collect();
            return Err(format!("there are no images in {}", folders.join(", ")).into());
        }
        Ok((ready, images))
    }
}

/// An architecture and the weights that were asked for, before anything is read.
pub(crate) struct Choice {
    arch: String,
    source: WeightsSource,
    /// The published weights whose transform is meant.
    published: Option<&'static PublishedWeights>,
    /// Side of the image, if not that of the weights.
    size: Option<u32>,
}

enum WeightsSource {
    Random,
    File(PathBuf),
    Published(&'static PublishedWeights),
}

/// A network that is ready to run.
pub(crate) struct Ready {
    pub(crate) graph: Graph,
    pub(crate) state: StateDict,
    pub(crate) transform: Transform,
    /// In the order of the logits.
    pub(crate) classes: Vec<String>,
    /// The module path of its head.
    pub(crate) head: String,
}

impl PretrainedArgs {
    /// Decides which weights of an architecture are meant.
    pub(crate) fn choose(&self, arch: &str) -> Result<Choice, Box<dyn Error>> {
        let of_arch = || WEIGHTS.iter().filter(|entry| entry.architecture == arch);
        // What nothing is said about are taken for the weights of the original training.
        let oldest = of_arch().next();
        let (source, published) = match self.weights.as_deref() {
            Some("random") => (WeightsSource::Random, oldest),
            None | Some("DEFAULT") => {
                let entry = default_weights(arch).ok_or_else(|| {
                    format!("no published weights of {arch} are known; pass a file with --weights")
                })?;
                (WeightsSource::Published(entry), Some(entry))
            }
            Some(text) => match weights_by_tag(arch, text) {
                Some(entry) => (WeightsSource::Published(entry), Some(entry)),
                None => {
                    let path = PathBuf::from(text);
                    if !path.exists() {
                        let tags: Vec<&str> = of_arch().map(|entry| entry.tag).collect();
                        let tags = tags.join(", ");
                        return Err(format!(
                            "--weights {text}: there is no such file, and no such published weights of {arch}, which are: {tags}"
                        )
                        .into());
                    }
                    let name = file_name(&path);
                    let named = weights_of_file(&name).filter(|entry| entry.architecture == arch);
                    (WeightsSource::File(path), named.or(oldest))
                }
            },
        };
        Ok(Choice { arch: arch.into(), source, published, size: self.size })
    }
}

impl Choice {
    pub(crate) fn is_random(&self) -> bool {
        matches!(self.source, WeightsSource::Random)
    }

    /// How a person would call the weights.
    pub(crate) fn weights(&self) -> String {
        match &self.source {
            WeightsSource::Random => "random".into(),
            WeightsSource::File(path) => file_name(path),
            WeightsSource::Published(entry) => entry.file_name.into(),
        }
    }

    /// What the user should know of the licence, if it is not torchvision's.
    pub(crate) fn licence_note(&self) -> Option<String> {
        let weights = match &self.source {
            WeightsSource::Random => None,
            // Whose a file of another name is, nobody knows.
            WeightsSource::File(path) => weights_of_file(&file_name(path)),
            WeightsSource::Published(entry) => Some(*entry),
        };
        let licence = weights?.licence?;
        Some(format!(
            "note: these weights are licensed {licence}: what is made with them may not be used commercially"
        ))
    }

    /// How an image becomes an input.
    pub(crate) fn transform(&self) -> Transform {
        let own = self.published.map_or_else(Transform::imagenet, |entry| Transform {
            resize: entry.resize,
            crop: entry.crop,
            interpolation: match entry.interpolation {
                engraft_zoo::Interpolation::Bilinear => Interpolation::Bilinear,
                engraft_zoo::Interpolation::Bicubic => Interpolation::Bicubic,
            },
            mean: entry.mean,
            std: entry.std,
            exif_orientation: false,
        });
        let Some(crop) = self.size else { return own };
        // The same part of the image is cut out, at another resolution.
        let resize = f64::from(own.resize) * f64::from(crop) / f64::from(own.crop);
        Transform { resize: resize.round() as u32, crop, ..own }
    }

    /// The architecture, for images of the size that the weights expect.
    pub(crate) fn network(&self) -> Result<Graph, Box<dyn Error>> {
        Ok(engraft_zoo::architecture_of_size(&self.arch, self.transform().crop as usize)?)
    }

    /// Values for the network, but for what a graft replaces.
    pub(crate) fn load(
        &self,
        network: &Graph,
        graft: Option<&Graft>,
        seed: u64,
    ) -> Result<StateDict, Box<dyn Error>> {
        let path = match &self.source {
            WeightsSource::Random => return Ok(initial_state(&network.state(), seed)),
            WeightsSource::File(path) => path.clone(),
            WeightsSource::Published(entry) => published_file(entry)?,
        };
        // Auxiliary heads serve training from scratch alone, and not every file has them.
        let used = graft.map_or_else(|| network.without_aux(), |graft| graft.graph.until(graft.features));
        let mut replaced = unused_modules(network, &used);
        replaced.extend(graft.map(|graft| graft.report.path.clone()));
        let head = if replaced.is_empty() { Head::Kept } else { Head::Replaced(replaced) };
        let candidates = engraft_zoo::architectures()
            .filter_map(|name| Some((name, engraft_zoo::architecture(name).ok()?.state())));
        let specs = network.state();
        let mut dict = read_state_dict(&path)?;
        let interpolated = interpolate_positions(&mut dict, &specs);
        let matched = match_state(dict, &specs, &head, &path, candidates)?;
        for text in interpolated.into_iter().chain(matched.note) {
            note(&text);
        }
        // Constants of the architecture, which a file may lack.
        let mut state = matched.tensors;
        let is_absent = |spec: &TensorSpec| spec.kind == TensorKind::Index && state.get(&spec.name).is_none();
        let absent: Vec<TensorSpec> = used.state().into_iter().filter(is_absent).collect();
        for (name, tensor) in initial_state(&absent, seed) {
            state.insert(name, tensor);
        }
        Ok(state)
    }

    /// The network as it is, with its ImageNet head.
    pub(crate) fn ready(&self) -> Result<Ready, Box<dyn Error>> {
        let network = self.network()?;
        let state = self.load(&network, None, 0)?;
        let graph = network.without_aux();
        Ok(Ready {
            head: graph.head()?.path,
            state,
            transform: self.transform(),
            classes: engraft_zoo::imagenet_classes().into_iter().map(String::from).collect(),
            graph,
        })
    }
}

/// The network of a checkpoint.
pub(crate) fn from_checkpoint(path: &Path) -> Result<Ready, Box<dyn Error>> {
    let Checkpoint { about, state } = Checkpoint::read(path)?;
    let network = engraft_zoo::architecture_of_size(&about.architecture, about.transform.crop as usize)?;
    let graph = network.graft(&about.head, Some(&about.cut))?.graph;
    Ok(Ready { graph, state, transform: about.transform, classes: about.classes, head: about.cut })
}

/// The modules of a network whose tensors are not in a part of it.
fn unused_modules(network: &Graph, part: &Graph) -> Vec<String> {
    let used: HashSet<String> = part.state().into_iter().map(|tensor| tensor.name).collect();
    let unused = network.state().into_iter().filter(|tensor| !used.contains(&tensor.name));
    let mut modules: Vec<String> =
        unused.filter_map(|tensor| Some(tensor.name.rsplit_once('.')?.0.to_string())).collect();
    modules.dedup();
    modules
}

/// A published file: from a cache, or downloaded.
fn published_file(entry: &PublishedWeights) -> Result<PathBuf, Box<dyn Error>> {
    let source = Source {
        url: entry.url(),
        file_name: entry.file_name.into(),
        sha256_prefix: entry.sha256_prefix().into(),
    };
    let bar = byte_bar(entry.file_name);
    let path = find_or_download(&source, |progress| match progress {
        Progress::Bytes { so_far, total } => {
            bar.set_length(total.unwrap_or(so_far));
            bar.set_position(so_far);
        }
        Progress::Waiting(reason) => bar.suspend(|| note(&reason)),
    })?;
    bar.finish_and_clear();
    Ok(path)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
