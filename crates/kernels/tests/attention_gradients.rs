//! Attention's gradients against central differences in f64.

mod common;

use common::{assert_near, differences, on_all_levels, values, with_gaps, without_gaps};
use engraft_kernels::{
    AttentionGradients, AttentionShape, Matrix, Scores, Similarity, TokenRows, Windows, attention_backward,
};

const GAP: f32 = 7.5;

/// What an attention is made of besides its shape.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: AttentionShape,
    cosine: bool,
    bias: bool,
    masks: usize,
    /// Images of windows in this many rows, the other tokens being in the padding; without, tokens follow one another.
    image_rows: Option<usize>,
}

/// The arguments, of which one is in f64 and varied.
struct Arguments {
    qkv: Vec<f64>,
    bias: Vec<f64>,
    scales: Vec<f64>,
    padding: Vec<f64>,
}

impl Case {
    /// The row of a token.
    fn row(&self, table: &[u32], group: usize, token: usize) -> Option<usize> {
        let place = group * self.shape.tokens + token;
        match self.image_rows {
            None => Some(place),
            Some(rows) => match table[place % table.len()] {
                TokenRows::PADDING => None,
                row => Some(place / table.len() * rows + row as usize),
            },
        }
    }

    /// The sum of the output times `dy`.
    fn loss(&self, arguments: &Arguments, mask: &[f32], table: &[u32], dy: &[f32]) -> f64 {
        let AttentionShape { groups, tokens, heads, head_dim } = self.shape;
        let (dim, square) = (heads * head_dim, tokens * tokens);
        let mut loss = 0.0;
        for group in 0..groups {
            for head in 0..heads {
                let vector = |token: usize, kind: usize| {
                    let row = match self.row(table, group, token) {
                        Some(row) => &arguments.qkv[row * 3 * dim..],
                        None => &arguments.padding[..],
                    };
                    &row[(kind * heads + head) * head_dim..][..head_dim]
                };
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                for query in 0..tokens {
                    let Some(row) = self.row(table, group, query) else { continue };
                    let q = vector(query, 0);
                    let mut p: Vec<f64> = (0..tokens)
                        .map(|key| {
                            let k = vector(key, 1);
                            let mut score = dot(q, k) * arguments.scales[head];
                            if self.cosine {
                                score /= (dot(q, q) * dot(k, k)).sqrt();
                            }
                            if self.bias {
                                score += arguments.bias[head * square + query * tokens + key];
                            }
                            if self.masks > 0 {
                                score += f64::from(mask[group % self.masks * square + query * tokens + key]);
                            }
                            score.exp()
                        })
                        .collect();
                    let sum: f64 = p.iter().sum();
                    p.iter_mut().for_each(|p| *p /= sum);
                    for (key, p) in p.iter().enumerate() {
                        let v = vector(key, 2);
                        let dy = &dy[row * dim + head * head_dim..][..head_dim];
                        loss += p * v.iter().zip(dy).map(|(v, dy)| v * f64::from(*dy)).sum::<f64>();
                    }
                }
            }
        }
        loss
    }

    fn check(&self) {
        let AttentionShape { groups, tokens, heads, head_dim } = self.shape;
        let (dim, square) = (heads * head_dim, tokens * tokens);
        // Every third token is in the padding, the others in reverse order.
        let windows = self.image_rows.map_or(0, |rows| (rows + rows / 2).div_ceil(tokens));
        let mut next = self.image_rows.unwrap_or(0);
        let table: Vec<u32> = (0..windows * tokens)
            .map(|i| {
                if i % 3 == 2 || next == 0 {
                    return TokenRows::PADDING;
                }
                next -= 1;
                next as u32
            })
            .collect();
        assert_eq!(next, 0, "all rows are some token's");
        let rows = match self.image_rows {
            None => groups * tokens,
            Some(rows) => groups * tokens / table.len() * rows,
        };
        let qkv = values(rows * 3 * dim, 1);
        let [bias, padding, dy] = [values(heads * square, 2), values(3 * dim, 3), values(rows * dim, 4)];
        let scales: Vec<f32> = (0..heads).map(|head| 0.8 + 0.3 * head as f32).collect();
        let scales = if self.cosine { scales } else { vec![0.7; heads] };
        let mask: Vec<f32> =
            values(self.masks * square, 5).iter().map(|x| if *x > 0.6 { -100.0 } else { 0.0 }).collect();
        let arguments = || Arguments {
            qkv: common::to_f64(&qkv),
            bias: common::to_f64(&bias),
            scales: common::to_f64(&scales),
            padding: common::to_f64(&padding),
        };
        let loss = |set: &dyn Fn(&mut Arguments)| {
            let mut arguments = arguments();
            set(&mut arguments);
            self.loss(&arguments, &mask, &table, &dy)
        };
        let expected = [
            differences(&qkv, |x| loss(&|a| a.qkv = x.to_vec())),
            differences(&bias, |x| loss(&|a| a.bias = x.to_vec())),
            differences(&scales, |x| loss(&|a| a.scales = x.to_vec())),
            differences(&padding, |x| loss(&|a| a.padding = x.to_vec())),
        ];
        let (qkv_stride, dy_stride, to_stride) = (3 * dim + 2, dim + 1, 3 * dim + 3);
        let [qkv, dy] =
            [with_gaps(&qkv, 3 * dim, qkv_stride, f32::NAN), with_gaps(&dy, dim, dy_stride, f32::NAN)];
        let token_rows = self.image_rows.map(|rows| TokenRows::new(table.clone(), rows));
        for accumulate in [false, true] {
            let results = on_all_levels(|level, pool| {
                let similarity =
                    if self.cosine { Similarity::Cosine(&scales) } else { Similarity::Product(scales[0]) };
                let scores = Scores {
                    similarity,
                    bias: self.bias.then_some(&bias[..]),
                    mask: (self.masks > 0).then_some(&mask[..]),
                };
                let windows = token_rows.as_ref().map(|rows| Windows { rows, padding: &padding });
                let mut dqkv = vec![GAP; rows * to_stride];
                let mut sums = [vec![0.5; bias.len()], vec![0.5; heads], vec![0.5; 3 * dim]];
                let [d_bias, d_scales, d_padding] = &mut sums;
                let gradients = AttentionGradients {
                    bias: self.bias.then_some(&mut d_bias[..]),
                    scales: self.cosine.then_some(&mut d_scales[..]),
                    padding: self.image_rows.is_some().then_some(&mut d_padding[..]),
                    accumulate,
                };
                let [qkv, dy] =
                    [(&qkv, qkv_stride), (&dy, dy_stride)].map(|(values, stride)| Matrix { values, stride });
                attention_backward(
                    level, pool, self.shape, qkv, scores, windows, dy, &mut dqkv, to_stride, gradients,
                );
                let dqkv = without_gaps(&dqkv, 3 * dim, to_stride, GAP);
                [vec![dqkv], sums.to_vec()].concat()
            });
            let before = if accumulate { 0.5 } else { 0.0 };
            for (level, results) in results {
                let what = format!("{level}, {self:?}");
                assert_near(&what, &results[0], &expected[0], 2e-5);
                for (kind, wanted) in [(1, self.bias), (2, self.cosine), (3, self.image_rows.is_some())] {
                    let expected: Vec<f64> = expected[kind].iter().map(|g| g + before).collect();
                    if wanted {
                        assert_near(&what, &results[kind], &expected, 2e-5);
                    }
                }
            }
        }
    }
}

fn shape(groups: usize, tokens: usize, heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { groups, tokens, heads, head_dim }
}

#[test]
fn gradients_of_images() {
    let case = Case { shape: shape(1, 1, 1, 1), cosine: false, bias: false, masks: 0, image_rows: None };
    case.check();
    for shape in [shape(2, 7, 2, 5), shape(1, 17, 1, 17), shape(3, 4, 3, 8)] {
        Case { shape, ..case }.check();
    }
}

/// More tokens than a block of queries, and a panel of keys, have.
#[test]
fn gradients_of_many_tokens() {
    Case { shape: shape(1, 60, 1, 3), cosine: false, bias: false, masks: 0, image_rows: None }.check();
}

#[test]
fn gradients_of_windows() {
    for cosine in [false, true] {
        for (bias, masks) in [(true, 0), (false, 2), (true, 2)] {
            let case = Case { shape: shape(4, 6, 2, 4), cosine, bias, masks, image_rows: None };
            case.check();
            // Two images of two windows.
            Case { image_rows: Some(8), ..case }.check();
        }
    }
    // Each of many groups is a part of its own, or shares one.
    Case { shape: shape(19, 3, 1, 2), cosine: true, bias: true, masks: 0, image_rows: None }.check();
}
