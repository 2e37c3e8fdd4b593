//! A network as operations on values: first one for each node of the graph, and after [rewriting](crate::rewrite) one for each kernel.
//!
//! An operation's variant holds what such an operation can have, and nothing else. Nothing here depends on the batch or the size of the
//! input: what is said of shapes holds for several of both.

use engraft_graph::{Attention, Conv2d, Linear, Pool, Shape};
use engraft_kernels::Activation;

use crate::general::General;

/// What an operation reads or computes; the first values are the outputs of the graph's nodes, by their numbers.
pub(crate) type Value = usize;

/// Operations in an order in which they can run.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) operations: Vec<Operation>,
    pub(crate) output: Value,
    /// Whether no operation mixes the examples of a batch, so that parts of it can run one after the other.
    pub(crate) separable: bool,
    /// By value.
    pub(crate) extents: Vec<Extent>,
    /// The shapes of all values for inputs of several batches and sizes.
    pub(crate) probes: Vec<Vec<Shape>>,
}

/// The shape of a value, told by that of a node's output.
#[derive(Clone)]
pub(crate) struct Extent {
    pub(crate) node: usize,
    /// The last axis is so many times as long.
    pub(crate) times: usize,
    /// After that, axis `i` is axis `axes[i]`.
    pub(crate) axes: Option<Vec<usize>>,
}

impl Extent {
    /// For the shapes of the nodes' outputs.
    pub(crate) fn shape(&self, nodes: &[Shape]) -> Shape {
        let mut shape = nodes[self.node].clone();
        if let Some(last) = shape.last_mut() {
            *last *= self.times;
        }
        match &self.axes {
            Some(axes) => axes.iter().map(|axis| shape[*axis]).collect(),
            None => shape,
        }
    }
}

/// What is computed by one kernel, if by any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operation {
    /// The node that it is called after.
    pub(crate) node: usize,
    pub(crate) kind: Kind,
    pub(crate) output: Value,
}

/// What an operation computes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Rows times weights: linear layers, 1x1 convolutions, the projections of an attention.
    Product(Product),
    /// Any other convolution that is not depthwise.
    Conv(Conv),
    /// A convolution of each channel by itself.
    Depthwise(Depthwise),
    /// Constants for each place of an axis, then an activation.
    Affine { input: Value, constants: Constants, axis: usize, activation: Activation },
    /// An attention between its projections.
    Attend { qkv: Value, attention: Attention },
    /// Layer norm.
    Norm { input: Value, over: Axis, eps: f64 },
    /// What has no weights.
    Plain(Plain),
}

/// What an operation without weights computes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plain {
    /// The network's input.
    Input,
    /// A tensor of the state dict.
    Parameter,
    /// The same values, seen in another way.
    See { input: Value, how: See },
    /// Windows of an image become one value.
    Pool { input: Value, pooling: Pooling },
    /// A function of single values.
    Activation { input: Value, function: Activation },
    /// The sum or product of two values, broadcast.
    Combine { inputs: [Value; 2], by: Combine },
    /// Values one after the other along an axis.
    Concat { inputs: Vec<Value>, axis: usize },
    /// Whatever has no kernel of its own.
    General { inputs: Vec<Value>, what: General },
}

/// How values are seen; sizes are those of the output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum See {
    /// Axis `i` is axis `axes[i]` of the input.
    Permute(Vec<usize>),
    /// Of an axis, the part of this number.
    Part { axis: usize, index: usize },
    /// One place of an axis, which is removed.
    Select { axis: usize, index: usize },
    /// Repeated.
    Repeat,
    /// In the same order in another shape.
    Reshape,
}

/// How two values are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    Add,
    Multiply,
}

/// Along which axis features lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// The channels of images, axis 1.
    Channels,
    /// The last.
    Last,
}

/// What becomes of a window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pooling {
    Max(Pool),
    Average {
        window: Pool,
        count_include_pad: bool,
    },
    /// The mean over as many windows as there are places in the output.
    Adaptive,
    /// The mean over height and width, which are removed.
    Image,
}

/// The node that has constants for each channel: a batch norm, an affine node, a parameter that is a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Constants(pub(crate) usize);

/// What follows a product or a convolution element by element: `activation(constants(x) + residual)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct End {
    /// They go into the weights.
    pub(crate) constants: Vec<Constants>,
    pub(crate) residual: Option<Residual>,
    pub(crate) activation: Activation,
}

/// What is added to the sums of a product or a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Residual {
    pub(crate) value: Value,
    /// What it is added to: of the same shape, in the network's own images.
    pub(crate) to: Value,
}

/// See [`Kind::Product`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    pub(crate) input: Value,
    pub(crate) weights: Weights,
    /// Come before it, and go into the weights.
    pub(crate) folded: Option<Constants>,
    pub(crate) before: Before,
    pub(crate) end: End,
}

/// The weights of a product.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Weights {
    /// Of a 1x1 convolution: the rows are pixels.
    Conv(Conv2d),
    Linear(Linear),
    /// Of an attention, to queries, keys and values side by side.
    Qkv(Attention),
    /// Of an attention's result.
    Projection(Attention),
}

/// What is done to the input of a product when it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Before {
    #[default]
    Nothing,
    /// Constants for each channel, then an activation.
    Affine(Constants, Activation),
    /// Each channel of each image times a value `[batch, channels, 1, 1]`.
    Scale(Value),
    /// The input is an image whose channels lie last, though the weights expect them first.
    Flatten,
}

/// See [`Kind::Conv`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conv {
    pub(crate) input: Value,
    pub(crate) conv: Conv2d,
    /// Come before it, and go into the weights.
    pub(crate) folded: Option<Constants>,
    pub(crate) end: End,
}

/// See [`Kind::Depthwise`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Depthwise {
    pub(crate) input: Value,
    pub(crate) conv: Conv2d,
    /// What computes the convolution's input from the operation's, a few rows at a time.
    pub(crate) expand: Option<Expand>,
    pub(crate) end: End,
    /// A value that is computed along: the mean of each channel of each image of the output, `[batch, channels, 1, 1]`.
    pub(crate) means: Option<Value>,
}

/// The 1x1 convolution before a depthwise one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expand {
    pub(crate) node: usize,
    pub(crate) conv: Conv2d,
    pub(crate) folded: Option<Constants>,
    pub(crate) constants: Vec<Constants>,
    pub(crate) activation: Activation,
}

impl End {
    fn added(&self) -> Option<Value> {
        self.residual.map(|residual| residual.value)
    }
}

impl Operation {
    /// The values that it reads.
    pub(crate) fn inputs(&self) -> Vec<Value> {
        match &self.kind {
            Kind::Product(Product { input, before, end, .. }) => {
                let gate = match before {
                    Before::Scale(gate) => Some(*gate),
                    Before::Nothing | Before::Affine(..) | Before::Flatten => None,
                };
                [*input].into_iter().chain(gate).chain(end.added()).collect()
            }
            Kind::Conv(Conv { input, end, .. }) | Kind::Depthwise(Depthwise { input, end, .. }) => {
                [*input].into_iter().chain(end.added()).collect()
            }
            Kind::Affine { input, .. } | Kind::Norm { input, .. } => vec![*input],
            Kind::Attend { qkv, .. } => vec![*qkv],
            Kind::Plain(plain) => plain.inputs(),
        }
    }

    /// The values that it computes.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = Value> {
        let means = match &self.kind {
            Kind::Depthwise(Depthwise { means, .. }) => *means,
            _ => None,
        };
        [self.output].into_iter().chain(means)
    }

    /// What follows it, if it is a product or a convolution that more can follow: nothing can, where means of it are taken.
    pub(crate) fn end_mut(&mut self) -> Option<&mut End> {
        match &mut self.kind {
            Kind::Product(Product { weights: Weights::Qkv(_), .. })
            | Kind::Depthwise(Depthwise { means: Some(_), .. }) => None,
            Kind::Product(Product { end, .. })
            | Kind::Conv(Conv { end, .. })
            | Kind::Depthwise(Depthwise { end, .. }) => Some(end),
            Kind::Affine { .. } | Kind::Attend { .. } | Kind::Norm { .. } | Kind::Plain(_) => None,
        }
    }

    /// The axis of its channels among those of its output, which are so many, if there is an [`end_mut`](Self::end_mut).
    pub(crate) fn channels(&self, axes: usize) -> Option<usize> {
        match &self.kind {
            Kind::Product(Product { weights: Weights::Qkv(_), .. })
            | Kind::Depthwise(Depthwise { means: Some(_), .. }) => None,
            Kind::Product(Product { weights: Weights::Conv(_), .. }) | Kind::Conv(_) | Kind::Depthwise(_) => {
                Some(1)
            }
            Kind::Product(_) => Some(axes - 1),
            Kind::Affine { .. } | Kind::Attend { .. } | Kind::Norm { .. } | Kind::Plain(_) => None,
        }
    }
}

impl Plain {
    fn inputs(&self) -> Vec<Value> {
        match self {
            Plain::Input | Plain::Parameter => Vec::new(),
            Plain::See { input, .. } | Plain::Pool { input, .. } | Plain::Activation { input, .. } => {
                vec![*input]
            }
            Plain::Combine { inputs, .. } => inputs.to_vec(),
            Plain::Concat { inputs, .. } | Plain::General { inputs, .. } => inputs.clone(),
        }
    }
}

impl Program {
    /// Whether something holds of the shapes of values, whatever the batch and the size of the input.
    pub(crate) fn always<const N: usize>(
        &self,
        values: [Value; N],
        holds: impl Fn([&[usize]; N]) -> bool,
    ) -> bool {
        self.probes.iter().all(|shapes| holds(values.map(|value| &shapes[value][..])))
    }

    /// How many axes a value has.
    pub(crate) fn axes(&self, value: Value) -> usize {
        self.probes[0][value].len()
    }

    /// A new value that is another with its axes permuted.
    pub(crate) fn permuted(&mut self, value: Value, axes: &[usize]) -> Value {
        let mut extent = self.extents[value].clone();
        extent.axes = Some(match &extent.axes {
            Some(before) => axes.iter().map(|axis| before[*axis]).collect(),
            None => axes.to_vec(),
        });
        self.extents.push(extent);
        for shapes in &mut self.probes {
            let shape = axes.iter().map(|axis| shapes[value][*axis]).collect();
            shapes.push(shape);
        }
        self.extents.len() - 1
    }

    /// The place among the operations of the one whose output a value is.
    pub(crate) fn computed_at(&self, value: Value) -> Option<usize> {
        self.operations.iter().position(|operation| operation.output == value)
    }

    /// The place of the only operation that reads a value, if it does so once and the value is not the network's output.
    pub(crate) fn only_reader(&self, value: Value) -> Option<usize> {
        let reads =
            |operation: &Operation| operation.inputs().iter().filter(|input| **input == value).count();
        let mut readers = self.operations.iter().enumerate().filter(|(_, operation)| reads(operation) > 0);
        let (place, reader) = readers.next()?;
        (readers.next().is_none() && reads(reader) == 1 && value != self.output).then_some(place)
    }

    /// As [`computed_at`](Self::computed_at), if the value has an [`only_reader`](Self::only_reader).
    pub(crate) fn computed_for_one(&self, value: Value) -> Option<usize> {
        self.computed_at(value).filter(|_| self.only_reader(value).is_some())
    }

    /// Makes one operation of two, of which the second reads the first: the second's place and output with another kind.
    pub(crate) fn merge(&mut self, first: usize, second: usize, node: usize, kind: Kind) {
        self.operations[second].kind = kind;
        self.operations[second].node = node;
        self.operations.remove(first);
    }

    /// Removes operations whose values nobody reads.
    pub(crate) fn drop_unread(&mut self) {
        let mut read = vec![false; self.extents.len()];
        read[self.output] = true;
        let mut kept = Vec::with_capacity(self.operations.len());
        for operation in self.operations.drain(..).rev() {
            if operation.outputs().any(|output| read[output]) {
                operation.inputs().into_iter().for_each(|input| read[input] = true);
                kept.push(operation);
            }
        }
        kept.reverse();
        self.operations = kept;
    }
}
