//! Pictures of networks.
//!
//! A [`Drawing`] is a network seen from afar: blocks of operations, and what flows between them. It is written as
//! [SVG](Drawing::to_svg), or for [Graphviz](Drawing::to_dot).
//!
//! ```
//! use engraft_graph::{Builder, Conv2d, Linear, Op};
//! use engraft_report::{Drawing, Part};
//!
//! let (mut b, x) = Builder::new("TinyNet", 3, 32);
//! let x = b.layer("features", Conv2d::new(3, 8, 3).stride(2), x);
//! let x = b.function(Op::Flatten { start: 1 }, &[x]);
//! let x = b.layer("classifier", Linear::new(8 * 15 * 15, 1000), x);
//! let network = b.finish(x);
//!
//! let part = |path: &str| if path == "classifier" { Part::Head } else { Part::Frozen };
//! let drawing = Drawing::of(&network, &[1, 3, 32, 32], None, part)?;
//! assert_eq!(drawing.blocks.last().unwrap().title(), "classifier");
//! assert!(drawing.to_svg().starts_with("<svg"));
//! # Ok::<(), engraft_graph::GraphError>(())
//! ```

mod blocks;
mod caption;
mod dot;
mod layout;
mod svg;

pub use blocks::{Block, Drawing, Edge, Part};
