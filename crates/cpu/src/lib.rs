//! The CPU engine: a graph and its state dict, compiled to a plan on `engraft-kernels`.
//!
//! `docs/engine.md` tells how.
//!
//! ```no_run
//! use engraft_cpu::{CpuEngine, default_threads};
//! use engraft_engine::{EngineError, Network};
//! use engraft_graph::Graph;
//! use engraft_tensor::{StateDict, Tensor};
//!
//! fn logits(graph: &Graph, state: StateDict, images: &Tensor) -> Result<Tensor, EngineError> {
//!     let engine = CpuEngine::new(default_threads());
//!     let mut network = engine.compile(graph, state)?;
//!     println!("{}", network.describe(&images.shape)?);
//!     network.forward(images)
//! }
//! ```

mod attention;
mod call;
mod engine;
mod execute;
mod free_memory;
mod general;
mod group;
mod lower;
mod memory;
mod pack;
mod plan;
mod profile;
mod program;
mod rewrite;
mod training;
mod translate;
mod view;

pub use engine::{CpuEngine, CpuNetwork, default_threads};
pub use free_memory::free_memory;
pub use profile::{Profile, StepProfile};
pub use training::CpuTrainer;
