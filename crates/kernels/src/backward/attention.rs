//! The backward pass of attention; probabilities are computed again.
//!
//! A thread takes a head of a group of tokens, packs its queries, keys and values, and goes through the queries in blocks small enough
//! that their scores stay in the cache. With `p` the probabilities and `s` the scores, for a block of queries:
//!
//! ```text
//! p = softmax(scale q k^T + bias + mask)     dp = dy v^T     ds = p (dp - sum p dp)
//! dq = scale ds k                            dk += scale ds^T q         dv += p^T dy
//! ```
//!
//! The first three products are the forward product's tiles, the last two are sums of outer products over the queries.

use std::ops::Range;

use super::outer::{Outer, PanelProduct};
use super::product::SUMS;
use crate::attention::{Places, check};
use crate::bounds::check_output;
use crate::gemm::{Panel, panels};
use crate::norm::{softmax_scores, sum_of_squares};
use crate::scratch::{scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::{AttentionShape, Level, Matrix, Pool, Scores, Similarity, Windows};

/// Gradients of what else than queries, keys and values makes an attention's output, each if it is wanted.
#[derive(Default)]
pub struct AttentionGradients<'a> {
    /// Of the scores' bias, `[heads, tokens, tokens]`.
    pub bias: Option<&'a mut [f32]>,
    /// Of the scales of cosine similarity, one a head.
    pub scales: Option<&'a mut [f32]>,
    /// Of the queries, keys and values of a token in the padding, `[3 * heads * head_dim]`.
    pub padding: Option<&'a mut [f32]>,
    /// Whether these are added to what is there.
    pub accumulate: bool,
}

/// The gradients of [`attention`](crate::attention), whose arguments come first; `dy` is laid out as its output, and `dqkv` as its
/// `qkv`. Rows of `dqkv` that no token has are not touched.
///
/// # Panics
/// As [`attention`](crate::attention), and when a slice of the gradients is too short.
#[expect(clippy::too_many_arguments, reason = "three matrices and how they are connected")]
pub fn attention_backward(
    level: Level,
    pool: &Pool,
    shape: AttentionShape,
    qkv: Matrix<'_>,
    scores: Scores<'_>,
    windows: Option<Windows<'_>>,
    dy: Matrix<'_>,
    dqkv: &mut [f32],
    dqkv_stride: usize,
    gradients: AttentionGradients<'_>,
) {
    let AttentionShape { groups, tokens, heads, head_dim } = shape;
    if [groups, tokens, heads, head_dim].contains(&0) {
        return;
    }
    let dim = heads * head_dim;
    let rows = check(shape, qkv, scores, windows);
    assert!(dy.has(rows, dim), "dy has fewer than {rows} rows of {dim}");
    check_output(dqkv.len(), [rows, 3 * dim], dqkv_stride);
    let AttentionGradients { bias, scales, padding, accumulate } = gradients;
    let square = tokens * tokens;
    assert!(bias.as_ref().is_none_or(|bias| bias.len() >= heads * square), "the bias' gradient");
    assert!(scales.as_ref().is_none_or(|scales| scales.len() >= heads), "the scales' gradient");
    assert!(padding.as_ref().is_none_or(|padding| padding.len() >= 3 * dim), "the padding's gradient");

    // Sums over groups are made part by part, and added in the parts' order; the parts follow from the shape alone.
    let parts =
        if bias.is_some() || scales.is_some() || padding.is_some() { MOST_PARTS.min(groups) } else { groups };
    let groups_a_part = groups.div_ceil(parts);
    let parts = groups.div_ceil(groups_a_part);
    let extra = Extra {
        bias: if bias.is_some() { heads * square } else { 0 },
        scales: if scales.is_some() { heads } else { 0 },
        padding: if padding.is_some() { 3 * dim } else { 0 },
    };
    let mut sums = SUMS.take();
    let apart = extra.all();
    sums.grow(parts * apart);
    let values = &mut sums.values_mut()[..parts * apart];
    values.fill(0.0);
    let to = Shares::new(values);

    let sizes = Sizes::new(level, shape);
    let dqkv = Shares::new(dqkv);
    let backward = Backward { level, shape, qkv, scores, windows, dy, dqkv: &dqkv, dqkv_stride, sizes };
    pool.run(parts * heads, |task| {
        let (part, head) = (task / heads, task % heads);
        let groups = part * groups_a_part..((part + 1) * groups_a_part).min(groups);
        with_scratch(sizes.values(tokens), sizes.pointers(tokens), |scratch, pointers| {
            let sums = extra.divide(&to, part, shape, head);
            let scratch = Scratch::new(sizes, tokens, scratch, pointers);
            level.run(HeadTask { backward: &backward, groups, head, sums, scratch });
        });
    });
    // Each kind by itself, because each part has all kinds.
    let mut first = 0;
    for (wanted, len) in [(bias, extra.bias), (scales, extra.scales), (padding, extra.padding)] {
        if let Some(to) = wanted {
            let to = &mut to[..len];
            if !accumulate {
                to.fill(0.0);
            }
            for part in values.chunks_exact(apart.max(1)) {
                to.iter_mut().zip(&part[first..]).for_each(|(to, value)| *to += value);
            }
        }
        first += len;
    }
    SUMS.set(sums);
}

/// Parts of all groups whose gradients of bias, scales and padding are summed apart; at most.
const MOST_PARTS: usize = 8;

/// Values of a part's sums.
struct Extra {
    bias: usize,
    scales: usize,
    padding: usize,
}

impl Extra {
    fn all(&self) -> usize {
        self.bias + self.scales + self.padding
    }

    /// Where a head's sums of a part are; null pointers for what is not wanted.
    fn divide(&self, to: &Shares<'_>, part: usize, shape: AttentionShape, head: usize) -> HeadSums {
        let AttentionShape { tokens, heads, head_dim, .. } = shape;
        let at = |wanted: usize, place: usize| {
            if wanted == 0 {
                return std::ptr::null_mut();
            }
            // SAFETY: a part has all its sums; tasks have different parts or heads, and so other places.
            unsafe { to.at(part * self.all() + place) }
        };
        HeadSums {
            bias: at(self.bias, head * tokens * tokens),
            scale: at(self.scales, self.bias + head),
            padding: [0, 1, 2]
                .map(|kind| at(self.padding, self.bias + self.scales + (kind * heads + head) * head_dim)),
        }
    }
}

/// Where the sums of a head are; null where they are not wanted.
struct HeadSums {
    bias: *mut f32,
    scale: *mut f32,
    /// Of queries, keys and values.
    padding: [*mut f32; 3],
}

/// Queries of a block.
const QUERIES: usize = 56;

/// What all tasks have in common.
struct Backward<'a> {
    level: Level,
    shape: AttentionShape,
    qkv: Matrix<'a>,
    scores: Scores<'a>,
    windows: Option<Windows<'a>>,
    dy: Matrix<'a>,
    dqkv: &'a Shares<'a>,
    dqkv_stride: usize,
    sizes: Sizes,
}

/// How large the pieces of a thread's scratch are.
#[derive(Clone, Copy)]
struct Sizes {
    /// Queries of a block.
    block: usize,
    /// Values between the scores of two queries, in whole vectors.
    score_stride: usize,
    /// Of all tokens' keys or values as columns.
    columns: usize,
    /// Of a token's features, in whole panels.
    features: usize,
}

impl Sizes {
    fn new(level: Level, AttentionShape { tokens, head_dim, .. }: AttentionShape) -> Sizes {
        let wide = 2 * level.lanes();
        Sizes {
            block: QUERIES.min(tokens),
            score_stride: scratch_stride(tokens),
            columns: tokens.next_multiple_of(wide) * head_dim,
            features: head_dim.next_multiple_of(wide),
        }
    }

    /// Values of all scratch.
    fn values(&self, tokens: usize) -> usize {
        2 * self.columns
            + self.block * (2 * self.score_stride + self.features)
            + (5 * self.features + 2) * tokens
            + self.features
    }

    /// Pointers of all scratch.
    fn pointers(&self, tokens: usize) -> usize {
        4 * tokens + 2 * self.block
    }
}

/// A thread's scratch: all of it is written through these pointers, which are valid for as long as the scratch is lent.
#[derive(Clone, Copy)]
struct Scratch {
    /// Panels of `[head_dim, width]`: a column for each token.
    keys: *mut f32,
    values: *mut f32,
    /// `[block, score_stride]`, behind the tokens minus infinity.
    probabilities: *mut f32,
    /// `[block, score_stride]`
    d_scores: *mut f32,
    /// `[block, features]`
    d_queries: *mut f32,
    /// `[tokens, features]`, of cosine similarity those of length one; zeros behind the features.
    query_rows: *mut f32,
    key_rows: *mut f32,
    /// `[tokens, features]`
    dy_rows: *mut f32,
    d_keys: *mut f32,
    d_values: *mut f32,
    /// The lengths of queries and keys.
    query_lengths: *mut f32,
    key_lengths: *mut f32,
    /// A token's features.
    zeros: *mut f32,
    /// The rows of `qkv` of the group's tokens.
    tokens: *mut *const f32,
    /// The rows of what has the same name.
    query_pointers: *mut *const f32,
    key_pointers: *mut *const f32,
    dy_pointers: *mut *const f32,
    probability_pointers: *mut *const f32,
    d_score_pointers: *mut *const f32,
}

impl Scratch {
    fn new(sizes: Sizes, tokens: usize, all: &mut [f32], pointers: &mut [*const f32]) -> Scratch {
        let Sizes { block, score_stride, columns, features } = sizes;
        assert!(all.len() >= sizes.values(tokens) && pointers.len() >= sizes.pointers(tokens));
        let start = all.as_mut_ptr();
        let mut done = 0;
        let mut take = |count: usize| {
            done += count;
            start.wrapping_add(done - count)
        };
        // What is read as vectors comes first, in whole cache lines.
        let [keys, values] = [take(columns), take(columns)];
        let [probabilities, d_scores] = [take(block * score_stride), take(block * score_stride)];
        let d_queries = take(block * features);
        let [query_rows, key_rows, dy_rows, d_keys, d_values] = [(); 5].map(|()| take(tokens * features));
        let zeros = take(features);
        let [query_lengths, key_lengths] = [take(tokens), take(tokens)];
        let start = pointers.as_mut_ptr();
        let mut done = 0;
        let mut take = |count: usize| {
            done += count;
            start.wrapping_add(done - count)
        };
        let [of_tokens, query_pointers, key_pointers, dy_pointers] = [(); 4].map(|()| take(tokens));
        let [probability_pointers, d_score_pointers] = [(); 2].map(|()| take(block));
        let scratch = Scratch {
            keys,
            values,
            probabilities,
            d_scores,
            d_queries,
            query_rows,
            key_rows,
            dy_rows,
            d_keys,
            d_values,
            query_lengths,
            key_lengths,
            zeros,
            tokens: of_tokens,
            query_pointers,
            key_pointers,
            dy_pointers,
            probability_pointers,
            d_score_pointers,
        };
        // SAFETY: the pieces lie within the two slices.
        unsafe {
            zeros.write_bytes(0, features);
            for token in 0..tokens {
                let row = token * features;
                query_pointers.add(token).write(query_rows.add(row));
                key_pointers.add(token).write(key_rows.add(row));
                dy_pointers.add(token).write(dy_rows.add(row));
            }
            for query in 0..block {
                let row = query * score_stride;
                probability_pointers.add(query).write(probabilities.add(row));
                d_score_pointers.add(query).write(d_scores.add(row));
                for column in tokens..score_stride {
                    probabilities.add(row + column).write(f32::NEG_INFINITY);
                    d_scores.add(row + column).write(0.0);
                }
            }
        }
        scratch
    }
}

/// A task: a head of some groups.
struct HeadTask<'a> {
    backward: &'a Backward<'a>,
    groups: Range<usize>,
    head: usize,
    sums: HeadSums,
    scratch: Scratch,
}

impl Kernel for HeadTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AttentionShape { tokens, .. } = self.backward.shape;
        for group in self.groups.clone() {
            let places = Places::new(tokens, self.backward.windows, group);
            // SAFETY: `attention_backward` has checked the slices and measured the scratch; tasks have different heads or groups.
            unsafe {
                self.pack::<S>(places);
                let mut first = 0;
                while first < tokens {
                    let queries = first..tokens.min(first + self.backward.sizes.block);
                    self.block::<S>(group, places, queries.clone());
                    first = queries.end;
                }
                self.finish::<S>(places);
            }
        }
    }
}

/// Methods of which all are unsafe: they need the instruction set, and slices as `attention_backward` has checked them.
impl HeadTask<'_> {
    /// What a token's queries, keys and values have before those of this head.
    #[inline(always)]
    fn column(&self, kind: usize) -> usize {
        let AttentionShape { heads, head_dim, .. } = self.backward.shape;
        (kind * heads + self.head) * head_dim
    }

    #[inline(always)]
    fn cosine(&self) -> Option<f32> {
        match self.backward.scores.similarity {
            Similarity::Product(_) => None,
            Similarity::Cosine(scales) => Some(scales[self.head]),
        }
    }

    /// Brings the group's queries, keys, values and gradients to the scratch.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, places: Places<'_>) {
        let Backward { shape, qkv, windows, dy, sizes, level, .. } = *self.backward;
        let AttentionShape { tokens, head_dim, .. } = shape;
        let scratch = self.scratch;
        let features = sizes.features;
        let padding = windows.map_or(std::ptr::null(), |windows| windows.padding.as_ptr());
        // SAFETY: the caller's.
        unsafe {
            for token in 0..tokens {
                let row = places.row(token);
                let from = row.map_or(padding, |row| qkv.values[row * qkv.stride..].as_ptr());
                scratch.tokens.add(token).write(from);
                let [mut query, mut key] = [1.0, 1.0];
                if self.cosine().is_some() {
                    query = length::<S>(from.add(self.column(0)), head_dim);
                    key = length::<S>(from.add(self.column(1)), head_dim);
                }
                scratch.query_lengths.add(token).write(query);
                scratch.key_lengths.add(token).write(key);
                let dy = match row {
                    Some(row) => dy.values[row * dy.stride + self.head * head_dim..].as_ptr(),
                    // What a token in the padding attends to is not stored.
                    None => scratch.zeros,
                };
                let at = token * features;
                scaled_row::<S>(
                    from.add(self.column(0)),
                    head_dim,
                    1.0 / query,
                    scratch.query_rows.add(at),
                    features,
                );
                scaled_row::<S>(
                    from.add(self.column(1)),
                    head_dim,
                    1.0 / key,
                    scratch.key_rows.add(at),
                    features,
                );
                scaled_row::<S>(dy, head_dim, 1.0, scratch.dy_rows.add(at), features);
            }
            let zeros = scratch.zeros;
            pack_columns::<S>(level, scratch.key_pointers, 0, [tokens, head_dim], zeros, scratch.keys);
            pack_columns::<S>(
                level,
                scratch.tokens,
                self.column(2),
                [tokens, head_dim],
                zeros,
                scratch.values,
            );
        }
    }

    /// A block of queries.
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, group: usize, places: Places<'_>, queries: Range<usize>) {
        let Backward { level, shape, scores, sizes, .. } = *self.backward;
        let AttentionShape { tokens, head_dim, .. } = shape;
        let Sizes { score_stride, features, .. } = sizes;
        let (scratch, count) = (self.scratch, queries.len());
        // SAFETY: the caller's.
        unsafe {
            let product =
                |left: *mut *const f32, run: usize, b: *mut f32, n: usize, to: *mut f32, to_stride: usize| {
                    let rows = Rows { pointers: left, stride: 0, taps: 1, run, offset: 0 };
                    Product { level, rows, count, b, b_stride: None, n, to, to_stride }
                };
            let left = scratch.query_pointers.add(queries.start);
            product(left, head_dim, scratch.keys, tokens, scratch.probabilities, score_stride).run();
            let left = scratch.dy_pointers.add(queries.start);
            product(left, head_dim, scratch.values, tokens, scratch.d_scores, score_stride).run();

            let square = tokens * tokens;
            let bias = scores.bias.map(|bias| &bias[self.head * square..]);
            let mask = scores.mask.map(|mask| &mask[group % (mask.len() / square) * square..]);
            let [first, second] = if bias.is_some() { [bias, mask] } else { [mask, bias] };
            let scale = match scores.similarity {
                Similarity::Product(scale) => scale,
                Similarity::Cosine(scales) => scales[self.head],
            };
            for (i, query) in queries.clone().enumerate() {
                let term = |term: Option<&[f32]>| {
                    term.map_or(std::ptr::null(), |term| term[query * tokens..][..tokens].as_ptr())
                };
                let p = scratch.probabilities.add(i * score_stride);
                let ds = scratch.d_scores.add(i * score_stride);
                let slope = S::splat(1.0 / softmax_scores::<S>(p, tokens, scale, term(first), term(second)));
                let mut dot = S::zero();
                for column in (0..tokens).step_by(S::LANES) {
                    let left = tokens - column;
                    let probability = S::mul(slope, S::load_upto(p.add(column), left));
                    S::store_upto(p.add(column), probability, left);
                    dot = S::mul_add(probability, S::load_upto(ds.add(column), left), dot);
                }
                let dot = S::splat(S::sum(dot));
                for column in (0..tokens).step_by(S::LANES) {
                    let left = tokens - column;
                    let difference = S::sub(S::load_upto(ds.add(column), left), dot);
                    let gradient = S::mul(S::load_upto(p.add(column), left), difference);
                    S::store_upto(ds.add(column), gradient, left);
                    if !self.sums.bias.is_null() {
                        let to = self.sums.bias.add(query * tokens + column);
                        S::store_upto(to, S::add(S::load_upto(to, left), gradient), left);
                    }
                }
            }

            let mut of_queries = product(
                scratch.d_score_pointers,
                tokens,
                scratch.key_rows,
                head_dim,
                scratch.d_queries,
                features,
            );
            of_queries.b_stride = Some(features);
            of_queries.run();
            let sums = |left: *mut *const f32, right: *mut f32, to: *mut f32| OuterProduct {
                level,
                outer: Outer {
                    pixels: count,
                    left,
                    offset: 0,
                    right: right.add(queries.start * features),
                    right_stride: features,
                    add: queries.start > 0,
                },
                rows: tokens,
                n: head_dim,
                to,
                to_stride: features,
            };
            sums(scratch.d_score_pointers, scratch.query_rows, scratch.d_keys).run();
            sums(scratch.probability_pointers, scratch.dy_rows, scratch.d_values).run();

            for (i, query) in queries.enumerate() {
                let d = scratch.d_queries.add(i * features);
                let unit = scratch.query_rows.add(query * features);
                if !self.sums.scale.is_null() {
                    // The sum over the keys of a score's gradient times the cosine.
                    *self.sums.scale += dot_row::<S>(d, unit, head_dim);
                }
                self.store::<S>(places, query, 0, d, scale, unit, *scratch.query_lengths.add(query));
            }
        }
    }

    /// The gradients of the group's keys and values.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, places: Places<'_>) {
        let AttentionShape { tokens, .. } = self.backward.shape;
        let (scratch, features) = (self.scratch, self.backward.sizes.features);
        let scale = match self.backward.scores.similarity {
            Similarity::Product(scale) => scale,
            Similarity::Cosine(scales) => scales[self.head],
        };
        for token in 0..tokens {
            let at = token * features;
            // SAFETY: the caller's.
            unsafe {
                let (d, unit) = (scratch.d_keys.add(at), scratch.key_rows.add(at));
                self.store::<S>(places, token, 1, d, scale, unit, *scratch.key_lengths.add(token));
                let d = scratch.d_values.add(at);
                self.store::<S>(places, token, 2, d, 1.0, std::ptr::null_mut(), 1.0);
            }
        }
    }

    /// Stores `scale d`, the gradient of a token's query, key or value; of cosine similarity that of `unit`, which is a vector divided by
    /// its length.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a vector, and how it came about")]
    unsafe fn store<S: Simd>(
        &self,
        places: Places<'_>,
        token: usize,
        kind: usize,
        d: *mut f32,
        scale: f32,
        unit: *mut f32,
        length: f32,
    ) {
        let AttentionShape { head_dim, .. } = self.backward.shape;
        // SAFETY: the caller's.
        unsafe {
            let along = match self.cosine() {
                Some(_) if !unit.is_null() => dot_row::<S>(d, unit, head_dim),
                _ => 0.0,
            };
            let (to, add) = match places.row(token) {
                Some(row) => {
                    (self.backward.dqkv.at(row * self.backward.dqkv_stride + self.column(kind)), false)
                }
                None => (self.sums.padding[kind], true),
            };
            if to.is_null() {
                return;
            }
            let [along, scale] = [along, scale / length].map(|factor| S::splat(factor));
            for column in (0..head_dim).step_by(S::LANES) {
                let left = head_dim - column;
                let mut g = S::load_upto(d.add(column), left);
                if !unit.is_null() {
                    g = S::sub(g, S::mul(along, S::load_upto(unit.add(column), left)));
                }
                g = S::mul(g, scale);
                if add {
                    g = S::add(g, S::load_upto(to.add(column), left));
                }
                S::store_upto(to.add(column), g, left);
            }
        }
    }
}

/// The length that a vector has at least when it is normalised: PyTorch's.
const SHORTEST: f32 = 1e-12;

/// # Safety
/// The machine has the instruction set, and the pointer is valid for `columns` values.
#[inline(always)]
unsafe fn length<S: Simd>(from: *const f32, columns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { sum_of_squares::<S>(from, columns).sqrt().max(SHORTEST) }
}

/// # Safety
/// The machine has the instruction set, and the pointers are valid for `columns` values.
#[inline(always)]
unsafe fn dot_row<S: Simd>(a: *const f32, b: *const f32, columns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut dot = S::zero();
        for column in (0..columns).step_by(S::LANES) {
            let left = columns - column;
            dot = S::mul_add(S::load_upto(a.add(column), left), S::load_upto(b.add(column), left), dot);
        }
        S::sum(dot)
    }
}

/// `to = factor from`, and zeros behind it.
///
/// # Safety
/// The machine has the instruction set, and the pointers are valid for `columns` values, and for `width`, whole vectors.
#[inline(always)]
unsafe fn scaled_row<S: Simd>(from: *const f32, columns: usize, factor: f32, to: *mut f32, width: usize) {
    // SAFETY: the caller's.
    unsafe {
        let factor = S::splat(factor);
        for column in (0..width).step_by(S::LANES) {
            let left = columns.saturating_sub(column);
            let value = if left == 0 { S::zero() } else { S::load_upto(from.add(column), left) };
            S::store(to.add(column), S::mul(factor, value));
        }
    }
}

/// Makes columns of rows, in panels: `[head_dim, width]` each.
///
/// # Safety
/// The machine has the instruction set, the rows are valid for `offset + head_dim` values, `zeros` for `head_dim`, and `to` for all
/// panels.
#[inline(always)]
unsafe fn pack_columns<S: Simd>(
    level: Level,
    rows: *const *const f32,
    offset: usize,
    [tokens, head_dim]: [usize; 2],
    zeros: *const f32,
    to: *mut f32,
) {
    let square = S::Half::LANES;
    // SAFETY: the caller's.
    unsafe {
        for panel in panels(level, tokens) {
            for column in (0..panel.width).step_by(square) {
                let to = to.add(panel.first * head_dim + column);
                let mut from = [zeros; 16];
                for (j, from) in from.iter_mut().enumerate().take(square) {
                    let token = panel.first + column + j;
                    if token < tokens {
                        *from = (*rows.add(token)).add(offset);
                    }
                }
                let mut k = 0;
                while k + square <= head_dim {
                    S::Half::transpose(from.as_ptr(), k, to.add(k * panel.width), panel.width);
                    k += square;
                }
                for k in k..head_dim {
                    for (j, from) in from.iter().enumerate().take(square) {
                        to.add(k * panel.width + j).write(*from.add(k));
                    }
                }
            }
        }
    }
}

/// A product with all panels.
struct Product {
    level: Level,
    rows: Rows,
    count: usize,
    b: *const f32,
    /// Values between the rows of `b`; without it, `b` is packed in panels.
    b_stride: Option<usize>,
    n: usize,
    to: *mut f32,
    to_stride: usize,
}

impl Product {
    /// # Safety
    /// The pointers are valid for the sizes.
    unsafe fn run(self) {
        for Panel { first, width, columns } in panels(self.level, self.n) {
            // SAFETY: the caller's.
            unsafe {
                let (b, b_stride) = match self.b_stride {
                    Some(stride) => (self.b.add(first), stride),
                    None => (self.b.add(first * self.rows.run), width),
                };
                let product = PanelProduct {
                    rows: self.rows,
                    count: self.count,
                    b,
                    b_stride,
                    width,
                    columns,
                    residual: std::ptr::null(),
                    to: self.to.add(first),
                    to_stride: self.to_stride,
                };
                product.run(self.level);
            }
        }
    }
}

/// Sums of outer products with all panels.
struct OuterProduct {
    level: Level,
    outer: Outer,
    rows: usize,
    n: usize,
    to: *mut f32,
    to_stride: usize,
}

impl OuterProduct {
    /// # Safety
    /// The pointers are valid for the sizes; rows of the right operand and of the sums are whole panels.
    unsafe fn run(self) {
        for Panel { first, width, .. } in panels(self.level, self.n) {
            // SAFETY: the caller's.
            unsafe {
                let outer = Outer { right: self.outer.right.add(first), ..self.outer };
                outer.panel(self.level, self.rows, width, width, self.to.add(first), self.to_stride);
            }
        }
    }
}
