//! Labelled examples in batches: features that were computed before, or images that are read as they are needed.

use engraft_data::{Batches, Picture, Sample, Transform};
use engraft_tensor::Tensor;

use crate::TrainError;
use crate::features::image_batch;

/// What a network is trained and evaluated on.
pub enum Examples<'a> {
    /// In memory.
    Features {
        /// Of one example.
        shape: Vec<usize>,
        /// All examples, one after another.
        values: Vec<f32>,
        /// One an example.
        labels: Vec<usize>,
    },
    /// On disk, decoded at every pass.
    Images {
        /// Files that are known to decode, and their labels.
        samples: Vec<Sample>,
        /// How an image becomes an input.
        transform: &'a Transform,
    },
}

/// Takes the inputs `[batch, ..]` and the labels of a batch, and says whether there shall be another.
type EachBatch<'a> = dyn FnMut(Tensor, &[usize]) -> Result<bool, TrainError> + 'a;

impl Examples<'_> {
    /// How many examples there are.
    pub fn len(&self) -> usize {
        match self {
            Examples::Features { labels, .. } => labels.len(),
            Examples::Images { samples, .. } => samples.len(),
        }
    }

    /// True when there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out the examples of the given indices in that order, as inputs `[batch, ..]` and labels, until `each` returns
    /// false.
    ///
    /// # Errors
    /// What `each` returns; and for images, one that decodes no longer.
    pub fn for_each_batch(
        &self,
        order: &[usize],
        batch_size: usize,
        each: &mut EachBatch<'_>,
    ) -> Result<(), TrainError> {
        match self {
            Examples::Features { shape, values, labels } => {
                let width: usize = shape.iter().product();
                for indices in order.chunks(batch_size.max(1)) {
                    let rows = indices.iter().flat_map(|i| &values[i * width..(i + 1) * width]);
                    let input =
                        Tensor::f32([&[indices.len()], shape.as_slice()].concat(), rows.copied().collect());
                    let labels: Vec<usize> = indices.iter().map(|i| labels[*i]).collect();
                    if !each(input, &labels)? {
                        break;
                    }
                }
                Ok(())
            }
            Examples::Images { samples, transform } => {
                let paths = order.iter().map(|i| samples[*i].path.clone()).collect();
                let batches = Batches::new(paths, (*transform).clone(), batch_size);
                for batch in batches {
                    if let Some(failed) = batch.failed.into_iter().next() {
                        return Err(failed.error.into());
                    }
                    let label = |picture: &Picture| samples[order[picture.index]].label;
                    let labels: Vec<usize> = batch.pictures.iter().map(label).collect();
                    if !each(image_batch(batch.images, transform), &labels)? {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}
