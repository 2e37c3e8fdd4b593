//! What a network is: a graph of operations whose nodes carry their PyTorch module paths.
//!
//! In PyTorch a network's `forward` is code, and its head can be replaced only by who knows what it is called. Here a
//! network is data, and a head is a place in it: [`Graph::head`] finds it by walking back from the output, and
//! [`Graph::graft`] puts another in its place. A [`Policy`] says what trains ([`Graft::trained`]), and what is frozen cuts the graph in two
//! ([`Graph::frontier`], [`Graph::split`]);
//! shapes are a walk over it ([`Graph::shapes`]), and so are what it costs ([`Graph::module_costs`]), and its text, which is
//! PyTorch's to the character.
//!
//! This crate knows neither values of tensors nor files nor pictures.
//!
//! ```
//! use engraft_graph::{Activation, Builder, Conv2d, HeadSpec, Linear, Op};
//!
//! let (mut b, x) = Builder::new("TinyNet", 3, 32);
//! let x = b.sequential("features", |b| {
//!     let x = b.layer("0", Conv2d::new(3, 8, 3).stride(2), x);
//!     b.layer("1", Activation::ReLU, x)
//! });
//! let x = b.function(Op::Flatten { start: 1 }, &[x]);
//! let x = b.layer("classifier", Linear::new(8 * 15 * 15, 1000), x);
//! let network = b.finish(x);
//!
//! let head = HeadSpec { hidden_units: vec![64], classes: 2, dropout: 0.2 };
//! let graft = network.graft(&head, None)?;
//! assert_eq!(
//!     graft.report.to_string(),
//!     "classifier: Linear 1800->1000 replaced by 1800->64->2, dropout 0.2"
//! );
//! assert_eq!(graft.graph.shapes(&[16, 3, 32, 32])?.last(), Some(&vec![16, 2]));
//! # Ok::<(), engraft_graph::GraphError>(())
//! ```

mod activation;
mod attention;
mod builder;
mod count;
mod error;
mod freeze;
mod graft;
mod graph;
mod head;
mod layers;
mod op;
mod policy;
mod print;
mod shape;
mod state;
mod trained;

pub use activation::Activation;
pub use attention::{Attention, PositionBias, ProjectionNames, Scores, Windows};
pub use builder::Builder;
pub use count::{Cost, ModuleCost};
pub use error::GraphError;
pub use graft::{Graft, GraftReport, HeadSpec};
pub use graph::{Graph, Module, Node, NodeId, is_within};
pub use head::Head;
pub use layers::{BatchNorm2d, Conv2d, Linear, Pool};
pub use op::*;
pub use policy::{Part, Policy};
pub use shape::Shape;
pub use state::{TensorKind, TensorSpec};
pub use trained::Trained;
