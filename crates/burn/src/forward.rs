//! The interpreter: a graph, node by node, on Burn's tensors.

use burn_tensor::module::{
    adaptive_avg_pool2d, avg_pool2d, batch_norm, batch_norm_train, conv2d, layer_norm, linear, max_pool2d,
};
use burn_tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn_tensor::{Device, Int, Tensor, TensorData, activation};
use engraft_engine::dropout_mask;
use engraft_graph::{Activation, BatchNorm2d, Conv2d, Graph, GraphError, Node, Op, Pool, Resize, Shape};
use engraft_tensor::{Tensor as HostTensor, TensorData as HostData};

use crate::attention::attention;
use crate::value::{Rank, Value, pad_to, with_tensor, with_tensors};

/// Where the interpreter gets parameters from, and what it tells in training.
pub(crate) trait Context {
    /// A parameter or buffer by its full name, as one flat tensor.
    fn tensor(&mut self, name: &str) -> Tensor<1>;

    /// What decides dropout in training; `None` in evaluation.
    fn draw(&self) -> Option<u64> {
        None
    }

    /// Whether the batch norm at this path normalises by the statistics of the batch.
    fn uses_batch_statistics(&self, _module: &str) -> bool {
        false
    }

    /// Is told the mean and the biased variance of a batch, `[channels]`, over `count` values a channel.
    fn batch_statistics(
        &mut self,
        _module: &str,
        _norm: &BatchNorm2d,
        _mean: Tensor<1>,
        _var: Tensor<1>,
        _count: usize,
    ) {
    }
}

/// The outputs of a network: its own first, then those of its auxiliary heads.
pub(crate) fn forward(
    graph: &Graph,
    input: &HostTensor,
    device: &Device,
    context: &mut impl Context,
) -> Result<Vec<Value>, GraphError> {
    let shapes = graph.shapes(&input.shape)?;
    check_ranks(graph, &shapes)?;
    let outputs = [&[graph.output()], graph.aux()].concat();
    let mut readers = vec![0; graph.nodes().len()];
    for id in graph.nodes().iter().flat_map(|node| &node.inputs).chain(&outputs) {
        readers[id.0] += 1;
    }
    let mut values: Vec<Option<Value>> = vec![None; graph.nodes().len()];
    let mut network_input = Some(to_device(input, device));
    for (index, node) in graph.nodes().iter().enumerate() {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            readers[id.0] -= 1;
            // The last reader owns the value, so that Burn may write in place.
            inputs.push(if readers[id.0] == 0 { values[id.0].take() } else { values[id.0].clone() });
        }
        let inputs = inputs.into_iter().flatten().collect();
        values[index] = match node.op {
            Op::Input => network_input.take(),
            _ => Some(Step { node, index, shape: &shapes[index], context }.run(inputs)),
        };
    }
    Ok(outputs.iter().filter_map(|id| values[id.0].clone()).collect())
}

/// Fails for a network that needs tensors which a [`Value`] cannot be.
fn check_ranks(graph: &Graph, shapes: &[Shape]) -> Result<(), GraphError> {
    let mut nodes = graph.nodes().iter().zip(shapes);
    match nodes.find(|(_, shape)| !Value::RANKS.contains(&shape.len())) {
        None => Ok(()),
        Some((node, shape)) => Err(GraphError::Shape {
            node: node.describe(),
            needs: "that gives from 1 to 6 axes".into(),
            found: format!("one that gives {shape:?}"),
            reason: "Burn's tensors here have no other ranks".into(),
        }),
    }
}

fn to_device(input: &HostTensor, device: &Device) -> Value {
    let values = match &input.data {
        HostData::F32(values) => values.clone(),
        HostData::I64(values) => values.iter().map(|value| *value as f32).collect(),
    };
    Value::new(&input.shape, values, device)
}

struct Step<'a, C> {
    node: &'a Node,
    index: usize,
    shape: &'a Shape,
    context: &'a mut C,
}

impl<C: Context> Step<'_, C> {
    fn run(mut self, inputs: Vec<Value>) -> Value {
        match &self.node.op {
            Op::Concat { axis } => return concat(inputs, *axis),
            Op::Parameter { name, .. } => return Value::R1(self.parameter(name)).reshape(self.shape),
            _ => {}
        }
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().unwrap_or_else(|| unreachable!("shape inference counts the inputs"));
        let x = next();
        match &self.node.op {
            Op::Input | Op::Concat { .. } | Op::Parameter { .. } | Op::Identity => x,
            Op::Conv2d(conv) => self.conv2d(conv, x.tensor()).into(),
            Op::Linear(layer) => {
                // PyTorch keeps the weight as [out, in].
                let weight =
                    self.parameter("weight").reshape([layer.out_features, layer.in_features]).transpose();
                let bias = layer.bias.then(|| self.parameter("bias"));
                apply(x, Linear { weight, bias })
            }
            Op::BatchNorm2d(norm) => self.batch_norm(norm, x.tensor()).into(),
            Op::LayerNorm { eps, .. } => {
                let (gamma, beta) = (self.parameter("weight"), self.parameter("bias"));
                apply(x, LayerNorm { gamma, beta, eps: *eps })
            }
            Op::LayerNorm2d { eps, .. } => {
                let (gamma, beta) = (self.parameter("weight"), self.parameter("bias"));
                let channels_last: Tensor<4> = Rank::<4>::tensor(x).permute([0, 2, 3, 1]);
                layer_norm(channels_last, gamma, Some(beta), *eps).permute([0, 3, 1, 2]).into()
            }
            Op::Attention(op) => attention(op, x, &mut |name| self.parameter(name)),
            Op::ChannelAffine { scale, shift } => self.channel_affine(scale, shift, x),
            Op::Activation { function, .. } => apply(x, *function),
            Op::Softmax { axis } => apply(x, Softmax(*axis)),
            Op::Dropout { p, .. } => self.dropout(*p, x, self.shape.clone()),
            Op::StochasticDepth { p } => {
                let one_a_sample =
                    self.shape.iter().enumerate().map(|(axis, size)| if axis == 0 { *size } else { 1 });
                self.dropout(*p, x, one_a_sample.collect())
            }
            Op::MaxPool2d(window) => max_pool2d(x.tensor(), max_pool_options(window)).into(),
            Op::AvgPool2d { window, count_include_pad } => {
                avg_pool2d(x.tensor(), avg_pool_options(window, *count_include_pad)).into()
            }
            Op::AdaptiveAvgPool2d { output, .. } => adaptive_avg_pool2d(x.tensor(), *output).into(),
            Op::Resize(resize) => self.resize(resize, x.tensor()).into(),
            Op::Flatten { .. } | Op::Reshape { .. } => x.reshape(self.shape),
            Op::Mean { axes } => {
                let mean = axes.iter().fold(x, |x, axis| apply(x, MeanKept(*axis)));
                mean.reshape(self.shape)
            }
            Op::Add => with_tensors!(of_one_rank(x, next()), a, b => a + b),
            Op::Mul => with_tensors!(of_one_rank(x, next()), a, b => a * b),
            Op::MatMul => with_tensors!((x, next()), a, b => a.matmul(b)),
            Op::Chunk { axis, index, .. } => {
                let size = self.shape[*axis];
                apply(x, Narrow { axis: *axis, start: index * size, size })
            }
            Op::Select { axis, index } => {
                let slice = apply(x, Narrow { axis: *axis, start: *index, size: 1 });
                slice.reshape(self.shape)
            }
            Op::ExpandBatch => apply(x, Repeat(self.shape[0])),
            Op::PadToMultiple { axes, .. } => {
                axes.iter().fold(x, |x, axis| apply(x, PadTo { axis: *axis, size: self.shape[*axis] }))
            }
            Op::Permute { axes } => apply(x, Permute(axes)),
            Op::Roll { shifts, axes } => apply(x, Roll { shifts, axes }),
        }
    }

    fn parameter(&mut self, name: &str) -> Tensor<1> {
        let name = match self.node.module.as_str() {
            "" => name.to_string(),
            module => format!("{module}.{name}"),
        };
        self.context.tensor(&name)
    }

    fn conv2d(&mut self, conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        let [height, width] = conv.kernel;
        let shape = [conv.out_channels, conv.in_channels / conv.groups, height, width];
        let weight = self.parameter("weight").reshape(shape);
        let bias = conv.bias.then(|| self.parameter("bias"));
        conv2d(x, weight, bias, ConvOptions::new(conv.stride, conv.padding, conv.dilation, conv.groups))
    }

    fn batch_norm(&mut self, norm: &BatchNorm2d, x: Tensor<4>) -> Tensor<4> {
        let (gamma, beta) = (self.parameter("weight"), self.parameter("bias"));
        if self.context.uses_batch_statistics(&self.node.module) {
            let [batch, _, height, width] = x.dims();
            let normed = batch_norm_train(x, gamma, beta, norm.eps);
            let count = batch * height * width;
            self.context.batch_statistics(&self.node.module, norm, normed.mean, normed.variance, count);
            return normed.output;
        }
        let (mean, variance) = (self.parameter("running_mean"), self.parameter("running_var"));
        batch_norm(x, gamma, beta, mean, variance, norm.eps)
    }

    /// One axis after the other.
    fn resize(&self, resize: &Resize, x: Tensor<4>) -> Tensor<4> {
        let device = x.device();
        (0..2).fold(x, |x, axis| {
            let (dim, size) = (2 + axis, self.shape[2 + axis]);
            let places = resize.places(axis, x.dims()[dim], size);
            let pick = |which: usize| {
                let index: Vec<i64> = places.iter().map(|between| between.places[which] as i64).collect();
                let index = TensorData::new(index, [size]);
                x.clone().select(dim, Tensor::<1, Int>::from_data(index, &device))
            };
            let shares: Vec<f32> = places.iter().map(|between| between.share).collect();
            let first = pick(0);
            if shares.iter().all(|share| *share == 0.0) {
                return first;
            }
            let mut shape = [1; 4];
            shape[dim] = size;
            let share: Tensor<4> = Value::new(&shape, shares, &device).tensor();
            first.clone() + (pick(1) - first) * share
        })
    }

    /// Multiplies by a mask, which is broadcast to the shape of the values.
    fn dropout(&self, p: f64, x: Value, mask: Shape) -> Value {
        let Some(draw) = self.context.draw().filter(|_| p > 0.0) else { return x };
        let values = dropout_mask(draw, self.index, 0..mask.iter().product(), p);
        let device = with_tensor!(&x, tensor => tensor.device());
        with_tensors!((x, Value::new(&mask, values, &device)), x, mask => x * mask)
    }

    fn channel_affine(&self, scale: &[f32], shift: &[f32], x: Value) -> Value {
        let x: Tensor<4> = x.tensor();
        let constants = |values: &[f32]| -> Tensor<4> {
            Value::new(&[1, values.len(), 1, 1], values.to_vec(), &x.device()).tensor()
        };
        let (scale, shift) = (constants(scale), constants(shift));
        (x * scale + shift).into()
    }
}

/// Both values with as many axes as the one that has more: missing ones are put in front, of size one.
fn of_one_rank(a: Value, b: Value) -> (Value, Value) {
    let (shape_a, shape_b) = (a.shape(), b.shape());
    let rank = shape_a.len().max(shape_b.len());
    let with_rank = |value: Value, shape: Shape| {
        if shape.len() == rank {
            value
        } else {
            value.reshape(&[vec![1; rank - shape.len()], shape].concat())
        }
    };
    (with_rank(a, shape_a), with_rank(b, shape_b))
}

fn concat(inputs: Vec<Value>, axis: usize) -> Value {
    macro_rules! concat_ranks {
        ($($rank:literal),*) => {
            match inputs.first().map_or(0, |first| first.shape().len()) {
                $($rank => {
                    let tensors: Vec<Tensor<$rank>> = inputs.into_iter().map(Rank::<$rank>::tensor).collect();
                    Tensor::cat(tensors, axis).into()
                })*
                rank => unreachable!("no operation gives rank {rank}"),
            }
        };
    }
    concat_ranks!(1, 2, 3, 4, 5, 6)
}

/// An operation that is the same for every rank and keeps it.
trait AnyRank {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D>;
}

fn apply(value: Value, operation: impl AnyRank) -> Value {
    with_tensor!(value, x => operation.run(x).into())
}

struct Linear {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
}

impl AnyRank for Linear {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight, self.bias)
    }
}

struct LayerNorm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    eps: f64,
}

impl AnyRank for LayerNorm {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.gamma, Some(self.beta), self.eps)
    }
}

impl AnyRank for Activation {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Activation::ReLU => activation::relu(x),
            Activation::LeakyReLU { negative_slope } => activation::leaky_relu(x, negative_slope),
            Activation::ReLU6 => x.clamp(0.0, 6.0),
            Activation::SiLU => activation::silu(x),
            Activation::Hardswish => x.clone() * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Activation::Hardsigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Activation::Sigmoid => activation::sigmoid(x),
            Activation::GELU => activation::gelu(x),
            Activation::Tanh => activation::tanh(x),
        }
    }
}

struct Softmax(usize);

impl AnyRank for Softmax {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        activation::softmax(x, self.0)
    }
}

/// The mean over an axis, which stays with size one.
struct MeanKept(usize);

impl AnyRank for MeanKept {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        x.mean_dim(self.0)
    }
}

struct Narrow {
    axis: usize,
    start: usize,
    size: usize,
}

impl AnyRank for Narrow {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        x.narrow(self.axis, self.start, self.size)
    }
}

/// A first axis of size one, repeated.
struct Repeat(usize);

impl AnyRank for Repeat {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        x.repeat_dim(0, self.0)
    }
}

/// Zeros at the end of an axis.
struct PadTo {
    axis: usize,
    size: usize,
}

impl AnyRank for PadTo {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        pad_to(x, self.axis, self.size)
    }
}

struct Permute<'a>(&'a [usize]);

impl AnyRank for Permute<'_> {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        x.permute(std::array::from_fn::<isize, D, _>(|axis| self.0[axis] as isize))
    }
}

struct Roll<'a> {
    shifts: &'a [isize],
    axes: &'a [usize],
}

impl AnyRank for Roll<'_> {
    fn run<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        x.roll(self.shifts, self.axes)
    }
}

fn max_pool_options(window: &Pool) -> MaxPoolOptions<2> {
    MaxPoolOptions::new([window.kernel; 2])
        .with_stride([window.stride; 2])
        .with_padding([window.padding; 2])
        .with_ceil_mode(window.ceil_mode)
}

fn avg_pool_options(window: &Pool, count_include_pad: bool) -> AvgPoolOptions<2> {
    AvgPoolOptions::new([window.kernel; 2])
        .with_stride([window.stride; 2])
        .with_padding([window.padding; 2])
        .with_ceil_mode(window.ceil_mode)
        .with_count_include_pad(count_include_pad)
}
