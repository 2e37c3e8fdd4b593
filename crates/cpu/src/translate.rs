//! From a graph to a [`Program`]: an operation for each node, three for an attention, none for what does nothing in evaluation mode.

use engraft_engine::EngineError;
use engraft_graph::{Conv2d, Graph, Node, NodeId, Op, Shape};
use engraft_kernels::Activation;

use crate::general::General;
use crate::program::{
    Axis, Before, Combine, Constants, Conv, Depthwise, End, Extent, Kind, Operation, Plain, Pooling, Product,
    Program, See, Value, Weights,
};

/// The program of a graph whose nodes all lead to its output.
///
/// # Errors
/// Names a node that has no kernel.
pub(crate) fn translate(graph: &Graph) -> Result<Program, EngineError> {
    let nodes = graph.nodes();
    let (batches, node_shapes) = probes(graph)?;
    let mut translation = Translation::new(&node_shapes[0]);
    for (index, node) in nodes.iter().enumerate() {
        let source = translation.node(index, node)?;
        translation.source.push(source);
    }
    let Translation { operations, extents, source, .. } = translation;
    let of_values = |shapes: &Vec<Shape>| extents.iter().map(|extent| extent.shape(shapes)).collect();
    let mut program = Program {
        operations,
        output: source[graph.output().0],
        separable: are_apart(nodes, graph.output().0, &batches, &node_shapes),
        probes: node_shapes.iter().map(of_values).collect(),
        extents,
    };
    program.drop_unread();
    Ok(program)
}

/// Batches for which shapes are looked at, if the graph takes them: it may fix its own.
const BATCHES: std::ops::RangeInclusive<usize> = 1..=16;

/// The shapes of all nodes for several inputs, as many as the network takes, and the batches of these.
///
/// A residual that has the right shape by chance, at a batch of one, or in images so small that a map has one pixel, has it in none
/// of the others: larger ones, and the smallest that there are.
///
/// # Errors
/// When the network takes no batch of images of its own size.
fn probes(graph: &Graph) -> Result<(Vec<usize>, Vec<Vec<Shape>>), EngineError> {
    let own = graph.input();
    let shapes = |batch: usize, image: &[usize]| graph.shapes(&[&[batch], image].concat());
    let of_batch = |batch| Some((batch, shapes(batch, own).ok()?));
    let mut probes: Vec<_> = BATCHES.filter_map(of_batch).collect();
    let Some(&(batch, _)) = probes.last() else {
        return Ok((vec![1], vec![shapes(1, own)?]));
    };
    let twice = |size: &usize| 2 * size;
    let one = |_: &usize| 1;
    let (channels, sides) = own.split_at(own.len().min(1));
    let others = [
        [channels.to_vec(), sides.iter().map(twice).collect()].concat(),
        [channels.to_vec(), sides.iter().map(one).collect()].concat(),
        own.iter().map(one).collect(),
    ];
    let of_image = |image: &Vec<usize>| Some((batch, shapes(batch, image).ok()?));
    probes.extend(others.iter().filter_map(of_image));
    Ok(probes.into_iter().unzip())
}

/// A program as far as it is translated.
pub(crate) struct Translation<'a> {
    /// Of the nodes, for some input.
    pub(crate) shapes: &'a [Shape],
    pub(crate) operations: Vec<Operation>,
    pub(crate) extents: Vec<Extent>,
    /// For each node the value that its readers read.
    pub(crate) source: Vec<Value>,
}

impl<'a> Translation<'a> {
    pub(crate) fn new(shapes: &'a [Shape]) -> Translation<'a> {
        let plain = |node| Extent { node, times: 1, axes: None };
        Translation {
            shapes,
            operations: Vec::with_capacity(shapes.len()),
            extents: (0..shapes.len()).map(plain).collect(),
            source: Vec::with_capacity(shapes.len()),
        }
    }
}

impl Translation<'_> {
    /// Appends a node's operations; returns where its output is.
    pub(crate) fn node(&mut self, index: usize, node: &Node) -> Result<Value, EngineError> {
        let operands = node.inputs.iter().take(node.op.operands());
        let inputs: Vec<Value> = operands.map(|input| self.source[input.0]).collect();
        let of_one = || inputs.first().copied().unwrap_or_default();
        let kind = match &node.op {
            Op::Identity | Op::Dropout { .. } | Op::StochasticDepth { .. } => return Ok(of_one()),
            Op::Input => Kind::Plain(Plain::Input),
            Op::Parameter { .. } => Kind::Plain(Plain::Parameter),
            Op::Conv2d(conv) => convolution(of_one(), conv),
            Op::Linear(linear) => product(of_one(), Weights::Linear(linear.clone())),
            Op::Attention(attention) => {
                let qkv = product(of_one(), Weights::Qkv(attention.clone()));
                let qkv = self.push(index, qkv, Extent { node: index, times: 3, axes: None });
                let attend = Kind::Attend { qkv, attention: attention.clone() };
                let attended = self.push(index, attend, Extent { node: index, times: 1, axes: None });
                product(attended, Weights::Projection(attention.clone()))
            }
            Op::BatchNorm2d(_) | Op::ChannelAffine { .. } => Kind::Affine {
                input: of_one(),
                constants: Constants(index),
                axis: 1,
                activation: Activation::Identity,
            },
            Op::LayerNorm { eps, .. } => Kind::Norm { input: of_one(), over: Axis::Last, eps: *eps },
            Op::LayerNorm2d { eps, .. } => Kind::Norm { input: of_one(), over: Axis::Channels, eps: *eps },
            Op::Activation { function, .. } => {
                Kind::Plain(Plain::Activation { input: of_one(), function: activation(*function) })
            }
            Op::MaxPool2d(window) => pool(of_one(), Pooling::Max(window.clone())),
            Op::AvgPool2d { window, count_include_pad } => {
                let (window, count_include_pad) = (window.clone(), *count_include_pad);
                pool(of_one(), Pooling::Average { window, count_include_pad })
            }
            Op::AdaptiveAvgPool2d { .. } => pool(of_one(), Pooling::Adaptive),
            Op::Mean { axes } if axes[..] == [2, 3] && self.shapes[node.inputs[0].0].len() == 4 => {
                pool(of_one(), Pooling::Image)
            }
            Op::Add => Kind::Plain(Plain::Combine { inputs: two(&inputs), by: Combine::Add }),
            Op::Mul => Kind::Plain(Plain::Combine { inputs: two(&inputs), by: Combine::Multiply }),
            Op::Concat { axis } => Kind::Plain(Plain::Concat { inputs, axis: *axis }),
            Op::Permute { axes } => see(of_one(), See::Permute(axes.clone())),
            Op::Chunk { axis, index, .. } => see(of_one(), See::Part { axis: *axis, index: *index }),
            Op::Select { axis, index } => see(of_one(), See::Select { axis: *axis, index: *index }),
            Op::ExpandBatch => see(of_one(), See::Repeat),
            Op::Flatten { .. } | Op::Reshape { .. } => see(of_one(), See::Reshape),
            other => match General::of(other) {
                Some(what) => Kind::Plain(Plain::General { inputs, what }),
                None => return Err(EngineError::NoKernel { node: node.describe() }),
            },
        };
        self.operations.push(Operation { node: index, kind, output: index });
        Ok(index)
    }

    /// Appends an operation of a node with a value of its own.
    fn push(&mut self, node: usize, kind: Kind, extent: Extent) -> Value {
        self.extents.push(extent);
        let output = self.extents.len() - 1;
        self.operations.push(Operation { node, kind, output });
        output
    }
}

fn two(inputs: &[Value]) -> [Value; 2] {
    [0, 1].map(|number| inputs.get(number).copied().unwrap_or_default())
}

fn see(input: Value, how: See) -> Kind {
    Kind::Plain(Plain::See { input, how })
}

fn pool(input: Value, pooling: Pooling) -> Kind {
    Kind::Plain(Plain::Pool { input, pooling })
}

fn product(input: Value, weights: Weights) -> Kind {
    Kind::Product(Product { input, weights, folded: None, before: Before::Nothing, end: End::default() })
}

/// Whether a convolution is a product of its pixels.
pub(crate) fn is_product(conv: &Conv2d) -> bool {
    conv.kernel == [1, 1] && conv.stride == [1, 1] && conv.padding == [0, 0] && conv.groups == 1
}

/// Whether a convolution is one of each channel by itself.
pub(crate) fn is_depthwise(conv: &Conv2d) -> bool {
    conv.groups == conv.in_channels && conv.groups == conv.out_channels
}

/// A product if it is one of its pixels, also where it has but one channel and so is depthwise, too.
fn convolution(input: Value, conv: &Conv2d) -> Kind {
    let end = End::default();
    if is_product(conv) {
        return product(input, Weights::Conv(conv.clone()));
    }
    let by_channel = is_depthwise(conv);
    let conv = conv.clone();
    if by_channel {
        return Kind::Depthwise(Depthwise { input, conv, expand: None, end, means: None });
    }
    Kind::Conv(Conv { input, conv, folded: None, end })
}

/// The kernels' name of a function.
fn activation(function: engraft_graph::Activation) -> Activation {
    use engraft_graph::Activation as Graph;
    match function {
        Graph::ReLU => Activation::ReLU,
        Graph::LeakyReLU { negative_slope } => Activation::LeakyReLU(negative_slope as f32),
        Graph::ReLU6 => Activation::ReLU6,
        Graph::SiLU => Activation::SiLU,
        Graph::Hardswish => Activation::Hardswish,
        Graph::Hardsigmoid => Activation::Hardsigmoid,
        Graph::Sigmoid => Activation::Sigmoid,
        Graph::GELU => Activation::GELU,
        Graph::Tanh => Activation::Tanh,
    }
}

/// Whether each example of a batch can be computed without the others, in a network whose norms keep their statistics.
pub(crate) fn is_separable(graph: &Graph) -> bool {
    probes(graph).is_ok_and(|(batches, shapes)| are_apart(graph.nodes(), graph.output().0, &batches, &shapes))
}

/// Whether each example of a batch can be computed without the others: every value has the batch in front, or is a parameter's.
fn are_apart(nodes: &[Node], output: usize, batches: &[usize], probes: &[Vec<Shape>]) -> bool {
    // At a batch of one, anything has the batch in front.
    if batches.iter().all(|batch| *batch == batches[0]) {
        return false;
    }
    let has_batch =
        |node: usize| batches.iter().zip(probes).all(|(batch, shapes)| shapes[node].first() == Some(batch));
    let mut is_parameter = Vec::with_capacity(nodes.len());
    // Of parameters, those whose values lie one after the other, so that they take another shape without a copy.
    let mut is_whole = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let all = |of: &[bool]| node.inputs.iter().all(|input| of[input.0]);
        let [parameter, whole] = match &node.op {
            Op::Parameter { .. } => [true, true],
            Op::Input | Op::ExpandBatch => [false, false],
            Op::Flatten { .. } | Op::Reshape { .. } => [all(&is_whole); 2],
            Op::Permute { .. } | Op::Chunk { .. } | Op::Select { .. } => [all(&is_parameter), false],
            other if other.computes_nothing() => [all(&is_parameter), all(&is_whole)],
            _ => [false, false],
        };
        is_parameter.push(parameter);
        is_whole.push(whole);
        if is_parameter[index] {
            continue;
        }
        // What has fewer axes meets other examples' values when it is broadcast.
        let axes = probes[0][index].len();
        let in_front = |input: &NodeId| is_parameter[input.0] || probes[0][input.0].len() == axes;
        let keeps = match &node.op {
            Op::Add | Op::Mul => node.inputs.iter().all(in_front),
            Op::MatMul => axes > 2,
            other => other.keeps_examples(),
        };
        if !keeps || !has_batch(index) {
            return false;
        }
    }
    !is_parameter[output]
}
