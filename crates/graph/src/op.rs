//! The operations a network is made of.
//!
//! Few and primitive, so that every architecture of torchvision and every ONNX file can be written with them:
//! squeeze-and-excitation is [`Mean`](Op::Mean) or a pool, two convolutions and [`Mul`](Op::Mul); a channel shuffle is
//! [`Reshape`](Op::Reshape), [`Permute`](Op::Permute), `Reshape`. Sizes of a `Reshape` may be fractions of its input's
//! ([`Dim::Div`]), so that it holds for any image size. [`Attention`](Op::Attention) is one operation with its projections,
//! because engines compute it as one; windows, shifts and position biases are its attributes.

use serde::{Deserialize, Serialize};

use crate::print::{Bool, Float, Pair};
use crate::{Activation, Attention, BatchNorm2d, Conv2d, Linear, Pool, TensorKind, TensorSpec};

/// One operation on tensors. Image-like tensors are `[batch, channels, height, width]`.
///
/// Attributes carry PyTorch's names and meaning. `inplace` changes nothing but the printed text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// The network's input.
    Input,
    /// 2-d convolution.
    Conv2d(Conv2d),
    /// `y = x W^T + b` over the last axis.
    Linear(Linear),
    /// Normalises each channel; by batch statistics in training, by running statistics in evaluation.
    BatchNorm2d(BatchNorm2d),
    /// Normalises over the last axis.
    LayerNorm {
        /// Size of the last axis.
        features: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// Normalises each pixel of `[batch, channels, height, width]` over its channels.
    LayerNorm2d {
        /// Channels.
        features: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// Multi-head self-attention.
    Attention(Attention),
    /// A learned tensor that is itself an operand, as a class token is. Has no input.
    Parameter {
        /// Its name within its module.
        name: String,
        /// Its sizes.
        shape: Vec<usize>,
    },
    /// `y = scale x + shift`, with constants for each channel.
    ChannelAffine {
        /// Factors, one a channel.
        scale: Vec<f32>,
        /// Summands, one a channel.
        shift: Vec<f32>,
    },
    /// The input. PyTorch has such modules where a variant needs none.
    Identity,
    /// An element-wise nonlinearity.
    Activation {
        /// Which one.
        function: Activation,
        /// As printed.
        inplace: bool,
    },
    /// Exponentials normalised to sum to one along an axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Zeroes elements with probability `p` in training and scales the others by `1 / (1 - p)`; identity in evaluation.
    Dropout {
        /// Probability of a zero, `0 <= p < 1`.
        p: f64,
        /// As printed.
        inplace: bool,
    },
    /// Drops, in training, whole samples of a residual branch with probability `p`, and scales the others by `1 / (1 - p)` (Huang et
    /// al. 2016, arXiv 1603.09382; `torchvision/ops/stochastic_depth.py` in mode `row`); identity in evaluation.
    StochasticDepth {
        /// Probability of a drop, `0 <= p < 1`.
        p: f64,
    },
    /// Maximum over windows; the padding counts as minus infinity.
    MaxPool2d(Pool),
    /// Mean over windows.
    AvgPool2d {
        /// The windows.
        window: Pool,
        /// Whether padding zeros count as elements.
        count_include_pad: bool,
    },
    /// Mean over as many windows as the output has places.
    AdaptiveAvgPool2d {
        /// Output `[height, width]`.
        output: [usize; 2],
        /// Whether PyTorch was given, and prints, one number for both.
        #[serde(default)]
        square: bool,
    },
    /// Another height and width, by interpolation.
    Resize(Resize),
    /// Merges all axes from `start` on into one.
    Flatten {
        /// First merged axis.
        start: usize,
    },
    /// Mean over axes, which are removed.
    Mean {
        /// The axes, ascending.
        axes: Vec<usize>,
    },
    /// Element-wise sum of two tensors; sizes of one, and axes that one of them lacks in front, are broadcast.
    Add,
    /// Element-wise product of two tensors, broadcast likewise.
    Mul,
    /// Matrix product over the last two axes; the axes before them must be equal.
    MatMul,
    /// Joins tensors along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// The part `start..end` of `parts` equal parts of an axis: `torch.chunk`, for any size that divides.
    Chunk {
        /// The axis.
        axis: usize,
        /// Which part, from 0.
        index: usize,
        /// Into how many parts the axis is divided.
        parts: usize,
    },
    /// The slice at one place of an axis, which is removed.
    Select {
        /// The axis.
        axis: usize,
        /// The place.
        index: usize,
    },
    /// The first tensor, whose first axis has size one, repeated to the batch size of the second.
    ExpandBatch,
    /// Zeros appended to axes until their sizes are multiples of a number.
    PadToMultiple {
        /// The axes.
        axes: Vec<usize>,
        /// The number.
        of: usize,
    },
    /// The same elements in another shape.
    Reshape {
        /// The new sizes, each told in terms of the old.
        shape: Vec<Dim>,
    },
    /// Axes in another order.
    Permute {
        /// `axes[i]` is the input axis that becomes output axis `i`.
        axes: Vec<usize>,
    },
    /// Elements shifted along axes, the last ones returning to the front: `torch.roll`.
    Roll {
        /// By how much, one for each of `axes`.
        shifts: Vec<isize>,
        /// The axes.
        axes: Vec<usize>,
    },
}

/// One size of a [`Op::Reshape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// The size of this input axis.
    Keep(usize),
    /// The size of an input axis divided by a number, without remainder.
    Div(usize, usize),
    /// This size.
    Fixed(usize),
    /// Whatever is left over; at most once.
    Infer,
}

/// Attributes of `torch.nn.functional.interpolate`, which is printed as `torch.nn.Upsample`; pairs are of height and width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Height and width of the output.
    pub to: ResizeTo,
    /// Whether PyTorch was given, and prints, one number for both.
    #[serde(default)]
    pub square: bool,
    /// How values are found between the input's.
    pub mode: ResizeMode,
}

/// Height and width of the output of a [`Resize`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ResizeTo {
    /// These.
    Size([usize; 2]),
    /// So many times those of the input, rounded down.
    Scale([f64; 2]),
    /// Those of a second input, of which nothing else matters: a feature pyramid's.
    Like,
}

/// How a [`Resize`] finds values between the input's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResizeMode {
    /// The value before the place.
    Nearest,
    /// The mean of the four values around the place, weighted by how near they are.
    Bilinear {
        /// Whether the centres of the corner pixels keep their places; otherwise their corners do.
        align_corners: bool,
    },
}

/// Where a row or column of a resized image lies in the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Between {
    /// The rows or columns of the input around it.
    pub places: [usize; 2],
    /// The weight of the second, from 0 to 1.
    pub share: f32,
}

impl Resize {
    /// Where the `output` places of an axis, 0 for the height or 1 for the width, lie between the input's `input` ones
    /// (`aten/src/ATen/native/UpSample.h`).
    pub fn places(&self, axis: usize, input: usize, output: usize) -> Vec<Between> {
        let step = match self.to {
            ResizeTo::Scale(scale) => 1.0 / scale[axis],
            ResizeTo::Size(_) | ResizeTo::Like => input as f64 / output as f64,
        };
        let last = input.saturating_sub(1);
        let at = |place: usize| match self.mode {
            // ATen copies, whatever the factor.
            _ if output == input => place as f64,
            // Rounding decides which pixel is the nearest: ATen takes this one exactly, and computes the others in f32.
            ResizeMode::Nearest if output == 2 * input => (place / 2) as f64,
            ResizeMode::Nearest => f64::from((place as f32 * step as f32).floor()),
            ResizeMode::Bilinear { align_corners: true } => {
                place as f64 * last as f64 / output.saturating_sub(1).max(1) as f64
            }
            ResizeMode::Bilinear { align_corners: false } => ((place as f64 + 0.5) * step - 0.5).max(0.0),
        };
        let between = |place: usize| {
            let at = at(place).min(last as f64);
            let first = at as usize;
            Between { places: [first, last.min(first + 1)], share: (at - first as f64) as f32 }
        };
        (0..output).map(between).collect()
    }

    fn arguments(&self) -> String {
        let mode = match self.mode {
            ResizeMode::Nearest => "nearest",
            ResizeMode::Bilinear { .. } => "bilinear",
        };
        let to = match self.to {
            ResizeTo::Size([side, _]) if self.square => format!("size={side}"),
            ResizeTo::Size(size) => format!("size={}", Pair(size)),
            ResizeTo::Scale([scale, _]) if self.square => format!("scale_factor={}", Float(scale)),
            ResizeTo::Scale(scale) => format!("scale_factor={}", Pair(scale.map(Float))),
            ResizeTo::Like => return format!("mode='{mode}'"),
        };
        format!("{to}, mode='{mode}'")
    }
}

impl From<Resize> for Op {
    fn from(resize: Resize) -> Op {
        Op::Resize(resize)
    }
}

impl Op {
    /// A dropout layer.
    pub fn dropout(p: f64) -> Op {
        Op::Dropout { p, inplace: false }
    }

    /// Pooling to one pixel, printed with one number.
    pub fn global_average_pool() -> Op {
        Op::AdaptiveAvgPool2d { output: [1, 1], square: true }
    }

    /// The name of the operation; for modules, PyTorch's class.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "Input",
            Op::Conv2d(_) => "Conv2d",
            Op::Linear(_) => "Linear",
            Op::BatchNorm2d(_) => "BatchNorm2d",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::LayerNorm2d { .. } => "LayerNorm2d",
            Op::Attention(_) => "Attention",
            Op::Parameter { .. } => "Parameter",
            Op::ChannelAffine { .. } => "ChannelAffine",
            Op::Identity => "Identity",
            Op::StochasticDepth { .. } => "StochasticDepth",
            Op::Select { .. } => "Select",
            Op::ExpandBatch => "ExpandBatch",
            Op::PadToMultiple { .. } => "PadToMultiple",
            Op::Activation { function, .. } => function.name(),
            Op::Softmax { .. } => "Softmax",
            Op::Dropout { .. } => "Dropout",
            Op::MaxPool2d(_) => "MaxPool2d",
            Op::AvgPool2d { .. } => "AvgPool2d",
            Op::AdaptiveAvgPool2d { .. } => "AdaptiveAvgPool2d",
            Op::Resize(_) => "Upsample",
            Op::Flatten { .. } => "Flatten",
            Op::Mean { .. } => "Mean",
            Op::Add => "Add",
            Op::Mul => "Mul",
            Op::MatMul => "MatMul",
            Op::Concat { .. } => "Concat",
            Op::Chunk { .. } => "Chunk",
            Op::Reshape { .. } => "Reshape",
            Op::Permute { .. } => "Permute",
            Op::Roll { .. } => "Roll",
        }
    }

    /// What PyTorch prints of a module between parentheses, as in `in_features=512, out_features=1000, bias=True`.
    pub(crate) fn arguments(&self) -> String {
        match self {
            Op::Conv2d(conv) => {
                let mut text = format!("{}, {}", conv.in_channels, conv.out_channels);
                text += &format!(", kernel_size={}, stride={}", Pair(conv.kernel), Pair(conv.stride));
                if conv.padding != [0; 2] {
                    text += &format!(", padding={}", Pair(conv.padding));
                }
                if conv.dilation != [1; 2] {
                    text += &format!(", dilation={}", Pair(conv.dilation));
                }
                if conv.groups != 1 {
                    text += &format!(", groups={}", conv.groups);
                }
                if conv.bias { text } else { text + ", bias=False" }
            }
            Op::Linear(Linear { in_features, out_features, bias }) => {
                format!("in_features={in_features}, out_features={out_features}, bias={}", Bool(*bias))
            }
            Op::BatchNorm2d(BatchNorm2d { features, eps, momentum }) => format!(
                "{features}, eps={}, momentum={}, affine=True, bias=True, track_running_stats=True",
                Float(*eps),
                Float(*momentum)
            ),
            Op::LayerNorm { features, eps } | Op::LayerNorm2d { features, eps } => {
                format!("({features},), eps={}, elementwise_affine=True, bias=True", Float(*eps))
            }
            Op::StochasticDepth { p } => format!("p={}, mode=row", Float(*p)),
            Op::Activation { function, inplace } => function.arguments(*inplace),
            Op::Dropout { p, inplace } => format!("p={}, inplace={}", Float(*p), Bool(*inplace)),
            Op::MaxPool2d(Pool { kernel, stride, padding, ceil_mode }) => format!(
                "kernel_size={kernel}, stride={stride}, padding={padding}, dilation=1, ceil_mode={}",
                Bool(*ceil_mode)
            ),
            Op::AvgPool2d { window: Pool { kernel, stride, padding, .. }, .. } => {
                format!("kernel_size={kernel}, stride={stride}, padding={padding}")
            }
            Op::AdaptiveAvgPool2d { output: [side, _], square: true } => format!("output_size={side}"),
            Op::AdaptiveAvgPool2d { output, .. } => format!("output_size={}", Pair(*output)),
            Op::Resize(resize) => resize.arguments(),
            Op::Flatten { start } => format!("start_dim={start}, end_dim=-1"),
            _ => String::new(),
        }
    }

    /// How many of its inputs, at most, it reads values of; of others only the shape matters.
    pub fn operands(&self) -> usize {
        match self {
            Op::ExpandBatch | Op::Resize(_) => 1,
            _ => usize::MAX,
        }
    }

    /// Whether, in evaluation mode, the output's values are those of the input, or those of a parameter, without anything being
    /// computed. So it is with layers that act in training alone, as dropout does.
    pub fn computes_nothing(&self) -> bool {
        matches!(
            self,
            Op::Input
                | Op::Parameter { .. }
                | Op::Identity
                | Op::Dropout { .. }
                | Op::StochasticDepth { .. }
                | Op::Flatten { .. }
                | Op::Reshape { .. }
                | Op::Permute { .. }
                | Op::Chunk { .. }
                | Op::Select { .. }
                | Op::ExpandBatch
        )
    }

    /// Whether, in evaluation mode, each place of the first axis of the output depends on that of the inputs alone: an example of a batch on
    /// no other. Inputs are taken to have the batch in front, and as many axes as the output where they are broadcast.
    pub fn keeps_examples(&self) -> bool {
        match self {
            Op::Input
            | Op::Conv2d(_)
            | Op::BatchNorm2d(_)
            | Op::LayerNorm2d { .. }
            | Op::Attention(_)
            | Op::Parameter { .. }
            | Op::ChannelAffine { .. }
            | Op::Identity
            | Op::Activation { .. }
            | Op::Dropout { .. }
            | Op::StochasticDepth { .. }
            | Op::MaxPool2d(_)
            | Op::AvgPool2d { .. }
            | Op::AdaptiveAvgPool2d { .. }
            | Op::Resize(_)
            | Op::Add
            | Op::Mul
            | Op::ExpandBatch => true,
            // They act on the last axis, which is the first only where there is no batch: the shapes tell.
            Op::Linear(_) | Op::LayerNorm { .. } => true,
            // Of more than two axes.
            Op::MatMul => true,
            Op::Softmax { axis } | Op::Concat { axis } | Op::Chunk { axis, .. } | Op::Select { axis, .. } => {
                *axis > 0
            }
            Op::Flatten { start } => *start > 0,
            Op::Mean { axes } | Op::PadToMultiple { axes, .. } | Op::Roll { axes, .. } => !axes.contains(&0),
            Op::Reshape { shape } => shape.first() == Some(&Dim::Keep(0)),
            Op::Permute { axes } => axes.first() == Some(&0),
        }
    }

    /// Input and output width of a layer with weights: channels of a convolution, features of a linear layer.
    pub fn widths(&self) -> Option<[usize; 2]> {
        match self {
            Op::Conv2d(conv) => Some([conv.in_channels, conv.out_channels]),
            Op::Linear(linear) => Some([linear.in_features, linear.out_features]),
            _ => None,
        }
    }

    /// The tensors the operation needs, named as PyTorch names them within a module and in its order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors = Vec::new();
        let mut tensor = |name: &str, shape: &[usize], kind| {
            tensors.push(TensorSpec { name: name.into(), shape: shape.into(), kind });
        };
        match self {
            Op::Conv2d(conv) => {
                let [height, width] = conv.kernel;
                let shape = [conv.out_channels, conv.in_channels / conv.groups, height, width];
                tensor("weight", &shape, TensorKind::Parameter);
                if conv.bias {
                    tensor("bias", &[conv.out_channels], TensorKind::Parameter);
                }
            }
            Op::Linear(linear) => {
                tensor("weight", &[linear.out_features, linear.in_features], TensorKind::Parameter);
                if linear.bias {
                    tensor("bias", &[linear.out_features], TensorKind::Parameter);
                }
            }
            Op::BatchNorm2d(norm) => {
                let shape = [norm.features];
                tensor("weight", &shape, TensorKind::Parameter);
                tensor("bias", &shape, TensorKind::Parameter);
                tensor("running_mean", &shape, TensorKind::Buffer);
                tensor("running_var", &shape, TensorKind::Buffer);
                tensor("num_batches_tracked", &[], TensorKind::Counter);
            }
            Op::LayerNorm { features, .. } | Op::LayerNorm2d { features, .. } => {
                tensor("weight", &[*features], TensorKind::Parameter);
                tensor("bias", &[*features], TensorKind::Parameter);
            }
            Op::Parameter { name, shape } => tensor(name, shape, TensorKind::Parameter),
            Op::Attention(attention) => {
                tensors = attention.own_tensors();
                for (path, layer) in attention.layers() {
                    for spec in layer.tensors() {
                        tensors.push(TensorSpec { name: format!("{path}.{}", spec.name), ..spec });
                    }
                }
            }
            _ => {}
        }
        tensors
    }
}
