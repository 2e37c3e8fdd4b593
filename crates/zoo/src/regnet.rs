//! RegNet X and Y (Radosavovic et al. 2020, arXiv 2003.13678); `torchvision/models/regnet.py`.

use engraft_graph::Activation::{ReLU, Sigmoid};
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op};

use crate::blocks::{conv_norm_activation, conv_norm_activation_layers, round_channels, squeeze_excitation};

const STEM: usize = 32;

/// The paper's parameters, from which the stages follow.
#[derive(Clone, Copy)]
struct Parameters {
    /// Blocks in all.
    depth: usize,
    /// Channels of the first block: w_0.
    width: f64,
    /// By how much they would grow with each block if they grew linearly: w_a.
    slope: f64,
    /// The factors of the first block's that they may be are powers of this: w_m.
    step: f64,
    /// Channels of a group of the 3x3 convolutions.
    group: usize,
}

/// Blocks, channels and channels of a group, the same in a stage.
struct Stage {
    depth: usize,
    width: usize,
    group: usize,
}

impl Parameters {
    fn stages(self) -> Vec<Stage> {
        let width = |block: usize| {
            let linear = self.width + self.slope * block as f64;
            let power = (linear / self.width).log(self.step).round_ties_even();
            8 * (self.width * self.step.powf(power) / 8.0).round_ties_even() as usize
        };
        let widths: Vec<usize> = (0..self.depth).map(width).collect();
        let stage = |blocks: &[usize]| {
            let group = self.group.min(blocks[0]);
            Stage { depth: blocks.len(), width: round_channels(blocks[0] as f64, group), group }
        };
        widths.chunk_by(|a, b| a == b).map(stage).collect()
    }
}

/// By depth, w_0, w_a, w_m and group width.
pub(crate) fn regnet_x(depth: usize, width: usize, slope: f64, step: f64, group: usize) -> Graph {
    regnet(Parameters { depth, width: width as f64, slope, step, group }, false)
}

/// The same with squeeze-excitation.
pub(crate) fn regnet_y(depth: usize, width: usize, slope: f64, step: f64, group: usize) -> Graph {
    regnet(Parameters { depth, width: width as f64, slope, step, group }, true)
}

fn regnet(parameters: Parameters, squeezes: bool) -> Graph {
    let (mut b, x) = Builder::new("RegNet", 3, 224);
    let x = b.module("stem", "SimpleStemIN", |b| {
        conv_norm_activation_layers(b, Conv2d::new(3, STEM, 3).stride(2), BatchNorm2d::new, ReLU, x)
    });
    let mut channels = STEM;
    let x = b.sequential("trunk_output", |b| {
        let mut x = x;
        for (number, stage) in (1..).zip(parameters.stages()) {
            x = b.module(&format!("block{number}"), "AnyStage", |b| {
                for block in 0..stage.depth {
                    let stride = if block == 0 { 2 } else { 1 };
                    let name = format!("block{number}-{block}");
                    x = residual(b, &name, channels, &stage, stride, squeezes, x);
                    channels = stage.width;
                }
                x
            });
        }
        x
    });
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(channels, 1000), x);
    b.finish(x)
}

fn residual(
    b: &mut Builder,
    name: &str,
    channels: usize,
    &Stage { width, group, .. }: &Stage,
    stride: usize,
    squeezes: bool,
    input: NodeId,
) -> NodeId {
    let norm = BatchNorm2d::new;
    b.module(name, "ResBottleneckBlock", |b| {
        let mut shortcut = input;
        if stride != 1 || channels != width {
            let conv = Conv2d::new(channels, width, 1).stride(stride);
            shortcut = conv_norm_activation(b, "proj", conv, norm, None, input);
        }
        let x = b.module("f", "BottleneckTransform", |b| {
            let x = conv_norm_activation(b, "a", Conv2d::new(channels, width, 1), norm, ReLU, input);
            let grouped = Conv2d::new(width, width, 3).stride(stride).groups(width / group);
            let mut x = conv_norm_activation(b, "b", grouped, norm, ReLU, x);
            if squeezes {
                x = squeeze_excitation(b, "se", [width, channels / 4], ReLU, Sigmoid, x);
            }
            conv_norm_activation(b, "c", Conv2d::new(width, width, 1), norm, None, x)
        });
        let x = b.function(Op::Add, &[shortcut, x]);
        b.layer("activation", ReLU.inplace(), x)
    })
}
