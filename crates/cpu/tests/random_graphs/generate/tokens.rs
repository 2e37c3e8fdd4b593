//! Images as sequences of tokens, and attention.

use engraft_graph::{Attention, Dim, Linear, Op, PositionBias, ProjectionNames, Scores, Windows};

use super::Generator;

impl Generator {
    /// An image as a sequence of pixels, with a class token and positions.
    pub(super) fn tokens(&mut self, x: usize) -> Option<usize> {
        let shape = match self.random.below(3) {
            0 => vec![Dim::Infer, Dim::Keep(1), Dim::Fixed(self.shape(x)[2..].iter().product())],
            _ => vec![Dim::Keep(0), Dim::Keep(1), Dim::Infer],
        };
        let mut y = if self.chance(30) {
            self.push(Op::Flatten { start: 2 }, &[x])?
        } else {
            self.push(Op::Reshape { shape }, &[x])?
        };
        y = self.push(Op::Permute { axes: vec![0, 2, 1] }, &[y])?;
        let features = *self.shape(y).last()?;
        if self.chance(60) {
            let token = self.parameter(vec![1, 1, features])?;
            let token = self.push(Op::ExpandBatch, &[token, x])?;
            y = self.push(Op::Concat { axis: 1 }, &[token, y])?;
        }
        if self.chance(60) {
            let [_, tokens, _] = self.shape(y)[..] else { return None };
            let positions = self.parameter(vec![1, tokens, features])?;
            y = self.push(Op::Add, &[y, positions])?;
        }
        y = self.between(y);
        y = self.transformer(y).unwrap_or(y);
        match self.random.below(4) {
            0 => self.push(Op::Select { axis: 1, index: 0 }, &[y]),
            1 => self.push(Op::Mean { axes: vec![1] }, &[y]),
            _ => Some(y),
        }
    }

    /// Attention or its MLP, on tokens.
    pub(super) fn transformer(&mut self, x: usize) -> Option<usize> {
        let features = *self.shape(x).last()?;
        let mut y = x;
        if self.chance(60) {
            y = self.push(Op::LayerNorm { features, eps: 1e-6 }, &[y])?;
        }
        y = match self.random.below(3) {
            0 => {
                let linear = Linear::new(features, self.channels());
                y = self.push(linear, &[y])?;
                let op = self.activation();
                y = self.push(op, &[y])?;
                let hidden = *self.shape(y).last()?;
                self.push(Linear::new(hidden, features), &[y])?
            }
            1 => self.attention_by_hand(y)?,
            _ => self.attention(y, None)?,
        };
        y = self.between(y);
        if self.chance(30) {
            let scale = self.parameter(vec![features])?;
            y = self.push(Op::Mul, &[y, scale])?;
        }
        if self.chance(70) { self.push(Op::Add, &[x, y]).or(Some(y)) } else { Some(y) }
    }

    /// Queries, keys and values by products, in single operations.
    fn attention_by_hand(&mut self, x: usize) -> Option<usize> {
        let features = *self.shape(x).last()?;
        let qkv = self.push(Linear::new(features, 3 * features), &[x])?;
        let axis = self.rank(x) - 1;
        let mut parts = [0; 3];
        for (index, part) in parts.iter_mut().enumerate() {
            *part = self.push(Op::Chunk { axis, index, parts: 3 }, &[qkv])?;
        }
        let mut axes: Vec<usize> = (0..=axis).collect();
        axes.swap(axis - 1, axis);
        let keys = self.push(Op::Permute { axes }, &[parts[1]])?;
        let scores = self.push(Op::MatMul, &[parts[0], keys])?;
        let scores = self.push(Op::Softmax { axis }, &[scores])?;
        self.push(Op::MatMul, &[scores, parts[2]])
    }

    fn attention(&mut self, x: usize, windows: Option<Windows>) -> Option<usize> {
        let shape = self.shape(x).clone();
        let dim = *shape.last()?;
        let heads = self.divisor(dim);
        let tokens = shape[shape.len() - 2];
        let root = (1..8).find(|side| side * side == tokens);
        let biased = windows.map(|windows| windows.side).or(root);
        let position = match (biased, self.random.below(3)) {
            (Some(window), 0) => PositionBias::Table { window, matrix: self.chance(50) },
            // The distances in a window of one token have no logarithm.
            (Some(window), 1) if window > 1 => PositionBias::Network { window },
            _ => PositionBias::None,
        };
        let scores = if self.chance(60) {
            Scores::Product { scale: 1.0 / ((dim / heads) as f64).sqrt() }
        } else {
            Scores::Cosine
        };
        let names = self.pick(&[ProjectionNames::Torch, ProjectionNames::Swin, ProjectionNames::MaxVit]);
        let y = self.push(Attention { dim, heads, names, scores, position, windows }, &[x])?;
        Some(self.epilogue_of_rows(y))
    }

    /// What may follow the projection of an attention.
    fn epilogue_of_rows(&mut self, y: usize) -> usize {
        if self.chance(70) { y } else { self.epilogue(y) }
    }

    pub(super) fn windows(&mut self, x: usize) -> Option<usize> {
        let mut y = self.push(Op::Permute { axes: vec![0, 2, 3, 1] }, &[x])?;
        if self.chance(40) {
            let features = *self.shape(y).last()?;
            y = self.push(Op::LayerNorm { features, eps: 1e-5 }, &[y])?;
        }
        let side = self.random.below(5) + 1;
        let windows = Windows { side, shift: self.random.below(side) };
        let windows = if self.chance(85) { Some(windows) } else { None };
        y = self.attention(y, windows)?;
        y = self.between(y);
        if self.chance(70) { self.push(Op::Permute { axes: vec![0, 3, 1, 2] }, &[y]) } else { Some(y) }
    }
}
