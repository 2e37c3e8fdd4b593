//! Weights as kernels read them, packed again when an update has changed them.

use std::borrow::Cow;
use std::sync::Arc;

use engraft_graph::{Attention, BatchNorm2d, Conv2d, Graph, Node, Op, PositionBias, Scores};
use engraft_kernels::{
    Activation, ConvGradientWeights, ConvWeights, DepthwiseWeights, Level, Matrix, PackedMatrix, Pool,
    WinogradTile, WinogradWeights,
};

use super::parameters::{Parameters, TensorId};
use crate::attention::position_bias;
use crate::call::{Call, Maps, Rows, Tokens};
use crate::pack::{
    Affine, AffineLayer, AttendLayer, ConvLayer, DepthwiseKernel, DepthwiseLayer, Finish, NormLayer,
    ProductLayer, Similarity, WinogradLayer, geometry, winograd_tile,
};
use crate::translate::{is_depthwise, is_product};

/// The number of a layer.
pub(crate) type LayerId = usize;

/// What a layer computes, and from which nodes' tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) node: usize,
    pub(crate) part: Part,
    /// What follows it for each channel, by constants, and goes into its weights: a batch norm by its running statistics, or an affine
    /// node.
    pub(crate) constants: Option<usize>,
    pub(crate) activation: Activation,
}

/// What of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    /// A linear layer, or a convolution of so many output pixels an image.
    Forward {
        pixels: usize,
    },
    /// From the gradient of its output to that of its input, of so many pixels.
    Backward {
        pixels: usize,
    },
    /// The projection of an attention to queries, keys and values.
    Qkv,
    /// That of its result.
    Projection,
    /// From the gradients of their results to those of what they project.
    QkvBackward,
    ProjectionBackward,
    /// An attention between its projections.
    Attend,
    /// Constants for each channel.
    Affine,
    /// A layer norm.
    Norm,
}

/// A layer that is ready to be called.
#[derive(Clone)]
pub(crate) enum Packed {
    Product(Arc<ProductLayer>),
    Winograd(Arc<WinogradLayer>),
    Conv(Arc<ConvLayer>),
    Depthwise(Arc<DepthwiseLayer>),
    Affine(Arc<AffineLayer>),
    Norm(Arc<NormLayer>),
    Attend(Arc<AttendLayer>),
    /// The gradient of a product's input.
    Transposed(Arc<PackedMatrix>),
    /// That of a convolution's.
    ConvGradient(Arc<ConvGradientWeights>),
    /// That of a depthwise convolution's.
    DepthwiseGradient(Arc<DepthwiseWeights>),
}

/// How a layer's input and output lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lies {
    Rows(Rows),
    Maps(Maps),
}

/// The layers of all plans of a training.
#[derive(Default)]
pub(crate) struct Layers {
    layers: Vec<Layer>,
}

struct Layer {
    spec: Spec,
    /// None if it was never needed.
    packed: Option<Packed>,
    /// Whether the weights are those of this moment.
    fresh: bool,
    /// Whether an update changes it.
    changes: bool,
}

impl Layers {
    /// The layer's number; a new one if there is none like it.
    pub(crate) fn add(&mut self, spec: Spec, changes: bool) -> LayerId {
        if let Some(id) = self.layers.iter().position(|layer| layer.spec == spec) {
            return id;
        }
        self.layers.push(Layer { spec, packed: None, fresh: false, changes });
        self.layers.len() - 1
    }

    /// Says that an update has changed what trains, or something else has changed all tensors.
    pub(crate) fn outdated(&mut self, all: bool) {
        self.layers.iter_mut().filter(|layer| all || layer.changes).for_each(|layer| layer.fresh = false);
    }

    /// A layer with the weights of this moment.
    pub(crate) fn get(
        &mut self,
        id: LayerId,
        level: Level,
        pool: &Pool,
        graph: &Graph,
        parameters: &Parameters,
    ) -> Packed {
        let Layer { spec, packed, fresh, .. } = &mut self.layers[id];
        let current = match packed.take() {
            Some(current) if *fresh => current,
            outdated => Packing { level, pool, graph, parameters }.layer(spec, outdated),
        };
        *fresh = true;
        packed.insert(current).clone()
    }

    /// What a layer ends with.
    pub(crate) fn activation(&self, id: LayerId) -> Activation {
        self.layers[id].spec.activation
    }

    /// Values of a layer's weights for each of its outputs' pixels or rows.
    pub(crate) fn weights(&self, id: LayerId, graph: &Graph) -> usize {
        let spec = &self.layers[id].spec;
        let square = |attention: &Attention| attention.dim * attention.dim;
        match (&graph.nodes()[spec.node].op, spec.part) {
            (Op::Attention(attention), Part::Qkv | Part::QkvBackward) => 3 * square(attention),
            (Op::Attention(attention), Part::Projection | Part::ProjectionBackward) => square(attention),
            (Op::Conv2d(conv), _) => {
                conv.out_channels * conv.in_channels / conv.groups * conv.kernel[0] * conv.kernel[1]
            }
            (Op::Linear(linear), _) => linear.in_features * linear.out_features,
            _ => 0,
        }
    }

    /// Bytes of all weights when they are packed.
    pub(crate) fn planned_bytes(&self, graph: &Graph) -> usize {
        let bytes = |layer: &Layer| match &layer.packed {
            Some(packed) => packed.bytes(),
            None => size_of::<f32>() * planned_values(graph, &layer.spec),
        };
        self.layers.iter().map(bytes).sum()
    }

    /// Bytes of all packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().filter_map(|layer| layer.packed.as_ref()).map(Packed::bytes).sum()
    }
}

impl Packed {
    /// Its call. Plans give each layer operands that lie as it reads them.
    pub(crate) fn call(
        &self,
        x: Lies,
        finish: Finish<Rows>,
        to: Lies,
        tokens: Option<&Tokens>,
    ) -> Option<Call> {
        Some(match (self.clone(), x, to) {
            (Packed::Product(layer), Lies::Rows(x), Lies::Rows(to)) => {
                Call::Product { layer, x, scale: None, finish, to }
            }
            (Packed::Winograd(layer), Lies::Maps(x), Lies::Maps(to)) => {
                Call::Winograd { layer, x, finish, to }
            }
            (Packed::Conv(layer), Lies::Maps(x), Lies::Maps(to)) => Call::Conv { layer, x, finish, to },
            (Packed::Depthwise(layer), Lies::Maps(x), Lies::Maps(to)) => {
                Call::Depthwise { layer, x, finish, to, means: None }
            }
            (Packed::Affine(layer), Lies::Rows(x), Lies::Rows(to)) => Call::Affine { layer, x, to },
            (Packed::Norm(layer), Lies::Rows(x), Lies::Rows(to)) => Call::Norm { layer, x, to },
            (Packed::Attend(layer), Lies::Rows(x), Lies::Rows(to)) => {
                Call::Attend { layer, tokens: tokens?.clone(), x, to }
            }
            _ => return None,
        })
    }

    fn bytes(&self) -> usize {
        let values = |values: &[f32]| size_of_val(values);
        match self {
            Packed::Product(layer) => layer.weights.bytes() + values(&layer.bias),
            Packed::Winograd(layer) => layer.weights.bytes() + values(&layer.bias),
            Packed::Conv(layer) => layer.weights.bytes() + values(&layer.bias),
            Packed::Depthwise(layer) => match &layer.weights {
                DepthwiseKernel::Alone(weights) => weights.bytes() + values(&layer.bias),
                DepthwiseKernel::Expand(..) => 0,
            },
            Packed::Affine(layer) => 2 * values(&layer.affine.scale),
            Packed::Norm(layer) => 2 * values(&layer.affine.scale),
            Packed::Attend(layer) => layer.position.as_deref().map_or(0, values) + values(&layer.padding),
            Packed::Transposed(weights) => weights.bytes(),
            Packed::ConvGradient(weights) => weights.bytes(),
            Packed::DepthwiseGradient(weights) => weights.bytes(),
        }
    }
}

struct Packing<'a> {
    level: Level,
    pool: &'a Pool,
    graph: &'a Graph,
    parameters: &'a Parameters,
}

impl Packing<'_> {
    fn node(&self, node: usize) -> &Node {
        &self.graph.nodes()[node]
    }

    fn of(&self, node: usize, name: &str) -> &[f32] {
        self.parameters.of(self.node(node), name)
    }

    /// The layer with the weights of this moment, in the memory of the one that is outdated.
    fn layer(&self, spec: &Spec, outdated: Option<Packed>) -> Packed {
        let Spec { node, part, activation, .. } = *spec;
        match (&self.node(node).op, part) {
            (Op::Linear(linear), Part::Forward { .. }) => {
                let bias =
                    if linear.bias { self.of(node, "bias").to_vec() } else { vec![0.0; linear.out_features] };
                let sizes = [linear.in_features, linear.out_features];
                self.product(self.of(node, "weight"), sizes, bias, outdated)
            }
            (Op::Linear(linear), Part::Backward { .. }) => {
                let sizes = [linear.in_features, linear.out_features];
                self.transposed(self.of(node, "weight"), sizes, outdated)
            }
            (Op::Attention(attention), Part::Qkv) => {
                let weight = self.of(node, &format!("{}weight", attention.projections()[0]));
                let bias = self.qkv_bias(node, attention);
                self.product(weight, [attention.dim, 3 * attention.dim], bias, outdated)
            }
            (Op::Attention(attention), Part::Projection) => {
                let [_, out] = attention.projections();
                let bias = self.of(node, &format!("{out}bias")).to_vec();
                let weight = self.of(node, &format!("{out}weight"));
                self.product(weight, [attention.dim, attention.dim], bias, outdated)
            }
            (Op::Attention(attention), Part::QkvBackward) => {
                let weight = self.of(node, &format!("{}weight", attention.projections()[0]));
                self.transposed(weight, [attention.dim, 3 * attention.dim], outdated)
            }
            (Op::Attention(attention), Part::ProjectionBackward) => {
                let weight = self.of(node, &format!("{}weight", attention.projections()[1]));
                self.transposed(weight, [attention.dim, attention.dim], outdated)
            }
            (Op::Attention(attention), _) => Packed::Attend(Arc::new(self.attend(node, attention))),
            (Op::Conv2d(conv), Part::Backward { pixels }) => self.conv_backward(spec, conv, pixels, outdated),
            (Op::Conv2d(conv), Part::Forward { pixels }) => self.conv(spec, conv, pixels, outdated),
            (Op::LayerNorm { eps, .. } | Op::LayerNorm2d { eps, .. }, _) => {
                let [scale, shift] = ["weight", "bias"].map(|name| self.of(node, name).to_vec());
                Packed::Norm(Arc::new(NormLayer { affine: Affine { scale, shift }, eps: *eps as f32 }))
            }
            _ => Packed::Affine(Arc::new(AffineLayer { affine: self.constants(node), activation })),
        }
    }

    fn product(
        &self,
        weight: &[f32],
        [inputs, outputs]: [usize; 2],
        bias: Vec<f32>,
        outdated: Option<Packed>,
    ) -> Packed {
        let mut weights = match outdated {
            Some(Packed::Product(layer)) => Arc::into_inner(layer).map(|layer| layer.weights),
            _ => None,
        }
        .unwrap_or_else(|| PackedMatrix::zeros(self.level, inputs, outputs));
        weights.pack_transposed(self.pool, Matrix { values: weight, stride: inputs });
        Packed::Product(Arc::new(ProductLayer { before: None, weights, bias }))
    }

    /// The product by the transposed weights.
    fn transposed(&self, weight: &[f32], [inputs, outputs]: [usize; 2], outdated: Option<Packed>) -> Packed {
        let mut weights = match outdated {
            Some(Packed::Transposed(weights)) => Arc::into_inner(weights),
            _ => None,
        }
        .unwrap_or_else(|| PackedMatrix::zeros(self.level, outputs, inputs));
        weights.pack_rows(self.pool, Matrix { values: weight, stride: inputs });
        Packed::Transposed(Arc::new(weights))
    }

    /// The constants of a batch norm by its running statistics, or of an affine node.
    fn constants(&self, node: usize) -> Affine {
        constants(self.graph, self.parameters, node)
    }

    /// Weights and bias of a convolution, with the constants behind it.
    fn conv_weights(&self, spec: &Spec, conv: &Conv2d) -> (Cow<'_, [f32]>, Vec<f32>) {
        let weight = self.of(spec.node, "weight");
        let mut bias =
            if conv.bias { self.of(spec.node, "bias").to_vec() } else { vec![0.0; conv.out_channels] };
        let Some(node) = spec.constants else { return (weight.into(), bias) };
        let Affine { scale, shift } = self.constants(node);
        let row = weight.len() / bias.len().max(1);
        let mut scaled = weight.to_vec();
        for (row, scale) in scaled.chunks_mut(row.max(1)).zip(&scale) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
        for (bias, (scale, shift)) in bias.iter_mut().zip(scale.iter().zip(&shift)) {
            *bias = *bias * scale + shift;
        }
        (scaled.into(), bias)
    }

    /// Chooses the kernel of a convolution.
    fn conv(&self, spec: &Spec, conv: &Conv2d, pixels: usize, outdated: Option<Packed>) -> Packed {
        let (weight, bias) = self.conv_weights(spec, conv);
        let (inputs, outputs) = (conv.in_channels, conv.out_channels);
        let geometry = geometry(conv);
        if is_product(conv) {
            return self.product(&weight, [inputs, outputs], bias, outdated);
        }
        if is_depthwise(conv) {
            let weights = DepthwiseKernel::Alone(match outdated {
                Some(Packed::Depthwise(layer)) => self.repacked(Arc::into_inner(layer), conv, &weight),
                _ => DepthwiseWeights::new(self.level, &weight, inputs, geometry),
            });
            return Packed::Depthwise(Arc::new(DepthwiseLayer { weights, bias, geometry }));
        }
        if let Some(tile) = forward_tile(conv, pixels) {
            let mut weights = self.winograd(tile, [inputs, outputs], outdated);
            weights.pack(self.pool, &weight);
            return Packed::Winograd(Arc::new(WinogradLayer { weights, bias, padding: conv.padding }));
        }
        let weights = match outdated {
            Some(Packed::Conv(layer)) => Arc::into_inner(layer).map(|mut layer| {
                layer.weights.pack(self.pool, &weight);
                layer.weights
            }),
            _ => None,
        };
        let new = || ConvWeights::new(self.level, &weight, outputs, inputs, geometry);
        let weights = weights.unwrap_or_else(new);
        Packed::Conv(Arc::new(ConvLayer { weights, bias, geometry }))
    }

    fn repacked(&self, layer: Option<DepthwiseLayer>, conv: &Conv2d, weight: &[f32]) -> DepthwiseWeights {
        match layer.map(|layer| layer.weights) {
            Some(DepthwiseKernel::Alone(mut weights)) => {
                weights.pack(self.pool, weight);
                weights
            }
            _ => DepthwiseWeights::new(self.level, weight, conv.in_channels, geometry(conv)),
        }
    }

    /// Weights to be packed.
    fn winograd(
        &self,
        tile: WinogradTile,
        [inputs, outputs]: [usize; 2],
        outdated: Option<Packed>,
    ) -> WinogradWeights {
        match outdated {
            Some(Packed::Winograd(layer)) => Arc::into_inner(layer).map(|layer| layer.weights),
            _ => None,
        }
        .unwrap_or_else(|| WinogradWeights::zeros(self.level, tile, outputs, inputs))
    }

    /// What the gradient of a convolution's input is computed by.
    fn conv_backward(&self, spec: &Spec, conv: &Conv2d, pixels: usize, outdated: Option<Packed>) -> Packed {
        let (weight, _) = self.conv_weights(spec, conv);
        let (inputs, outputs) = (conv.in_channels, conv.out_channels);
        if is_product(conv) {
            return self.transposed(&weight, [inputs, outputs], outdated);
        }
        if is_depthwise(conv) {
            let weights = DepthwiseWeights::new(self.level, &weight, inputs, geometry(conv));
            return Packed::DepthwiseGradient(Arc::new(weights));
        }
        if let Some(tile) = backward_tile(conv, pixels) {
            let mut weights = self.winograd(tile, [outputs, inputs], outdated);
            weights.pack_rotated(self.pool, &weight);
            let padding = conv.padding.map(|padding| 2 - padding);
            let bias = vec![0.0; inputs];
            return Packed::Winograd(Arc::new(WinogradLayer { weights, bias, padding }));
        }
        let mut weights = match outdated {
            Some(Packed::ConvGradient(weights)) => Arc::into_inner(weights),
            _ => None,
        }
        .unwrap_or_else(|| ConvGradientWeights::zeros(self.level, outputs, inputs, geometry(conv)));
        weights.pack(self.pool, &weight);
        Packed::ConvGradient(Arc::new(weights))
    }

    fn attend(&self, node: usize, attention: &Attention) -> AttendLayer {
        let similarity = match attention.scores {
            Scores::Product { scale } => Similarity::Product(scale as f32),
            Scores::Cosine => {
                let scales = self.of(node, "logit_scale").iter();
                Similarity::Cosine(scales.map(|scale| scale.min(100.0_f32.ln()).exp()).collect())
            }
        };
        let position =
            position_bias(attention, &mut |name| Ok(self.of(node, name).to_vec())).unwrap_or_default();
        let padding = self.qkv_bias(node, attention);
        AttendLayer { dim: attention.dim, heads: attention.heads, similarity, position, padding }
    }

    fn qkv_bias(&self, node: usize, attention: &Attention) -> Vec<f32> {
        let mut bias = self.of(node, &format!("{}bias", attention.projections()[0])).to_vec();
        if attention.scores == Scores::Cosine {
            // Swin V2's keys have no bias, though its files have one.
            bias[attention.dim..2 * attention.dim].fill(0.0);
        }
        bias
    }
}

/// Values of a layer's weights and constants when they are packed, with columns filled up to whole vectors.
fn planned_values(graph: &Graph, spec: &Spec) -> usize {
    let padded = |columns: usize| columns.next_multiple_of(VECTOR);
    let product = |inputs: usize, outputs: usize| (inputs + 1) * padded(outputs);
    match (&graph.nodes()[spec.node].op, spec.part) {
        (Op::Attention(Attention { dim, .. }), Part::Qkv) => product(*dim, 3 * dim),
        (Op::Attention(Attention { dim, .. }), Part::QkvBackward) => product(3 * dim, *dim),
        (Op::Attention(Attention { dim, .. }), Part::Projection | Part::ProjectionBackward) => {
            product(*dim, *dim)
        }
        (Op::Attention(attention), _) => {
            let tokens = match attention.position {
                PositionBias::None => 0,
                PositionBias::Table { window, .. } | PositionBias::Network { window } => window * window,
            };
            3 * attention.dim + attention.heads * tokens * tokens
        }
        (Op::Linear(linear), Part::Forward { .. }) => product(linear.in_features, linear.out_features),
        (Op::Linear(linear), Part::Backward { .. }) => product(linear.out_features, linear.in_features),
        (Op::Conv2d(conv), part) => {
            let ([inputs, outputs], taps) =
                ([conv.in_channels, conv.out_channels], conv.kernel[0] * conv.kernel[1]);
            if is_depthwise(conv) && !is_product(conv) {
                return (taps + 1) * padded(inputs);
            }
            let (tile, [from, to]) = match part {
                Part::Forward { pixels } => (forward_tile(conv, pixels), [inputs, outputs]),
                Part::Backward { pixels } => (backward_tile(conv, pixels), [outputs, inputs]),
                _ => return 0,
            };
            // Beside the weights there are a bias, and zeros for what is outside the image.
            tile.map_or(taps, WinogradTile::points) * from * padded(to / conv.groups)
                + to
                + from * conv.kernel[1]
        }
        (op, _) => op.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
    }
}

/// Values of the widest vector that there is.
const VECTOR: usize = 16;

/// The constants of a batch norm by its running statistics, or of an affine node.
pub(crate) fn constants(graph: &Graph, parameters: &Parameters, node: usize) -> Affine {
    let node = &graph.nodes()[node];
    match &node.op {
        Op::BatchNorm2d(BatchNorm2d { eps, .. }) => {
            let [weight, bias, mean, var] =
                ["weight", "bias", "running_mean", "running_var"].map(|name| parameters.of(node, name));
            Affine::of_batch_norm(weight, bias, mean, var, *eps)
        }
        Op::ChannelAffine { scale, shift } => Affine { scale: scale.clone(), shift: shift.clone() },
        _ => Affine { scale: Vec::new(), shift: Vec::new() },
    }
}

/// Pixels of a map that is as large as a tile: of smaller ones a tile is padding for the most part, and rounding errors are all that is won.
const TILE_PIXELS: usize = 16;

/// Of smaller ones the convolution is not faster by more than it takes to transform its weights, which is done after every update: resnet18's
/// step took as long with 7x7 maps and 16 images, and a tenth longer with 4. (The gradient of the input is slower without the transform,
/// and gains also by small maps.)
const TILE_PIXELS_FORWARD: usize = 100;

/// The Winograd transform of a convolution from so many channels to so many, if it has one.
fn tile_of(conv: &Conv2d, inputs: usize, outputs: usize, pixels: usize) -> Option<WinogradTile> {
    let plain = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
    winograd_tile(inputs, outputs, pixels).filter(|_| plain && pixels >= TILE_PIXELS)
}

/// The Winograd transform of a convolution of so many output pixels, if it has one.
fn forward_tile(conv: &Conv2d, pixels: usize) -> Option<WinogradTile> {
    tile_of(conv, conv.in_channels, conv.out_channels, pixels).filter(|_| pixels >= TILE_PIXELS_FORWARD)
}

/// The Winograd transform of the gradient of a convolution's input of so many pixels, if it has one.
pub(crate) fn backward_tile(conv: &Conv2d, pixels: usize) -> Option<WinogradTile> {
    let fits = conv.padding.iter().all(|padding| *padding <= 2);
    tile_of(conv, conv.out_channels, conv.in_channels, pixels).filter(|_| fits)
}

/// The tensors of a node's layer that may train.
pub(crate) fn tensors(graph: &Graph, parameters: &Parameters, spec: &Spec) -> Vec<TensorId> {
    let nodes = [Some(spec.node), spec.constants].into_iter().flatten();
    let specs = nodes
        .flat_map(|node| graph.nodes()[node].op.tensors().into_iter().map(move |spec| (node, spec.name)));
    specs.map(|(node, name)| parameters.id(&graph.nodes()[node], &name)).collect()
}
