//! Batch normalisation in training: by the batch's own statistics, or by given ones with a trained scale and shift.

use super::activation::backward;
use super::reduction::{EachVector, Terms, each_vector, sum_rows};
use crate::bounds::check_output;
use crate::shares::Shares;
use crate::simd::Simd;
use crate::{Activation, Level, Matrix, Pool};

/// A batch norm `y = (x - mean) rstd gamma + beta`; each value of a channel.
#[derive(Clone, Copy)]
pub struct BatchNorm<'a> {
    /// The batch's mean, or the running one.
    pub mean: &'a [f32],
    /// `1 / sqrt(variance + eps)`, the variance being the batch's biased one, or the running one.
    pub rstd: &'a [f32],
    /// The trained scale.
    pub gamma: &'a [f32],
    /// The trained shift.
    pub beta: &'a [f32],
    /// Whether mean and variance are those of the batch, so that they have gradients, too.
    pub batch: bool,
}

/// A batch norm as `y = x scale + shift`: `scale = gamma rstd` and `shift = beta - mean scale` for each channel, as PyTorch computes it.
///
/// # Panics
/// When the slices are not equally long.
pub fn batch_norm_affine(norm: BatchNorm<'_>, scale: &mut [f32], shift: &mut [f32]) {
    let BatchNorm { mean, rstd, gamma, beta, .. } = norm;
    let channels = scale.len();
    assert!(
        [mean.len(), rstd.len(), gamma.len(), beta.len(), shift.len()] == [channels; 5],
        "{channels} channels"
    );
    for channel in 0..channels {
        scale[channel] = gamma[channel] * rstd[channel];
        shift[channel] = beta[channel] - mean[channel] * scale[channel];
    }
}

/// `y = activation(x scale + shift + residual)`, `[rows, columns]`, with a scale and a shift for each column.
///
/// # Panics
/// When a slice is too short, or the output's rows overlap.
#[expect(clippy::too_many_arguments, reason = "three matrices and what connects them")]
pub fn normalise(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    scale: &[f32],
    shift: &[f32],
    residual: Option<Matrix<'_>>,
    activation: Activation,
    output: &mut [f32],
    output_stride: usize,
) {
    assert!(x.has(rows, columns), "x has fewer than {rows} rows of {columns}");
    assert!(scale.len() >= columns && shift.len() >= columns, "fewer than {columns} scales or shifts");
    assert!(residual.is_none_or(|residual| residual.has(rows, columns)), "the residual is too short");
    check_output(output.len(), [rows, columns], output_stride);
    let output = Shares::new(output);
    let kernel = Normalise { x, scale, shift, residual, activation, output, stride: output_stride };
    each_vector(level, pool, [rows, columns], kernel);
}

struct Normalise<'a> {
    x: Matrix<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    residual: Option<Matrix<'a>>,
    activation: Activation,
    output: Shares<'a>,
    stride: usize,
}

impl EachVector for Normalise<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, row: usize, column: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let x = load::<S>(self.x, row, column, lanes);
            let scale = S::load_upto(self.scale.as_ptr().add(column), lanes);
            let mut y = S::mul_add(x, scale, S::load_upto(self.shift.as_ptr().add(column), lanes));
            if let Some(residual) = self.residual {
                y = S::add(y, load::<S>(residual, row, column, lanes));
            }
            let y = self.activation.apply::<S>(y);
            S::store_upto(self.output.at(row * self.stride + column), y, lanes);
        }
    }
}

/// # Safety
/// The machine has the instruction set, and the matrix the row and the columns.
#[inline(always)]
unsafe fn load<S: Simd>(matrix: Matrix<'_>, row: usize, column: usize, lanes: usize) -> S::V {
    // SAFETY: the caller's.
    unsafe { S::load_upto(matrix.values.as_ptr().add(row * matrix.stride + column), lanes) }
}

/// The gradients of a batch norm followed by an activation, `y = activation(norm(x))`, `[rows, columns]`.
///
/// `dy` is by `y`; without it, `dx` holds it, and is changed in place. `output` is `y`, from which the derivative of ReLU and ReLU6 is
/// taken: it must be given if something was added between norm and activation, and may be left out otherwise (the derivative then
/// comes from `x`), as it must for any other activation.
///
/// `dgamma` and `dbeta` are the gradients of the norm's scale and shift. If `accumulate_dx` is set, the input's gradient is added to
/// what `dx` holds (and `dy` must be given). Without `dx`, only the sums are made.
///
/// # Panics
/// When a slice is too short, the rows of `dx` overlap, there is neither `dy` nor `dx`, or an output is given for an activation
/// whose derivative it does not tell.
#[expect(clippy::too_many_arguments, reason = "four matrices and what connects them")]
pub fn batch_norm_backward(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    norm: BatchNorm<'_>,
    activation: Activation,
    output: Option<Matrix<'_>>,
    dy: Option<Matrix<'_>>,
    accumulate: bool,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    dx: Option<(&mut [f32], usize)>,
    accumulate_dx: bool,
) {
    let BatchNorm { mean, rstd, gamma, beta, batch } = norm;
    assert!(x.has_apart(rows, columns), "x has fewer than {rows} rows of {columns}, or they overlap");
    assert!(dy.is_none_or(|dy| dy.has(rows, columns)), "dy has fewer than {rows} rows of {columns}");
    assert!(
        output.is_none_or(|y| y.has(rows, columns)),
        "the output has fewer than {rows} rows of {columns}"
    );
    assert!(
        [mean, rstd, gamma, beta].iter().all(|values| values.len() >= columns),
        "a vector of the norm has fewer than {columns} values"
    );
    assert!(dgamma.len() >= columns && dbeta.len() >= columns, "a gradient has fewer than {columns} values");
    assert!(dy.is_some() || dx.is_some(), "there is no gradient of the output");
    assert!(dy.is_some() || !accumulate_dx, "the output's gradient cannot be where the input's is added");
    assert!(
        output.is_none() || activation.clamp().is_some(),
        "the output of {activation:?} does not tell its derivative"
    );
    if let Some((dx, stride)) = &dx {
        check_output(dx.len(), [rows, columns], *stride);
    }
    if columns == 0 {
        return;
    }
    let norm = BatchNorm {
        mean: &mean[..columns],
        rstd: &rstd[..columns],
        gamma: &gamma[..columns],
        beta: &beta[..columns],
        batch,
    };
    let (mut scale, mut shift) = (vec![0.0; columns], vec![0.0; columns]);
    batch_norm_affine(norm, &mut scale, &mut shift);
    let mut before = Before { x, scale: &scale, shift: &shift, activation, output };
    let (mut sums, mut products) = (vec![0.0; columns], vec![0.0; columns]);
    let dx = dx.map(|(dx, stride)| Places { values: Shares::new(dx), stride });
    {
        let dy = match (&dy, &dx) {
            (Some(dy), _) => Source::Elsewhere(*dy),
            // What takes an exponential is computed once, and kept in the place of `dy`.
            (None, Some(dx)) => Source::InPlace { dx, keeps: activation.clamp().is_none() },
            (None, None) => unreachable!("one of them is there"),
        };
        let terms = Gradients { before, mean, dy };
        sum_rows(level, pool, [rows, columns], rows.max(1), terms, |_, values| {
            sums.copy_from_slice(&values[..columns]);
            products.copy_from_slice(&values[columns..]);
        });
        if let Source::InPlace { keeps: true, .. } = dy {
            before.activation = Activation::Identity;
        }
    }
    for column in 0..columns {
        let before = |value: f32| if accumulate { value } else { 0.0 };
        dgamma[column] = before(dgamma[column]) + products[column] * rstd[column];
        dbeta[column] = before(dbeta[column]) + sums[column];
    }
    let Some(dx) = dx else { return };
    if rows == 0 {
        return;
    }
    for column in 0..columns {
        sums[column] /= rows as f32;
        products[column] *= rstd[column] * rstd[column] / rows as f32;
    }
    let means = batch.then_some(Means { mean, sum: &sums, product: &products });
    let kernel = Input { before, dy, means, dx, accumulate: accumulate_dx };
    each_vector(level, pool, [rows, columns], kernel);
}

/// What comes before the gradient of the norm's output.
#[derive(Clone, Copy)]
struct Before<'a> {
    x: Matrix<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
    output: Option<Matrix<'a>>,
}

impl Before<'_> {
    /// The gradient of the norm's output from that of the activation's.
    ///
    /// # Safety
    /// The machine has the instruction set, and all matrices the row and the columns.
    #[inline(always)]
    unsafe fn gradient<S: Simd>(&self, row: usize, column: usize, lanes: usize, x: S::V, dy: S::V) -> S::V {
        if self.activation == Activation::Identity {
            return dy;
        }
        // SAFETY: the caller's.
        unsafe {
            let z = match self.output {
                Some(y) => load::<S>(y, row, column, lanes),
                // To the bit as `normalise` has it.
                None => {
                    let scale = S::load_upto(self.scale.as_ptr().add(column), lanes);
                    S::mul_add(x, scale, S::load_upto(self.shift.as_ptr().add(column), lanes))
                }
            };
            backward::<S>(self.activation, z, dy)
        }
    }
}

/// Rows that tasks write.
struct Places<'a> {
    values: Shares<'a>,
    stride: usize,
}

impl Places<'_> {
    /// # Safety
    /// The row and the column exist.
    #[inline(always)]
    unsafe fn at(&self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.values.at(row * self.stride + column) }
    }
}

/// Where the gradient of the activation's output is.
#[derive(Clone, Copy)]
enum Source<'a> {
    Elsewhere(Matrix<'a>),
    InPlace {
        dx: &'a Places<'a>,
        /// Whether the gradient of the norm's output takes its place.
        keeps: bool,
    },
}

/// The gradient of the norm's output, and its product with `x - mean`.
#[derive(Clone, Copy)]
struct Gradients<'a> {
    before: Before<'a>,
    mean: &'a [f32],
    dy: Source<'a>,
}

impl Terms<2> for Gradients<'_> {
    #[inline(always)]
    unsafe fn of<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::V; 2] {
        // SAFETY: the caller's.
        unsafe {
            let x = load::<S>(self.before.x, row, column, lanes);
            let dy = match self.dy {
                Source::Elsewhere(dy) => load::<S>(dy, row, column, lanes),
                Source::InPlace { dx, .. } => S::load_upto(dx.at(row, column), lanes),
            };
            let dz = self.before.gradient::<S>(row, column, lanes, x, dy);
            if let Source::InPlace { dx, keeps: true } = self.dy {
                // A task has its rows and columns for itself, and sees each once.
                S::store_upto(dx.at(row, column), dz, lanes);
            }
            let x = S::sub(x, S::load_upto(self.mean.as_ptr().add(column), lanes));
            [dz, S::mul(dz, x)]
        }
    }
}

/// For each column, what the gradients of the batch's mean and variance subtract: `sum + (x - mean) product`.
struct Means<'a> {
    mean: &'a [f32],
    sum: &'a [f32],
    product: &'a [f32],
}

struct Input<'a> {
    before: Before<'a>,
    dy: Option<Matrix<'a>>,
    means: Option<Means<'a>>,
    dx: Places<'a>,
    accumulate: bool,
}

impl EachVector for Input<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, row: usize, column: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.dx.at(row, column);
            let dy = match self.dy {
                Some(dy) => load::<S>(dy, row, column, lanes),
                None => S::load_upto(to, lanes),
            };
            let x = load::<S>(self.before.x, row, column, lanes);
            let mut g = self.before.gradient::<S>(row, column, lanes, x, dy);
            if let Some(Means { mean, sum, product }) = &self.means {
                let of_column = |values: &[f32]| S::load_upto(values.as_ptr().add(column), lanes);
                let x = S::sub(x, of_column(mean));
                g = S::sub(S::sub(g, of_column(sum)), S::mul(x, of_column(product)));
            }
            let scale = S::load_upto(self.before.scale.as_ptr().add(column), lanes);
            g = if self.accumulate {
                S::mul_add(g, scale, S::load_upto(to, lanes))
            } else {
                S::mul(g, scale)
            };
            S::store_upto(to, g, lanes);
        }
    }
}

/// A frozen batch norm that was folded into the weights of what comes before it, a convolution or a linear layer without a bias of
/// its own: `w' = w scale` for each output channel, and a bias `beta - mean scale`, where `scale = gamma rstd`.
#[derive(Clone, Copy)]
pub struct FoldedNorm<'a> {
    /// The weight before folding, `[channels, ...]`.
    pub weight: &'a [f32],
    /// The running mean.
    pub mean: &'a [f32],
    /// `1 / sqrt(variance + eps)` of the running variance.
    pub rstd: &'a [f32],
    /// The norm's scale.
    pub gamma: &'a [f32],
}

/// Makes the gradients of a folded norm's parts from those of the whole.
///
/// `dw` holds the gradient of the folded weight, and gets that of the weight before folding; `dbias` is the gradient of the folded
/// bias, which is also that of the norm's shift. `dgamma` gets the gradient of the norm's scale, which needs no pass over the maps:
/// what the convolution gave, times `dy`, summed over the pixels, is the sum of `w dw'` over the channel.
///
/// # Panics
/// When a slice is too short, or the weight's length is not a multiple of the channels.
pub fn folded_norm_backward(norm: FoldedNorm<'_>, dbias: &[f32], dw: &mut [f32], dgamma: Option<&mut [f32]>) {
    let FoldedNorm { weight, mean, rstd, gamma } = norm;
    let channels = gamma.len();
    assert!([mean.len(), rstd.len(), dbias.len()] == [channels; 3], "{channels} channels");
    assert_eq!(weight.len(), dw.len(), "the weight's gradient");
    assert!(channels > 0 && weight.len().is_multiple_of(channels), "a weight of {channels} channels");
    let each = weight.len() / channels;
    if let Some(dgamma) = dgamma {
        assert_eq!(dgamma.len(), channels, "the scale's gradient");
        for channel in 0..channels {
            let of_channel = channel * each..(channel + 1) * each;
            let products = weight[of_channel.clone()].iter().zip(&dw[of_channel]);
            let sum: f64 = products.map(|(w, dw)| f64::from(*w) * f64::from(*dw)).sum();
            let shift = f64::from(mean[channel]) * f64::from(dbias[channel]);
            dgamma[channel] = (f64::from(rstd[channel]) * (sum - shift)) as f32;
        }
    }
    if each > 0 {
        for (channel, dw) in dw.chunks_exact_mut(each).enumerate() {
            dw.iter_mut().for_each(|dw| *dw *= gamma[channel] * rstd[channel]);
        }
    }
}
