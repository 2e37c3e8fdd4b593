//! Chains that the engine computes in one step, and what almost is such a chain.

use engraft_engine::SplitMix64;
use engraft_graph::{Activation, BatchNorm2d, Conv2d, Dim, Linear, Op, Resize, ResizeMode, ResizeTo};

use super::Generator;

impl Generator {
    fn random_conv(&mut self, x: usize) -> Option<Conv2d> {
        let [_, channels, ..] = self.image(x)?;
        let bias = self.chance(50);
        let conv = match self.random.below(13) {
            0..3 => Conv2d::new(channels, self.channels(), 1),
            3..5 => Conv2d::new(channels, self.channels(), 3).padding(1),
            5 => Conv2d::new(channels, self.channels(), self.pick(&[1, 3, 3, 5])).stride(2),
            6 | 7 => {
                let kernel = self.pick(&[1, 3, 3, 5, 7]);
                let conv = Conv2d::new(channels, channels, kernel).padding(kernel / 2).groups(channels);
                conv.stride(self.pick(&[1, 1, 2, 3]))
            }
            8 => {
                let out = self.pick(&[16, 17, 32, 40]);
                Conv2d {
                    padding: [self.random.below(6), self.random.below(4)],
                    ..Conv2d::new(channels, out, 3)
                }
            }
            9 => {
                let kernel = self.pick(&[1, 2, 3]);
                let multiplier = self.random.below(4) + 1;
                Conv2d::new(channels, channels * multiplier, kernel).groups(channels)
            }
            _ => {
                let groups = match self.random.below(3) {
                    0 => self.divisor(channels),
                    1 => channels,
                    _ => 1,
                };
                let multiple = self.random.below(4) + 1;
                let out = if groups == 1 { self.channels() } else { groups * multiple };
                let side =
                    |random: &mut SplitMix64, most: usize| [random.below(most) + 1, random.below(most) + 1];
                let kernel = side(&mut self.random, 5);
                Conv2d {
                    kernel,
                    stride: if self.chance(50) { [1, 1] } else { side(&mut self.random, 3) },
                    dilation: if self.chance(60) { [1, 1] } else { side(&mut self.random, 3) },
                    padding: kernel.map(|kernel| self.random.below(kernel + 2)),
                    ..Conv2d::new(channels, out, 1).groups(groups)
                }
            }
        };
        Some(Conv2d { bias, ..conv })
    }

    pub(super) fn convolution(&mut self, x: usize) -> Option<usize> {
        let conv = self.random_conv(x)?;
        let y = self.push(conv, &[x])?;
        Some(self.epilogue(y))
    }

    /// What may follow a product before its result leaves the registers.
    pub(super) fn epilogue(&mut self, mut y: usize) -> usize {
        for _ in 0..self.random.below(3) {
            y = self.between(y);
            y = match self.random.below(4) {
                0 => self.channel_affine(y),
                1 => self.product(y),
                _ => self.norm(y),
            }
            .unwrap_or(y);
        }
        if self.chance(35) {
            y = self.between(y);
            y = self.sum(y).unwrap_or(y);
        }
        if self.chance(60) {
            y = self.between(y);
            let op = self.activation();
            y = self.push(op, &[y]).unwrap_or(y);
        }
        y
    }

    pub(super) fn norm(&mut self, x: usize) -> Option<usize> {
        let features = *self.shape(x).get(1)?;
        let op = if self.chance(85) || self.rank(x) != 4 {
            BatchNorm2d::new(features).into()
        } else {
            Op::LayerNorm2d { features, eps: 1e-5 }
        };
        self.push(op, &[x])
    }

    pub(super) fn channel_affine(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        // Sometimes so large that activations leave the range in which they do something.
        let size = if self.chance(15) { 50.0 } else { 1.0 };
        let mut constants = |from: f64| -> Vec<f32> {
            (0..channels).map(|_| (size * (from + self.random.uniform())) as f32).collect()
        };
        let (scale, shift) = (constants(0.5), constants(-0.5));
        self.push(Op::ChannelAffine { scale, shift }, &[x])
    }

    /// Batch norm and activation before a 1x1 convolution, as DenseNet has it.
    pub(super) fn before_product(&mut self, x: usize) -> Option<usize> {
        let x = self.between(x);
        let mut y = if self.chance(80) { self.norm(x)? } else { self.channel_affine(x)? };
        y = self.between(y);
        if self.chance(70) {
            let op = self.activation();
            y = self.push(op, &[y])?;
            y = self.between(y);
        }
        let [_, channels, ..] = self.image(y)?;
        let conv = Conv2d::new(channels, self.channels(), 1);
        let conv = match self.random.below(6) {
            0 => Conv2d { kernel: [3, 3], ..conv },
            1 => Conv2d { kernel: [3, 3], padding: [1, 1], ..conv },
            2 => Conv2d { stride: [2, 2], ..conv },
            3 => Conv2d { padding: [self.random.below(2), 1], ..conv },
            _ => conv,
        };
        let y = self.push(conv, &[y])?;
        Some(self.epilogue(y))
    }

    /// A value that scales each channel of each image, or almost such a value.
    fn gate(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        let mut gate = match self.random.below(8) {
            0 => {
                let mean = self.push(Op::Mean { axes: vec![2, 3] }, &[x])?;
                let shape = vec![Dim::Keep(0), Dim::Keep(1), Dim::Fixed(1), Dim::Fixed(1)];
                self.push(Op::Reshape { shape }, &[mean])?
            }
            1 => {
                let output = self.pick(&[[1, 2], [2, 1], [1, 1]]);
                self.push(Op::AdaptiveAvgPool2d { output, square: false }, &[x])?
            }
            2 => x,
            _ => self.push(Op::global_average_pool(), &[x])?,
        };
        gate = self.between(gate);
        if self.chance(60) {
            let [_, channels, ..] = self.image(gate)?;
            let hidden = self.channels();
            gate = self.push(Conv2d::new(channels, hidden, 1), &[gate])?;
            let op = self.activation();
            gate = self.push(op, &[gate])?;
            gate = self.between(gate);
        }
        if self.chance(70) {
            let [_, hidden, ..] = self.image(gate)?;
            let out = if self.chance(75) { channels } else { 1 };
            gate = self.push(Conv2d::new(hidden, out, 1), &[gate])?;
        }
        let function = self.pick(&[Activation::Sigmoid, Activation::Hardsigmoid]);
        self.push(function, &[gate])
    }

    pub(super) fn squeeze_excitation(&mut self, x: usize) -> Option<usize> {
        let x = if self.chance(40) { self.convolution(x)? } else { x };
        let x = self.between(x);
        let gate = self.gate(x)?;
        let gate = self.between(gate);
        let inputs = if self.chance(50) { [x, gate] } else { [gate, x] };
        let y = self.push(Op::Mul, &inputs)?;
        let y = self.between(y);
        if self.chance(30) {
            return Some(y);
        }
        let [_, channels, ..] = self.image(y)?;
        let conv = Conv2d::new(channels, self.channels(), 1);
        let y = self.push(conv, &[y])?;
        Some(self.epilogue(y))
    }

    /// Expansion, depthwise convolution, squeeze-and-excitation, projection: each with some chance.
    pub(super) fn inverted_residual(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        let mut y = x;
        if self.chance(80) {
            let wide = if self.chance(80) { self.channels() } else { channels };
            let conv = Conv2d { bias: self.chance(50), ..Conv2d::new(channels, wide, 1) };
            y = self.push(conv, &[y])?;
            y = self.epilogue(y);
            y = self.between(y);
        }
        let [_, wide, ..] = self.image(y)?;
        let kernel = self.pick(&[1, 2, 3, 3, 3, 5, 7]);
        let conv = Conv2d::new(wide, wide, kernel).groups(wide);
        let conv =
            conv.padding(self.pick(&[kernel / 2, kernel / 2, 0, kernel])).stride(self.pick(&[1, 1, 2, 3]));
        let conv = Conv2d { bias: self.chance(50), ..conv };
        y = self.push(conv, &[y])?;
        y = self.epilogue(y);
        let mut scaled = y;
        if self.chance(40) {
            let gate = self.gate(y)?;
            scaled = self.push(Op::Mul, &[gate, y])?;
        } else if self.chance(30) {
            self.push(Op::global_average_pool(), &[y])?;
        }
        let [_, wide, ..] = self.image(scaled)?;
        let out = if self.chance(50) { channels } else { self.channels() };
        let conv = Conv2d { bias: self.chance(50), ..Conv2d::new(wide, out, 1) };
        let y = self.push(conv, &[scaled])?;
        let y = if self.chance(50) { self.push(BatchNorm2d::new(out), &[y])? } else { y };
        if self.chance(60) {
            return self.push(Op::Add, &[y, x]).or(Some(y));
        }
        Some(y)
    }

    /// Values beside each other, the concatenation beside what was made from it.
    pub(super) fn dense_block(&mut self, x: usize) -> Option<usize> {
        let mut whole = x;
        for _ in 0..self.random.below(3) + 1 {
            let [_, channels, ..] = self.image(whole)?;
            let mut y = whole;
            if self.chance(50) {
                y = self.push(BatchNorm2d::new(channels), &[y])?;
                y = self.push(Activation::ReLU, &[y])?;
            }
            let conv = if self.chance(50) {
                Conv2d::new(channels, self.channels(), 1)
            } else {
                Conv2d::new(channels, self.channels(), 3).padding(1)
            };
            y = self.push(conv, &[y])?;
            y = self.between(y);
            let mut inputs = vec![whole, y];
            if self.chance(25) {
                inputs.push(self.pick(&[whole, y, x]));
            }
            self.random.shuffle(&mut inputs);
            whole = self.push(Op::Concat { axis: 1 }, &inputs)?;
        }
        Some(whole)
    }

    /// Channels last in between, scaled by a parameter.
    pub(super) fn convnext(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        let mut y = x;
        if self.chance(60) {
            y = self.push(Conv2d::new(channels, channels, 3).padding(1).groups(channels), &[y])?;
        }
        y = self.push(Op::Permute { axes: vec![0, 2, 3, 1] }, &[y])?;
        y = self.between(y);
        let features = *self.shape(y).last()?;
        if self.chance(70) {
            y = self.push(Op::LayerNorm { features, eps: 1e-6 }, &[y])?;
        }
        let hidden = self.channels();
        y = self.push(Linear::new(features, hidden), &[y])?;
        y = self.between(y);
        let op = self.activation();
        y = self.push(op, &[y])?;
        let features = *self.shape(y).last()?;
        let linear = Linear { bias: self.chance(70), ..Linear::new(features, channels) };
        y = self.push(linear, &[y])?;
        y = self.push(Op::Permute { axes: vec![0, 3, 1, 2] }, &[y])?;
        y = self.between(y);
        if self.chance(70) {
            let channels = *self.shape(y).get(1)?;
            let shape = match self.random.below(4) {
                0 => vec![1],
                1 => vec![1, channels, 1, 1],
                _ => vec![channels, 1, 1],
            };
            let scale = self.parameter(shape)?;
            y = self.push(Op::Mul, &[scale, y])?;
            y = self.between(y);
        }
        self.push(Op::Add, &[y, x]).or(Some(y))
    }

    pub(super) fn classifier(&mut self, x: usize) -> Option<usize> {
        let mut y = x;
        if self.chance(60) {
            let output = [self.random.below(3) + 1, self.random.below(3) + 1];
            let op = if self.chance(50) {
                Op::global_average_pool()
            } else {
                Op::AdaptiveAvgPool2d { output, square: false }
            };
            y = self.push(op, &[y])?;
        }
        y = self.between(y);
        let start = if self.chance(90) { 1 } else { self.random.below(4) };
        y = self.push(Op::Flatten { start }, &[y])?;
        y = self.between(y);
        let features = *self.shape(y).last()?;
        let linear = Linear { bias: self.chance(80), ..Linear::new(features, self.channels()) };
        y = self.push(linear, &[y])?;
        Some(self.epilogue(y))
    }

    /// A channel shuffle (ShuffleNet), with parts that were cut before.
    pub(super) fn shuffle(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        let groups = self.divisor(channels);
        let shape = vec![Dim::Keep(0), Dim::Fixed(groups), Dim::Div(1, groups), Dim::Keep(2), Dim::Keep(3)];
        let y = self.push(Op::Reshape { shape }, &[x])?;
        let y = self.push(Op::Permute { axes: vec![0, 2, 1, 3, 4] }, &[y])?;
        let shape = vec![Dim::Keep(0), Dim::Infer, Dim::Keep(3), Dim::Keep(4)];
        let y = self.push(Op::Reshape { shape }, &[y])?;
        if self.chance(50) {
            let parts = self.divisor(channels);
            let index = self.random.below(parts);
            return self.push(Op::Chunk { axis: 1, index, parts }, &[y]);
        }
        Some(y)
    }

    /// A map and a smaller one, resized and added to it (Lin et al. 2017, arXiv 1612.03144).
    pub(super) fn pyramid(&mut self, x: usize) -> Option<usize> {
        let [_, channels, ..] = self.image(x)?;
        let conv = Conv2d::new(channels, self.channels(), 1);
        let lateral = self.push(conv, &[x])?;
        let lateral = self.between(lateral);
        let [_, channels, ..] = self.image(lateral)?;
        let small = self.pool(x)?;
        let [_, of_small, ..] = self.image(small)?;
        let small = self.push(Conv2d::new(of_small, channels, 1), &[small])?;
        let small = self.between(small);
        let mode = self.pick(&[ResizeMode::Nearest, ResizeMode::Bilinear { align_corners: false }]);
        let like = Resize { to: ResizeTo::Like, square: false, mode };
        let large = self.push(like, &[small, lateral])?;
        let y = if self.chance(70) {
            self.push(Op::Add, &[lateral, large])?
        } else {
            self.push(Op::Concat { axis: 1 }, &[large, lateral])?
        };
        let [_, channels, ..] = self.image(y)?;
        let conv = Conv2d::new(channels, self.channels(), 3).padding(1);
        self.push(conv, &[y])
    }
}
