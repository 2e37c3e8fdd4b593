//! From what was typed to a network with its weights: an architecture and a weights file, or a checkpoint.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use engraft_burn::BurnEngine;
use engraft_data::{Interpolation, Transform, images_below};
use engraft_engine::initial_state;
use engraft_graph::{Graft, Graph, HeadSpec};
use engraft_train::Checkpoint;
use engraft_weights::{Head, Source, StateDict, Tensor, find_or_download, match_state};
use engraft_zoo::{PublishedWeights, WEIGHTS, default_weights, weights_of_file};

use crate::commands::usage;
use crate::output::{byte_bar, note};

/// Parses the name of an architecture, and suggests the nearest for another.
pub(crate) fn architecture_names() -> PossibleValuesParser {
    PossibleValuesParser::new(engraft_zoo::architectures())
}

/// Where the computing is done.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// Compute on a GPU (needs a build with the feature cuda, rocm, metal or vulkan)
    #[arg(long)]
    gpu: bool,
}

impl DeviceArgs {
    pub(crate) fn engine(&self) -> Result<BurnEngine, Box<dyn Error>> {
        Ok(if self.gpu { BurnEngine::gpu()? } else { BurnEngine::cpu() })
    }
}

/// A pretrained network by name.
#[derive(Args, Clone)]
pub(crate) struct PretrainedArgs {
    /// Name of the architecture, as in torchvision (`resnet18`, `vgg13`, ...)
    #[arg(long, value_name = "ARCH", value_parser = architecture_names(), hide_possible_values = true)]
    pub(crate) arch: Option<String>,

    /// A weights file, .pth or .safetensors; `random` for random values. Without it torchvision's newest weights are
    /// taken from PyTorch's cache or downloaded
    #[arg(long, value_name = "FILE|random")]
    pub(crate) weights: Option<String>,
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
            (Some(arch), _) => (self.pretrained.ready(arch)?, self.paths.as_slice()),
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
                images.extend(images_below(path)?);
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

/// Values for a network, and what images they expect.
pub(crate) struct Weights {
    pub(crate) state: StateDict,
    pub(crate) transform: Transform,
    /// How a person would call them.
    pub(crate) name: String,
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

impl Ready {
    /// Transformed images as a batch `[batch, 3, crop, crop]`.
    pub(crate) fn batch(&self, images: Vec<f32>) -> Tensor {
        let crop = self.transform.crop as usize;
        Tensor::f32([images.len() / (3 * crop * crop).max(1), 3, crop, crop], images)
    }

    /// The network without its head: what it gives is what the head sees.
    pub(crate) fn before_head(&self) -> Result<Graph, Box<dyn Error>> {
        let probe = HeadSpec { hidden_units: Vec::new(), classes: 1, dropout: 0.0 };
        let Graft { graph, features, .. } = self.graph.graft(&probe, Some(&self.head))?;
        Ok(graph.until(features))
    }
}

impl PretrainedArgs {
    pub(crate) fn is_random(&self) -> bool {
        self.weights.as_deref() == Some("random")
    }

    /// Values for an architecture whose head is replaced by a graft, or stays.
    pub(crate) fn load(
        &self,
        arch: &str,
        network: &Graph,
        graft: Option<&Graft>,
        seed: u64,
    ) -> Result<Weights, Box<dyn Error>> {
        if self.is_random() {
            let transform = transform_of(oldest_weights(arch));
            let state = initial_state(&network.state(), seed);
            return Ok(Weights { state, transform, name: "random".into() });
        }
        let path = match &self.weights {
            Some(file) => PathBuf::from(file),
            None => published_file(arch)?,
        };
        let head = graft.map_or(Head::Kept, |graft| Head::Replaced(replaced_modules(network, graft)));
        let candidates = engraft_zoo::architectures()
            .filter_map(|name| Some((name, engraft_zoo::architecture(name).ok()?.state())));
        let matched = match_state(StateDict::read(&path)?, &network.state(), &head, &path, candidates)?;
        if let Some(text) = matched.note {
            note(&text);
        }
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let published = weights_of_file(&file_name).filter(|entry| entry.architecture == arch);
        let transform = transform_of(published.or_else(|| oldest_weights(arch)));
        Ok(Weights { state: matched.tensors, transform, name: file_name })
    }

    /// The network as it is, with its ImageNet head.
    pub(crate) fn ready(&self, arch: &str) -> Result<Ready, Box<dyn Error>> {
        let graph = engraft_zoo::architecture(arch)?;
        let weights = self.load(arch, &graph, None, 0)?;
        Ok(Ready {
            head: graph.head()?.path,
            state: weights.state,
            transform: weights.transform,
            classes: engraft_zoo::imagenet_classes().into_iter().map(String::from).collect(),
            graph,
        })
    }
}

/// The network of a checkpoint.
pub(crate) fn from_checkpoint(path: &Path) -> Result<Ready, Box<dyn Error>> {
    let Checkpoint { about, state } = Checkpoint::read(path)?;
    let graph = engraft_zoo::architecture(&about.architecture)?.graft(&about.head, Some(&about.cut))?.graph;
    Ok(Ready { graph, state, transform: about.transform, classes: about.classes, head: about.cut })
}

/// The modules whose tensors a graft does away with.
fn replaced_modules(network: &Graph, graft: &Graft) -> Vec<String> {
    let kept: Vec<String> =
        graft.graph.until(graft.features).state().into_iter().map(|tensor| tensor.name).collect();
    let lost = network.state().into_iter().map(|tensor| tensor.name).filter(|name| !kept.contains(name));
    let modules = lost.filter_map(|name| Some(name.rsplit_once('.')?.0.to_string()));
    let mut modules: Vec<String> = modules.chain([graft.report.path.clone()]).collect();
    modules.dedup();
    modules
}

/// torchvision's newest weights of an architecture: from a cache, or downloaded.
fn published_file(arch: &str) -> Result<PathBuf, Box<dyn Error>> {
    let entry = default_weights(arch)
        .ok_or_else(|| format!("no published weights of {arch} are known; pass a file with --weights"))?;
    let source = Source {
        url: entry.url(),
        file_name: entry.file_name.into(),
        sha256_prefix: entry.sha256_prefix().into(),
    };
    let bar = byte_bar(entry.file_name);
    let path = find_or_download(&source, |done, total| {
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(path)
}

/// The weights whose transform is meant when nothing is said about a file: those of the original training.
fn oldest_weights(arch: &str) -> Option<&'static PublishedWeights> {
    WEIGHTS.iter().find(|entry| entry.architecture == arch)
}

fn transform_of(weights: Option<&PublishedWeights>) -> Transform {
    let imagenet = Transform::imagenet();
    let resize = weights.map_or(imagenet.resize, |weights| weights.resize);
    Transform { resize, interpolation: Interpolation::Bilinear, ..imagenet }
}
