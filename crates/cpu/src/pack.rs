//! Kernels for the operations of a program: their weights, folded and packed.

use std::collections::HashMap;
use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::{Attention, Conv2d, Node, Op, Windows};
use engraft_kernels::{
    Activation, ConvGeometry, ConvWeights, DepthwiseWeights, ExpandWeights, Level, PackedMatrix,
    WinogradTile, WinogradWeights,
};

use crate::attention::position_bias;
use crate::program::{
    Axis, Before, Constants, Conv, Depthwise, End, Expand, Kind, Operation, Plain, Product, Program,
    Residual, Value, Weights,
};

/// An operation with its weights.
pub(crate) struct Packed {
    /// The node that it is called after.
    pub(crate) node: usize,
    pub(crate) output: Value,
    pub(crate) kernel: Kernel,
}

/// What an operation is computed by; values are those of [`Kind`].
#[derive(Clone)]
pub(crate) enum Kernel {
    Product { layer: Arc<ProductLayer>, reads: Reads, input: Value, finish: Finish<Residual> },
    Winograd { layer: Arc<WinogradLayer>, input: Value, finish: Finish<Residual> },
    Conv { layer: Arc<ConvLayer>, input: Value, finish: Finish<Residual> },
    Depthwise { layer: Arc<DepthwiseLayer>, input: Value, finish: Finish<Residual>, means: Option<Value> },
    Affine { layer: Arc<AffineLayer>, axis: usize, input: Value },
    Norm { layer: Arc<NormLayer>, over: Axis, input: Value },
    Attend { layer: Arc<AttendLayer>, windows: Option<Windows>, qkv: Value },
    Plain(Plain),
}

/// What is done to sums before they leave the registers: `activation(x + residual)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Finish<R> {
    pub(crate) residual: Option<R>,
    pub(crate) activation: Activation,
}

/// What the rows of a product are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// The last axis of its input.
    Rows,
    /// The pixels of an image.
    Pixels,
    /// Pixels, each channel of each image times this value.
    Scaled(Value),
    /// Whole images of so many channels.
    Images { channels: usize },
}

/// `before(x) weights + bias`
pub(crate) struct ProductLayer {
    pub(crate) before: Option<(Affine, Activation)>,
    pub(crate) weights: PackedMatrix,
    pub(crate) bias: Vec<f32>,
}

pub(crate) struct WinogradLayer {
    pub(crate) weights: WinogradWeights,
    pub(crate) bias: Vec<f32>,
    pub(crate) padding: [usize; 2],
}

pub(crate) struct ConvLayer {
    pub(crate) weights: ConvWeights,
    pub(crate) bias: Vec<f32>,
    pub(crate) geometry: ConvGeometry,
}

pub(crate) struct DepthwiseLayer {
    pub(crate) weights: DepthwiseKernel,
    pub(crate) bias: Vec<f32>,
    pub(crate) geometry: ConvGeometry,
}

pub(crate) enum DepthwiseKernel {
    Alone(DepthwiseWeights),
    /// With the 1x1 convolution before it, its bias and its activation.
    Expand(ExpandWeights, Vec<f32>, Activation),
}

pub(crate) struct AffineLayer {
    pub(crate) affine: Affine,
    pub(crate) activation: Activation,
}

pub(crate) struct NormLayer {
    pub(crate) affine: Affine,
    pub(crate) eps: f32,
}

/// `y = scale x + shift` for each channel.
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl Affine {
    /// A batch norm's, by its running statistics.
    pub(crate) fn of_batch_norm(weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32], eps: f64) -> Affine {
        let scale: Vec<f64> =
            weight.iter().zip(var).map(|(w, var)| *w as f64 / (*var as f64 + eps).sqrt()).collect();
        let shift = (0..scale.len()).map(|c| (bias[c] as f64 - mean[c] as f64 * scale[c]) as f32).collect();
        Affine { scale: scale.into_iter().map(|scale| scale as f32).collect(), shift }
    }
}

/// What scores are made with.
pub(crate) struct AttendLayer {
    pub(crate) dim: usize,
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

impl Finish<Residual> {
    /// What follows, once constants are in the weights.
    fn of(end: &End) -> Self {
        Finish { residual: end.residual, activation: end.activation }
    }
}

impl Kernel {
    /// What is done to its sums, if it is a product or a convolution.
    pub(crate) fn finish_mut(&mut self) -> Option<&mut Finish<Residual>> {
        match self {
            Kernel::Product { finish, .. }
            | Kernel::Winograd { finish, .. }
            | Kernel::Conv { finish, .. }
            | Kernel::Depthwise { finish, .. } => Some(finish),
            Kernel::Affine { .. } | Kernel::Norm { .. } | Kernel::Attend { .. } | Kernel::Plain(_) => None,
        }
    }

    /// What is added to its sums.
    pub(crate) fn residual(&self) -> Option<Residual> {
        match self {
            Kernel::Product { finish, .. }
            | Kernel::Winograd { finish, .. }
            | Kernel::Conv { finish, .. }
            | Kernel::Depthwise { finish, .. } => finish.residual,
            Kernel::Affine { .. } | Kernel::Norm { .. } | Kernel::Attend { .. } | Kernel::Plain(_) => None,
        }
    }

    /// Bytes of the weights.
    pub(crate) fn weight_bytes(&self) -> usize {
        let values = |values: &[f32]| size_of_val(values);
        let affine = |affine: &Affine| values(&affine.scale) + values(&affine.shift);
        match self {
            Kernel::Product { layer, .. } => {
                let before = layer.before.as_ref().map_or(0, |(constants, _)| affine(constants));
                layer.weights.bytes() + values(&layer.bias) + before
            }
            Kernel::Winograd { layer, .. } => layer.weights.bytes() + values(&layer.bias),
            Kernel::Conv { layer, .. } => layer.weights.bytes() + values(&layer.bias),
            Kernel::Depthwise { layer, .. } => {
                values(&layer.bias)
                    + match &layer.weights {
                        DepthwiseKernel::Alone(weights) => weights.bytes(),
                        DepthwiseKernel::Expand(weights, bias, _) => weights.bytes() + values(bias),
                    }
            }
            Kernel::Affine { layer, .. } => affine(&layer.affine),
            Kernel::Norm { layer, .. } => affine(&layer.affine),
            Kernel::Attend { layer, .. } => {
                values(&layer.padding) + layer.position.as_ref().map_or(0, |bias| values(bias))
            }
            Kernel::Plain(_) => 0,
        }
    }
}

/// Packs the weights of all operations; also returns the parameters that are operands, by node. Tensors are dropped as soon as the last
/// node that has them is packed.
///
/// # Errors
/// When a tensor of a node is missing.
pub(crate) fn pack(
    level: Level,
    nodes: &[Node],
    program: &Program,
    tensors: HashMap<String, Vec<f32>>,
) -> Result<(Vec<Packed>, Vec<Vec<f32>>), EngineError> {
    let mut uses = HashMap::new();
    for tensor in nodes.iter().flat_map(Node::tensors) {
        *uses.entry(tensor.name).or_default() += 1;
    }
    let mut packing = Packing { level, nodes, program, tensors, uses };
    let mut parameters = vec![Vec::new(); nodes.len()];
    let mut packed = Vec::with_capacity(program.operations.len());
    for operation in &program.operations {
        let Operation { node, output, .. } = *operation;
        if let (Kind::Plain(Plain::Parameter), Op::Parameter { name, .. }) =
            (&operation.kind, &nodes[node].op)
        {
            // It may be a factor within other operations as well.
            parameters[node] = packing.look(node, name)?;
        }
        packed.push(Packed { node, output, kernel: packing.kernel(operation)? });
    }
    Ok((packed, parameters))
}

struct Packing<'a> {
    level: Level,
    nodes: &'a [Node],
    program: &'a Program,
    tensors: HashMap<String, Vec<f32>>,
    /// How many nodes have each tensor and are not packed yet.
    uses: HashMap<String, usize>,
}

impl Packing<'_> {
    /// A tensor of a node by its name within the node's module; gone from here if no other node has it.
    fn take(&mut self, node: usize, name: &str) -> Result<Vec<f32>, EngineError> {
        let name = self.name(node, name);
        let left = self.uses.entry(name.clone()).or_default();
        *left = left.saturating_sub(1);
        let tensor = if *left == 0 { self.tensors.remove(&name) } else { self.tensors.get(&name).cloned() };
        tensor.ok_or_else(|| self.missing(node, name))
    }

    /// As [`take`](Self::take), without an end to it.
    fn look(&self, node: usize, name: &str) -> Result<Vec<f32>, EngineError> {
        let name = self.name(node, name);
        self.tensors.get(&name).cloned().ok_or_else(|| self.missing(node, name))
    }

    fn missing(&self, node: usize, name: String) -> EngineError {
        let specs = self.nodes[node].tensors();
        let needed =
            specs.into_iter().find(|spec| spec.name == name).map(|spec| spec.shape).unwrap_or_default();
        EngineError::State { name, needed, found: "there is none".into() }
    }

    fn name(&self, node: usize, name: &str) -> String {
        match self.nodes[node].module.as_str() {
            "" => name.to_string(),
            module => format!("{module}.{name}"),
        }
    }

    fn kernel(&mut self, operation: &Operation) -> Result<Kernel, EngineError> {
        let node = operation.node;
        Ok(match &operation.kind {
            Kind::Product(product) => self.product(node, product)?,
            Kind::Conv(conv) => self.conv(operation.output, node, conv)?,
            Kind::Depthwise(depthwise) => self.depthwise(node, depthwise)?,
            Kind::Affine { input, constants, axis, activation } => {
                let layer = AffineLayer { affine: self.constants(*constants)?, activation: *activation };
                Kernel::Affine { layer: Arc::new(layer), axis: *axis, input: *input }
            }
            Kind::Norm { input, over, eps } => {
                let affine = Affine { scale: self.take(node, "weight")?, shift: self.take(node, "bias")? };
                let layer = NormLayer { affine, eps: *eps as f32 };
                Kernel::Norm { layer: Arc::new(layer), over: *over, input: *input }
            }
            Kind::Attend { qkv, attention } => {
                let layer = self.attend(node, attention)?;
                Kernel::Attend { layer: Arc::new(layer), windows: attention.windows, qkv: *qkv }
            }
            Kind::Plain(plain) => Kernel::Plain(plain.clone()),
        })
    }

    fn product(&mut self, node: usize, product: &Product) -> Result<Kernel, EngineError> {
        let (inputs, outputs, [mut weight, mut bias]) = match &product.weights {
            Weights::Conv(conv) => (conv.in_channels, conv.out_channels, self.conv_weights(node, conv)?),
            Weights::Linear(linear) => {
                let weight = self.take(node, "weight")?;
                let bias =
                    if linear.bias { self.take(node, "bias")? } else { vec![0.0; linear.out_features] };
                (linear.in_features, linear.out_features, [weight, bias])
            }
            Weights::Qkv(attention) => {
                let [qkv, _] = attention.projections();
                let weight = self.take(node, &format!("{qkv}weight"))?;
                (attention.dim, 3 * attention.dim, [weight, self.qkv_bias(node, attention)?])
            }
            Weights::Projection(attention) => {
                let [_, out] = attention.projections();
                let tensors =
                    [self.take(node, &format!("{out}weight"))?, self.take(node, &format!("{out}bias"))?];
                (attention.dim, attention.dim, tensors)
            }
        };
        self.fold_before(product.folded, &mut weight, &mut bias, 1)?;
        self.fold_after(&product.end.constants, &mut weight, &mut bias)?;
        let over = match product.weights {
            Weights::Conv(_) => Reads::Pixels,
            Weights::Linear(_) | Weights::Qkv(_) | Weights::Projection(_) => Reads::Rows,
        };
        let (before, reads) = match product.before {
            Before::Nothing => (None, over),
            Before::Affine(constants, activation) => (Some((self.constants(constants)?, activation)), over),
            Before::Scale(gate) => (None, Reads::Scaled(gate)),
            Before::Flatten => (None, Reads::Images { channels: self.program.probes[0][product.input][1] }),
        };
        let weights = match reads {
            Reads::Images { channels } => {
                let pixels = inputs / channels.max(1);
                let value = |row: usize, column: usize| {
                    let (pixel, channel) = (row / channels, row % channels);
                    weight[column * inputs + channel * pixels + pixel]
                };
                PackedMatrix::new(self.level, inputs, outputs, value)
            }
            Reads::Rows | Reads::Pixels | Reads::Scaled(_) => self.matrix(inputs, outputs, &weight),
        };
        let layer = ProductLayer { before, weights, bias };
        let (input, finish) = (product.input, Finish::of(&product.end));
        Ok(Kernel::Product { layer: Arc::new(layer), reads, input, finish })
    }

    /// Chooses the kernel of a convolution.
    fn conv(&mut self, output: Value, node: usize, operation: &Conv) -> Result<Kernel, EngineError> {
        let Conv { input, conv, folded, end } = operation;
        let [mut weight, mut bias] = self.conv_weights(node, conv)?;
        self.fold_before(*folded, &mut weight, &mut bias, conv.kernel[0] * conv.kernel[1])?;
        self.fold_after(&end.constants, &mut weight, &mut bias)?;
        let (inputs, outputs) = (conv.in_channels, conv.out_channels);
        let (input, finish) = (*input, Finish::of(end));
        let plain =
            conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
        // In the images that the network was designed for.
        let pixels = self.program.probes[0][output][2..].iter().product();
        if let Some(tile) = winograd_tile(inputs, outputs, pixels).filter(|_| plain) {
            let weights = WinogradWeights::new(self.level, tile, &weight, outputs, inputs);
            let layer = WinogradLayer { weights, bias, padding: conv.padding };
            return Ok(Kernel::Winograd { layer: Arc::new(layer), input, finish });
        }
        let geometry = geometry(conv);
        if conv.groups > 1 && conv.groups == inputs && outputs <= MOST_OUTPUTS * inputs {
            let weights = DepthwiseWeights::new(self.level, &weight, outputs, geometry);
            let weights = DepthwiseKernel::Alone(weights);
            let layer = DepthwiseLayer { weights, bias, geometry };
            return Ok(Kernel::Depthwise { layer: Arc::new(layer), input, finish, means: None });
        }
        let weights = ConvWeights::new(self.level, &weight, outputs, inputs, geometry);
        let layer = ConvLayer { weights, bias, geometry };
        Ok(Kernel::Conv { layer: Arc::new(layer), input, finish })
    }

    fn depthwise(&mut self, node: usize, operation: &Depthwise) -> Result<Kernel, EngineError> {
        let Depthwise { input, conv, expand, end, means } = operation;
        let [mut weight, mut bias] = self.conv_weights(node, conv)?;
        self.fold_after(&end.constants, &mut weight, &mut bias)?;
        let weights = match expand {
            Some(Expand { node, conv: expand, folded, constants, activation }) => {
                let [mut matrix, mut between] = self.conv_weights(*node, expand)?;
                self.fold_before(*folded, &mut matrix, &mut between, 1)?;
                self.fold_after(constants, &mut matrix, &mut between)?;
                let matrix = self.matrix(expand.in_channels, expand.out_channels, &matrix);
                DepthwiseKernel::Expand(
                    ExpandWeights::new(matrix, &weight, conv.kernel),
                    between,
                    *activation,
                )
            }
            None => DepthwiseKernel::Alone(DepthwiseWeights::new(
                self.level,
                &weight,
                conv.out_channels,
                geometry(conv),
            )),
        };
        let layer = DepthwiseLayer { weights, bias, geometry: geometry(conv) };
        let (input, finish, means) = (*input, Finish::of(end), *means);
        Ok(Kernel::Depthwise { layer: Arc::new(layer), input, finish, means })
    }

    fn attend(&mut self, node: usize, attention: &Attention) -> Result<AttendLayer, EngineError> {
        let similarity = match attention.scores {
            engraft_graph::Scores::Product { scale } => Similarity::Product(scale as f32),
            engraft_graph::Scores::Cosine => {
                let scales = self.take(node, "logit_scale")?;
                Similarity::Cosine(scales.into_iter().map(|scale| scale.min(100.0_f32.ln()).exp()).collect())
            }
        };
        let position = position_bias(attention, &mut |name| self.take(node, name))?;
        let padding = self.qkv_bias(node, attention)?;
        let [qkv, _] = attention.projections();
        self.take(node, &format!("{qkv}bias"))?;
        Ok(AttendLayer { dim: attention.dim, heads: attention.heads, similarity, position, padding })
    }

    /// Both the projection and the attention have it: what it gives for a token of zeros.
    fn qkv_bias(&self, node: usize, attention: &Attention) -> Result<Vec<f32>, EngineError> {
        let [qkv, _] = attention.projections();
        let mut bias = self.look(node, &format!("{qkv}bias"))?;
        if attention.scores == engraft_graph::Scores::Cosine {
            // Swin V2's keys have no bias, though its files have one.
            bias[attention.dim..2 * attention.dim].fill(0.0);
        }
        Ok(bias)
    }

    /// The constants of a batch norm by its running statistics, of an affine node, or of a factor.
    fn constants(&mut self, Constants(node): Constants) -> Result<Affine, EngineError> {
        Ok(match &self.nodes[node].op {
            Op::BatchNorm2d(norm) => {
                let weight = self.take(node, "weight")?;
                let bias = self.take(node, "bias")?;
                let mean = self.take(node, "running_mean")?;
                let var = self.take(node, "running_var")?;
                Affine::of_batch_norm(&weight, &bias, &mean, &var, norm.eps)
            }
            Op::ChannelAffine { scale, shift } => Affine { scale: scale.clone(), shift: shift.clone() },
            Op::Parameter { name, .. } => {
                // Other operations may have it as well.
                let scale = self.look(node, name)?;
                Affine { shift: vec![0.0; scale.len()], scale }
            }
            _ => return Err(EngineError::NoKernel { node: self.nodes[node].describe() }),
        })
    }

    /// Weights `[out, in / groups, height, width]` and a bias.
    fn conv_weights(&mut self, node: usize, conv: &Conv2d) -> Result<[Vec<f32>; 2], EngineError> {
        let weight = self.take(node, "weight")?;
        let bias = if conv.bias { self.take(node, "bias")? } else { vec![0.0; conv.out_channels] };
        Ok([weight, bias])
    }

    /// Scales the weights `[out, in, taps]` by what comes before them.
    fn fold_before(
        &mut self,
        constants: Option<Constants>,
        weight: &mut [f32],
        bias: &mut [f32],
        taps: usize,
    ) -> Result<(), EngineError> {
        let Some(constants) = constants else { return Ok(()) };
        let affine = self.constants(constants)?;
        let row = taps * affine.scale.len();
        for (row, bias) in weight.chunks_mut(row).zip(bias) {
            let mut sum = *bias as f64;
            for (channel, values) in row.chunks_mut(taps).enumerate() {
                for value in values {
                    sum += *value as f64 * affine.shift[channel] as f64;
                    *value *= affine.scale[channel];
                }
            }
            *bias = sum as f32;
        }
        Ok(())
    }

    /// Scales rows of weights, one for each output, by what follows the product.
    fn fold_after(
        &mut self,
        constants: &[Constants],
        weight: &mut [f32],
        bias: &mut [f32],
    ) -> Result<(), EngineError> {
        for constants in constants {
            let affine = self.constants(*constants)?;
            let row = weight.len() / bias.len().max(1);
            for (channel, values) in weight.chunks_mut(row).enumerate() {
                values.iter_mut().for_each(|value| *value *= affine.scale[channel]);
                bias[channel] = bias[channel] * affine.scale[channel] + affine.shift[channel];
            }
        }
        Ok(())
    }

    /// Of weights `[outputs, inputs]`.
    fn matrix(&self, inputs: usize, outputs: usize, weight: &[f32]) -> PackedMatrix {
        PackedMatrix::new(self.level, inputs, outputs, |row, column| weight[column * inputs + row])
    }
}

pub(crate) fn geometry(conv: &Conv2d) -> ConvGeometry {
    ConvGeometry {
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.groups,
    }
}

/// Outputs of an input's channel up to which a convolution of single channels is depthwise; more fill vectors of their own.
const MOST_OUTPUTS: usize = 8;

/// Bytes of transformed weights up to which they may be four times the layer's own.
const LARGE_WEIGHTS: usize = 16 << 20;

/// Which Winograd transform a 3x3 convolution is fastest with, if any.
///
/// F(4, 3) needs fewest multiplications. For small maps of many channels its weights, four times the layer's, take longer to read than
/// is won, unless the batch is large; F(2, 3) has less than twice the layer's.
pub(crate) fn winograd_tile(inputs: usize, outputs: usize, pixels: usize) -> Option<WinogradTile> {
    if inputs < 16 || outputs < 16 {
        return None;
    }
    let bytes = 36 * inputs * outputs * size_of::<f32>();
    Some(if pixels < 100 && bytes > LARGE_WEIGHTS { WinogradTile::F2 } else { WinogradTile::F4 })
}
