//! ResNet (He et al. 2015, arXiv 1512.03385), with the stride on the 3x3 convolution, ResNeXt (Xie et al. 2016, arXiv 1611.05431) and Wide
//! ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146); `torchvision/models/resnet.py`.

use engraft_graph::Activation::ReLU;
use engraft_graph::{BatchNorm2d, Builder, Conv2d, Graph, Linear, NodeId, Op, Pool};

/// The residual block of a ResNet.
#[derive(Clone, Copy)]
pub(crate) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 and 1x1, the last four times as wide as a basic block.
    Bottleneck {
        /// Groups of the 3x3 convolution.
        groups: usize,
        /// Channels of a group in `layer1`; twice as many in each layer that follows.
        width: usize,
    },
}

/// That of a ResNet.
pub(crate) const BOTTLENECK: Block = Block::Bottleneck { groups: 1, width: 64 };

impl Block {
    fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck { .. } => 4,
        }
    }
}

/// `blocks[i]` residual blocks in `layer{i + 1}`.
pub(crate) fn resnet(block: Block, blocks: [usize; 4]) -> Graph {
    let (mut b, x) = Builder::new("ResNet", 3, 224);
    let x = b.layer("conv1", Conv2d::new(3, 64, 7).stride(2).padding(3).no_bias(), x);
    let x = b.layer("bn1", BatchNorm2d::new(64), x);
    let x = b.layer("relu", ReLU.inplace(), x);
    let mut x = b.layer("maxpool", Op::MaxPool2d(Pool::new(3, 2).padding(1)), x);
    let mut channels = 64;
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let width = 64 << stage;
        x = b.sequential(&format!("layer{}", stage + 1), |b| {
            for index in 0..blocks {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                x = residual(b, &index.to_string(), block, [channels, width], stride, x);
                channels = width * block.expansion();
            }
            x
        });
    }
    let x = b.layer("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, x);
    let x = b.function(Op::Flatten { start: 1 }, &[x]);
    let x = b.layer("fc", Linear::new(channels, 1000), x);
    b.finish(x)
}

fn residual(
    b: &mut Builder,
    name: &str,
    block: Block,
    [channels, width]: [usize; 2],
    stride: usize,
    input: NodeId,
) -> NodeId {
    let out = width * block.expansion();
    let class = match block {
        Block::Basic => "BasicBlock",
        Block::Bottleneck { .. } => "Bottleneck",
    };
    b.module(name, class, |b| {
        let convolutions = match block {
            Block::Basic => vec![
                Conv2d::new(channels, width, 3).stride(stride).padding(1),
                Conv2d::new(width, out, 3).padding(1),
            ],
            Block::Bottleneck { groups, width: of_group } => {
                let inner = groups * of_group * width / 64;
                vec![
                    Conv2d::new(channels, inner, 1),
                    Conv2d::new(inner, inner, 3).stride(stride).padding(1).groups(groups),
                    Conv2d::new(inner, out, 1),
                ]
            }
        };
        let last = convolutions.len();
        let mut x = input;
        for (number, conv) in (1..).zip(convolutions) {
            let channels = conv.out_channels;
            x = b.layer(&format!("conv{number}"), conv.no_bias(), x);
            x = b.layer(&format!("bn{number}"), BatchNorm2d::new(channels), x);
            if number < last {
                x = b.layer("relu", ReLU.inplace(), x);
            }
        }
        let shortcut = if stride == 1 && channels == out {
            input
        } else {
            b.sequential("downsample", |b| {
                let x = b.layer("0", Conv2d::new(channels, out, 1).stride(stride).no_bias(), input);
                b.layer("1", BatchNorm2d::new(out), x)
            })
        };
        if let Block::Bottleneck { .. } = block {
            b.registered_in_order(&["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "relu", "downsample"]);
        }
        let x = b.function(Op::Add, &[x, shortcut]);
        b.layer("relu", ReLU.inplace(), x)
    })
}
