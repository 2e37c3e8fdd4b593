//! The inside of multi-head self-attention: from queries, keys and values to what the heads say.
//!
//! A thread takes a head of a group of tokens, packs its keys and values once, and then goes through the queries in blocks small
//! enough that their scores stay in the cache: product with the keys, softmax, product with the values. Tokens are found through
//! pointers, so that the windows of Swin and MaxViT need neither a roll nor a permutation of the image.

use std::ops::Range;

use crate::bounds::check_output;
use crate::gemm::{PanelEnd, panel_rows, panels};
use crate::norm::{softmax_scores, sum_of_squares};
use crate::scratch::{LINE, scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::{Activation, Level, Matrix, Pool};

/// The sizes of self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Images, or windows of all images: tokens see those of their own group.
    pub groups: usize,
    /// Tokens of a group.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head; a token has `heads * head_dim`.
    pub head_dim: usize,
}

/// How much a query attends to a key: the softmax over the keys of `similarity + bias + mask`.
#[derive(Clone, Copy)]
pub struct Scores<'a> {
    /// Of a query and a key.
    pub similarity: Similarity<'a>,
    /// `[heads, tokens, tokens]`: for each query its keys.
    pub bias: Option<&'a [f32]>,
    /// `[masks, tokens, tokens]`; group `g` has mask `g % masks`.
    pub mask: Option<&'a [f32]>,
}

/// Of a query and a key.
#[derive(Clone, Copy)]
pub enum Similarity<'a> {
    /// Their product, times a positive number.
    Product(f32),
    /// Their cosine, times a positive number for each head (Swin V2). A vector shorter than 1e-12 counts as that long.
    Cosine(&'a [f32]),
}

/// Where the tokens of an image's windows are among the image's rows.
pub struct TokenRows {
    rows: Vec<u32>,
    image_rows: usize,
}

impl TokenRows {
    /// The row of a token that is not in the image, but in the padding around it.
    pub const PADDING: u32 = u32::MAX;

    /// `rows`, `[windows, tokens]`, are the places of an image's tokens among its `image_rows` rows, or [`PADDING`](Self::PADDING).
    ///
    /// # Panics
    /// When two tokens have the same row, or a row is not below `image_rows`.
    pub fn new(rows: Vec<u32>, image_rows: usize) -> TokenRows {
        let mut taken = vec![false; image_rows];
        for &row in rows.iter().filter(|&&row| row != Self::PADDING) {
            let taken = taken.get_mut(row as usize).expect("a token's row is one of the image's");
            assert!(!std::mem::replace(taken, true), "two tokens have row {row}");
        }
        TokenRows { rows, image_rows }
    }
}

/// Tokens that do not lie in the order of their groups.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    /// Where they lie, the same in every image; the groups are the windows of one image after the other.
    pub rows: &'a TokenRows,
    /// The queries, keys and values of a token in the padding, `[3 * heads * head_dim]`; what it attends to is not stored. Without
    /// such tokens it may be empty.
    pub padding: &'a [f32],
}

/// Multi-head self-attention without its projections.
///
/// A row of `qkv` has a token's queries, keys and values, `[3, heads, head_dim]`; the token's row of `output` gets `[heads,
/// head_dim]`. Without `windows` row `group * tokens + token` is a token's, with them the table says it. The rows of `output` are
/// `output_stride` apart; values between them are not touched.
///
/// Memory beside that, for each thread: the keys and values of a head, and the scores of some queries.
///
/// # Panics
/// When a slice is too short, the output's rows overlap, a scale is not positive, or the windows are not those of whole images.
#[expect(clippy::too_many_arguments, reason = "two matrices and how they are connected")]
pub fn attention(
    level: Level,
    pool: &Pool,
    shape: AttentionShape,
    qkv: Matrix<'_>,
    scores: Scores<'_>,
    windows: Option<Windows<'_>>,
    output: &mut [f32],
    output_stride: usize,
) {
    if [shape.groups, shape.tokens, shape.heads, shape.head_dim].contains(&0) {
        return;
    }
    let AttentionShape { groups, tokens, heads, head_dim } = shape;
    let rows = check(shape, qkv, scores, windows);
    check_output(output.len(), [rows, heads * head_dim], output_stride);

    let tile = level.tile_rows();
    let score_stride = scratch_stride(tokens);
    let fitting = (SCORES / score_stride).min(BLOCK_QUERIES) / tile * tile;
    let block = fitting.max(tile).min(tokens);
    // A head's queries are divided if there are too few heads for the threads.
    let parts = (4 * pool.threads()).div_ceil(groups * heads).min(tokens.div_ceil(block));
    let part = tokens.div_ceil(parts).next_multiple_of(tile).min(tokens);
    let parts = tokens.div_ceil(part);
    let units = groups * heads * parts;
    let products = part.saturating_mul(tokens).saturating_mul(2 * head_dim);
    let units_a_task = (TASK_PRODUCTS / products).min(units / (4 * pool.threads())).max(1);

    let keys = tokens.next_multiple_of(2 * level.lanes()) * head_dim;
    let values = head_dim.next_multiple_of(2 * level.lanes()) * tokens;
    let sizes = Sizes { block, score_stride, keys, values };
    let output = Shares::new(output);
    let attention =
        Attention { level, shape, qkv, scores, windows, sizes, part, output: &output, output_stride };
    pool.run(units.div_ceil(units_a_task), |task| {
        let units = task * units_a_task..units.min((task + 1) * units_a_task);
        let sizes = &attention.sizes;
        with_scratch(sizes.values(head_dim), sizes.pointers(tokens), |values, pointers| {
            let scratch = sizes.divide(attention.shape, values, pointers);
            level.run(AttentionTask { attention: &attention, units, scratch });
        });
    });
}

/// Queries of a block, if their scores are not too many.
const BLOCK_QUERIES: usize = 56;

/// Scores of a block, which stay in the cache of the second level.
const SCORES: usize = 16 << 10;

/// Multiplications of a task, so that handing it out costs little beside it.
const TASK_PRODUCTS: usize = 1 << 20;

/// The rows of `qkv` and of the output. Panics when what is given does not fit.
pub(crate) fn check(
    shape: AttentionShape,
    qkv: Matrix<'_>,
    scores: Scores<'_>,
    windows: Option<Windows<'_>>,
) -> usize {
    let AttentionShape { groups, tokens, heads, head_dim } = shape;
    let product = |sizes: &[usize]| {
        let product = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
        product.unwrap_or_else(|| panic!("no memory could hold {shape:?}"))
    };
    product(&[3, groups, tokens, heads, head_dim]);
    let dim = heads * head_dim;
    let rows = match windows {
        None => groups * tokens,
        Some(Windows { rows: TokenRows { rows, image_rows }, padding }) => {
            assert!(
                !rows.is_empty()
                    && (groups * tokens).is_multiple_of(rows.len())
                    && rows.len().is_multiple_of(tokens),
                "{groups} windows of {tokens} tokens are not those of whole images"
            );
            assert!(
                padding.len() >= 3 * dim || !rows.contains(&TokenRows::PADDING),
                "the padding has fewer than {} values",
                3 * dim
            );
            product(&[groups * tokens / rows.len(), *image_rows])
        }
    };
    assert!(qkv.has(rows, 3 * dim), "qkv has fewer than {rows} rows of {}", 3 * dim);
    match scores.similarity {
        Similarity::Product(scale) => assert!(scale > 0.0, "the scale is {scale}"),
        Similarity::Cosine(scales) => {
            assert!(scales.len() >= heads, "there are fewer scales than {heads} heads");
            assert!(scales.iter().all(|&scale| scale > 0.0), "a scale is not positive");
        }
    }
    let long = |bias: &[f32]| bias.len() >= product(&[heads, tokens, tokens]);
    assert!(scores.bias.is_none_or(long), "the bias is too short for {shape:?}");
    let whole = |mask: &[f32]| !mask.is_empty() && mask.len().is_multiple_of(product(&[tokens, tokens]));
    assert!(scores.mask.is_none_or(whole), "the masks are not [masks, {tokens}, {tokens}]");
    rows
}

/// What all tasks have in common.
struct Attention<'a> {
    level: Level,
    shape: AttentionShape,
    qkv: Matrix<'a>,
    scores: Scores<'a>,
    windows: Option<Windows<'a>>,
    sizes: Sizes,
    /// Queries of a unit of work, which is a head of a group, or a part of its queries.
    part: usize,
    output: &'a Shares<'a>,
    output_stride: usize,
}

/// How large a thread's scratch is.
struct Sizes {
    /// Queries whose scores are in memory.
    block: usize,
    /// Values between a query's scores and the next one's, in whole vectors.
    score_stride: usize,
    /// Values of the packed keys.
    keys: usize,
    /// Values of the packed values.
    values: usize,
}

impl Sizes {
    /// Values of all scratch.
    fn values(&self, head_dim: usize) -> usize {
        self.keys + self.values + self.block * (self.score_stride + head_dim) + head_dim
    }

    /// Pointers of all scratch.
    fn pointers(&self, tokens: usize) -> usize {
        2 * tokens + self.block
    }

    fn divide<'a>(
        &self,
        AttentionShape { tokens, head_dim, .. }: AttentionShape,
        all: &'a mut [f32],
        pointers: &'a mut [*const f32],
    ) -> HeadScratch<'a> {
        // Each begins with a cache line: the panels are whole vectors, the rows of scores whole lines.
        let (keys, rest) = all.split_at_mut(self.keys);
        let (values, rest) = rest.split_at_mut(self.values);
        let (scores, rest) = rest.split_at_mut(self.block * self.score_stride);
        let (attended, zeros) = rest.split_at_mut(self.block * head_dim);
        zeros.fill(0.0);
        // Behind the last token; nothing else is written there.
        scores.chunks_exact_mut(self.score_stride).for_each(|row| row[tokens..].fill(f32::NEG_INFINITY));
        let (group, rest) = pointers.split_at_mut(tokens);
        let (next_group, score_rows) = rest.split_at_mut(tokens);
        // All that is written to the scores goes through this pointer, and so does what is read: a borrow of the slice in between
        // would make the pointers to its rows invalid.
        let scores = scores.as_mut_ptr();
        for (row, pointer) in score_rows.iter_mut().enumerate() {
            *pointer = scores.wrapping_add(row * self.score_stride);
        }
        HeadScratch { keys, values, scores, attended, zeros, group, next_group, score_rows }
    }
}

/// A thread's scratch.
struct HeadScratch<'a> {
    /// Panels of keys, `[head_dim, width]` each.
    keys: &'a mut [f32],
    /// Panels of values, `[tokens, width]` each.
    values: &'a mut [f32],
    /// `[block, score_stride]`, borrowed mutably for as long as the rest.
    scores: *mut f32,
    /// `[block, head_dim]`
    attended: &'a mut [f32],
    /// The key of a token that does not exist.
    zeros: &'a [f32],
    /// The rows of `qkv` of the group's tokens.
    group: &'a mut [*const f32],
    /// Those of the group behind it.
    next_group: &'a mut [*const f32],
    /// The rows of the scores.
    score_rows: &'a [*const f32],
}

/// Where a group's tokens are: those of an image follow one another, or the table has them.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    first: usize,
    table: Option<&'a [u32]>,
}

impl Attention<'_> {
    #[inline(always)]
    fn places(&self, group: usize) -> Places<'_> {
        Places::new(self.shape.tokens, self.windows, group)
    }

    /// Makes pointers to the rows of a group's tokens.
    #[inline(always)]
    fn find_tokens(&self, group: usize, pointers: &mut [*const f32]) {
        let places = self.places(group);
        let padding = self.windows.map_or(std::ptr::null(), |windows| windows.padding.as_ptr());
        for (token, pointer) in pointers.iter_mut().enumerate() {
            let values = |row: usize| self.qkv.values[row * self.qkv.stride..].as_ptr();
            *pointer = places.row(token).map_or(padding, values);
        }
    }
}

impl<'a> Places<'a> {
    #[inline(always)]
    pub(crate) fn new(tokens: usize, windows: Option<Windows<'a>>, group: usize) -> Places<'a> {
        let place = group * tokens;
        match windows {
            None => Places { first: place, table: None },
            Some(Windows { rows: TokenRows { rows, image_rows }, .. }) => {
                let first = place / rows.len() * image_rows;
                Places { first, table: Some(&rows[place % rows.len()..][..tokens]) }
            }
        }
    }

    /// The row of a token, or none for the padding.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> Option<usize> {
        match self.table.map(|table| table[token]) {
            None => Some(self.first + token),
            Some(TokenRows::PADDING) => None,
            Some(row) => Some(self.first + row as usize),
        }
    }
}

/// What will be packed next.
#[derive(Clone, Copy)]
struct Coming {
    /// The rows of its group's tokens.
    tokens: *const *const f32,
    head: usize,
}

/// Some units of work.
struct AttentionTask<'a> {
    attention: &'a Attention<'a>,
    units: Range<usize>,
    scratch: HeadScratch<'a>,
}

impl Kernel for AttentionTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let AttentionShape { tokens, heads, head_dim, .. } = self.attention.shape;
        let parts = tokens.div_ceil(self.attention.part);
        let (mut group_there, mut head_there) = (usize::MAX, usize::MAX);
        for unit in self.units.clone() {
            let (group, head, part) = (unit / parts / heads, unit / parts % heads, unit % parts);
            // SAFETY: `attention` has checked the slices and measured the scratch; units have different outputs.
            unsafe {
                if unit == self.units.start {
                    self.attention.find_tokens(group, self.scratch.group);
                } else if group != group_there {
                    std::mem::swap(&mut self.scratch.group, &mut self.scratch.next_group);
                }
                if group != group_there || head != head_there {
                    self.pack_keys::<S>((heads + head) * head_dim);
                    self.pack_values::<S>((2 * heads + head) * head_dim);
                }
                (group_there, head_there) = (group, head);
                let next = unit + 1;
                let coming = if next == self.units.end || next / parts == unit / parts {
                    None
                } else if next / parts / heads == group {
                    Some(Coming { tokens: self.scratch.group.as_ptr(), head: head + 1 })
                } else {
                    self.attention.find_tokens(group + 1, self.scratch.next_group);
                    Some(Coming { tokens: self.scratch.next_group.as_ptr(), head: 0 })
                };
                let mut first = part * self.attention.part;
                let end = tokens.min(first + self.attention.part);
                while first < end {
                    let queries = first..end.min(first + self.attention.sizes.block);
                    self.attend::<S>(group, head, queries.clone(), coming);
                    first = queries.end;
                }
            }
        }
    }
}

/// Methods of which all are unsafe: they need the instruction set, and slices as `attention` has checked them.
impl AttentionTask<'_> {
    /// The keys, as columns; `offset` is that of the head's key in a token's row.
    #[inline(always)]
    unsafe fn pack_keys<S: Simd>(&mut self, offset: usize) {
        let AttentionShape { tokens, head_dim, .. } = self.attention.shape;
        let square = S::Half::LANES;
        // SAFETY: the caller's; the panels' widths are at most the size of `keys`, and multiples of the square's side.
        unsafe {
            for panel in panels(self.attention.level, tokens) {
                for column in (0..panel.width).step_by(square) {
                    let to = self.scratch.keys.as_mut_ptr().add(panel.first * head_dim + column);
                    let mut from = [self.scratch.zeros.as_ptr(); 16];
                    for (j, from) in from.iter_mut().enumerate().take(square) {
                        if let Some(token) = self.scratch.group.get(panel.first + column + j) {
                            *from = token.add(offset);
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
                    if let Similarity::Cosine(_) = self.attention.scores.similarity {
                        normalise_columns::<S::Half>(to, head_dim, panel.width);
                    }
                }
            }
        }
    }

    /// The values, as rows; `offset` is that of the head's value in a token's row.
    #[inline(always)]
    unsafe fn pack_values<S: Simd>(&mut self, offset: usize) {
        let AttentionShape { tokens, head_dim, .. } = self.attention.shape;
        // SAFETY: the caller's; the panels' widths are at most the size of `values`, and multiples of a half vector.
        unsafe {
            for panel in panels(self.attention.level, head_dim) {
                let mut to = self.scratch.values.as_mut_ptr().add(panel.first * tokens);
                for token in self.scratch.group.iter() {
                    let from = token.add(offset + panel.first);
                    for column in (0..panel.width).step_by(S::Half::LANES) {
                        let left = panel.columns.saturating_sub(column);
                        let from = from.wrapping_add(column);
                        S::Half::store(to.add(column), S::Half::load_upto(from, left));
                    }
                    to = to.add(panel.width);
                }
            }
        }
    }

    /// A block of queries of a head.
    #[inline(always)]
    unsafe fn attend<S: Simd>(
        &mut self,
        group: usize,
        head: usize,
        queries: Range<usize>,
        coming: Option<Coming>,
    ) {
        let Self { attention, .. } = *self;
        let AttentionShape { tokens, heads, head_dim, .. } = attention.shape;
        let Sizes { score_stride, .. } = attention.sizes;
        let offset = head * head_dim;
        let pointers = self.scratch.group[queries.clone()].as_ptr();
        let scores = self.scratch.scores;
        attention.level.run(Product {
            level: attention.level,
            rows: Rows { pointers, stride: 0, taps: 1, run: head_dim, offset },
            count: queries.len(),
            b: self.scratch.keys.as_ptr(),
            n: tokens,
            to: scores,
            to_stride: score_stride,
        });

        let mut slopes = [0.0; BLOCK_QUERIES];
        let square = tokens * tokens;
        let bias = attention.scores.bias.map(|bias| &bias[head * square..]);
        let mask = attention.scores.mask.map(|mask| &mask[group % (mask.len() / square) * square..]);
        let [first, second] = if bias.is_some() { [bias, mask] } else { [mask, bias] };
        for (i, query) in queries.clone().enumerate() {
            if let Some(Coming { tokens, head }) = coming {
                // One token at a time, so that memory works while exponentials are computed.
                for part in 0..3 {
                    // SAFETY: the caller's.
                    let token = unsafe { *tokens.add(query) };
                    let vector = token.wrapping_add((part * heads + head) * head_dim);
                    (0..head_dim).step_by(LINE).for_each(|line| S::prefetch(vector.wrapping_add(line)));
                }
            }
            let term = |term: Option<&[f32]>| {
                term.map_or(std::ptr::null(), |term| term[query * tokens..][..tokens].as_ptr())
            };
            // SAFETY: the caller's; the row of scores is in whole vectors, and minus infinity behind the last token.
            unsafe {
                let scale = match attention.scores.similarity {
                    Similarity::Product(scale) => scale,
                    Similarity::Cosine(scales) => {
                        let query = self.scratch.group[query].add(offset);
                        scales[head] / sum_of_squares::<S>(query, head_dim).sqrt().max(SHORTEST)
                    }
                };
                let row = scores.add(i * score_stride);
                slopes[i] = 1.0 / softmax_scores::<S>(row, tokens, scale, term(first), term(second));
            }
        }

        let attended = self.scratch.attended.as_mut_ptr();
        attention.level.run(Product {
            level: attention.level,
            rows: Rows {
                pointers: self.scratch.score_rows.as_ptr(),
                stride: 0,
                taps: 1,
                run: tokens,
                offset: 0,
            },
            count: queries.len(),
            b: self.scratch.values.as_ptr(),
            n: head_dim,
            to: attended,
            to_stride: head_dim,
        });

        let places = attention.places(group);
        for (i, query) in queries.enumerate() {
            let Some(row) = places.row(query) else { continue };
            // SAFETY: the caller's; no other unit has this head of this row.
            unsafe {
                let to = attention.output.at(row * attention.output_stride + offset);
                let from = attended.add(i * head_dim);
                let slope = S::splat(slopes[i]);
                for column in (0..head_dim).step_by(S::LANES) {
                    let left = head_dim - column;
                    let y = S::mul(slope, S::load_upto(from.add(column), left));
                    S::store_upto(to.add(column), y, left);
                }
            }
        }
    }
}

/// The length that a vector has at least when it is normalised: PyTorch's.
const SHORTEST: f32 = 1e-12;

/// Divides `LANES` columns of `rows` values by their lengths.
///
/// # Safety
/// The machine has the instruction set, and the pointer is valid for the rows.
#[inline(always)]
unsafe fn normalise_columns<S: Simd>(start: *mut f32, rows: usize, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut squares = S::zero();
        for row in 0..rows {
            let x = S::load(start.add(row * stride));
            squares = S::mul_add(x, x, squares);
        }
        let slope = S::div(S::splat(1.0), S::max(S::sqrt(squares), S::splat(SHORTEST)));
        for row in 0..rows {
            let at = start.add(row * stride);
            S::store(at, S::mul(S::load(at), slope));
        }
    }
}

/// A product with all packed panels. A kernel of its own, so that its tiles are compiled once for both products.
struct Product {
    level: Level,
    rows: Rows,
    count: usize,
    /// Panels, as [`panels`] cuts `n` columns.
    b: *const f32,
    n: usize,
    to: *mut f32,
    to_stride: usize,
}

impl Kernel for Product {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let end = PanelEnd {
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            residual_stride: 0,
            activation: Activation::Identity,
        };
        for panel in panels(self.level, self.n) {
            let (width, columns) = (panel.width, panel.columns);
            // SAFETY: `AttentionTask::attend` has made the pointers valid.
            unsafe {
                let b = self.b.add(panel.first * self.rows.run);
                let to = self.to.add(panel.first);
                panel_rows::<S>(self.rows, self.count, b, width, width, columns, end, to, self.to_stride);
            }
        }
    }
}
