//! A tensor in memory.

/// A tensor in memory, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// The values: as many as the product of the sizes.
    pub data: TensorData,
}

/// The values of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Parameters and running statistics.
    F32(Vec<f32>),
    /// Batch norm's counters, and constants.
    I64(Vec<i64>),
}

impl Tensor {
    /// A tensor of `f32`.
    ///
    /// # Panics
    /// If there are not as many values as the shape says.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values of a tensor of shape {shape:?}");
        Self { shape, data: TensorData::F32(values) }
    }

    /// A single `i64`, of shape `[]`.
    pub fn counter(value: i64) -> Self {
        Self { shape: Vec::new(), data: TensorData::I64(vec![value]) }
    }

    /// The values of an `f32` tensor.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            TensorData::I64(_) => None,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        match &self.data {
            TensorData::F32(values) => values.len(),
            TensorData::I64(values) => values.len(),
        }
    }

    /// True for a tensor with a dimension of size zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as they lie in memory and in a safetensors file, little-endian.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            TensorData::F32(values) => bytemuck::cast_slice(values),
            TensorData::I64(values) => bytemuck::cast_slice(values),
        }
    }

    /// The element type as safetensors names it.
    pub(crate) fn dtype(&self) -> &'static str {
        match &self.data {
            TensorData::F32(_) => "F32",
            TensorData::I64(_) => "I64",
        }
    }
}
