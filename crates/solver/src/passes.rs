//! A pass over all rows: loss and gradient of several layers at once.
//!
//! Rows are read in blocks of one fold each, nearly in their order; a block is standardised once and then serves every layer that learns
//! from it, so that with few classes the reading is shared, and no layer pays for the rows that it leaves out. Products are of f32; sums over
//! the blocks, of f64, are made in the order of the blocks, whoever computes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_kernels::{Epilogue, Level, Matrix, PackedMatrix, Pool, Prologue, aliases, gemm};

use crate::columns::{Columns, locked};
use crate::softmax::{ChunkSums, softmax_rows};
use crate::{Rows, SolverError};

/// Rows of a block, if they are not too long: a multiple of the kernels' tiles, and near the longest sum that they make at once.
const MOST_ROWS: usize = 1008;

/// Values of the largest block.
const MOST_VALUES: usize = 4 << 20;

/// Rows of a task that needs nothing of others.
const CHUNK: usize = 16;

/// Features of a task of the backward product: its operands stay in the second-level cache.
const SLICE: usize = 128;

/// A linear layer on standardised features.
pub(crate) struct Layer<'a> {
    /// The fold that it does not learn from.
    pub(crate) left_out: Option<u16>,
    /// `[classes, features]`
    pub(crate) weight: &'a [f32],
    /// `[classes]`
    pub(crate) bias: &'a [f32],
}

/// What a pass gives for a layer: means over the rows that it learns from.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    /// Cross entropy.
    pub(crate) loss: f64,
    /// Mean over classes and rows of `p (1 - p)`, the curvature of the loss in a logit.
    pub(crate) curvature: f64,
    /// `[classes, features]`
    pub(crate) weight: Vec<f64>,
    /// `[classes]`
    pub(crate) bias: Vec<f64>,
}

/// How layers do on the rows that they have left out; sums over rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) rows: f64,
    pub(crate) loss: f64,
    pub(crate) loss_squares: f64,
    pub(crate) right: f64,
}

/// Rows of one fold.
struct Block {
    fold: Option<u16>,
    rows: Vec<u32>,
}

/// Rows and labels, and what a pass needs.
pub(crate) struct Passes<'a> {
    pub(crate) pool: Pool,
    pub(crate) level: Level,
    /// For products inside of tasks.
    single: Pool,
    rows: &'a dyn Rows,
    labels: &'a [u32],
    pub(crate) classes: usize,
    pub(crate) features: usize,
    pub(crate) columns: Columns,
    blocks: Vec<Block>,
    /// Rows by the fold that they are in.
    counts: Vec<usize>,
    stop: &'a AtomicBool,
    /// A block, standardised: `[rows, stride]`.
    block: Vec<f32>,
    stride: usize,
}

impl<'a> Passes<'a> {
    pub(crate) fn new(
        rows: &'a dyn Rows,
        labels: &'a [u32],
        classes: usize,
        fold_of: &[Option<u16>],
        columns: Columns,
        pool: Pool,
        stop: &'a AtomicBool,
    ) -> Passes<'a> {
        let features = rows.features();
        // Rows a multiple of 4096 bytes apart share a place of the cache.
        let stride = if aliases(features) { features + 16 } else { features };
        let most = (MOST_VALUES / stride).clamp(64, MOST_ROWS);
        let blocks = blocks(fold_of, most);
        let longest = blocks.iter().map(|block| block.rows.len()).max().unwrap_or(0);
        let folds = fold_of.iter().flatten().map(|fold| usize::from(*fold) + 1).max().unwrap_or(0);
        let mut counts = vec![0; folds];
        fold_of.iter().flatten().for_each(|fold| counts[usize::from(*fold)] += 1);
        Passes {
            pool,
            level: Level::detect(),
            single: Pool::new(1),
            rows,
            labels,
            classes,
            features,
            columns,
            blocks,
            counts,
            stop,
            block: vec![0.0; longest * stride],
            stride,
        }
    }

    /// Rows that a layer learns from.
    fn learns_from(&self, left_out: Option<u16>) -> usize {
        self.rows.len() - left_out.map_or(0, |fold| self.counts[usize::from(fold)])
    }

    /// Standardises a block.
    fn read(&mut self, block: usize) -> Result<(), SolverError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(SolverError::Stopped);
        }
        let rows = &self.blocks[block].rows;
        let chunks: Vec<_> = self.block.chunks_mut(CHUNK * self.stride).map(Mutex::new).collect();
        let error = Mutex::new(None);
        self.pool.run(rows.len().div_ceil(CHUNK), |task| {
            let mut chunk = locked(&chunks[task]);
            let rows = &rows[task * CHUNK..rows.len().min((task + 1) * CHUNK)];
            let features = self.features;
            if let Err(cause) = self.rows.read(rows, &mut chunk[..rows.len() * features]) {
                *locked(&error) = Some(SolverError::unreadable(rows, &cause));
                return;
            }
            // They were read side by side; each moves to its place, the last one first.
            for row in (0..rows.len()).rev() {
                let to = row * self.stride;
                chunk.copy_within(row * features..(row + 1) * features, to);
                self.columns.standardise(&mut chunk[to..to + features]);
            }
        });
        let error = locked(&error).take();
        error.map_or(Ok(()), Err)
    }

    /// The loss of each layer and its gradient.
    pub(crate) fn evaluate(&mut self, layers: &[Layer<'_>]) -> Result<Vec<Evaluation>, SolverError> {
        let (classes, features) = (self.classes, self.features);
        let outputs = layers.len() * classes;
        let width = |first: usize| SLICE.min(features - first);
        let slices: Vec<_> = (0..features)
            .step_by(SLICE)
            .map(|first| {
                Mutex::new((vec![0.0f64; outputs * width(first)], vec![0.0f32; outputs * width(first)]))
            })
            .collect();
        let mut sums: Vec<ChunkSums> = vec![ChunkSums::default(); layers.len()];
        let mut bias = vec![0.0; outputs];
        let mut work = Work::default();
        let mut packed: Vec<(Vec<usize>, Packed)> = Vec::new();
        for block in 0..self.blocks.len() {
            let fold = self.blocks[block].fold;
            // A layer that leaves nothing out learns from rows of no fold, too.
            let learns = |layer: &Layer<'_>| fold.is_none() || layer.left_out != fold;
            let active: Vec<usize> = (0..layers.len()).filter(|i| learns(&layers[*i])).collect();
            if active.is_empty() {
                continue;
            }
            self.read(block)?;
            let place = packed.iter().position(|(same, _)| *same == active).unwrap_or_else(|| {
                packed.push((active.clone(), self.pack(layers, &active)));
                packed.len() - 1
            });
            self.forward(block, &packed[place].1, &mut work);
            for chunk in &work.sums {
                for (own, layer) in chunk.iter().zip(&active) {
                    sums[*layer].add(own);
                }
            }
            self.transpose(block, active.len() * classes, &mut work);
            for (i, layer) in active.iter().enumerate() {
                for class in 0..classes {
                    bias[layer * classes + class] += work.residual_sums[i * classes + class];
                }
            }
            self.backward(block, &active, &work, &slices);
        }
        let evaluations = layers.iter().enumerate().map(|(i, layer)| {
            let count = self.learns_from(layer.left_out) as f64;
            let mut weight = vec![0.0; classes * features];
            for (slice, first) in slices.iter().zip((0..features).step_by(SLICE)) {
                let width = width(first);
                let slice = locked(slice);
                let own = slice.0[i * classes * width..].chunks_exact(width);
                for (row, values) in weight.chunks_exact_mut(features).zip(own) {
                    row[first..][..width].iter_mut().zip(values).for_each(|(to, value)| *to = value / count);
                }
            }
            Evaluation {
                loss: sums[i].loss / count,
                curvature: sums[i].curvature / (count * classes as f64),
                weight,
                bias: bias[i * classes..][..classes].iter().map(|sum| sum / count).collect(),
            }
        });
        Ok(evaluations.collect())
    }

    /// How the layers together do on all rows that one of them has left out.
    pub(crate) fn score(&mut self, layers: &[Layer<'_>]) -> Result<Score, SolverError> {
        let mut score = Score::default();
        let mut work = Work::default();
        let mut packed: Vec<Option<Packed>> = layers.iter().map(|_| None).collect();
        for block in 0..self.blocks.len() {
            let Some(fold) = self.blocks[block].fold else { continue };
            let Some(layer) = layers.iter().position(|layer| layer.left_out == Some(fold)) else { continue };
            self.read(block)?;
            let packed = packed[layer].get_or_insert_with(|| self.pack(layers, &[layer]));
            self.forward(block, packed, &mut work);
            score.rows += self.blocks[block].rows.len() as f64;
            for sums in work.sums.iter().flatten() {
                score.loss += sums.loss;
                score.loss_squares += sums.loss_squares;
                score.right += sums.right;
            }
        }
        Ok(score)
    }

    fn pack(&self, layers: &[Layer<'_>], active: &[usize]) -> Packed {
        let weights: Vec<&[f32]> =
            active.iter().flat_map(|i| layers[*i].weight.chunks_exact(self.features)).collect();
        Packed {
            weight: PackedMatrix::new(self.level, self.features, weights.len(), |row, column| {
                weights[column][row]
            }),
            bias: active.iter().flat_map(|i| layers[*i].bias).copied().collect(),
        }
    }

    /// Probabilities less the labels, `[rows, outputs]`, and each chunk's sums.
    fn forward(&self, block: usize, layers: &Packed, work: &mut Work) {
        let rows = &self.blocks[block].rows;
        let outputs = layers.bias.len();
        work.logits.resize(rows.len() * outputs, 0.0);
        work.residuals.resize(rows.len() * outputs, 0.0);
        let a = Matrix { values: &self.block, stride: self.stride };
        let epilogue = Epilogue { bias: Some(&layers.bias), ..Epilogue::default() };
        gemm(&self.pool, rows.len(), a, Prologue::None, &layers.weight, epilogue, &mut work.logits, outputs);
        let chunks = rows.len().div_ceil(CHUNK);
        work.sums.resize(chunks, Vec::new());
        let residuals = work.residuals.chunks_mut(CHUNK * outputs);
        let tasks: Vec<_> = residuals.zip(&mut work.sums).map(Mutex::new).collect();
        self.pool.run(chunks, |task| {
            let mut chunk = locked(&tasks[task]);
            let (residuals, sums) = &mut *chunk;
            let rows = &rows[task * CHUNK..][..residuals.len() / outputs];
            let logits = &work.logits[task * CHUNK * outputs..];
            sums.clear();
            for first in (0..outputs).step_by(self.classes) {
                let labels = rows.iter().map(|row| self.labels[*row as usize] as usize);
                sums.push(softmax_rows(
                    self.level,
                    &self.single,
                    self.classes,
                    labels,
                    Matrix { values: &logits[first..], stride: outputs },
                    &mut residuals[first..],
                ));
            }
        });
    }

    /// Residuals as `[outputs, rows]`, and their sums.
    fn transpose(&self, block: usize, outputs: usize, work: &mut Work) {
        let rows = self.blocks[block].rows.len();
        work.transposed.resize(outputs * rows, 0.0);
        work.residual_sums.resize(outputs, 0.0);
        let tasks = work.transposed.chunks_mut(CHUNK * rows).zip(work.residual_sums.chunks_mut(CHUNK));
        let tasks: Vec<_> = tasks.map(Mutex::new).collect();
        self.pool.run(tasks.len(), |task| {
            let mut task_of = locked(&tasks[task]);
            let (to, sums) = &mut *task_of;
            transpose(&work.residuals[task * CHUNK..], outputs, rows, to);
            for (sum, row) in sums.iter_mut().zip(to.chunks_exact(rows)) {
                *sum = row.iter().map(|value| f64::from(*value)).sum();
            }
        });
    }

    /// Adds the residuals times the rows.
    fn backward(&self, block: usize, active: &[usize], work: &Work, slices: &[Mutex<(Vec<f64>, Vec<f32>)>]) {
        let rows = self.blocks[block].rows.len();
        let outputs = active.len() * self.classes;
        let a = Matrix { values: &work.transposed, stride: rows };
        self.pool.run(slices.len(), |task| {
            let mut slice = locked(&slices[task]);
            let (sums, product) = &mut *slice;
            let width = SLICE.min(self.features - task * SLICE);
            let values = &self.block[task * SLICE..];
            let packed =
                PackedMatrix::of_rows(self.level, rows, width, Matrix { values, stride: self.stride });
            gemm(&self.single, outputs, a, Prologue::None, &packed, Epilogue::default(), product, width);
            for (i, layer) in active.iter().enumerate() {
                let own = self.classes * width;
                let sums = &mut sums[layer * own..][..own];
                sums.iter_mut().zip(&product[i * own..]).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        });
    }

    /// `X'X / rows` over standardised rows, or over some of them, evenly taken, if they are more than `enough`: the lower half of `[features,
    /// features]`, the rest zero.
    pub(crate) fn gram(&mut self, enough: usize) -> Result<Vec<f32>, SolverError> {
        let features = self.features;
        let step = (self.rows.len() / enough.max(1)).max(1);
        let mut gram = vec![0.0; features * features];
        let mut transposed = Vec::new();
        let slices = features.div_ceil(SLICE);
        let sums: Vec<_> = (0..slices)
            .map(|slice| {
                let width = SLICE.min(features - slice * SLICE);
                let height = features - slice * SLICE;
                Mutex::new((vec![0.0f32; height * width], vec![0.0f32; height * width]))
            })
            .collect();
        let mut count = 0;
        for block in (0..self.blocks.len()).step_by(step) {
            self.read(block)?;
            let rows = self.blocks[block].rows.len();
            count += rows;
            transposed.resize(features * rows, 0.0);
            let tasks: Vec<_> = transposed.chunks_mut(CHUNK * rows).map(Mutex::new).collect();
            self.pool.run(tasks.len(), |task| {
                transpose(&self.block[task * CHUNK..], self.stride, rows, &mut locked(&tasks[task]));
            });
            drop(tasks);
            self.pool.run(slices, |slice| {
                let first = slice * SLICE;
                let (width, height) = (SLICE.min(features - first), features - first);
                let values = &self.block[first..];
                let packed =
                    PackedMatrix::of_rows(self.level, rows, width, Matrix { values, stride: self.stride });
                let mut own = locked(&sums[slice]);
                let (sums, product) = &mut *own;
                let a = Matrix { values: &transposed[first * rows..], stride: rows };
                gemm(&self.single, height, a, Prologue::None, &packed, Epilogue::default(), product, width);
                sums.iter_mut().zip(product).for_each(|(sum, value)| *sum += *value);
            });
        }
        for (slice, own) in sums.iter().enumerate() {
            let first = slice * SLICE;
            let width = SLICE.min(features - first);
            for (row, values) in locked(own).0.chunks_exact(width).enumerate() {
                let to = &mut gram[(first + row) * features + first..][..width];
                to.iter_mut().zip(values).for_each(|(to, value)| *to = value / count as f32);
            }
        }
        Ok(gram)
    }
}

/// Layers side by side.
struct Packed {
    weight: PackedMatrix,
    bias: Vec<f32>,
}

/// What is known of a block while it is in the cache.
#[derive(Default)]
struct Work {
    /// `[rows, outputs]`
    logits: Vec<f32>,
    /// `[rows, outputs]`
    residuals: Vec<f32>,
    /// `[outputs, rows]`
    transposed: Vec<f32>,
    /// `[outputs]`
    residual_sums: Vec<f64>,
    /// Of each chunk, for each layer.
    sums: Vec<Vec<ChunkSums>>,
}

/// The first columns of rows that are `stride` apart, as many as there is place for, as rows of `rows` values.
fn transpose(from: &[f32], stride: usize, rows: usize, to: &mut [f32]) {
    for (column, to) in to.chunks_exact_mut(rows).enumerate() {
        for (row, to) in to.iter_mut().enumerate() {
            *to = from[row * stride + column];
        }
    }
}

/// Rows of each fold in blocks of at most `most`, in the order in which the blocks fill up when rows are taken one after the other.
fn blocks(fold_of: &[Option<u16>], most: usize) -> Vec<Block> {
    let folds = fold_of.iter().map(|fold| fold.map_or(0, |fold| usize::from(fold) + 1)).max().unwrap_or(0);
    let mut filling: Vec<Vec<u32>> = vec![Vec::new(); folds + 1];
    let mut blocks = Vec::new();
    let fold = |index: usize| index.checked_sub(1).map(|fold| fold as u16);
    for (row, of) in fold_of.iter().enumerate() {
        let index = of.map_or(0, |fold| usize::from(fold) + 1);
        filling[index].push(row as u32);
        if filling[index].len() == most {
            blocks.push(Block { fold: fold(index), rows: std::mem::take(&mut filling[index]) });
        }
    }
    let left = filling.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
    blocks.extend(left.map(|(index, rows)| Block { fold: fold(index), rows }));
    blocks
}
