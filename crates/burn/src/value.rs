//! Tensors whose rank is known only when a graph is read.

use burn_tensor::{Device, Shape, Tensor, TensorData};

/// A float tensor of rank 1 to 6.
#[derive(Clone)]
pub(crate) enum Value {
    R1(Tensor<1>),
    R2(Tensor<2>),
    R3(Tensor<3>),
    R4(Tensor<4>),
    R5(Tensor<5>),
    R6(Tensor<6>),
}

/// Applies an expression to the tensor of a [`Value`], whatever its rank.
macro_rules! with_tensor {
    ($value:expr, $tensor:ident => $result:expr) => {
        match $value {
            Value::R1($tensor) => $result,
            Value::R2($tensor) => $result,
            Value::R3($tensor) => $result,
            Value::R4($tensor) => $result,
            Value::R5($tensor) => $result,
            Value::R6($tensor) => $result,
        }
    };
}
pub(crate) use with_tensor;

/// Applies an expression to the tensors of two [`Value`]s of one rank.
macro_rules! with_tensors {
    ($values:expr, $a:ident, $b:ident => $result:expr) => {
        match $values {
            (Value::R1($a), Value::R1($b)) => Value::R1($result),
            (Value::R2($a), Value::R2($b)) => Value::R2($result),
            (Value::R3($a), Value::R3($b)) => Value::R3($result),
            (Value::R4($a), Value::R4($b)) => Value::R4($result),
            (Value::R5($a), Value::R5($b)) => Value::R5($result),
            (Value::R6($a), Value::R6($b)) => Value::R6($result),
            (a, b) => {
                unreachable!("shape inference admits equal ranks only: {:?}, {:?}", a.shape(), b.shape())
            }
        }
    };
}
pub(crate) use with_tensors;

macro_rules! from_tensor {
    ($($rank:literal $variant:ident),*) => {
        $(impl From<Tensor<$rank>> for Value {
            fn from(tensor: Tensor<$rank>) -> Self {
                Self::$variant(tensor)
            }
        }

        impl Rank<$rank> for Value {
            fn tensor(self) -> Tensor<$rank> {
                match self {
                    Self::$variant(tensor) => tensor,
                    other => unreachable!("shape inference admits rank {} only: {:?}", $rank, other.shape()),
                }
            }
        })*

        impl Value {
            /// The same elements in another shape.
            pub(crate) fn reshape(self, shape: &[usize]) -> Self {
                let target = Shape::from(shape.to_vec());
                match shape.len() {
                    $($rank => Self::$variant(with_tensor!(self, tensor => tensor.reshape(target))),)*
                    rank => unreachable!("no operation gives rank {rank}"),
                }
            }
        }
    };
}

/// A value as the tensor of a rank that shape inference has made sure of.
pub(crate) trait Rank<const D: usize> {
    fn tensor(self) -> Tensor<D>;
}

from_tensor!(1 R1, 2 R2, 3 R3, 4 R4, 5 R5, 6 R6);

impl Value {
    /// The ranks that there are.
    pub(crate) const RANKS: std::ops::RangeInclusive<usize> = 1..=6;

    pub(crate) fn new(shape: &[usize], values: Vec<f32>, device: &Device) -> Self {
        let flat = Tensor::<1>::from_data(TensorData::new(values, [shape.iter().product::<usize>()]), device);
        Value::R1(flat).reshape(shape)
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        with_tensor!(self, tensor => tensor.dims().to_vec())
    }

    /// The elements in row-major order.
    pub(crate) fn into_vec(self) -> Vec<f32> {
        let data = with_tensor!(self, tensor => tensor.into_data());
        data.try_to_vec().unwrap_or_else(|error| unreachable!("every tensor here is f32: {error:?}"))
    }
}

/// Zeros at the end of an axis, up to a size.
pub(crate) fn pad_to<const D: usize>(x: Tensor<D>, axis: usize, size: usize) -> Tensor<D> {
    let mut shape = x.dims();
    shape[axis] = size - shape[axis];
    if shape[axis] == 0 {
        return x;
    }
    let zeros = Tensor::zeros(shape, &x.device());
    Tensor::cat(vec![x, zeros], axis)
}
