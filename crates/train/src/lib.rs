//! Training of a grafted network: features of the frozen part computed once and cached, the loop, checkpoints.
//!
//! - [`train`] runs a whole [`Job`]: it splits the network at the frontier of what is frozen, [`extract`]s the features of all
//!   images through the [`FeatureCache`], and [`fit`]s what is left.
//! - [`Checkpoint`] is what comes of it: one safetensors file that says all that is needed to use it.
//!
//! Engines are known by their interface alone ([`engraft_engine`]).
//!
//! ```
//! use engraft_train::softmax;
//!
//! let probabilities = softmax(&[0.0, 0.0]);
//! assert_eq!(probabilities, [0.5, 0.5]);
//! ```

mod cache;
mod checkpoint;
mod error;
mod evaluate;
mod examples;
mod features;
mod fit;
mod run;

pub use cache::{ContentHash, FeatureCache, disk_usage, features_folder};
pub use checkpoint::{About, Checkpoint, TrainingSummary};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate, softmax};
pub use examples::Examples;
pub use features::{Features, extract, image_batch};
pub use fit::{Epoch, Fit, FitOptions, fit};
pub use run::{Event, Job, train};
