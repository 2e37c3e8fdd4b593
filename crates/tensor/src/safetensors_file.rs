//! The safetensors format: <https://huggingface.co/docs/safetensors>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};
use serde_json::json;

use crate::atomic::AtomicFile;
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
            let described = tensors
                .iter()
                .map(|(name, tensor)| (*name, tensor.dtype(), tensor.shape.as_slice(), tensor.bytes().len()));
            let header = header_of(described, metadata)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            tensors.iter().try_for_each(|(_, tensor)| file.write_all(tensor.bytes()))
        })
    }
}

/// Writes a `.safetensors` file of one tensor `[n, ..]` of `f32` whose rows come one after another, whole or not at all (see [`write_atomically`]): no more
/// than a row is in memory.
///
/// `fill` appends rows of the shape `row`, and returns the metadata. The header comes first in the file, and so its room is set aside for `most` rows
/// and metadata as long as `longest`.
///
/// # Errors
/// What `fill` returns; when the file cannot be written, or the header needs more than its room.
///
/// # Panics
/// If a row has another number of values than its shape.
pub fn write_safetensors_rows<E: From<WriteError>>(
    path: &Path,
    name: &str,
    row: &[usize],
    (most, longest): (usize, &BTreeMap<String, String>),
    fill: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<(), WriteError>) -> Result<BTreeMap<String, String>, E>,
) -> Result<(), E> {
    let width: usize = row.iter().product();
    let header = |count: usize, metadata: &BTreeMap<String, String>| {
        let shape = [&[count], row].concat();
        header_of([(name, "F32", shape.as_slice(), count * width * size_of::<f32>())], metadata)
    };
    let failed = |error: io::Error| WriteError::new(path, error);
    let room = header(most, longest).map_err(failed)?.len();
    let file = AtomicFile::create(path)?;
    let mut writer = BufWriter::new(file.file());
    writer.write_all(&vec![b' '; LENGTH_BYTES + room]).map_err(failed)?;
    let mut count = 0;
    let metadata = fill(&mut |values| {
        assert_eq!(values.len(), width, "values of a row");
        count += 1;
        writer.write_all(bytemuck::cast_slice(values)).map_err(failed)
    })?;
    let mut finish = || {
        let mut header = header(count, &metadata)?;
        if header.len() > room {
            return Err(io::Error::other("the header is longer than was said"));
        }
        header.resize(room, b' ');
        writer.seek(SeekFrom::Start(0))?;
        writer.write_all(&(room as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        writer.flush()
    };
    finish().map_err(failed)?;
    drop(writer);
    Ok(file.commit()?)
}

/// The JSON that describes tensors (name, type, shape, bytes) which follow it in this order, padded so that they are aligned.
fn header_of<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a str, &'a [usize], usize)>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_string(), json!(metadata));
    }
    let mut start = 0;
    for (name, dtype, shape, bytes) in tensors {
        let end = start + bytes;
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.to_string(), info);
        start = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    Ok(header)
}
