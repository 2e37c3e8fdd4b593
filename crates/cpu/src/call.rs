//! A kernel's call with all that it needs but memory, so that running it cannot fail.
//!
//! A call is for one image, or for any number of successive ones: operands say how far it is from one image to the next. Where the
//! examples of a batch cannot be computed apart, the whole batch is one such unit.

use std::sync::Arc;

use engraft_kernels::{Activation, MapsShape, PoolGeometry};

use crate::attention::WindowTable;
use crate::general::General;
use crate::pack::{
    AffineLayer, AttendLayer, ConvLayer, DepthwiseKernel, DepthwiseLayer, Finish, NormLayer, ProductLayer,
    WinogradLayer,
};
use crate::program::Combine;
use crate::view::{Place, View};

/// Where an operand begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) place: Place,
    pub(crate) offset: usize,
    /// Values from one image to the next.
    pub(crate) image: usize,
}

/// Rows of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) at: At,
    /// Of an image.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// From row to row, through all images.
    pub(crate) stride: usize,
}

/// Images whose channels lie last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) at: At,
    /// The batch is that of one unit.
    pub(crate) shape: MapsShape,
    /// From pixel to pixel, through all images.
    pub(crate) stride: usize,
}

/// Values with any strides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strided {
    pub(crate) at: At,
    /// Of an image, which is a batch of one.
    pub(crate) view: View,
    /// Whether its first axis is the batch: not in a parameter, which all images share.
    pub(crate) has_batch: bool,
}

/// What a step calls.
pub(crate) enum Call {
    /// The network's input, to where the first operation reads it.
    Input {
        to: Strided,
    },
    /// The same values in another place.
    Copy {
        from: Strided,
        to: Strided,
    },
    Product {
        layer: Arc<ProductLayer>,
        x: Rows,
        scale: Option<Scale>,
        finish: Finish<Rows>,
        to: Rows,
    },
    Winograd {
        layer: Arc<WinogradLayer>,
        x: Maps,
        finish: Finish<Rows>,
        to: Maps,
    },
    Conv {
        layer: Arc<ConvLayer>,
        x: Maps,
        finish: Finish<Rows>,
        to: Maps,
    },
    Depthwise {
        layer: Arc<DepthwiseLayer>,
        x: Maps,
        finish: Finish<Rows>,
        to: Maps,
        means: Option<Rows>,
    },
    Affine {
        layer: Arc<AffineLayer>,
        x: Rows,
        to: Rows,
    },
    Norm {
        layer: Arc<NormLayer>,
        x: Rows,
        to: Rows,
    },
    Softmax {
        x: Rows,
        to: Rows,
    },
    Attend {
        layer: Arc<AttendLayer>,
        tokens: Tokens,
        x: Rows,
        to: Rows,
    },
    Pool {
        windows: Windows,
        x: Maps,
        to: Maps,
    },
    Activation {
        function: Activation,
        x: Rows,
        to: Rows,
    },
    Combine {
        by: Combine,
        x: Rows,
        other: Rows,
        to: Rows,
    },
    General {
        what: General,
        inputs: Vec<Strided>,
        to: Strided,
    },
}

/// A value for each channel of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) values: Rows,
    /// Rows that it scales.
    pub(crate) rows: usize,
}

/// Which tokens see each other.
#[derive(Clone)]
pub(crate) enum Tokens {
    /// Those of a group, which are so many and lie one after the other.
    Groups(usize),
    Windows(Arc<WindowTable>),
}

/// Which pixels a pool reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    Max(PoolGeometry),
    Average {
        window: PoolGeometry,
        count_include_pad: bool,
    },
    /// As many as there are places in the output.
    Adaptive,
}

/// The memory of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) at: At,
    /// Values of an image.
    pub(crate) values: usize,
}

impl Rows {
    pub(crate) fn extent(&self) -> Extent {
        Extent { at: self.at, values: self.rows * self.columns }
    }
}

impl Maps {
    pub(crate) fn extent(&self) -> Extent {
        Extent { at: self.at, values: self.shape.pixels() * self.shape.channels }
    }
}

impl Strided {
    /// The view of so many images.
    pub(crate) fn of_images(&self, images: usize) -> View {
        let mut view = self.view.clone();
        if let Some(batch) = view.shape.first_mut().filter(|_| self.has_batch) {
            *batch *= images;
        }
        view
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent { at: self.at, values: self.view.len() }
    }
}

impl Call {
    /// What it reads.
    pub(crate) fn reads(&self) -> Vec<Extent> {
        let with = |x: Extent, finish: &Finish<Rows>| {
            [x].into_iter().chain(finish.residual.map(|r| r.extent())).collect()
        };
        match self {
            Call::Input { .. } => Vec::new(),
            Call::Copy { from, .. } => vec![from.extent()],
            Call::Product { x, scale, finish, .. } => {
                let scale = scale.map(|scale| scale.values.extent());
                [x.extent()].into_iter().chain(scale).chain(finish.residual.map(|r| r.extent())).collect()
            }
            Call::Winograd { x, finish, .. }
            | Call::Conv { x, finish, .. }
            | Call::Depthwise { x, finish, .. } => with(x.extent(), finish),
            Call::Affine { x, .. }
            | Call::Norm { x, .. }
            | Call::Softmax { x, .. }
            | Call::Attend { x, .. }
            | Call::Activation { x, .. } => vec![x.extent()],
            Call::Pool { x, .. } => vec![x.extent()],
            Call::Combine { x, other, .. } => vec![x.extent(), other.extent()],
            Call::General { inputs, .. } => inputs.iter().map(Strided::extent).collect(),
        }
    }

    /// Where its result goes.
    pub(crate) fn to(&self) -> Extent {
        match self {
            Call::Input { to } | Call::Copy { to, .. } | Call::General { to, .. } => to.extent(),
            Call::Winograd { to, .. }
            | Call::Conv { to, .. }
            | Call::Depthwise { to, .. }
            | Call::Pool { to, .. } => to.extent(),
            Call::Product { to, .. }
            | Call::Affine { to, .. }
            | Call::Norm { to, .. }
            | Call::Softmax { to, .. }
            | Call::Attend { to, .. }
            | Call::Activation { to, .. }
            | Call::Combine { to, .. } => to.extent(),
        }
    }

    /// Where the means go that it computes along.
    pub(crate) fn means(&self) -> Option<Extent> {
        match self {
            Call::Depthwise { means, .. } => means.map(|means| means.extent()),
            _ => None,
        }
    }

    /// All that it reads and writes.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        let mut extents = self.reads();
        extents.push(self.to());
        extents.extend(self.means());
        extents
    }

    /// Bytes of the values of an image that it reads and writes, without means, and without weights, which all images share.
    pub(crate) fn value_bytes(&self) -> usize {
        let values: usize = self.reads().iter().map(|extent| extent.values).sum();
        size_of::<f32>() * (values + self.to().values)
    }

    /// Multiplications followed by additions for an image, as the operation's definition has them; Winograd's kernels do with fewer.
    pub(crate) fn multiply_adds(&self) -> usize {
        let conv = |to: &Maps, in_channels: usize, kernel: [usize; 2], groups: usize| {
            to.shape.pixels() * to.shape.channels * in_channels / groups * kernel[0] * kernel[1]
        };
        match self {
            Call::Product { x, to, .. } => x.rows * x.columns * to.columns,
            Call::Winograd { x, to, .. } => conv(to, x.shape.channels, [3, 3], 1),
            Call::Conv { layer, x, to, .. } => {
                conv(to, x.shape.channels, layer.geometry.kernel, layer.geometry.groups)
            }
            Call::Depthwise { layer, x, to, .. } => {
                let expand = match &layer.weights {
                    DepthwiseKernel::Alone(_) => 0,
                    DepthwiseKernel::Expand(..) => x.shape.pixels() * x.shape.channels * to.shape.channels,
                };
                expand + conv(to, 1, layer.geometry.kernel, 1)
            }
            Call::Attend { tokens, x, to, .. } => {
                let tokens_seen = match tokens {
                    Tokens::Groups(tokens) => x.rows * tokens,
                    Tokens::Windows(table) => table.windows * table.tokens * table.tokens,
                };
                2 * tokens_seen * to.columns
            }
            Call::General { what, inputs, to } => what.multiply_adds(inputs, to),
            Call::Input { .. }
            | Call::Copy { .. }
            | Call::Affine { .. }
            | Call::Norm { .. }
            | Call::Softmax { .. }
            | Call::Pool { .. }
            | Call::Activation { .. }
            | Call::Combine { .. } => 0,
        }
    }

    /// What it is called in a profile.
    pub(crate) fn name(&self) -> String {
        let conv = |name: &str, [height, width]: [usize; 2], stride: usize| {
            let stride = if stride == 1 { String::new() } else { format!(" /{stride}") };
            format!("{name} {height}x{width}{stride}")
        };
        let end = |text: String, finish: &Finish<Rows>| {
            let residual = if finish.residual.is_some() { " + residual" } else { "" };
            format!("{text}{residual}{}", after(finish.activation))
        };
        match self {
            Call::Input { .. } => "input".into(),
            Call::Copy { .. } => "copy".into(),
            Call::Product { layer, scale, finish, .. } => {
                let before = match (&layer.before, scale) {
                    (Some(_), _) => "affine, ",
                    (None, Some(_)) => "scale, ",
                    (None, None) => "",
                };
                end(format!("{before}product"), finish)
            }
            Call::Winograd { finish, .. } => end(conv("winograd", [3, 3], 1), finish),
            Call::Conv { layer, finish, .. } => {
                let name = if layer.geometry.groups > 1 { "grouped" } else { "direct" };
                let name = conv(name, layer.geometry.kernel, layer.geometry.stride[0]);
                end(name, finish)
            }
            Call::Depthwise { layer, finish, means, .. } => {
                let expand = match &layer.weights {
                    DepthwiseKernel::Alone(_) => String::new(),
                    DepthwiseKernel::Expand(_, _, activation) => format!("product{}, ", after(*activation)),
                };
                let name = conv("depthwise", layer.geometry.kernel, layer.geometry.stride[0]);
                let means = if means.is_some() { ", means" } else { "" };
                end(format!("{expand}{name}"), finish) + means
            }
            Call::Affine { layer, .. } => format!("affine{}", after(layer.activation)),
            Call::Norm { .. } => "layer norm".into(),
            Call::Softmax { .. } => "softmax".into(),
            Call::Attend { .. } => "attention".into(),
            Call::Pool { windows: Windows::Max(_), .. } => "max pool".into(),
            Call::Pool { windows: Windows::Average { .. } | Windows::Adaptive, .. } => "mean pool".into(),
            Call::Activation { function, .. } => format!("{function:?}"),
            Call::Combine { by: Combine::Add, .. } => "sum".into(),
            Call::Combine { by: Combine::Multiply, .. } => "product of values".into(),
            Call::General { what, .. } => what.name().into(),
        }
    }
}

fn after(activation: Activation) -> String {
    match activation {
        Activation::Identity => String::new(),
        other => format!(" + {other:?}"),
    }
}

impl Tokens {
    /// How many pairs of tokens see each other, for so many rows.
    pub(crate) fn pairs(&self, rows: usize) -> usize {
        match self {
            Tokens::Groups(tokens) => rows * tokens,
            Tokens::Windows(table) => {
                rows / table.pixels.max(1) * table.windows * table.tokens * table.tokens
            }
        }
    }
}
