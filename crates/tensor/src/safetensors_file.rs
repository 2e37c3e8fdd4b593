//! The safetensors format: <https://huggingface.co/docs/safetensors>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};
use serde_json::json;

use crate::{Element, ReadError, StateDict, Tensor, TensorData, WriteError, first_bytes, write_atomically};

/// The length of the header, before the header.
const LENGTH_BYTES: usize = 8;

fn read(path: &Path) -> Result<StateDict, ReadError> {
    let (header, mut file) = open(path)?;
    let mut dict = StateDict::new();
    // The values lie one after the other in the order of their offsets.
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let element = element(info.dtype).ok_or_else(|| ReadError::UnsupportedType {
            path: path.to_path_buf(),
            tensor: name.clone(),
            dtype: info.dtype.to_string(),
        })?;
        let length = info.data_offsets.1 - info.data_offsets.0;
        let data =
            read_values(&mut file, length, element).map_err(|error| ReadError::in_file(path, error))?;
        dict.insert(name, Tensor { shape: info.shape.clone(), data });
    }
    Ok(dict.without_order())
}

/// The next `length` bytes as values. Those of most files are read to where they stay, and need no memory twice.
fn read_values(file: &mut File, length: usize, element: Element) -> io::Result<TensorData> {
    match element {
        Element::F32 => {
            let mut values = vec![0.0_f32; length / 4];
            file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
            Ok(TensorData::F32(values))
        }
        _ => {
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(element.decode(&bytes))
        }
    }
}

/// Whether a file that begins with these bytes (nine are enough) is a safetensors file: the length of a JSON header in 8 bytes, then the header's brace.
pub fn is_safetensors(beginning: &[u8]) -> bool {
    /// The largest header that the format permits, in bytes.
    const MAX_HEADER: u64 = 100_000_000;
    beginning.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) <= MAX_HEADER)
        && beginning.get(8) == Some(&b'{')
}

/// The texts that a `.safetensors` file carries beside its tensors; empty when it carries none.
///
/// # Errors
/// For a file that is missing, cut short, or no safetensors file.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>, ReadError> {
    check_beginning(path)?;
    let (header, _) = open(path)?;
    Ok(header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn check_beginning(path: &Path) -> Result<(), ReadError> {
    let beginning = first_bytes(path, 40)?;
    if beginning.is_empty() {
        return Err(ReadError::Empty { path: path.to_path_buf() });
    }
    if !is_safetensors(&beginning) {
        return Err(ReadError::not_weights(path, &beginning));
    }
    Ok(())
}

/// The header, which is checked against the length of the file, and the file at the beginning of the values.
fn open(path: &Path) -> Result<(Metadata, File), ReadError> {
    let mut file = File::open(path).map_err(|error| ReadError::from_system(path, error))?;
    let header = read_header(&mut file).map_err(|error| ReadError::in_file(path, error))?;
    Ok((header, file))
}

fn read_header(file: &mut File) -> io::Result<Metadata> {
    let mut length = [0; LENGTH_BYTES];
    file.read_exact(&mut length)?;
    let mut json = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut json)?;
    let header: Metadata = serde_json::from_slice(&json)?;
    let values = file.metadata()?.len().saturating_sub((LENGTH_BYTES + json.len()) as u64);
    if header.data_len() as u64 != values {
        let message =
            format!("there are {values} bytes of values, the header describes {}", header.data_len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(header)
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
    /// Reads a `.safetensors` file; `f16`, `bf16` and `f64` become `f32`.
    ///
    /// Values may be NaN or infinite: see [`check_finite`](Self::check_finite).
    ///
    /// # Errors
    /// For a file that is missing, empty, cut short, no safetensors file, or holds another type of tensor.
    pub fn read_safetensors(path: &Path) -> Result<Self, ReadError> {
        check_beginning(path)?;
        read(path)
    }

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
