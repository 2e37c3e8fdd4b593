//! Update rules: how gradients change parameters.
//!
//! Each computes what the class of its name in `torch.optim` computes, in f32, with a dampening of zero and without `amsgrad`.

use super::product::SUMS;
use super::reduction::{EachVector, each_vector};
use crate::norm::sum_of_squares as sum_of_squares_of;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Pool};

/// Stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The size of the step.
    pub learning_rate: f64,
    /// Times the value, added to the gradient.
    pub weight_decay: f64,
    /// How much of the last step's direction stays.
    pub momentum: f64,
    /// Whether the gradient is taken a step ahead.
    pub nesterov: bool,
}

/// Adam, and AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The size of the step.
    pub learning_rate: f64,
    /// Times the value, added to the gradient; if it is decoupled, times the learning rate it shrinks the value.
    pub weight_decay: f64,
    /// Whether weight decay is decoupled from the gradient: AdamW.
    pub decoupled: bool,
    /// How much of the running means of the gradients and of their squares stays.
    pub betas: [f64; 2],
    /// Added to the root of the second mean.
    pub eps: f64,
    /// The number of this update, from 1.
    pub updates: u64,
}

/// One update of `values` by `gradient` times `factor` (1, or what clipping and averaging make of it). `velocity` is needed with a
/// momentum, and begins with zeros.
///
/// # Panics
/// When the slices are not equally long, or there is a momentum, and no velocity.
pub fn sgd(
    level: Level,
    pool: &Pool,
    rule: Sgd,
    factor: f32,
    values: &mut [f32],
    gradient: &[f32],
    velocity: Option<&mut [f32]>,
) {
    let Sgd { learning_rate, weight_decay, momentum, nesterov } = rule;
    let len = values.len();
    assert_eq!(len, gradient.len(), "the gradient's length");
    assert!(momentum == 0.0 || velocity.is_some(), "a momentum needs a velocity");
    let velocity = velocity.filter(|_| momentum != 0.0);
    assert!(velocity.as_ref().is_none_or(|velocity| velocity.len() == len), "the velocity's length");
    let [rate, decay, momentum] = [learning_rate, weight_decay, momentum].map(|value| value as f32);
    let step = SgdStep {
        rate,
        decay,
        momentum,
        nesterov,
        factor,
        values: Shares::new(values),
        gradient,
        velocity: velocity.map(Shares::new),
    };
    each_vector(level, pool, [1, len], step);
}

struct SgdStep<'a> {
    rate: f32,
    decay: f32,
    momentum: f32,
    nesterov: bool,
    factor: f32,
    values: Shares<'a>,
    gradient: &'a [f32],
    velocity: Option<Shares<'a>>,
}

impl EachVector for SgdStep<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, _: usize, at: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.values.at(at);
            let value = S::load_upto(to, lanes);
            let gradient = S::mul(S::load_upto(self.gradient.as_ptr().add(at), lanes), S::splat(self.factor));
            let gradient = S::mul_add(S::splat(self.decay), value, gradient);
            let mut step = gradient;
            if let Some(velocity) = &self.velocity {
                let momentum = S::splat(self.momentum);
                let at = velocity.at(at);
                let velocity = S::mul_add(momentum, S::load_upto(at, lanes), gradient);
                S::store_upto(at, velocity, lanes);
                step = if self.nesterov { S::mul_add(momentum, velocity, gradient) } else { velocity };
            }
            S::store_upto(to, S::mul_add(step, S::splat(-self.rate), value), lanes);
        }
    }
}

/// One update of `values` by `gradient` times `factor` (1, or what clipping and averaging make of it). `mean` and `square` are the
/// running means of the gradients and of their squares, and begin with zeros.
///
/// # Panics
/// When the slices are not equally long.
#[expect(clippy::too_many_arguments, reason = "four slices and the rule")]
pub fn adam(
    level: Level,
    pool: &Pool,
    rule: Adam,
    factor: f32,
    values: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
) {
    let Adam { learning_rate, weight_decay, decoupled, betas, eps, updates } = rule;
    let len = values.len();
    assert!([gradient.len(), mean.len(), square.len()] == [len; 3], "the lengths of {len} values");
    let updates = updates as f64;
    let step = AdamStep {
        shrink: if decoupled { 1.0 - learning_rate * weight_decay } else { 1.0 } as f32,
        decay: if decoupled { 0.0 } else { weight_decay } as f32,
        rate: (learning_rate / (1.0 - betas[0].powf(updates))) as f32,
        root: (1.0 / (1.0 - betas[1].powf(updates)).sqrt()) as f32,
        eps: eps as f32,
        betas: betas.map(|beta| beta as f32),
        rests: betas.map(|beta| (1.0 - beta) as f32),
        factor,
        values: Shares::new(values),
        gradient,
        mean: Shares::new(mean),
        square: Shares::new(square),
    };
    each_vector(level, pool, [1, len], step);
}

struct AdamStep<'a> {
    /// What is left of a value.
    shrink: f32,
    decay: f32,
    /// By the mean, with its bias corrected.
    rate: f32,
    /// Corrects the root's bias.
    root: f32,
    eps: f32,
    betas: [f32; 2],
    rests: [f32; 2],
    factor: f32,
    values: Shares<'a>,
    gradient: &'a [f32],
    mean: Shares<'a>,
    square: Shares<'a>,
}

impl EachVector for AdamStep<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, _: usize, at: usize, lanes: usize) {
        let [first, second] = self.betas;
        let [rest, second_rest] = self.rests;
        // SAFETY: the caller's.
        unsafe {
            let (to, mean, square) = (self.values.at(at), self.mean.at(at), self.square.at(at));
            let value = S::load_upto(to, lanes);
            let gradient = S::mul(S::load_upto(self.gradient.as_ptr().add(at), lanes), S::splat(self.factor));
            let gradient = S::mul_add(S::splat(self.decay), value, gradient);
            let rest = S::mul(gradient, S::splat(rest));
            let mean_now = S::mul_add(S::splat(first), S::load_upto(mean, lanes), rest);
            S::store_upto(mean, mean_now, lanes);
            let rest = S::mul(S::mul(gradient, gradient), S::splat(second_rest));
            let square_now = S::mul_add(S::splat(second), S::load_upto(square, lanes), rest);
            S::store_upto(square, square_now, lanes);
            let root = S::mul_add(S::sqrt(square_now), S::splat(self.root), S::splat(self.eps));
            let step = S::div(S::mul(mean_now, S::splat(self.rate)), root);
            S::store_upto(to, S::sub(S::mul(value, S::splat(self.shrink)), step), lanes);
        }
    }
}

/// A running mean: `average = decay average + (1 - decay) values`.
///
/// # Panics
/// When the slices are not equally long.
pub fn average(level: Level, pool: &Pool, decay: f64, values: &[f32], average: &mut [f32]) {
    let len = values.len();
    assert_eq!(len, average.len(), "the average's length");
    let rest = (1.0 - decay) as f32;
    each_vector(level, pool, [1, len], AverageStep { rest, values, average: Shares::new(average) });
}

struct AverageStep<'a> {
    rest: f32,
    values: &'a [f32],
    average: Shares<'a>,
}

impl EachVector for AverageStep<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, _: usize, at: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.average.at(at);
            let average = S::load_upto(to, lanes);
            let difference = S::sub(S::load_upto(self.values.as_ptr().add(at), lanes), average);
            S::store_upto(to, S::mul_add(difference, S::splat(self.rest), average), lanes);
        }
    }
}

/// The sum of the squares of all values: of a gradient's norm. Chunks are summed in f32, and the chunks' sums in f64, in their order;
/// where a square is more than f32 holds, or all are next to nothing in it, all is summed in f64.
pub fn sum_of_squares(level: Level, pool: &Pool, values: &[f32]) -> f64 {
    let chunks = values.len().div_ceil(CHUNK);
    let mut sums = SUMS.take();
    sums.grow(chunks);
    let to = Shares::new(sums.values_mut());
    pool.run(values.len().div_ceil(TASK_CHUNKS * CHUNK), |task| {
        let part = values.chunks(TASK_CHUNKS * CHUNK).nth(task).unwrap_or_default();
        for (i, chunk) in part.chunks(CHUNK).enumerate() {
            // SAFETY: there is a place for every chunk; tasks have different ones.
            unsafe { to.at(task * TASK_CHUNKS + i).write(level.run(Squares(chunk))) };
        }
    });
    let sum: f64 = sums.values()[..chunks].iter().map(|sum| f64::from(*sum)).sum();
    SUMS.set(sums);
    if sum.is_finite() && sum > f64::from(f32::MIN_POSITIVE) * 1e6 {
        return sum;
    }
    values.iter().map(|value| f64::from(*value).powi(2)).sum()
}

/// Chunks of a task, so that handing it out costs little beside it.
const TASK_CHUNKS: usize = 16;

/// Values that are summed in f32.
const CHUNK: usize = 1024;

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: the pointer is valid for the slice's values.
        unsafe { sum_of_squares_of::<S>(self.0.as_ptr(), self.0.len()) }
    }
}

/// `values *= factor`.
pub fn scale(level: Level, pool: &Pool, factor: f32, values: &mut [f32]) {
    let len = values.len();
    each_vector(level, pool, [1, len], Scale { factor, values: Shares::new(values) });
}

struct Scale<'a> {
    factor: f32,
    values: Shares<'a>,
}

impl EachVector for Scale<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, _: usize, at: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.values.at(at);
            S::store_upto(to, S::mul(S::load_upto(to, lanes), S::splat(self.factor)), lanes);
        }
    }
}
