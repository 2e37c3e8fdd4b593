//! Foreign state dicts: the tensors of a network by name, from the file that holds them to the network that needs
//! them.
//!
//! - [`read_state_dict`] reads `.safetensors` and every format of `torch.save`, checks what is in the file and
//!   executes none of it.
//! - [`match_state`] pairs the tensors of a file with those of a network, by name or by order, or says in what
//!   they differ.
//! - [`interpolate_positions`] fits the embeddings of a Vision Transformer to another number of patches.
//! - [`sha256_of`] is what published weights are known by, whatever a file is called.
//! - [`find_or_download`] finds published weights in PyTorch's cache or Engraft's, or downloads
//!   them; [`Downloads`] says from where.
//!
//! The crate knows no engine and no architecture; of a network it sees the
//! [`TensorSpec`](engraft_graph::TensorSpec)s.
//!
//! ```
//! use std::collections::BTreeMap;
//! use engraft_graph::{TensorKind, TensorSpec};
//! use engraft_tensor::{StateDict, Tensor};
//! use engraft_weights::{match_state, read_state_dict};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("linear.safetensors");
//! let mut dict = StateDict::new();
//! dict.insert("fc.weight", Tensor::f32([2, 3], vec![0.5; 6]));
//! dict.insert("fc.bias", Tensor::f32([2], vec![0.0, 1.0]));
//! dict.write_safetensors(&path, &BTreeMap::from([("format".to_string(), "pt".to_string())]))?;
//!
//! let spec = |name: &str, shape: &[usize]| TensorSpec { name: name.into(), shape: shape.into(), kind: TensorKind::Parameter };
//! let network = [spec("fc.weight", &[2, 3]), spec("fc.bias", &[2])];
//! let matched = match_state(read_state_dict(&path)?, &network, &[], &path, [])?;
//! assert_eq!(matched.tensors.get("fc.bias").and_then(Tensor::as_f32), Some([0.0, 1.0].as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod download;
mod error;
mod matching;
mod part_file;
mod positions;
mod pytorch;
mod read;
mod request;
mod sha256;

pub use cache::{WeightsFolders, cache_dir};
pub use download::{Downloads, Progress, Source, find_or_download};
pub use error::WeightsError;
pub use matching::{Matched, Mismatch, OtherShape, looks_like, match_state};
pub use positions::interpolate_positions;
pub use read::read_state_dict;
pub use sha256::sha256_of;
