//! A network that is ready to say what is in photos.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use engraft_data::{Batches, ImageError, Notes, Transform};
use engraft_engine::Network;
use engraft_graph::{Graph, TensorSpec};
use engraft_tensor::StateDict;
use engraft_train::{Checkpoint, image_batch, softmax};

use crate::{Device, Error, Loading, Pretrained};

/// Images in a batch.
const BATCH: usize = 16;

/// A network with its weights, its classes, and what makes an image its input: a checkpoint, or a pretrained network as it is.
pub struct Model {
    graph: Graph,
    state: StateDict,
    transform: Transform,
    classes: Vec<String>,
    head: String,
}

impl Model {
    /// The network of a checkpoint.
    ///
    /// # Errors
    /// When the file cannot be read, or is no checkpoint.
    pub fn open(checkpoint: impl AsRef<Path>) -> Result<Self, Error> {
        Self::from_checkpoint(Checkpoint::read(checkpoint.as_ref())?)
    }

    /// As [`open`](Self::open), of a checkpoint in memory.
    ///
    /// # Errors
    /// When its architecture is not known, or cannot be what it says.
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self, Error> {
        let Checkpoint { about, state } = checkpoint;
        let network = engraft_zoo::architecture_of_size(&about.architecture, about.transform.crop as usize)?;
        let graph = network.graft(&about.head, Some(&about.cut))?.graph;
        Ok(Self { graph, state, transform: about.transform, classes: about.classes, head: about.cut })
    }

    /// A pretrained network as it is, with its ImageNet head.
    ///
    /// # Errors
    /// As [`Pretrained::load`].
    pub fn from_pretrained(
        pretrained: &Pretrained,
        observe: &mut dyn FnMut(Loading<'_>),
    ) -> Result<Self, Error> {
        let network = pretrained.network()?;
        let state = pretrained.load(&network, None, 0, observe)?;
        let graph = network.without_aux();
        Ok(Self {
            head: graph.head()?.path,
            state,
            transform: pretrained.transform(),
            classes: engraft_zoo::imagenet_classes().into_iter().map(String::from).collect(),
            graph,
        })
    }

    /// Class names in the order of the logits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How an image becomes an input.
    pub fn transform(&self) -> &Transform {
        &self.transform
    }

    /// The network as a graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Puts the network on a device, to say what is in photos.
    ///
    /// # Errors
    /// When the device is not there.
    pub fn predictor(self, device: Device) -> Result<Predictor, Error> {
        let network = device.engine()?.network(&self.graph, self.state)?;
        Ok(Predictor { network, transform: self.transform, classes: self.classes })
    }

    /// Puts a part of the network on a device: what the head sees, or with `at` the output of the module at this path (`output` for
    /// the logits).
    ///
    /// # Errors
    /// When there is no such module, or the device is not there.
    pub fn extractor(self, at: Option<&str>, device: Device) -> Result<Extractor, Error> {
        let graph = match at {
            Some(path) => self.graph.until(self.graph.module_output(path)?),
            None => self.graph.before_head(Some(&self.head))?,
        };
        let mut state = self.state;
        let needed = |spec: TensorSpec| state.remove(&spec.name).map(|tensor| (spec.name, tensor));
        let state: StateDict = graph.state().into_iter().filter_map(needed).collect();
        let network = device.engine()?.network(&graph, state)?;
        Ok(Extractor { network, shape: graph.output_shape()?, transform: self.transform })
    }
}

/// Says what is in photos.
pub struct Predictor {
    network: Box<dyn Network>,
    transform: Transform,
    classes: Vec<String>,
}

/// What a network says of a photo.
#[derive(Debug)]
pub struct Prediction {
    /// The photo.
    pub path: PathBuf,
    /// Each class (an index into [`Predictor::classes`]) with its probability from 0 to 1, the most probable first; or why the file
    /// cannot be used.
    pub guesses: Result<Vec<(usize, f32)>, ImageError>,
    /// What the pixels do not show of the file.
    pub notes: Notes,
}

/// What a part of a network makes of a photo.
#[derive(Debug)]
pub struct Output {
    /// The photo.
    pub path: PathBuf,
    /// The values of one example, in row-major order; or why the file cannot be used.
    pub values: Result<Vec<f32>, ImageError>,
    /// What the pixels do not show of the file.
    pub notes: Notes,
}

impl Predictor {
    /// Class names in the order of the logits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Says what is in photos, in their order. Files are decoded ahead, on all cores.
    pub fn predict(
        &mut self,
        photos: Vec<PathBuf>,
    ) -> impl Iterator<Item = Result<Prediction, Error>> + use<'_> {
        Outputs::new(self.network.as_mut(), &self.transform, photos).map(|output| {
            let Output { path, values, notes } = output?;
            let guesses = values.map(|logits| {
                let mut guesses: Vec<(usize, f32)> = softmax(&logits).into_iter().enumerate().collect();
                guesses.sort_by(|a, b| b.1.total_cmp(&a.1));
                guesses
            });
            Ok(Prediction { path, guesses, notes })
        })
    }
}

/// Gives what a part of a network makes of photos.
pub struct Extractor {
    network: Box<dyn Network>,
    shape: Vec<usize>,
    transform: Transform,
}

impl Extractor {
    /// The shape of one photo's features.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The features of photos, in their order; for a file that cannot be used, the reason.
    pub fn features(
        &mut self,
        photos: Vec<PathBuf>,
    ) -> impl Iterator<Item = Result<Output, Error>> + use<'_> {
        Outputs::new(self.network.as_mut(), &self.transform, photos)
    }
}

/// What a network gives for each of some photos.
struct Outputs<'a> {
    network: &'a mut dyn Network,
    transform: &'a Transform,
    photos: Vec<PathBuf>,
    batches: Batches,
    /// Of the last batch, in the order of the photos.
    ready: VecDeque<Output>,
}

impl<'a> Outputs<'a> {
    fn new(network: &'a mut dyn Network, transform: &'a Transform, photos: Vec<PathBuf>) -> Self {
        let batches = Batches::new(photos.clone(), transform.clone(), BATCH);
        Self { network, transform, photos, batches, ready: VecDeque::new() }
    }

    /// Computes the next batch; false if there is none.
    fn advance(&mut self) -> Result<bool, Error> {
        let Some(batch) = self.batches.next() else { return Ok(false) };
        let mut outputs: Vec<(usize, Result<Vec<f32>, ImageError>, Notes)> = batch
            .failed
            .into_iter()
            .map(|failed| (failed.index, Err(failed.error), Notes::default()))
            .collect();
        if !batch.pictures.is_empty() {
            let output = self.network.forward(&image_batch(batch.images, self.transform))?;
            let values = output.as_f32().unwrap_or_default();
            let rows = values.chunks_exact((values.len() / batch.pictures.len()).max(1));
            let pictures = batch.pictures.iter().zip(rows);
            outputs.extend(pictures.map(|(picture, row)| (picture.index, Ok(row.to_vec()), picture.notes)));
        }
        outputs.sort_by_key(|(index, ..)| *index);
        let photos = &mut self.photos;
        self.ready.extend(outputs.into_iter().map(|(index, values, notes)| Output {
            path: std::mem::take(&mut photos[index]),
            values,
            notes,
        }));
        Ok(true)
    }
}

impl Iterator for Outputs<'_> {
    type Item = Result<Output, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
