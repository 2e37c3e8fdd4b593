//! Which nodes of a graph are computed together.
//!
//! What follows a convolution or a linear layer element by element is computed before the result leaves the registers: batch norm,
//! constants for each channel, the addition of another value, an activation. What comes before a 1x1 convolution element by
//! element is computed when its input is read: batch norm with ReLU (DenseNet), the scale of squeeze-and-excitation. A 1x1 convolution
//! that only a depthwise one reads is computed by that, row after row.

use engraft_graph::{Conv2d, Graph, Node, Op, Shape};
use engraft_kernels::Activation;

/// A value: the output of the node of this number; from the number of nodes on, of a step within an attention.
pub(crate) type Value = usize;

/// Nodes that are computed together.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// The node that it is called after.
    pub(crate) node: usize,
    pub(crate) inputs: Vec<Value>,
    /// The output of the last of its nodes.
    pub(crate) output: Value,
    /// Nodes with constants for each channel, whose effect on the result comes first: into the weights.
    pub(crate) affine: Vec<usize>,
    /// Is added to the result after that.
    pub(crate) residual: Option<Value>,
    /// The last step.
    pub(crate) activation: Activation,
    pub(crate) before: Before,
    /// Axis `i` of the output is axis `axes[i]` of what is computed, if they differ: permutations within the operation.
    pub(crate) axes: Option<Vec<usize>>,
    /// The 1x1 convolution that computes the input of this depthwise one; `inputs` are then its.
    pub(crate) expand: Option<Box<Operation>>,
    /// A value that is computed along: the mean of each channel of each image of the output, `[batch, channels, 1, 1]`.
    pub(crate) means: Option<Value>,
}

/// What is done to the input of a product.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Before {
    #[default]
    Nothing,
    /// The affine node goes into the weights: nothing lies between.
    Folded(usize),
    /// Constants for each channel, then an activation.
    Affine(usize, Activation),
    /// Each channel of each image times a value `[batch, channels, 1, 1]`.
    Scale(Value),
    /// The input is an image `[channels, pixels]` whose channels lie last, though the weights expect them first.
    Flattened([usize; 2]),
}

/// What an operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A convolution.
    Conv,
    /// A linear layer.
    Linear,
    /// Constants for each channel, with an activation.
    Affine,
    /// The projection of an attention to queries, keys and values.
    Qkv,
    /// The attention itself.
    Attend,
    /// The projection of its result.
    Projection,
    /// Whatever the node says, with an activation.
    Other,
}

/// The operations of a graph in an order in which they can run.
pub(crate) fn fuse(graph: &Graph, shapes: &[Shape]) -> Vec<Operation> {
    let nodes = graph.nodes();
    let mut readers = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| readers[input.0].push(index));
    }
    let fusion = Fusion { nodes, shapes, readers, output: graph.output().0 };
    let mut done = vec![false; nodes.len()];
    let mut before: Vec<Before> = vec![Before::Nothing; nodes.len()];
    let mut source: Vec<Value> = (0..nodes.len()).collect();
    let mut operations = Vec::new();
    for index in 0..nodes.len() {
        if done[index] {
            continue;
        }
        if let Some((product, what, input)) = fusion.before_product(index) {
            // Computed by the product that reads it; so is the activation between the two, if there is one.
            done[index] = true;
            if let Some(between) = fusion.only_reader(index).filter(|reader| *reader != product) {
                done[between] = true;
            }
            before[product] = what;
            source[product] = input;
            continue;
        }
        let node = &nodes[index];
        let mut operation = Operation {
            kind: Kind::Other,
            node: index,
            inputs: node.inputs.iter().map(|input| input.0).collect(),
            output: index,
            affine: Vec::new(),
            residual: None,
            activation: Activation::Identity,
            before: std::mem::take(&mut before[index]),
            axes: None,
            expand: None,
            means: None,
        };
        if source[index] != index {
            operation.inputs = vec![source[index]];
        }
        done[index] = true;
        match &node.op {
            Op::Conv2d(_) => operation.kind = Kind::Conv,
            Op::Linear(_) => {
                operation.kind = Kind::Linear;
                if let Some((input, sizes)) = fusion.flattened_image(node.inputs[0].0) {
                    operation.inputs = vec![input];
                    operation.before = Before::Flattened(sizes);
                }
            }
            Op::BatchNorm2d(_) | Op::ChannelAffine { .. } => operation.kind = Kind::Affine,
            Op::Attention(_) => {
                let [qkv, attended] = [nodes.len() + 2 * index, nodes.len() + 2 * index + 1];
                operations.push(Operation { kind: Kind::Qkv, output: qkv, ..operation.clone() });
                let inputs = vec![qkv];
                operations.push(Operation {
                    kind: Kind::Attend,
                    inputs,
                    output: attended,
                    ..operation.clone()
                });
                operation.kind = Kind::Projection;
                operation.inputs = vec![attended];
            }
            _ => {}
        }
        fusion.absorb(&mut operation, &mut done);
        operation.means = fusion.means(&operation);
        if let Some(pool) = operation.means {
            done[pool] = true;
        }
        if let Some(place) = fusion.expansion(&operation, &operations) {
            let expand = operations.remove(place);
            operation.inputs.clone_from(&expand.inputs);
            operation.expand = Some(Box::new(expand));
        }
        operations.push(operation);
    }
    operations
}

struct Fusion<'a> {
    nodes: &'a [Node],
    shapes: &'a [Shape],
    readers: Vec<Vec<usize>>,
    output: usize,
}

impl Fusion<'_> {
    /// The only node that reads a value, if it is not the network's output.
    fn only_reader(&self, value: usize) -> Option<usize> {
        match self.readers[value][..] {
            [reader] if value != self.output => Some(reader),
            _ => None,
        }
    }

    fn is_alias(&self, node: usize) -> bool {
        matches!(self.nodes[node].op, Op::Identity | Op::Dropout { .. } | Op::StochasticDepth { .. })
    }

    /// Takes in what follows the operation element by element.
    fn absorb(&self, operation: &mut Operation, done: &mut [bool]) {
        use Kind::{Affine, Conv, Linear, Projection};
        let weighted = matches!(operation.kind, Conv | Linear | Projection);
        let activates = weighted || operation.kind == Affine;
        let mut last = operation.output;
        // Behind a permutation the channels have another place, but lie in memory as before.
        let mut channels = match operation.kind {
            Conv | Affine => 1,
            _ => self.shapes[last].len().saturating_sub(1),
        };
        while let Some(next) = self.only_reader(last).filter(|next| !done[*next]) {
            let node = &self.nodes[next];
            match &node.op {
                _ if self.is_alias(next) => {}
                Op::BatchNorm2d(_) | Op::ChannelAffine { .. }
                    if weighted && operation.residual.is_none() && channels == 1 =>
                {
                    operation.affine.push(next);
                }
                Op::Mul if weighted && operation.residual.is_none() => {
                    let Some(factor) = self.channel_factor(next, last, channels) else { break };
                    operation.affine.push(factor);
                }
                Op::Permute { axes } if weighted && operation.residual.is_none() => {
                    channels = axes.iter().position(|axis| *axis == channels).unwrap_or(channels);
                    let so_far = operation.axes.take().unwrap_or_else(|| (0..axes.len()).collect());
                    operation.axes = Some(axes.iter().map(|axis| so_far[*axis]).collect());
                }
                Op::Add if weighted && operation.residual.is_none() => {
                    let Some(other) = self.residual(next, last, done) else { break };
                    operation.residual = Some(other);
                }
                Op::Activation { function, .. } if activates => {
                    operation.activation = kernel_activation(*function);
                    done[next] = true;
                    operation.output = next;
                    return;
                }
                _ => break,
            }
            done[next] = true;
            last = next;
            operation.output = last;
        }
    }

    /// The global average pool of a depthwise convolution's output, as squeeze-and-excitation has it.
    fn means(&self, operation: &Operation) -> Option<Value> {
        let Op::Conv2d(conv) = &self.nodes[operation.node].op else { return None };
        let is_pool =
            |reader: &&usize| matches!(self.nodes[**reader].op, Op::AdaptiveAvgPool2d { output: [1, 1], .. });
        let pools = self.readers[operation.output].iter().filter(is_pool);
        pools.copied().next().filter(|_| is_depthwise(conv) && operation.axes.is_none())
    }

    /// Of the operations so far, the 1x1 convolution whose output only this depthwise one reads.
    fn expansion(&self, operation: &Operation, operations: &[Operation]) -> Option<usize> {
        let Op::Conv2d(conv) = &self.nodes[operation.node].op else { return None };
        // A 1x1 convolution of one channel is both, and may have something before it.
        if !is_depthwise(conv) || is_product(conv) || conv.dilation != [1, 1] {
            return None;
        }
        let place = operations.iter().rposition(|other| operation.inputs == [other.output])?;
        let expand = &operations[place];
        let Op::Conv2d(conv) = &self.nodes[expand.node].op else { return None };
        let plain = matches!(expand.before, Before::Nothing | Before::Folded(_))
            && expand.residual.is_none()
            && expand.axes.is_none();
        (is_product(conv) && plain && self.only_reader(expand.output).is_some()).then_some(place)
    }

    /// The parameter by which a product scales each channel of `value`.
    fn channel_factor(&self, product: usize, value: usize, channels: usize) -> Option<usize> {
        let other = self.other_input(product, value)?;
        let (shape, factor) = (&self.shapes[product], &self.shapes[other]);
        let is_parameter = matches!(self.nodes[other].op, Op::Parameter { .. });
        // Axes are compared from the last on, as they are broadcast.
        let place = shape.len() - 1 - channels;
        let mut sizes = factor.iter().rev().enumerate();
        let fits = sizes.all(|(i, size)| *size == if i == place { shape[channels] } else { 1 });
        (is_parameter && fits && factor.len() > place && *shape == self.shapes[value]).then_some(other)
    }

    /// What is added to `value`, if it is there by then and has the same shape.
    fn residual(&self, sum: usize, value: usize, done: &[bool]) -> Option<usize> {
        let other = self.other_input(sum, value)?;
        (done[other] && self.shapes[other] == self.shapes[value] && self.shapes[sum] == self.shapes[value])
            .then_some(other)
    }

    fn other_input(&self, node: usize, value: usize) -> Option<usize> {
        match self.nodes[node].inputs[..] {
            [a, b] if a.0 == value && b.0 != value => Some(b.0),
            [a, b] if b.0 == value && a.0 != value => Some(a.0),
            _ => None,
        }
    }

    /// If the node at `index` can be computed by the product that reads it: that product, what it does to its input, and its input.
    fn before_product(&self, index: usize) -> Option<(usize, Before, Value)> {
        let node = &self.nodes[index];
        let mut next = self.only_reader(index)?;
        match &node.op {
            Op::BatchNorm2d(_) | Op::ChannelAffine { .. } => {
                let input = node.inputs[0].0;
                let mut activation = Activation::Identity;
                if let Op::Activation { function, .. } = &self.nodes[next].op {
                    activation = kernel_activation(*function);
                    next = self.only_reader(next)?;
                }
                let Op::Conv2d(conv) = &self.nodes[next].op else { return None };
                let unpadded = conv.padding == [0, 0] && conv.groups == 1;
                if activation == Activation::Identity && unpadded {
                    return Some((next, Before::Folded(index), input));
                }
                is_product(conv).then_some((next, Before::Affine(index, activation), input))
            }
            Op::Mul => {
                let [a, b] = node.inputs[..] else { return None };
                let Op::Conv2d(conv) = &self.nodes[next].op else { return None };
                let is_gate = |value: usize| {
                    matches!(self.shapes[value][..], [_, _, 1, 1]) && self.shapes[value] != self.shapes[index]
                };
                let (x, gate) = match (is_gate(a.0), is_gate(b.0)) {
                    (true, false) => (b.0, a.0),
                    (false, true) => (a.0, b.0),
                    _ => return None,
                };
                let whole = self.shapes[x] == self.shapes[index];
                let batch = self.shapes[gate][0] == self.shapes[x][0];
                (whole && batch && is_product(conv)).then_some((next, Before::Scale(gate), x))
            }
            _ => None,
        }
    }

    /// If a value is an image made flat: the image, its channels and its pixels.
    fn flattened_image(&self, mut value: usize) -> Option<(Value, [usize; 2])> {
        while self.is_alias(value) {
            value = self.nodes[value].inputs[0].0;
        }
        let Op::Flatten { start: 1 } = self.nodes[value].op else { return None };
        let input = self.nodes[value].inputs[0].0;
        let &[_, channels, height, width] = &self.shapes[input][..] else { return None };
        (height * width > 1).then_some((input, [channels, height * width]))
    }
}

/// Whether a convolution computes each channel by itself.
pub(crate) fn is_depthwise(conv: &Conv2d) -> bool {
    conv.groups == conv.in_channels && conv.groups == conv.out_channels
}

/// Whether a convolution is a matrix product of its pixels.
pub(crate) fn is_product(conv: &Conv2d) -> bool {
    conv.kernel == [1, 1] && conv.stride == [1, 1] && conv.padding == [0, 0] && conv.groups == 1
}

/// The kernels' name of a function.
pub(crate) fn kernel_activation(function: engraft_graph::Activation) -> Activation {
    use engraft_graph::Activation as Graph;
    match function {
        Graph::ReLU => Activation::ReLU,
        Graph::ReLU6 => Activation::ReLU6,
        Graph::SiLU => Activation::SiLU,
        Graph::Hardswish => Activation::Hardswish,
        Graph::Hardsigmoid => Activation::Hardsigmoid,
        Graph::Sigmoid => Activation::Sigmoid,
        Graph::GELU => Activation::GELU,
        Graph::Tanh => Activation::Tanh,
    }
}
