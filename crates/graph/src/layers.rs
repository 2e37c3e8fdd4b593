//! Attributes of layers with weights, and of windows.

use serde::{Deserialize, Serialize};

use crate::{Attention, Op};

/// Attributes of a 2-d convolution; pairs are `[height, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel size.
    pub kernel: [usize; 2],
    /// Step.
    pub stride: [usize; 2],
    /// Zeros added on every side.
    pub padding: [usize; 2],
    /// Distance between kernel taps.
    pub dilation: [usize; 2],
    /// Number of independent channel groups; divides both channel counts.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv2d {
    /// A square kernel, stride 1, no padding, one group, with bias: `torch.nn.Conv2d`'s defaults.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            bias: true,
        }
    }

    /// With this step in both directions.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride: [stride; 2], ..self }
    }

    /// With this padding on every side.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding: [padding; 2], ..self }
    }

    /// With this many groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Without bias, as before a batch norm.
    pub fn no_bias(self) -> Self {
        Self { bias: false, ..self }
    }
}

/// Attributes of a fully connected layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Size of the input's last axis.
    pub in_features: usize,
    /// Size of the output's last axis.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Linear {
    /// With bias.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: true }
    }
}

/// Attributes of a batch norm over `[batch, channels, height, width]`, affine and with running statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm2d {
    /// Channels.
    pub features: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Share of the newest batch in the running statistics.
    pub momentum: f64,
}

impl BatchNorm2d {
    /// PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn new(features: usize) -> Self {
        Self { features, eps: 1e-5, momentum: 0.1 }
    }
}

/// Square pooling windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Window size.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Padding on every side, at most half the kernel.
    pub padding: usize,
    /// Whether a last window that begins inside the input but ends outside counts.
    pub ceil_mode: bool,
}

impl Pool {
    /// No padding, incomplete windows dropped.
    pub fn new(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: 0, ceil_mode: false }
    }

    /// With this padding on every side.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Keeping incomplete windows.
    pub fn ceil_mode(self) -> Self {
        Self { ceil_mode: true, ..self }
    }
}

macro_rules! into_op {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Op {
            fn from(attributes: $kind) -> Op {
                Op::$kind(attributes)
            }
        }
    )*};
}
into_op!(Conv2d, Linear, BatchNorm2d, Attention);
