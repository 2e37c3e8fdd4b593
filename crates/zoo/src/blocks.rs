//! What several families are made of; `torchvision/ops/misc.py` unless said otherwise.

use engraft_graph::Activation::{GELU, ReLU};
use engraft_graph::{Activation, BatchNorm2d, Builder, Conv2d, Linear, NodeId, Op};

/// The batch norm of a family, for a number of channels; most take [`BatchNorm2d::new`].
pub(crate) type Norm = fn(usize) -> BatchNorm2d;

/// TensorFlow's default eps.
pub(crate) fn norm_of_larger_eps(features: usize) -> BatchNorm2d {
    BatchNorm2d { eps: 1e-3, ..BatchNorm2d::new(features) }
}

/// TensorFlow's default eps and momentum.
pub(crate) fn tensorflow_norm(features: usize) -> BatchNorm2d {
    BatchNorm2d { features, eps: 1e-3, momentum: 0.01 }
}

/// A convolution without bias whose padding keeps the size (but for its stride), batch norm, and an activation if any.
pub(crate) fn conv_norm_activation(
    b: &mut Builder,
    name: &str,
    conv: Conv2d,
    norm: Norm,
    activation: impl Into<Option<Activation>>,
    x: NodeId,
) -> NodeId {
    b.module(name, "Conv2dNormActivation", |b| conv_norm_activation_layers(b, conv, norm, activation, x))
}

/// The layers of [`conv_norm_activation`], within a module that has another class.
pub(crate) fn conv_norm_activation_layers(
    b: &mut Builder,
    conv: Conv2d,
    norm: Norm,
    activation: impl Into<Option<Activation>>,
    x: NodeId,
) -> NodeId {
    let (channels, padding) = (conv.out_channels, conv.kernel[0] / 2);
    let x = b.layer("0", conv.padding(padding).no_bias(), x);
    let x = b.layer("1", norm(channels), x);
    match activation.into() {
        Some(activation) => b.layer("2", activation.inplace(), x),
        None => x,
    }
}

/// A convolution of each channel by itself, without bias, whose padding keeps the size (but for its stride).
pub(crate) fn depthwise(channels: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d::new(channels, channels, kernel).stride(stride).padding(kernel / 2).groups(channels).no_bias()
}

/// The first layers of an inverted residual (Sandler et al. 2018, arXiv 1801.04381), appended to a `Sequential`: a 1x1 convolution from
/// `channels` to the channels of a depthwise one, unless they are as many, then that one.
pub(crate) fn expand_and_filter(
    b: &mut Builder,
    channels: usize,
    depthwise: Conv2d,
    norm: Norm,
    activation: Activation,
    mut x: NodeId,
) -> NodeId {
    let expanded = depthwise.in_channels;
    if expanded != channels {
        let name = b.next_name();
        x = conv_norm_activation(b, &name, Conv2d::new(channels, expanded, 1), norm, activation, x);
    }
    let name = b.next_name();
    conv_norm_activation(b, &name, depthwise, norm, activation, x)
}

/// Convolution without bias, batch norm, ReLU, as GoogLeNet and Inception have it (`torchvision/models/inception.py`).
pub(crate) fn basic_conv(b: &mut Builder, name: &str, conv: Conv2d, x: NodeId) -> NodeId {
    b.module(name, "BasicConv2d", |b| {
        let channels = conv.out_channels;
        let x = b.layer("conv", conv.no_bias(), x);
        let x = b.layer("bn", norm_of_larger_eps(channels), x);
        b.function(ReLU.inplace(), &[x])
    })
}

/// Scales each channel by a number that follows from the means of all (Hu et al. 2017, arXiv 1709.01507): two convolutions, between
/// them `activation`, behind them `gate`.
pub(crate) fn squeeze_excitation(
    b: &mut Builder,
    name: &str,
    [channels, squeezed]: [usize; 2],
    activation: impl Into<Op>,
    gate: Activation,
    input: NodeId,
) -> NodeId {
    b.module(name, "SqueezeExcitation", |b| {
        let x = b.layer("avgpool", Op::global_average_pool(), input);
        let x = b.layer("fc1", Conv2d::new(channels, squeezed, 1), x);
        let x = b.layer("activation", activation, x);
        let x = b.layer("fc2", Conv2d::new(squeezed, channels, 1), x);
        let x = b.layer("scale_activation", gate, x);
        b.registered_in_order(&["avgpool", "fc1", "fc2", "activation", "scale_activation"]);
        b.function(Op::Mul, &[x, input])
    })
}

/// The layers of a transformer's perceptron, over the last axis, within a module of a PyTorch class.
pub(crate) fn mlp(b: &mut Builder, name: &str, class: &str, [dim, hidden]: [usize; 2], x: NodeId) -> NodeId {
    b.module(name, class, |b| {
        let x = b.layer("0", Linear::new(dim, hidden), x);
        let x = b.layer("1", GELU, x);
        let x = b.layer("2", Op::dropout(0.0), x);
        let x = b.layer("3", Linear::new(hidden, dim), x);
        b.layer("4", Op::dropout(0.0), x)
    })
}

/// The multiple of `of` that is nearest to a number of channels, but not more than a tenth below it (`torchvision/models/_utils.py`,
/// `_make_divisible`).
pub(crate) fn round_channels(channels: f64, of: usize) -> usize {
    let nearest = ((channels + of as f64 / 2.0) as usize / of * of).max(of);
    if (nearest as f64) < 0.9 * channels { nearest + of } else { nearest }
}
