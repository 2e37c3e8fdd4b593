//! Single operations, on values of any rank.

use engraft_graph::{Dim, Linear, Op, Pool, Resize, ResizeMode, ResizeTo};

use super::Generator;

impl Generator {
    /// The sum with a value of the same shape, one that is broadcast, or a parameter.
    pub(super) fn sum(&mut self, x: usize) -> Option<usize> {
        self.combined(Op::Add, x)
    }

    pub(super) fn product(&mut self, x: usize) -> Option<usize> {
        self.combined(Op::Mul, x)
    }

    fn combined(&mut self, op: Op, x: usize) -> Option<usize> {
        let other = if self.chance(40) {
            let shape = self.operand_shape(x);
            self.parameter(shape)?
        } else {
            self.partner(x)?
        };
        let inputs = if self.chance(50) { [x, other] } else { [other, x] };
        self.push(op, &inputs)
    }

    /// A shape that is broadcast to that of `x`, mostly; it does not depend on the batch.
    fn operand_shape(&mut self, x: usize) -> Vec<usize> {
        let mut shape = self.shape(x).clone();
        shape[0] = 1;
        match self.random.below(5) {
            // One for each channel.
            0 | 1 => {
                let channel = if shape.len() == 4 && self.chance(80) { 1 } else { shape.len() - 1 };
                (0..shape.len()).filter(|axis| *axis != channel).for_each(|axis| shape[axis] = 1);
            }
            2 => {}
            _ => {
                for size in &mut shape {
                    if self.random.below(2) == 0 {
                        *size = 1;
                    } else if *size == 1 && self.random.below(6) == 0 {
                        *size = self.random.below(4) + 1;
                    }
                }
                if self.random.below(3) > 0 {
                    shape[0] = 1;
                }
            }
        }
        match self.random.below(4) {
            0 => shape.split_off(self.random.below(shape.len())),
            1 if shape.len() < 5 && self.random.below(4) == 0 => [&[1], &shape[..]].concat(),
            _ => shape,
        }
    }

    /// Another value that can be added to this one.
    fn partner(&mut self, x: usize) -> Option<usize> {
        let fits = |value: &usize| {
            self.shapes.iter().all(|shapes| {
                let pairs = shapes[*value].iter().rev().zip(shapes[x].iter().rev());
                pairs.fold(true, |fits, (a, b)| fits && (a == b || *a == 1 || *b == 1))
            })
        };
        let alike = |value: &usize| self.shapes.iter().all(|shapes| shapes[*value] == shapes[x]);
        let all: Vec<usize> = (0..=self.case.steps.len()).filter(fits).collect();
        let same: Vec<usize> = all.iter().copied().filter(alike).collect();
        let from = if self.chance(70) { same } else { all };
        (!from.is_empty()).then(|| self.pick(&from))
    }

    pub(super) fn single(&mut self, x: usize) -> Option<usize> {
        let shape = self.shape(x).clone();
        let rank = shape.len();
        let axis = if self.chance(92) && rank > 1 {
            self.random.below(rank - 1) + 1
        } else {
            self.random.below(rank)
        };
        let features = shape[rank - 1];
        match self.random.below(29) {
            0 => {
                let linear = Linear { bias: self.chance(70), ..Linear::new(features, self.channels()) };
                let y = self.push(linear, &[x])?;
                Some(self.epilogue(y))
            }
            1 => self.push(Op::LayerNorm { features, eps: 1e-5 }, &[x]),
            2 => self.push(Op::LayerNorm2d { features: *shape.get(1)?, eps: 1e-5 }, &[x]),
            3 => self.norm(x),
            4 => self.channel_affine(x),
            5 | 6 => {
                let op = self.activation();
                self.push(op, &[x])
            }
            7 => self.push(Op::Softmax { axis }, &[x]),
            8 => {
                let op = match self.random.below(3) {
                    0 => Op::Identity,
                    1 => Op::dropout(0.5),
                    _ => Op::StochasticDepth { p: 0.5 },
                };
                self.push(op, &[x])
            }
            9..=11 => self.pool(x),
            12 => self.push(Op::Flatten { start: axis }, &[x]),
            13 | 14 => {
                let axes: Vec<usize> = (0..rank)
                    .filter(|axis| self.random.below(rank + 1) < 1 + usize::from(*axis > 0))
                    .collect();
                let axes = if rank == 4 && self.chance(30) { vec![2, 3] } else { axes };
                self.push(Op::Mean { axes }, &[x])
            }
            15 => self.sum(x),
            16 => self.product(x),
            17 => self.matmul(x),
            18 | 19 => self.concat(x, axis),
            20 => {
                let parts = self.divisor(shape[axis]);
                let index = self.random.below(parts);
                self.push(Op::Chunk { axis, index, parts }, &[x])
            }
            21 => {
                let index = self.random.below(shape[axis]);
                self.push(Op::Select { axis, index }, &[x])
            }
            22 => self.expand_batch(x),
            23 => {
                let axes = (0..rank).filter(|_| self.random.below(2) == 0).collect();
                let of = self.random.below(6) + 1;
                self.push(Op::PadToMultiple { axes, of }, &[x])
            }
            24 => self.reshape(x),
            25 | 26 => self.permuted(x),
            27 => self.resized(x),
            _ => {
                let mut axes: Vec<usize> = (0..rank).filter(|_| self.random.below(2) == 0).collect();
                self.random.shuffle(&mut axes);
                let shifts = axes.iter().map(|_| self.random.below(21) as isize - 10).collect();
                self.push(Op::Roll { shifts, axes }, &[x])
            }
        }
    }

    pub(super) fn pool(&mut self, x: usize) -> Option<usize> {
        if self.chance(30) {
            let output = [self.random.below(6) + 1, self.random.below(6) + 1];
            let output = if self.chance(40) { [1, 1] } else { output };
            return self.push(Op::AdaptiveAvgPool2d { output, square: output == [1, 1] }, &[x]);
        }
        let kernel = self.random.below(5) + 1;
        let window = Pool {
            kernel,
            stride: self.random.below(4) + 1,
            padding: self.random.below(kernel / 2 + 1),
            ceil_mode: self.chance(40),
        };
        let count_include_pad = self.chance(50);
        let max = self.chance(50);
        let op = if max { Op::MaxPool2d(window) } else { Op::AvgPool2d { window, count_include_pad } };
        self.push(op, &[x])
    }

    /// To any size, or that of another image.
    pub(super) fn resized(&mut self, x: usize) -> Option<usize> {
        self.image(x)?;
        let mut inputs = vec![x];
        let to = match self.random.below(3) {
            0 => ResizeTo::Size([self.random.below(20) + 1, self.random.below(20) + 1]),
            1 => ResizeTo::Scale([0, 1].map(|_| self.pick(&[0.5, 0.7, 1.0, 1.5, 2.0, 3.0]))),
            _ => {
                let is_image = |value: &usize| self.image(*value).is_some();
                let images: Vec<usize> = (0..=self.case.steps.len()).filter(is_image).collect();
                inputs.push(self.pick(&images));
                ResizeTo::Like
            }
        };
        let modes = [false, true].map(|align_corners| ResizeMode::Bilinear { align_corners });
        let mode = self.pick(&[ResizeMode::Nearest, modes[0], modes[1]]);
        self.push(Resize { to, square: false, mode }, &inputs)
    }

    fn matmul(&mut self, x: usize) -> Option<usize> {
        let rank = self.rank(x);
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank.checked_sub(2)?, rank - 1);
        match self.random.below(3) {
            0 => {
                let y = self.push(Op::Permute { axes }, &[x])?;
                let pair = if self.chance(50) { [x, y] } else { [y, x] };
                self.push(Op::MatMul, &pair)
            }
            1 => {
                let mut shape = self.shape(x).clone();
                shape[rank - 2] = shape[rank - 1];
                shape[rank - 1] = self.channels().min(12);
                if rank > 2 {
                    shape[0] = 1;
                }
                let y = self.parameter(shape)?;
                let y = if rank > 2 { self.push(Op::ExpandBatch, &[y, x])? } else { y };
                self.push(Op::MatMul, &[x, y])
            }
            _ => {
                let others = self.case.steps.len() + 1;
                (0..others).rev().find_map(|other| self.push(Op::MatMul, &[x, other]))
            }
        }
    }

    /// Of this value and others, of itself, of parts of it.
    fn concat(&mut self, x: usize, axis: usize) -> Option<usize> {
        let alike = |value: &usize| {
            self.shapes.iter().all(|shapes| {
                let (a, b) = (&shapes[*value], &shapes[x]);
                a.len() == b.len() && (0..a.len()).all(|i| i == axis || a[i] == b[i])
            })
        };
        let others: Vec<usize> = (0..=self.case.steps.len()).filter(alike).collect();
        let mut inputs = vec![x];
        for _ in 0..self.random.below(4) {
            inputs.push(self.pick(&others));
        }
        self.random.shuffle(&mut inputs);
        self.push(Op::Concat { axis }, &inputs)
    }

    /// A parameter, with something computed from it, for each image.
    fn expand_batch(&mut self, x: usize) -> Option<usize> {
        let shape = self.operand_shape(x);
        let mut y = self.parameter(shape)?;
        if self.chance(40) {
            y = self.single(y)?;
        }
        y = self.push(Op::ExpandBatch, &[y, x])?;
        if self.chance(50) { self.combined_with(x, y).or(Some(y)) } else { Some(y) }
    }

    fn combined_with(&mut self, x: usize, y: usize) -> Option<usize> {
        let op = if self.chance(50) { Op::Add } else { Op::Mul };
        self.push(op, &[x, y])
    }

    fn reshape(&mut self, x: usize) -> Option<usize> {
        let shape = self.shape(x).clone();
        let mut dims = Vec::new();
        // With the batch first, mostly, and one size left over.
        let start = usize::from(self.chance(85));
        if start == 1 {
            dims.push(Dim::Keep(0));
        }
        let mut axis = start;
        while axis < shape.len() {
            match self.random.below(5) {
                // Axes that become one.
                0 if axis + 1 < shape.len() && !dims.contains(&Dim::Infer) => {
                    dims.push(Dim::Infer);
                    axis += 1;
                }
                // One that becomes two.
                1 => {
                    let by = self.divisor(shape[axis]);
                    let two = [Dim::Fixed(by), Dim::Div(axis, by)];
                    dims.extend(if self.chance(50) { two } else { [two[1], two[0]] });
                }
                2 if axis > 0 => dims.push(Dim::Fixed(shape[axis])),
                _ => dims.push(Dim::Keep(axis)),
            }
            axis += 1;
        }
        if self.chance(20) {
            dims.insert(self.random.below(dims.len() + 1), Dim::Fixed(1));
        }
        if self.chance(20) && !dims.contains(&Dim::Infer) {
            let place = self.random.below(dims.len());
            dims[place] = Dim::Infer;
        }
        if self.chance(15) {
            self.random.shuffle(&mut dims[start..]);
        }
        self.push(Op::Reshape { shape: dims }, &[x])
    }
}
