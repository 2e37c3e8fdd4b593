//! The safetensors format: <https://huggingface.co/docs/safetensors>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::json;

use crate::read::{Element, damaged, decode, first_bytes, is_safetensors, not_weights, read_error};
use crate::{StateDict, Tensor, WeightsError, WriteError, write_atomically};

/// The length of the header, before the header.
const LENGTH_BYTES: usize = 8;

pub(crate) fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let map = map(path)?;
    let (header_length, header) = header(path, &map)?;
    let values = &map[LENGTH_BYTES + header_length..];
    let mut dict = StateDict::new();
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let element = element(info.dtype).ok_or_else(|| WeightsError::UnsupportedType {
            path: path.to_path_buf(),
            tensor: name.clone(),
            dtype: info.dtype.to_string(),
        })?;
        let data = decode(&values[info.data_offsets.0..info.data_offsets.1], element);
        dict.insert(name, Tensor { shape: info.shape.clone(), data });
    }
    Ok(dict.without_order())
}

/// The texts that a `.safetensors` file carries beside its tensors; empty when it carries none.
///
/// # Errors
/// For a file that is missing, cut short, or no safetensors file.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    let beginning = first_bytes(path, 40)?;
    if beginning.is_empty() {
        return Err(WeightsError::Empty { path: path.to_path_buf() });
    }
    if !is_safetensors(&beginning) {
        return Err(not_weights(path, &beginning));
    }
    let map = map(path)?;
    let (_, header) = header(path, &map)?;
    Ok(header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let file = File::open(path).map_err(|error| read_error(path, error))?;
    // SAFETY: the map is only read, and dropped before this module returns. Engraft replaces files by
    // renaming and never changes one in place; nothing protects a map from another program that does.
    unsafe { Mmap::map(&file) }.map_err(|error| read_error(path, error))
}

/// The length of the header in bytes and the header, which is checked against the length of the file.
fn header(path: &Path, file: &[u8]) -> Result<(usize, Metadata), WeightsError> {
    SafeTensors::read_metadata(file).map_err(|error| damaged(path, error))
}

fn element(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::F16 => Some(Element::F16),
        Dtype::BF16 => Some(Element::BF16),
        Dtype::F32 => Some(Element::F32),
        Dtype::F64 => Some(Element::F64),
        Dtype::I64 => Some(Element::I64),
        _ => None,
    }
}

impl StateDict {
    /// Writes a `.safetensors` file with `metadata`, whole or not at all (see [`write_atomically`]).
    ///
    /// The same tensors and metadata give the same bytes: tensors are written wider types first, then by
    /// name, as the crate `safetensors` does, whose own writer shuffles the metadata.
    pub fn write_safetensors(
        &self,
        path: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), WriteError> {
        let mut tensors: Vec<_> = self.iter().collect();
        tensors.sort_by_key(|(name, tensor)| (tensor.dtype() != "I64", *name));
        write_atomically(path, |file| {
            let header = header_of(&tensors, metadata)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            tensors.iter().try_for_each(|(_, tensor)| file.write_all(tensor.bytes()))
        })
    }
}

/// The JSON that describes tensors which follow it in this order, padded so that they are aligned.
fn header_of(tensors: &[(&str, &Tensor)], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_string(), json!(metadata));
    }
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.bytes().len();
        let info = json!({ "dtype": tensor.dtype(), "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(name.to_string(), info);
        start = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    Ok(header)
}
