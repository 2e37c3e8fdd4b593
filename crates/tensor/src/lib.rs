//! Tensors by name, and the file format that keeps them.
//!
//! What weights, engines and training hand to each other: a [`Tensor`] in memory, and what PyTorch calls a state dict
//! ([`StateDict`]). [`StateDict::read_safetensors`] and [`StateDict::write_safetensors`] read and write them;
//! [`write_atomically`] writes any file whole or not at all.
//!
//! ```
//! use std::collections::BTreeMap;
//! use engraft_tensor::{StateDict, Tensor};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("linear.safetensors");
//! let mut dict = StateDict::new();
//! dict.insert("fc.weight", Tensor::f32([2, 3], vec![0.5; 6]));
//! dict.insert("fc.bias", Tensor::f32([2], vec![0.0, 1.0]));
//! dict.write_safetensors(&path, &BTreeMap::from([("format".to_string(), "pt".to_string())]))?;
//! assert_eq!(StateDict::read_safetensors(&path)?, dict);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(target_endian = "big")]
compile_error!("weights files are little-endian, and are read and written as they lie in memory");

mod atomic;
mod element;
mod read_error;
mod safetensors_file;
mod state_dict;
mod tensor;

pub use atomic::{WriteError, check_writable, sync_folder, write_atomically};
pub use element::Element;
pub use read_error::{ReadError, first_bytes};
pub use safetensors_file::{is_safetensors, read_metadata, write_safetensors_rows};
pub use state_dict::StateDict;
pub use tensor::{Tensor, TensorData};
