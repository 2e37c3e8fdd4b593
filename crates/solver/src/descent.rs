//! L-BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization") in the variables of a [`Metric`], for
//! several layers side by side, so that each pass over the rows serves all of them.
//!
//! The line search goes back only. Wolfe's second condition is there to make `s'y` positive, which a strictly convex objective does by
//! itself; a step that could have been longer shows in the next one's scale. Close to the minimum the objective's differences are
//! lost in rounding, so that there the approximate condition of Hager and Zhang 2005 decides ("A new conjugate gradient method with
//! guaranteed descent and an efficient line search"), which needs only gradients.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::SolverError;
use crate::columns::locked;
use crate::metric::Metric;
use crate::passes::{Evaluation, Layer, Passes};

/// Steps that are remembered.
const MEMORY: usize = 10;

/// The share of the expected decrease that a step must bring.
const ENOUGH: f64 = 1e-4;

/// Relative differences of the objective that may be rounding: of a logit, by some units in the last place of f32.
const NOISE: f64 = 1e-7;

/// Shorter steps than this bring nothing.
const SHORTEST_STEP: f64 = 1e-6;

/// How near the minimum is near enough.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// Of the objective.
    pub(crate) relative: f64,
    /// In the objective's unit.
    pub(crate) absolute: f64,
}

/// A layer on its way to the minimum of `cross entropy + strength / 2 * |weight|^2`.
pub(crate) struct Descent {
    pub(crate) left_out: Option<u16>,
    /// `[classes, features]`, then `[classes]` biases.
    pub(crate) point: Vec<f64>,
    /// At the last point that was accepted.
    pub(crate) objective: f64,
    /// Points that were accepted, over all strengths.
    pub(crate) iterations: usize,
    /// Whether the last run ended within its tolerance.
    pub(crate) converged: bool,
    state: State,
    /// Of the penalty, and the strength before with its minimum.
    strength: Option<f64>,
    before: Option<(f64, Vec<f64>)>,
    /// In the point's variables.
    gradient: Vec<f64>,
    direction: Vec<f32>,
    step: f64,
    /// Of the objective along the direction.
    slope: f64,
    /// In the metric's variables.
    reduced: Vec<f32>,
    reduced_direction: Vec<f32>,
    pairs: VecDeque<Pair>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The objective at the point is not known.
    Begin,
    Search,
    Done,
}

/// A step and the gradient's change.
struct Pair {
    step: Vec<f32>,
    change: Vec<f32>,
    product: f64,
}

impl Descent {
    /// From zero, or from a point of the same length.
    pub(crate) fn new(left_out: Option<u16>, point: Vec<f64>) -> Descent {
        let len = point.len();
        Descent {
            left_out,
            point,
            objective: f64::INFINITY,
            iterations: 0,
            converged: false,
            state: State::Begin,
            strength: None,
            before: None,
            gradient: vec![0.0; len],
            direction: vec![0.0; len],
            step: 0.0,
            slope: 0.0,
            reduced: vec![0.0; len],
            reduced_direction: vec![0.0; len],
            pairs: VecDeque::new(),
        }
    }

    fn trial(&self, i: usize) -> f64 {
        self.point[i] + self.step * f64::from(self.direction[i])
    }

    /// The layer to be evaluated next: the point itself, once done.
    pub(crate) fn layer(&self) -> Vec<f32> {
        (0..self.point.len()).map(|i| self.trial(i) as f32).collect()
    }

    /// Takes the evaluation of [`Self::layer`] in; whether the point has moved and needs a new direction.
    fn take(&mut self, evaluation: &Evaluation, weights: usize, strength: f64) -> bool {
        let data = evaluation.weight.iter().chain(&evaluation.bias);
        let gradient: Vec<f64> = data
            .enumerate()
            .map(|(i, value)| if i < weights { value + strength * self.trial(i) } else { *value })
            .collect();
        let squares: f64 = (0..weights).map(|i| self.trial(i).powi(2)).sum();
        let objective = evaluation.loss + strength / 2.0 * squares;
        if self.state == State::Search {
            let slope: f64 = gradient.iter().zip(&self.direction).map(|(g, d)| g * f64::from(*d)).sum();
            let decrease = objective <= self.objective + ENOUGH * self.step * self.slope;
            let rounding = NOISE * self.objective.abs();
            let flat = objective <= self.objective + rounding && slope <= (2.0 * ENOUGH - 1.0) * self.slope;
            if !(decrease || flat) {
                // The minimum of the parabola through what is known.
                let excess = objective - self.objective - self.step * self.slope;
                let best = -self.slope * self.step * self.step / (2.0 * excess);
                // `clamp` keeps a NaN, of a loss that overflowed.
                let best = if best.is_nan() { 0.0 } else { best };
                self.step = best.clamp(0.02 * self.step, 0.5 * self.step);
                if self.step < SHORTEST_STEP {
                    self.give_up();
                }
                return false;
            }
            self.iterations += 1;
        }
        for (i, point) in self.point.iter_mut().enumerate() {
            *point += self.step * f64::from(self.direction[i]);
        }
        self.gradient = gradient;
        self.objective = objective;
        true
    }

    /// Nothing is gained along this direction: rounding has the last word.
    fn give_up(&mut self) {
        self.step = 0.0;
        self.state = State::Done;
    }

    /// Sets the direction in the metric's variables from the gradient there.
    fn turn(&mut self, reduced: Vec<f32>, tolerance: Tolerance) {
        if self.state == State::Search {
            let step: Vec<f32> =
                self.reduced_direction.iter().map(|d| (self.step * f64::from(*d)) as f32).collect();
            let change: Vec<f32> = reduced.iter().zip(&self.reduced).map(|(new, old)| new - old).collect();
            let product = dot(&step, &change);
            if product > 1e-10 * (dot(&step, &step) * dot(&change, &change)).sqrt() {
                if self.pairs.len() == MEMORY {
                    self.pairs.pop_front();
                }
                self.pairs.push_back(Pair { step, change, product });
            }
        }
        let mut d: Vec<f32> = reduced.iter().map(|g| -g).collect();
        let mut shares = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let share = dot(&pair.step, &d) / pair.product;
            add(&mut d, -share, &pair.change);
            shares.push(share);
        }
        if let Some(pair) = self.pairs.back() {
            let scale = (pair.product / dot(&pair.change, &pair.change)) as f32;
            d.iter_mut().for_each(|value| *value *= scale);
        }
        for (pair, share) in self.pairs.iter().zip(shares.iter().rev()) {
            let other = dot(&pair.change, &d) / pair.product;
            add(&mut d, share - other, &pair.step);
        }
        // Of the gradient in the metric's variables with the direction there: the same as in the point's.
        self.slope = dot(&reduced, &d);
        self.reduced = reduced;
        self.reduced_direction = d;
        self.step = 1.0;
        // Half of what a Newton step would gain, is still to be gained, as far as the pairs know the Hessian.
        let to_gain = -self.slope / 2.0;
        self.converged = to_gain <= (tolerance.relative * self.objective).min(tolerance.absolute);
        self.state = State::Search;
        if self.converged || self.slope >= 0.0 || self.slope.is_nan() {
            self.give_up();
        }
    }

    /// Makes ready for another objective, from where it stands.
    ///
    /// The minimum moves almost evenly with the logarithm of the strength, so that it begins where the last two minima point to.
    fn begin(&mut self, strength: f64) {
        self.state = State::Begin;
        self.step = 0.0;
        self.pairs.clear();
        if let Some(last) = self.strength.replace(strength) {
            let minimum = self.point.clone();
            if let Some((before, from)) = &self.before {
                let ahead = (strength / last).ln() / (last / before).ln();
                self.point.iter_mut().zip(from).for_each(|(point, from)| *point += ahead * (*point - from));
            }
            self.before = Some((last, minimum));
        }
    }
}

/// Takes all descents to the minimum of the objective with this strength, within `tolerance` of the objective, relatively.
///
/// `metric_of` makes the metric for a curvature. `after_pass` is called with the number of descents that are not there yet.
pub(crate) fn descend(
    passes: &mut Passes<'_>,
    descents: &mut [Descent],
    metric_of: &dyn Fn(&Passes<'_>, f64) -> Metric,
    strength: f64,
    tolerance: Tolerance,
    most_iterations: usize,
    after_pass: &mut dyn FnMut(usize),
) -> Result<(), SolverError> {
    let weights = passes.classes * passes.features;
    descents.iter_mut().for_each(|descent| descent.begin(strength));
    let mut metric = None;
    let most: Vec<usize> = descents.iter().map(|descent| descent.iterations + most_iterations).collect();
    loop {
        let mut active: Vec<&mut Descent> = descents
            .iter_mut()
            .zip(&most)
            .filter(|(descent, most)| descent.state != State::Done && descent.iterations < **most)
            .map(|(descent, _)| descent)
            .collect();
        if active.is_empty() {
            break;
        }
        let trials: Vec<Vec<f32>> = active.iter().map(|descent| descent.layer()).collect();
        let layers: Vec<Layer<'_>> = active
            .iter()
            .zip(&trials)
            .map(|(descent, trial)| Layer {
                left_out: descent.left_out,
                weight: &trial[..weights],
                bias: &trial[weights..],
            })
            .collect();
        let evaluations = passes.evaluate(&layers)?;
        let tasks: Vec<_> = active.iter_mut().map(|descent| Mutex::new((&mut **descent, false))).collect();
        passes.pool.run(tasks.len(), |task| {
            let (descent, moved) = &mut *locked(&tasks[task]);
            *moved = descent.take(&evaluations[task], weights, strength);
        });
        // The curvature is that at the points where the descents begin.
        let metric = metric.get_or_insert_with(|| {
            let sum: f64 = evaluations.iter().map(|evaluation| evaluation.curvature).sum();
            metric_of(passes, sum / evaluations.len() as f64)
        });
        drop(evaluations);
        let mut moved: Vec<&mut Descent> = tasks
            .into_iter()
            .map(|task| task.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
            .filter_map(|(descent, moved)| moved.then_some(descent))
            .collect();
        // The gradients of all, and then the directions of all, through the metric.
        let mut rows = Vec::with_capacity(moved.len() * weights);
        let mut biases = Vec::new();
        for descent in &moved {
            rows.extend(descent.gradient[..weights].iter().map(|value| *value as f32));
            biases.extend(descent.gradient[weights..].iter().map(|value| *value as f32));
        }
        metric.apply_transposed(&passes.pool, &mut rows, &mut biases);
        let classes = passes.classes;
        let tasks: Vec<_> = moved.iter_mut().map(Mutex::new).collect();
        passes.pool.run(tasks.len(), |task| {
            let mut reduced = rows[task * weights..][..weights].to_vec();
            reduced.extend(&biases[task * classes..][..classes]);
            locked(&tasks[task]).turn(reduced, tolerance);
        });
        drop(tasks);
        rows.clear();
        biases.clear();
        for descent in &moved {
            rows.extend(&descent.reduced_direction[..weights]);
            biases.extend(&descent.reduced_direction[weights..]);
        }
        metric.apply(&passes.pool, &mut rows, &mut biases);
        for (i, descent) in moved.iter_mut().enumerate() {
            descent.direction[..weights].copy_from_slice(&rows[i * weights..][..weights]);
            descent.direction[weights..].copy_from_slice(&biases[i * classes..][..classes]);
        }
        drop(moved);
        after_pass(active.iter().filter(|descent| descent.state != State::Done).count());
    }
    for descent in descents.iter_mut() {
        // A search that ran out of iterations: the point is the last one that was accepted.
        descent.step = 0.0;
    }
    Ok(())
}

/// Sums of f64 side by side, so that they neither wait for each other nor depend on the machine.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// `to += factor * values`
fn add(to: &mut [f32], factor: f64, values: &[f32]) {
    let factor = factor as f32;
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * value);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use engraft_kernels::Pool;

    use super::{Descent, Tolerance, descend};
    use crate::columns::Columns;
    use crate::metric::Metric;
    use crate::passes::{Layer, Passes};
    use crate::{Matrix, Rows};

    const FEATURES: usize = 7;
    const CLASSES: usize = 3;

    /// Rows whose features correlate, their labels, and their folds, of which some have none.
    fn problem() -> (Vec<f32>, Vec<u32>, Vec<Option<u16>>) {
        let noise = |i: usize| ((i * i) as f32 * 0.7).sin();
        let rows = 250;
        let labels: Vec<u32> = (0..rows).map(|row| (row * row % 5 % CLASSES) as u32).collect();
        let x = (0..rows * FEATURES).map(|i| {
            let (row, column) = (i / FEATURES, i % FEATURES);
            10.0 * column as f32
                + noise(row)
                + 0.2 * noise(i + 9)
                + ((labels[row] as usize) * column % 4) as f32 * 0.3
        });
        let folds = (0..rows).map(|row| if row % 11 == 0 { None } else { Some((row % 3) as u16) });
        (x.collect(), labels.clone(), folds.collect())
    }

    fn passes<'a>(
        rows: &'a dyn Rows,
        labels: &'a [u32],
        folds: &[Option<u16>],
        stop: &'a AtomicBool,
    ) -> Passes<'a> {
        let pool = Pool::new(2);
        let columns = Columns::of(rows, &pool).expect("the rows are good");
        Passes::new(rows, labels, CLASSES, folds, columns, pool, stop)
    }

    /// The loss of one layer, in f64 and row by row.
    fn naive(
        passes: &Passes<'_>,
        x: &[f32],
        labels: &[u32],
        keep: &dyn Fn(usize) -> bool,
        layer: &[f64],
    ) -> f64 {
        let (weight, bias) = layer.split_at(CLASSES * FEATURES);
        let (mut sum, mut count) = (0.0, 0.0);
        for (_, (x, label)) in x.chunks(FEATURES).zip(labels).enumerate().filter(|(row, _)| keep(*row)) {
            let standardised =
                |j: usize| f64::from(x[j] - passes.columns.mean[j]) * f64::from(passes.columns.inverse[j]);
            let logits = weight.chunks(FEATURES).zip(bias).map(|(weight, bias)| {
                weight.iter().enumerate().map(|(j, w)| w * standardised(j)).sum::<f64>() + bias
            });
            let logits: Vec<f64> = logits.collect();
            sum += logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[*label as usize];
            count += 1.0;
        }
        sum / count
    }

    #[test]
    fn gradients_are_the_finite_differences() {
        let (x, labels, folds) = problem();
        let (rows, stop) = (Matrix::new(&x, FEATURES), AtomicBool::new(false));
        let mut passes = passes(&rows, &labels, &folds, &stop);
        let layers: Vec<Vec<f32>> = (0..2)
            .map(|k| (0..CLASSES * FEATURES + CLASSES).map(|i| (((i + 40 * k) * 7) as f32).sin()).collect())
            .collect();
        let (weights, out) = (CLASSES * FEATURES, [Some(1), None]);
        let both: Vec<Layer<'_>> = layers
            .iter()
            .zip(out)
            .map(|(layer, left_out)| Layer { left_out, weight: &layer[..weights], bias: &layer[weights..] })
            .collect();
        let evaluations = passes.evaluate(&both).expect("no one stops it");
        for ((layer, out), evaluation) in layers.iter().zip(out).zip(evaluations) {
            let keep = |row: usize| folds[row].is_none() || folds[row] != out;
            let layer: Vec<f64> = layer.iter().map(|value| f64::from(*value)).collect();
            let loss = |layer: &[f64]| naive(&passes, &x, &labels, &keep, layer);
            assert!((evaluation.loss - loss(&layer)).abs() < 1e-6 * loss(&layer), "{}", evaluation.loss);
            for (i, ours) in evaluation.weight.iter().chain(&evaluation.bias).enumerate() {
                let at = |step: f64| {
                    let mut layer = layer.clone();
                    layer[i] += step;
                    loss(&layer)
                };
                let difference = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!((ours - difference).abs() < 1e-6, "{i}: {ours}, but {difference}");
            }
        }
    }

    #[test]
    fn all_metrics_lead_to_one_minimum() {
        let (x, labels, folds) = problem();
        let (rows, stop) = (Matrix::new(&x, FEATURES), AtomicBool::new(false));
        let mut passes = passes(&rows, &labels, &folds, &stop);
        let gram = passes.gram(usize::MAX).expect("no one stops it");
        for strength in [1.0, 1e-2, 1e-4] {
            let whitening = |passes: &Passes<'_>, curvature: f64| {
                Metric::whitening(passes.level, &passes.pool, &gram, FEATURES, curvature, strength)
            };
            let scale = |_: &Passes<'_>, curvature: f64| Metric::scale(curvature, strength);
            let mut minima = |metric: &dyn Fn(&Passes<'_>, f64) -> Metric| {
                let mut descents =
                    [None, Some(2)].map(|out| Descent::new(out, vec![0.0; CLASSES * FEATURES + CLASSES]));
                let tolerance = Tolerance { relative: 1e-8, absolute: f64::INFINITY };
                descend(&mut passes, &mut descents, metric, strength, tolerance, 1000, &mut |_| {})
                    .expect("no one stops it");
                descents
            };
            let (whitened, plain) = (minima(&whitening), minima(&scale));
            for (whitened, plain) in whitened.iter().zip(&plain) {
                assert!(whitened.converged && plain.converged, "strength {strength}");
                let off = (whitened.objective / plain.objective - 1.0).abs();
                assert!(off < 3e-7, "strength {strength}: objectives differ by {off:e}");
                // An objective with this penalty is as curved as it, at least: so far from each other can such points be.
                let weights = whitened.point.iter().zip(&plain.point).take(CLASSES * FEATURES);
                let distance = weights.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                let most = 2.0 * (2.0 * 3e-7 * plain.objective / strength).sqrt();
                assert!(distance < most, "strength {strength}: {distance} apart, at most {most}");
            }
            // These features correlate, which is what whitening is for.
            if strength < 1.0 {
                assert!(
                    whitened[0].iterations < plain[0].iterations,
                    "{} and {}",
                    whitened[0].iterations,
                    plain[0].iterations
                );
            }
        }
    }
}
