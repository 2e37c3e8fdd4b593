//! The weights of operations, in the form in which kernels take them.

use std::collections::HashMap;

use engraft_graph::{Conv2d, Graph, Linear, Node, Op, Scores, Shape};
use engraft_kernels::{
    ConvGeometry, ConvWeights, DepthwiseWeights, ExpandWeights, Level, PackedMatrix, WinogradTile,
    WinogradWeights,
};

use crate::attention::position_bias;
use crate::fuse::{Before, Kind, Operation, is_depthwise, is_product};

/// What an operation needs besides its inputs.
pub(crate) enum Layer {
    /// `y = x w + bias`, for rows or for pixels.
    Product {
        weights: PackedMatrix,
        bias: Vec<f32>,
    },
    Winograd {
        weights: WinogradWeights,
        bias: Vec<f32>,
        padding: [usize; 2],
    },
    Conv {
        weights: ConvWeights,
        bias: Vec<f32>,
    },
    Depthwise {
        weights: DepthwiseWeights,
        bias: Vec<f32>,
        geometry: ConvGeometry,
    },
    /// A 1x1 convolution and the depthwise one behind it.
    ExpandDepthwise {
        weights: ExpandWeights,
        /// Of the first.
        between: Vec<f32>,
        /// Of the second.
        bias: Vec<f32>,
        geometry: ConvGeometry,
    },
    /// Constants for each channel.
    Affine(Affine),
    /// Of a layer norm.
    Norm(Affine),
    Attend(Attend),
    Nothing,
}

impl Layer {
    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Layer::Product { weights, .. } => weights.bytes(),
            Layer::Winograd { weights, .. } => weights.bytes(),
            Layer::Conv { weights, .. } => weights.bytes(),
            Layer::Depthwise { weights, .. } => weights.bytes(),
            Layer::ExpandDepthwise { weights, .. } => weights.bytes(),
            Layer::Affine(affine) | Layer::Norm(affine) => 2 * size_of_val(&affine.scale[..]),
            Layer::Attend(attend) => attend.position.as_ref().map_or(0, |bias| size_of_val(&bias[..])),
            Layer::Nothing => 0,
        }
    }
}

/// `y = scale x + shift` for each channel.
#[derive(Default)]
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

/// What scores are made with.
pub(crate) struct Attend {
    pub(crate) heads: usize,
    pub(crate) similarity: Similarity,
    /// `[heads, tokens, tokens]`
    pub(crate) position: Option<Vec<f32>>,
    /// Queries, keys and values of a token that is padding.
    pub(crate) padding: Vec<f32>,
}

/// What scores are made of.
pub(crate) enum Similarity {
    /// The product of query and key, times a number.
    Product(f32),
    /// Their cosine, times a number for each head.
    Cosine(Vec<f32>),
}

/// All layers of a network, by operation, and what is folded into the inputs of products.
pub(crate) struct Layers {
    pub(crate) layers: Vec<Layer>,
    /// [`Before::Affine`]'s constants, by operation.
    pub(crate) before: HashMap<usize, Affine>,
    /// Parameters that are operands, by node.
    pub(crate) constants: HashMap<usize, Vec<f32>>,
}

/// Packs the weights of all operations. Tensors are dropped as soon as they are packed.
pub(crate) fn pack(
    level: Level,
    graph: &Graph,
    shapes: &[Shape],
    operations: &[Operation],
    tensors: HashMap<String, Vec<f32>>,
) -> Layers {
    let mut packing = Packing { level, nodes: graph.nodes(), shapes, tensors };
    let mut before = HashMap::new();
    // First what others fold in, because each tensor is taken once.
    let mut constants = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        if let Op::Parameter { name, .. } = &node.op {
            constants.insert(index, packing.take(index, name));
        }
    }
    let mut layers = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        if let Before::Affine(node, _) = operation.before {
            before.insert(index, packing.affine(node, &constants));
        }
        layers.push(packing.layer(operation, &constants));
    }
    Layers { layers, before, constants }
}

struct Packing<'a> {
    level: Level,
    nodes: &'a [Node],
    shapes: &'a [Shape],
    tensors: HashMap<String, Vec<f32>>,
}

impl Packing<'_> {
    /// A tensor of a node by its name within the node's module. `take_floats` has seen that it is there.
    fn take(&mut self, node: usize, name: &str) -> Vec<f32> {
        self.tensors.remove(&self.name(node, name)).unwrap_or_default()
    }

    fn name(&self, node: usize, name: &str) -> String {
        match self.nodes[node].module.as_str() {
            "" => name.to_string(),
            module => format!("{module}.{name}"),
        }
    }

    fn layer(&mut self, operation: &Operation, constants: &HashMap<usize, Vec<f32>>) -> Layer {
        let node = operation.node;
        match (operation.kind, &self.nodes[node].op) {
            (Kind::Conv, Op::Conv2d(conv)) => {
                let (weight, bias) = self.conv_weights(operation, conv, constants);
                match &operation.expand {
                    Some(expand) => self.expand_depthwise(expand, conv, &weight, bias, constants),
                    None => self.conv(operation, conv, weight, bias),
                }
            }
            (Kind::Linear, Op::Linear(linear)) => self.linear(operation, linear, constants),
            (Kind::Affine, _) => Layer::Affine(self.affine(node, constants)),
            (Kind::Qkv, Op::Attention(attention)) => {
                let [qkv, _] = attention.projections();
                let weight = self.take(node, &format!("{qkv}weight"));
                let mut bias =
                    self.tensors.get(&self.name(node, &format!("{qkv}bias"))).cloned().unwrap_or_default();
                if attention.scores == Scores::Cosine {
                    // Swin V2's keys have no bias, though its files have one.
                    bias[attention.dim..2 * attention.dim].fill(0.0);
                }
                let (dim, outputs) = (attention.dim, 3 * attention.dim);
                self.product(dim, outputs, &weight, bias)
            }
            (Kind::Attend, Op::Attention(attention)) => {
                let [qkv, _] = attention.projections();
                let mut padding = self.take(node, &format!("{qkv}bias"));
                let similarity = match attention.scores {
                    Scores::Product { scale } => Similarity::Product(scale as f32),
                    Scores::Cosine => {
                        padding[attention.dim..2 * attention.dim].fill(0.0);
                        let scales = self.take(node, "logit_scale");
                        Similarity::Cosine(
                            scales.into_iter().map(|scale| scale.min(100.0_f32.ln()).exp()).collect(),
                        )
                    }
                };
                let position = position_bias(attention, &mut |name| self.take(node, name));
                Layer::Attend(Attend { heads: attention.heads, similarity, position, padding })
            }
            (Kind::Projection, Op::Attention(attention)) => {
                let [_, out] = attention.projections();
                let (dim, mut weight) = (attention.dim, self.take(node, &format!("{out}weight")));
                let mut bias = self.take(node, &format!("{out}bias"));
                self.fold_after(operation, &mut weight, &mut bias, constants);
                self.product(dim, dim, &weight, bias)
            }
            (_, Op::LayerNorm { .. } | Op::LayerNorm2d { .. }) => {
                Layer::Norm(Affine { scale: self.take(node, "weight"), shift: self.take(node, "bias") })
            }
            _ => Layer::Nothing,
        }
    }

    /// The constants of a batch norm by its running statistics, of an affine node, or of a factor.
    fn affine(&mut self, node: usize, constants: &HashMap<usize, Vec<f32>>) -> Affine {
        match &self.nodes[node].op {
            Op::BatchNorm2d(norm) => {
                let [weight, bias, mean, var] =
                    ["weight", "bias", "running_mean", "running_var"].map(|name| self.take(node, name));
                let scale: Vec<f64> = weight
                    .iter()
                    .zip(&var)
                    .map(|(w, var)| *w as f64 / (*var as f64 + norm.eps).sqrt())
                    .collect();
                let shift = (0..norm.features).map(|c| (bias[c] as f64 - mean[c] as f64 * scale[c]) as f32);
                let shift = shift.collect();
                Affine { scale: scale.into_iter().map(|scale| scale as f32).collect(), shift }
            }
            Op::ChannelAffine { scale, shift } => Affine { scale: scale.clone(), shift: shift.clone() },
            _ => {
                let scale = constants.get(&node).cloned().unwrap_or_default();
                Affine { shift: vec![0.0; scale.len()], scale }
            }
        }
    }

    /// Weights `[out, in / groups, height, width]` and a bias, with all that is folded into them.
    fn conv_weights(
        &mut self,
        operation: &Operation,
        conv: &Conv2d,
        constants: &HashMap<usize, Vec<f32>>,
    ) -> (Vec<f32>, Vec<f32>) {
        let mut weight = self.take(operation.node, "weight");
        let mut bias =
            if conv.bias { self.take(operation.node, "bias") } else { vec![0.0; conv.out_channels] };
        if let Before::Folded(node) = operation.before {
            let affine = self.affine(node, constants);
            let taps = conv.kernel[0] * conv.kernel[1];
            for (row, bias) in weight.chunks_mut(conv.in_channels * taps).zip(&mut bias) {
                let mut sum = *bias as f64;
                for (channel, values) in row.chunks_mut(taps).enumerate() {
                    for value in values {
                        sum += *value as f64 * affine.shift[channel] as f64;
                        *value *= affine.scale[channel];
                    }
                }
                *bias = sum as f32;
            }
        }
        self.fold_after(operation, &mut weight, &mut bias, constants);
        (weight, bias)
    }

    /// Scales rows of weights, one for each output, by what follows the product.
    fn fold_after(
        &mut self,
        operation: &Operation,
        weight: &mut [f32],
        bias: &mut [f32],
        constants: &HashMap<usize, Vec<f32>>,
    ) {
        for node in &operation.affine {
            let affine = self.affine(*node, constants);
            let row = weight.len() / bias.len().max(1);
            for (channel, values) in weight.chunks_mut(row).enumerate() {
                values.iter_mut().for_each(|value| *value *= affine.scale[channel]);
                bias[channel] = bias[channel] * affine.scale[channel] + affine.shift[channel];
            }
        }
    }

    /// Chooses the kernel of a convolution.
    fn conv(&self, operation: &Operation, conv: &Conv2d, weight: Vec<f32>, bias: Vec<f32>) -> Layer {
        let (inputs, outputs) = (conv.in_channels, conv.out_channels);
        if is_product(conv) {
            return self.product(inputs, outputs, &weight, bias);
        }
        let geometry = geometry(conv);
        if is_depthwise(conv) {
            let weights = DepthwiseWeights::new(self.level, &weight, inputs, conv.kernel);
            return Layer::Depthwise { weights, bias, geometry };
        }
        let plain =
            conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
        let &[_, _, height, width] = &self.shapes[operation.node][..] else {
            unreachable!("shape inference gives convolutions images")
        };
        if let Some(tile) = winograd_tile(inputs, outputs, height * width).filter(|_| plain) {
            let weights = WinogradWeights::new(self.level, tile, &weight, outputs, inputs);
            return Layer::Winograd { weights, bias, padding: conv.padding };
        }
        Layer::Conv { weights: ConvWeights::new(self.level, &weight, outputs, inputs, geometry), bias }
    }

    /// Of a depthwise convolution and the 1x1 convolution before it.
    fn expand_depthwise(
        &mut self,
        expand: &Operation,
        depthwise: &Conv2d,
        weight: &[f32],
        bias: Vec<f32>,
        constants: &HashMap<usize, Vec<f32>>,
    ) -> Layer {
        let Op::Conv2d(conv) = &self.nodes[expand.node].op else {
            unreachable!("only a convolution expands")
        };
        let (matrix, between) = self.conv_weights(expand, conv, constants);
        let matrix = self.matrix(conv.in_channels, conv.out_channels, &matrix);
        let weights = ExpandWeights::new(matrix, weight, depthwise.kernel);
        Layer::ExpandDepthwise { weights, between, bias, geometry: geometry(depthwise) }
    }

    fn linear(
        &mut self,
        operation: &Operation,
        linear: &Linear,
        constants: &HashMap<usize, Vec<f32>>,
    ) -> Layer {
        let (inputs, outputs) = (linear.in_features, linear.out_features);
        let mut weight = self.take(operation.node, "weight");
        let mut bias = if linear.bias { self.take(operation.node, "bias") } else { vec![0.0; outputs] };
        self.fold_after(operation, &mut weight, &mut bias, constants);
        match operation.before {
            Before::Flattened([channels, pixels]) => {
                let value = |row: usize, column: usize| {
                    let (pixel, channel) = (row / channels, row % channels);
                    weight[column * inputs + channel * pixels + pixel]
                };
                Layer::Product { weights: PackedMatrix::new(self.level, inputs, outputs, value), bias }
            }
            _ => self.product(inputs, outputs, &weight, bias),
        }
    }

    /// Of weights `[outputs, inputs]`.
    fn matrix(&self, inputs: usize, outputs: usize, weight: &[f32]) -> PackedMatrix {
        PackedMatrix::new(self.level, inputs, outputs, |row, column| weight[column * inputs + row])
    }

    /// Of weights `[outputs, inputs]`.
    fn product(&self, inputs: usize, outputs: usize, weight: &[f32], bias: Vec<f32>) -> Layer {
        Layer::Product { weights: self.matrix(inputs, outputs, weight), bias }
    }
}

fn geometry(conv: &Conv2d) -> ConvGeometry {
    ConvGeometry {
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.groups,
    }
}

/// Bytes of transformed weights up to which they may be four times the layer's own.
const LARGE_WEIGHTS: usize = 16 << 20;

/// Which Winograd transform a 3x3 convolution is fastest with, if any.
///
/// F(4, 3) needs fewest multiplications. For small maps of many channels its weights, four times the layer's, take longer to read than
/// is won, unless the batch is large; F(2, 3) has less than twice the layer's.
fn winograd_tile(inputs: usize, outputs: usize, pixels: usize) -> Option<WinogradTile> {
    if inputs < 16 || outputs < 16 {
        return None;
    }
    let bytes = 36 * inputs * outputs * size_of::<f32>();
    Some(if pixels < 100 && bytes > LARGE_WEIGHTS { WinogradTile::F2 } else { WinogradTile::F4 })
}
