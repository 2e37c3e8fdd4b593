//! The Burn engine: any graph on any Burn device.
//!
//! An interpreter walks the graph and calls Burn's tensor operations, which run on the device that was chosen: the CPU by the
//! `flex` backend, or, in builds with one of the features `cuda`, `rocm`, `metal` or `vulkan`, a GPU. Burn's autodiff
//! gives the gradients.
//!
//! ```
//! use engraft_burn::BurnEngine;
//! use engraft_engine::{Engine, initial_state};
//! use engraft_graph::{Activation, Builder};
//! use engraft_tensor::Tensor;
//!
//! let (mut b, x) = Builder::with_input("Net", &[3]);
//! let x = b.layer("relu", Activation::ReLU, x);
//! let graph = b.finish(x);
//!
//! let mut network = BurnEngine::cpu().network(&graph, initial_state(&graph.state(), 0))?;
//! let output = network.forward(&Tensor::f32([1, 3], vec![-1.0, 0.0, 2.0]))?;
//! assert_eq!(output, Tensor::f32([1, 3], vec![0.0, 0.0, 2.0]));
//! # Ok::<(), engraft_engine::EngineError>(())
//! ```

mod attention;
mod engine;
mod forward;
mod network;
mod optimiser;
mod trainer;
mod value;

pub use engine::BurnEngine;
