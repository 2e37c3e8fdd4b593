//! What an engine must do: run a graph on a batch, train it, hand out its state.
//!
//! Training, caches and checkpoints are written against [`Engine`], [`Network`] and [`Trainer`] and know nothing of what
//! computes behind them. What is common to all engines is here as well: the randomness of dropout ([`dropout_mask`]), so that a
//! seed means the same everywhere, and the initial values of new layers ([`initial_state`]). With the
//! feature `suite` there is `engraft_engine::suite`, the tests that every engine passes.
//!
//! ```no_run
//! use engraft_engine::{Engine, EngineError, Rate, Rule, Targets, Training, initial_state};
//! use engraft_graph::{Builder, Linear};
//! use engraft_tensor::Tensor;
//!
//! /// One step of Adam on the mean loss of a batch, which it returns.
//! fn step(engine: &dyn Engine, images: &Tensor, labels: &[usize]) -> Result<f32, EngineError> {
//!     let (mut b, x) = Builder::with_input("Probe", &[1280]);
//!     let x = b.layer("fc", Linear::new(1280, 2), x);
//!     let graph = b.finish(x);
//!
//!     let training = Training { group: &|_| Some(0), live_norms: &|_| true, rule: Rule::ADAM };
//!     let mut trainer = engine.trainer(&graph, initial_state(&graph.state(), 0), &training)?;
//!     let batch = trainer.accumulate(images, &Targets::labels(labels), 1.0, 0)?;
//!     trainer.update(&[Rate { learning_rate: 0.001, weight_decay: 0.0 }], None, None)?;
//!     Ok(batch.loss)
//! }
//! ```

mod engine;
mod error;
mod floats;
mod initial;
mod memory;
mod random;
mod relative_position;
mod rule;
mod snapshot;
#[cfg(feature = "suite")]
pub mod suite;
mod targets;

pub use engine::{AUX_WEIGHT, Accumulated, Engine, Network, Trainer, Training};
pub use error::EngineError;
pub use floats::take_floats;
pub use initial::initial_state;
pub use memory::{MemoryPlan, bytes_in_words};
pub use random::{SplitMix64, dropout_mask};
pub use relative_position::relative_position_index;
pub use rule::{Rate, Rule};
pub use snapshot::Snapshot;
pub use targets::{ClassTarget, Targets};
