//! Attention against plain loops in f64.

mod common;

use common::{cases, most, values};
use engraft_kernels::{
    AttentionShape, Level, Matrix, Pool, Scores, Similarity, TokenRows, Windows, attention,
};
use proptest::prelude::*;

/// An attention with all that it reads.
#[derive(Clone, Debug)]
struct Case {
    shape: AttentionShape,
    cosine: bool,
    bias: bool,
    masks: usize,
    qkv_gap: usize,
    output_gap: usize,
    /// `[windows of an image, tokens]` and the image's rows.
    table: Option<(Vec<u32>, usize)>,
}

/// What the gaps in the output are filled with.
const GAP: f32 = 7.5;

impl Case {
    fn dim(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn rows(&self) -> usize {
        let places = self.shape.groups * self.shape.tokens;
        self.table.as_ref().map_or(places, |(rows, image_rows)| places / rows.len() * image_rows)
    }

    fn qkv(&self) -> Vec<f32> {
        values((self.rows() - 1) * (3 * self.dim() + self.qkv_gap) + 3 * self.dim(), 1)
    }

    fn padding(&self) -> Vec<f32> {
        values(3 * self.dim(), 2)
    }

    fn bias(&self) -> Option<Vec<f32>> {
        self.bias.then(|| values(self.shape.heads * self.shape.tokens.pow(2), 3))
    }

    fn mask(&self) -> Option<Vec<f32>> {
        let count = self.masks * self.shape.tokens.pow(2);
        (count > 0).then(|| values(count, 4).iter().map(|&x| if x < 0.5 { 0.0 } else { -100.0 }).collect())
    }

    fn scales(&self) -> Vec<f32> {
        (0..self.shape.heads).map(|head| 3.0 + head as f32).collect()
    }

    fn row(&self, group: usize, token: usize) -> Option<usize> {
        let place = group * self.shape.tokens + token;
        match &self.table {
            None => Some(place),
            Some((rows, image_rows)) => match rows[place % rows.len()] {
                u32::MAX => None,
                row => Some(place / rows.len() * image_rows + row as usize),
            },
        }
    }

    /// What the kernel makes of it.
    fn run(&self, level: Level, pool: &Pool) -> Vec<f32> {
        let (dim, qkv, padding) = (self.dim(), self.qkv(), self.padding());
        let (bias, mask, scales) = (self.bias(), self.mask(), self.scales());
        let similarity = if self.cosine { Similarity::Cosine(&scales) } else { Similarity::Product(0.7) };
        let scores = Scores { similarity, bias: bias.as_deref(), mask: mask.as_deref() };
        let table = self.table.clone().map(|(rows, image_rows)| TokenRows::new(rows, image_rows));
        let windows = table.as_ref().map(|rows| Windows { rows, padding: &padding });
        let mut output = vec![GAP; (self.rows() - 1) * (dim + self.output_gap) + dim];
        let qkv = Matrix { values: &qkv, stride: 3 * dim + self.qkv_gap };
        attention(level, pool, self.shape, qkv, scores, windows, &mut output, dim + self.output_gap);
        output
    }

    /// What loops make of it.
    fn expected(&self) -> Vec<f64> {
        let AttentionShape { groups, tokens, heads, head_dim } = self.shape;
        let (dim, qkv, padding) = (self.dim(), self.qkv(), self.padding());
        let (bias, mask, scales) = (self.bias(), self.mask(), self.scales());
        let mut output = vec![f64::from(GAP); (self.rows() - 1) * (dim + self.output_gap) + dim];
        for group in 0..groups {
            for head in 0..heads {
                let vector = |token: usize, part: usize| -> Vec<f64> {
                    let row = match self.row(group, token) {
                        Some(row) => &qkv[row * (3 * dim + self.qkv_gap)..],
                        None => &padding,
                    };
                    let vector = &row[part * dim + head * head_dim..][..head_dim];
                    let length = if self.cosine && part < 2 {
                        vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12)
                    } else {
                        1.0
                    };
                    vector.iter().map(|&x| f64::from(x) / length).collect()
                };
                let scale = f64::from(if self.cosine { scales[head] } else { 0.7 });
                for query in 0..tokens {
                    let Some(row) = self.row(group, query) else { continue };
                    let q = vector(query, 0);
                    let weights: Vec<f64> = (0..tokens)
                        .map(|key| {
                            let product: f64 = q.iter().zip(vector(key, 1)).map(|(a, b)| a * b).sum();
                            let place = query * tokens + key;
                            let bias = bias.as_ref().map_or(0.0, |bias| bias[head * tokens * tokens + place]);
                            let mask = mask
                                .as_ref()
                                .map_or(0.0, |mask| mask[group % self.masks * tokens * tokens + place]);
                            (product * scale + f64::from(bias) + f64::from(mask)).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    let to = &mut output[row * (dim + self.output_gap) + head * head_dim..][..head_dim];
                    to.fill(0.0);
                    for (key, weight) in weights.iter().enumerate() {
                        for (y, x) in to.iter_mut().zip(vector(key, 2)) {
                            *y += weight / sum * x;
                        }
                    }
                }
            }
        }
        output
    }

    fn check(&self) {
        let expected = self.expected();
        for level in Level::all() {
            let output = self.run(level, &Pool::new(1));
            for (place, (&y, &e)) in output.iter().zip(&expected).enumerate() {
                assert!(
                    (f64::from(y) - e).abs() < 3e-6,
                    "{level}, place {place}: {y} instead of {e}, {self:?}"
                );
            }
            for threads in [2, 3] {
                let same = self.run(level, &Pool::new(threads)) == output;
                assert!(same, "{level} with {threads} threads computes something else");
            }
        }
    }
}

/// A case without windows, bias and mask.
fn plain(groups: usize, tokens: usize, heads: usize, head_dim: usize) -> Case {
    let shape = AttentionShape { groups, tokens, heads, head_dim };
    Case { shape, cosine: false, bias: false, masks: 0, qkv_gap: 0, output_gap: 0, table: None }
}

/// The rows of shifted windows as torchvision makes them: pad, roll, cut.
fn shifted_windows([height, width]: [usize; 2], side: usize, shift: usize) -> (Vec<u32>, usize) {
    let (padded_height, padded_width) = (height.next_multiple_of(side), width.next_multiple_of(side));
    let mut rows = Vec::new();
    for top in (0..padded_height).step_by(side) {
        for left in (0..padded_width).step_by(side) {
            for token in 0..side * side {
                let y = (top + token / side + shift) % padded_height;
                let x = (left + token % side + shift) % padded_width;
                let inside = y < height && x < width;
                rows.push(if inside { (y * width + x) as u32 } else { TokenRows::PADDING });
            }
        }
    }
    (rows, height * width)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(4), ..ProptestConfig::default() })]

    #[test]
    fn any_sizes(
        groups in 1_usize..4,
        tokens in 1_usize..most(70),
        heads in 1_usize..4,
        head_dim in 1_usize..most(70),
        [cosine, bias] in any::<[bool; 2]>(),
        masks in 0_usize..3,
        [qkv_gap, output_gap] in [0_usize..9, 0_usize..9],
    ) {
        let shape = AttentionShape { groups, tokens, heads, head_dim };
        Case { shape, cosine, bias, masks, qkv_gap, output_gap, table: None }.check();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn vision_transformer() {
    plain(2, 197, 2, 64).check();
}

#[test]
#[cfg_attr(miri, ignore = "too large")]
fn more_tokens_than_a_block_of_scores() {
    plain(1, 1370, 1, 16).check();
}

#[test]
fn windows_of_a_padded_and_shifted_image() {
    let windows = [(false, [10, 13], 4, 2, 32), (true, [7, 15], 7, 3, 32), (false, [8, 8], 8, 0, 24)];
    let windows = if cfg!(miri) { vec![(true, [2, 3], 2, 1, 6)] } else { windows.to_vec() };
    for (cosine, size, side, shift, head_dim) in windows {
        let table = shifted_windows(size, side, shift);
        let windows = table.0.len() / (side * side);
        let case = Case {
            cosine,
            bias: true,
            masks: windows,
            output_gap: 3,
            table: Some(table),
            ..plain(2 * windows, side * side, 3, head_dim)
        };
        case.check();
    }
}

#[test]
fn keys_of_length_zero() {
    let case = Case { cosine: true, ..plain(1, 5, 1, 8) };
    let (mut qkv, scales) = (case.qkv(), case.scales());
    qkv[8..16].fill(0.0);
    let mut output = vec![0.0; 5 * 8];
    for level in Level::all() {
        let scores = Scores { similarity: Similarity::Cosine(&scales), bias: None, mask: None };
        let qkv = Matrix { values: &qkv, stride: 24 };
        attention(level, &Pool::new(1), case.shape, qkv, scores, None, &mut output, 8);
        assert!(output.iter().all(|y| y.is_finite()));
    }
}

#[test]
#[should_panic(expected = "two tokens have row 3")]
fn a_row_of_two_tokens() {
    TokenRows::new(vec![0, 3, 1, 3], 4);
}

/// Where a mask hides a token, its weight is zero: a subnormal number, as `exp(-100)` would be, takes a machine many times as long.
#[test]
#[cfg_attr(miri, ignore = "too large")]
fn what_a_mask_hides_counts_nothing() {
    let tokens = 240;
    let shape = AttentionShape { groups: 1, tokens, heads: 1, head_dim: tokens };
    // Queries and keys are zero, and a token's value is one at its own place: the output is the weights, which fall by `exp(-1/2)`.
    let mut qkv = vec![0.0; tokens * 3 * tokens];
    (0..tokens).for_each(|token| qkv[(token * 3 + 2) * tokens + token] = 1.0);
    let mask: Vec<f32> = (0..tokens * tokens).map(|i| -0.5 * (i % tokens) as f32).collect();
    let sum: f64 = (0..tokens).map(|i| (-0.5 * i as f64).exp()).sum();
    for level in Level::all() {
        let mut output = vec![GAP; tokens * tokens];
        let qkv = Matrix { values: &qkv, stride: 3 * tokens };
        let scores = Scores { similarity: Similarity::Product(1.0), bias: None, mask: Some(&mask) };
        attention(level, &Pool::new(1), shape, qkv, scores, None, &mut output, tokens);
        for (i, &weight) in output.iter().enumerate() {
            let token = i % tokens;
            let exact = (-0.5 * token as f64).exp() / sum;
            if token > 174 {
                assert_eq!(weight, 0.0, "{level}: {token}");
            } else {
                let error = (f64::from(weight) - exact).abs();
                assert!(error <= 1e-5 * exact + 1e-44, "{level}: {token}: {weight}, not {exact}");
            }
        }
    }
}
