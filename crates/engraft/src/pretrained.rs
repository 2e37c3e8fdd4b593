//! A pretrained network by name: which weights are meant, where they come from, and what belongs to them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use engraft_data::{Interpolation, Transform};
use engraft_engine::initial_state;
use engraft_graph::{Graft, Graph, TensorKind, TensorSpec};
use engraft_tensor::StateDict;
use engraft_weights::{
    Progress, Source, WeightsError, find_or_download, interpolate_positions, match_state, read_state_dict,
    sha256_of,
};
use engraft_zoo::{
    IMAGENET, Normalisation, PublishedWeights, TRANSFORM_INPUT, WEIGHTS, default_weights,
    has_transform_input, weights_by_tag, weights_of_file, weights_of_sha256,
};

use crate::Error;

/// An architecture and the weights that are meant, before anything is read.
///
/// The weights decide how an image becomes an input ([`transform`](Self::transform)).
#[derive(Clone, Debug)]
pub struct Pretrained {
    architecture: String,
    source: WeightsSource,
    /// The published weights whose transform is meant.
    published: Option<&'static PublishedWeights>,
    /// Side of the image, if not that of the weights.
    size: Option<u32>,
    /// Whether weights of the user's own were trained with torchvision's `transform_input`.
    transform_input: bool,
}

#[derive(Clone, Debug)]
enum WeightsSource {
    Random,
    /// A file, and whether its content is that of published weights.
    File {
        path: PathBuf,
        is_published: bool,
    },
    Published(&'static PublishedWeights),
}

/// What loading weights tells while it runs.
pub enum Loading<'a> {
    /// So many bytes of a download are here.
    Download {
        /// The file's name.
        file: &'a str,
        /// Bytes so far.
        so_far: u64,
        /// Bytes in all, where the server says it.
        total: Option<u64>,
    },
    /// Why nothing happens: another process downloads the same file, or the server is asked again.
    Waiting(&'a str),
    /// Something that the user should know of the weights.
    Note(&'a str),
}

impl Pretrained {
    /// The network of this architecture (torchvision's name, as in `resnet18`), with torchvision's newest weights for it; or, by
    /// `weights`, those of a `.pth` or `.safetensors` file, published ones by torchvision's name (`IMAGENET1K_V1`), or
    /// `random` ones.
    ///
    /// # Errors
    /// When there are no such weights.
    pub fn new(architecture: &str, weights: Option<&str>) -> Result<Self, Error> {
        let of_architecture = || WEIGHTS.iter().filter(|entry| entry.architecture == architecture);
        // What nothing is said about are taken for the weights of the original training.
        let oldest = of_architecture().next();
        let (source, published) = match weights {
            Some("random") => (WeightsSource::Random, oldest),
            None | Some("DEFAULT") => {
                let entry = default_weights(architecture)
                    .ok_or_else(|| Error::NoPublishedWeights { architecture: architecture.into() })?;
                (WeightsSource::Published(entry), Some(entry))
            }
            Some(text) => match weights_by_tag(architecture, text) {
                Some(entry) => (WeightsSource::Published(entry), Some(entry)),
                None => {
                    let path = PathBuf::from(text);
                    if !path.exists() {
                        let known: Vec<&str> = of_architecture().map(|entry| entry.tag).collect();
                        return Err(Error::UnknownWeights {
                            weights: text.into(),
                            architecture: architecture.into(),
                            known: known.join(", "),
                        });
                    }
                    let published = published_content(architecture, &path)?;
                    return Ok(Self {
                        architecture: architecture.into(),
                        source: WeightsSource::File { path, is_published: published.is_some() },
                        published: published.or(oldest),
                        size: None,
                        transform_input: false,
                    });
                }
            },
        };
        Ok(Self { architecture: architecture.into(), source, published, size: None, transform_input: false })
    }

    /// For square images of this side in pixels, where the network can take another than its weights expect.
    pub fn with_size(self, size: Option<u32>) -> Self {
        Self { size, ..self }
    }

    /// For weights of the user's own that were trained with torchvision's option `transform_input` (googlenet and inception_v3); that of
    /// published weights is known.
    pub fn with_transform_input(self, transform_input: bool) -> Self {
        Self { transform_input, ..self }
    }

    /// What a user should know of how these weights are taken, in sentences.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let WeightsSource::File { path, is_published: false } = &self.source else { return notes };
        let name = file_name(path);
        if weights_of_file(&name).is_some() {
            notes.push(format!(
                "{name} has the name of published weights and another content: it is taken for weights of your own"
            ));
        }
        if has_transform_input(&self.architecture) && !self.transform_input {
            notes.push(format!(
                "{name} holds no published weights: images are normalised by ImageNet's mean, which is wrong if it was trained with \
                 torchvision's transform_input"
            ));
        }
        notes
    }

    /// torchvision's name of the architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether the weights are random.
    pub fn is_random(&self) -> bool {
        matches!(self.source, WeightsSource::Random)
    }

    /// How a person would call the weights: the file's name, or `random`.
    pub fn weights_name(&self) -> String {
        match &self.source {
            WeightsSource::Random => "random".into(),
            WeightsSource::File { path, .. } => file_name(path),
            WeightsSource::Published(entry) => entry.file_name.into(),
        }
    }

    /// What [`new`](Self::new) takes for these weights, whatever the current folder.
    pub(crate) fn weights_argument(&self) -> String {
        match &self.source {
            WeightsSource::Random => "random".into(),
            WeightsSource::File { path, .. } => {
                std::path::absolute(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned()
            }
            WeightsSource::Published(entry) => entry.tag.into(),
        }
    }

    /// SPDX identifier of the licence of the weights, if it is known and not torchvision's own.
    pub fn licence(&self) -> Option<&'static str> {
        match &self.source {
            WeightsSource::Random => None,
            // Whose a file of other content is, nobody knows.
            WeightsSource::File { is_published: false, .. } => None,
            WeightsSource::File { .. } | WeightsSource::Published(_) => self.published?.licence,
        }
    }

    /// How an image becomes an input.
    pub fn transform(&self) -> Transform {
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
        let is_published = match self.source {
            WeightsSource::Random => false,
            WeightsSource::File { is_published, .. } => is_published,
            WeightsSource::Published(_) => true,
        };
        let own = match has_transform_input(&self.architecture) && !is_published {
            true => {
                let Normalisation { mean, std } =
                    if self.transform_input { TRANSFORM_INPUT } else { IMAGENET };
                Transform { mean, std, ..own }
            }
            false => own,
        };
        let Some(crop) = self.size else { return own };
        // The same part of the image is cut out, at another resolution.
        let resize = f64::from(own.resize) * f64::from(crop) / f64::from(own.crop);
        Transform { resize: resize.round() as u32, crop, ..own }
    }

    /// The architecture, for images of the size that the weights expect.
    ///
    /// # Errors
    /// For an unknown architecture, or one that cannot take images of the size.
    pub fn network(&self) -> Result<Graph, Error> {
        Ok(engraft_zoo::architecture_of_size(&self.architecture, self.transform().crop as usize)?)
    }

    /// Values of all tensors of `network`, but for those of the head that `graft` replaces. Random ones follow from `seed`.
    ///
    /// # Errors
    /// When the weights cannot be found, read, or are those of another network.
    pub fn load(
        &self,
        network: &Graph,
        graft: Option<&Graft>,
        seed: u64,
        observe: &mut dyn FnMut(Loading<'_>),
    ) -> Result<StateDict, Error> {
        let path = match &self.source {
            WeightsSource::Random => return Ok(initial_state(&network.state(), seed)),
            WeightsSource::File { path, .. } => path.clone(),
            WeightsSource::Published(entry) => published_file(entry, observe)?,
        };
        // Auxiliary heads serve training from scratch alone, and not every file has them.
        let used = graft.map_or_else(|| network.without_aux(), |graft| graft.graph.until(graft.features));
        let mut replaced = unused_modules(network, &used);
        replaced.extend(graft.map(|graft| graft.report.path.clone()));
        let candidates = engraft_zoo::architectures()
            .filter_map(|name| Some((name, engraft_zoo::architecture(name).ok()?.state())));
        let specs = network.state();
        let mut dict = read_state_dict(&path)?;
        let interpolated = interpolate_positions(&mut dict, &specs);
        let matched = match_state(dict, &specs, &replaced, &path, candidates)?;
        for text in interpolated.into_iter().chain(matched.note) {
            observe(Loading::Note(&text));
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

/// The published weights of an architecture that a file holds, by its content.
fn published_content(
    architecture: &str,
    path: &Path,
) -> Result<Option<&'static PublishedWeights>, WeightsError> {
    let Ok(metadata) = path.metadata() else { return Ok(None) };
    let bytes = metadata.len() as f64;
    // A file of another size need not be read. Sizes are known to a thousandth of a MiB.
    let fits = |entry: &&PublishedWeights| {
        entry.architecture == architecture && (entry.file_mib * f64::from(1 << 20) - bytes).abs() < 2048.0
    };
    if !metadata.is_file() || !WEIGHTS.iter().any(|entry| fits(&entry)) {
        return Ok(None);
    }
    let sha256 = sha256_of(path)?;
    Ok(weights_of_sha256(&sha256).filter(|entry| entry.architecture == architecture))
}

/// A published file: from a cache, or downloaded.
fn published_file(entry: &PublishedWeights, observe: &mut dyn FnMut(Loading<'_>)) -> Result<PathBuf, Error> {
    let source = Source {
        url: entry.url(),
        file_name: entry.file_name.into(),
        sha256_prefix: entry.sha256_prefix().into(),
    };
    let path = find_or_download(&source, |progress| match progress {
        Progress::Bytes { so_far, total } => {
            observe(Loading::Download { file: entry.file_name, so_far, total });
        }
        Progress::Waiting(reason) => observe(Loading::Waiting(&reason)),
    })?;
    Ok(path)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
