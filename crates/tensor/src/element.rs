//! The element types that a file may have.

use half::{bf16, f16};

use crate::TensorData;

/// An element type that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Integers.
    I64,
}

impl Element {
    /// Little-endian bytes as values: `f32` for every type but the integers.
    pub fn decode(self, bytes: &[u8]) -> TensorData {
        fn map<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks().0.iter().map(|chunk| convert(*chunk)).collect()
        }
        match self {
            Self::F16 => TensorData::F32(map(bytes, |chunk| f16::from_le_bytes(chunk).to_f32())),
            Self::BF16 => TensorData::F32(map(bytes, |chunk| bf16::from_le_bytes(chunk).to_f32())),
            Self::F32 => TensorData::F32(map(bytes, f32::from_le_bytes)),
            Self::F64 => TensorData::F32(map(bytes, |chunk| f64::from_le_bytes(chunk) as f32)),
            Self::I64 => TensorData::I64(map(bytes, i64::from_le_bytes)),
        }
    }
}
