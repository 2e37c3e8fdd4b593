//! The frozen part of a network, as what turns photos into features.

use std::cell::RefCell;

use engraft_engine::Network;
use engraft_graph::{Graph, NodeId, TensorKind};
use engraft_tensor::Tensor;

use crate::TrainError;

/// Photos in a batch: few, so that activations need little memory.
const BATCH: usize = 16;

/// Multiply-adds in a batch, so that one takes less than a second on two cores and Ctrl-C is heard.
const BATCH_MULTIPLY_ADDS: u64 = 32_000_000_000;

/// Bytes a second from a disk, multiply-adds a second, and seconds to read, decode and resize a photo: of a small machine. By these features of
/// 2.5 MB are kept in any case (most are below 0.01 MB), those of VGG's first block (12.8 MB, 2 GMAC) are not, and those of
/// its second (6.4 MB, 4.8 GMAC) are.
const DISK: f64 = 0.5e9;
const ENGINE: f64 = 100e9;
const DECODING: f64 = 0.005;

/// The frozen part of a network, ready to run. It always computes batches of one size, filled up with zeros: an engine chooses its kernels by the
/// size of a batch, and so a photo has the same features, to the bit, alone and among others.
pub struct Frozen {
    network: RefCell<Box<dyn Network>>,
    /// Of one photo.
    input: Vec<usize>,
    shape: Vec<usize>,
    batch: usize,
    multiply_adds: u64,
}

impl Frozen {
    /// The frozen part `graph`, which `network` runs.
    ///
    /// # Errors
    /// When the graph cannot take the input that it was designed for.
    pub fn new(graph: &Graph, network: Box<dyn Network>) -> Result<Frozen, TrainError> {
        let input = graph.input().to_vec();
        let costs = graph.costs(&[&[1], input.as_slice()].concat())?;
        let multiply_adds: u64 = costs.iter().map(|cost| cost.multiply_adds).sum();
        // The largest power of two that is not too much.
        let fits = |batch: &usize| *batch as u64 * multiply_adds <= BATCH_MULTIPLY_ADDS;
        let batch = std::iter::successors(Some(BATCH), |batch| Some(batch / 2))
            .take_while(|batch| *batch > 1)
            .find(fits);
        Ok(Frozen {
            network: RefCell::new(network),
            input,
            shape: graph.output_shape()?,
            batch: batch.unwrap_or(1),
            multiply_adds,
        })
    }

    /// The shape of one photo's features.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many photos are computed at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes of one photo's features.
    pub fn row_bytes(&self) -> u64 {
        (size_of::<f32>() * self.shape.iter().product::<usize>()) as u64
    }

    /// Whether features are read from a disk sooner than they are computed. If not, keeping them costs more than it saves.
    pub fn is_worth_keeping(&self) -> bool {
        self.row_bytes() as f64 / DISK <= DECODING + self.multiply_adds as f64 / ENGINE
    }

    /// The features of photos, one after another, from their inputs, one after another: no more than [`batch`](Self::batch).
    ///
    /// # Errors
    /// When the inputs do not fit the network.
    ///
    /// # Panics
    /// If there are more.
    pub fn features(&self, mut images: Vec<f32>) -> Result<Vec<f32>, TrainError> {
        let values = self.input.iter().product::<usize>().max(1);
        let count = images.len() / values;
        assert!(count <= self.batch, "{count} photos in a batch of {}", self.batch);
        images.resize(self.batch * values, 0.0);
        let input = Tensor::f32([&[self.batch], self.input.as_slice()].concat(), images);
        let output = self.network.borrow_mut().forward(&input)?;
        let width: usize = self.shape.iter().product();
        Ok(output.as_f32().and_then(|values| values.get(..count * width)).unwrap_or_default().to_vec())
    }
}

/// The frozen part of a network, if there is one, and the rest; without it images are trained on, and the rest is all.
pub(crate) fn parts(
    graph: &Graph,
    trainable: impl Fn(&str) -> bool,
) -> Result<(Option<Graph>, Graph), TrainError> {
    Ok(match frozen_frontier(graph, trainable) {
        Some(frontier) => {
            let (frozen, rest) = graph.split(frontier)?;
            (Some(frozen), rest)
        }
        None => (None, graph.clone()),
    })
}

/// Where the frozen part of a graph ends, if one is worth the name: `None` when no parameter lies before the frontier, as at the input itself or behind
/// the rescaling with which GoogLeNet and Inception begin. Then images are trained on, and not features.
pub fn frozen_frontier(graph: &Graph, trainable: impl Fn(&str) -> bool) -> Option<NodeId> {
    let frontier = graph.frontier(trainable);
    let state = graph.until(frontier).state();
    state.iter().any(|tensor| tensor.kind == TensorKind::Parameter).then_some(frontier)
}
