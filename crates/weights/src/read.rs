//! Reading a weights file of any format: which one it is, and whether its values can be used.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use half::{bf16, f16};

use crate::{StateDict, TensorData, WeightsError, pytorch, safetensors_file};

/// Enough to tell the formats apart: a tar archive says what it is at byte 257.
const BEGINNING: u64 = 262;

pub(crate) fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let beginning = first_bytes(path, BEGINNING)?;
    if beginning.is_empty() {
        Err(WeightsError::Empty { path: path.to_path_buf() })
    } else if is_safetensors(&beginning) {
        safetensors_file::read(path)
    } else if is_pytorch(&beginning) {
        pytorch::read(path)
    } else {
        Err(not_weights(path, &beginning))
    }
}

/// The first `count` bytes of a file, or all of a shorter one.
pub(crate) fn first_bytes(path: &Path, count: u64) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(count).read_to_end(&mut bytes))
        .map_err(|error| read_error(path, error))?;
    Ok(bytes)
}

pub(crate) fn read_error(path: &Path, source: io::Error) -> WeightsError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => WeightsError::Missing { path },
        _ => WeightsError::Read { path, source },
    }
}

/// An error in the middle of a file. One that contradicts itself has these kinds, the operating system's
/// errors have others.
pub(crate) fn io_error(path: &Path, error: io::Error) -> WeightsError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
            damaged(path, error)
        }
        _ => read_error(path, error),
    }
}

pub(crate) fn damaged(path: &Path, reason: impl ToString) -> WeightsError {
    WeightsError::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
}

pub(crate) fn not_weights(path: &Path, beginning: &[u8]) -> WeightsError {
    let line: String = String::from_utf8_lossy(beginning)
        .trim_start()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(40)
        .collect();
    let is_text =
        !line.is_empty() && !line.contains(|c: char| c == char::REPLACEMENT_CHARACTER || c.is_control());
    let hexadecimal =
        || beginning.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let beginning = if is_text { line } else { hexadecimal() };
    WeightsError::NotWeights { path: path.to_path_buf(), beginning }
}

/// The length of a JSON header in 8 bytes, then the header's brace.
pub(crate) fn is_safetensors(beginning: &[u8]) -> bool {
    /// The largest header that the format permits, in bytes.
    const MAX_HEADER: u64 = 100_000_000;
    beginning.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) <= MAX_HEADER)
        && beginning.get(8) == Some(&b'{')
}

/// The four containers of `torch.save`: zip, tar, and the legacy stream of pickles, all of which open with
/// protocol 2 or later (`0x80`).
fn is_pytorch(beginning: &[u8]) -> bool {
    beginning.starts_with(b"PK\x03\x04")
        || beginning.starts_with(b"\x80")
        || beginning.get(257..262) == Some(b"ustar")
}

/// An element type that can be read.
#[derive(Clone, Copy)]
pub(crate) enum Element {
    F16,
    BF16,
    F32,
    F64,
    I64,
}

/// Little-endian bytes as values.
pub(crate) fn decode(bytes: &[u8], element: Element) -> TensorData {
    fn map<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks().0.iter().map(|chunk| convert(*chunk)).collect()
    }
    match element {
        Element::F16 => TensorData::F32(map(bytes, |chunk| f16::from_le_bytes(chunk).to_f32())),
        Element::BF16 => TensorData::F32(map(bytes, |chunk| bf16::from_le_bytes(chunk).to_f32())),
        Element::F32 => TensorData::F32(map(bytes, f32::from_le_bytes)),
        Element::F64 => TensorData::F32(map(bytes, |chunk| f64::from_le_bytes(chunk) as f32)),
        Element::I64 => TensorData::I64(map(bytes, i64::from_le_bytes)),
    }
}
