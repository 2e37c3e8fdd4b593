//! Training of a grafted network: features of the frozen part computed once and cached, the loop, checkpoints.
//!
//! - [`train`] runs a whole [`Job`]: it splits the network at the frontier of what is frozen, gets the features of all photos, and finds
//!   what is left, by L-BFGS ([`Solver`]) or by steps ([`fit`]).
//! - A [`RunFolder`] keeps all that is needed to go on, and the ledger ([`LedgerEntry`]) of what became of every photo.
//! - An [`Extraction`] looks photos up in the [`Index`] and their features in the [`FeatureStore`], and computes what is missing.
//!   [`Examples`] hand them out in batches, in an [`Order`]; [`Twins`] are photos that are there more than once.
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

mod cache_size;
mod checkpoint;
mod error;
mod evaluate;
mod examples;
mod features;
mod fit;
mod frozen;
mod index;
mod job;
mod ledger;
mod linear;
mod memory;
mod order;
mod prepare;
mod run;
mod run_folder;
mod segment;
mod store;
mod twins;

pub use cache_size::{
    CacheSettings, default_cache_size, disk_usage, evict, features_folder, free_disk, index_folder,
};
pub use checkpoint::{
    About, Checkpoint, LARGEST_SIDE, Replacement, SplitRecord, TrainingSummary, WeightsRecord,
};
pub use error::TrainError;
pub use evaluate::{ClassCount, Evaluation, Guess, evaluate, softmax};
pub use examples::{ExampleBatch, ExampleBatches, Examples, image_batch};
pub use features::{Extraction, ExtractionEvent, Photos};
pub use fit::{Divergence, Epoch, Fit, FitEnd, FitEvent, FitOptions, Progress, Rest, Schedule, fit};
pub use frozen::{Frozen, frozen_frontier};
pub use index::{Index, Photo};
pub use job::{Event, Job, Outcome, RunEnd, WrongPhoto};
pub use ledger::{LedgerChanges, LedgerEntry, as_in_ledger, ledger_path, samples_of};
pub use linear::{SolutionSummary, Solver};
pub use memory::{LARGEST_BATCH, plan_memory};
pub use order::{Order, Windows};
pub use run::train;
pub use run_folder::RunFolder;
pub use store::{FeatureStore, Row, Rows, StoreKey};
pub use twins::{Split, Twin, Twins};
