//! Solutions beside scikit-learn's (`parity/solver.py`).

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use engraft_solver::{Matrix, Options, Solution, solve};
use flate2::read::GzDecoder;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    features: usize,
    x: Vec<f32>,
    labels: Vec<u32>,
    solutions: Vec<Reference>,
    trials: Vec<Scores>,
}

#[derive(Deserialize)]
struct Reference {
    strength: f64,
    objective: f64,
    weight: Vec<f64>,
    probabilities: Vec<f64>,
}

#[derive(Deserialize)]
struct Scores {
    strength: f64,
    loss: f64,
    loss_error: f64,
    accuracy: f64,
    accuracy_error: f64,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/solver.json.gz");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_reader(GzDecoder::new(file)).expect("the fixture is what the script wrote")
}

impl Case {
    fn classes(&self) -> usize {
        *self.labels.iter().max().expect("there are rows") as usize + 1
    }

    fn solve(&self, strengths: &[f64], seed: u64) -> Solution {
        let options = Options { strengths: strengths.to_vec(), folds: 5, seed, threads: 2 };
        let x = Matrix::new(&self.x, self.features);
        solve(&x, &self.labels, self.classes(), &options, &AtomicBool::new(false), &mut |_| {})
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Deviations of the columns.
    fn deviations(&self) -> Vec<f64> {
        let rows = self.labels.len() as f64;
        let column = |j: usize| self.x.iter().skip(j).step_by(self.features).map(|x| f64::from(*x));
        (0..self.features)
            .map(|j| {
                let mean = column(j).sum::<f64>() / rows;
                (column(j).map(|x| (x - mean).powi(2)).sum::<f64>() / rows).sqrt()
            })
            .collect()
    }

    /// Probabilities that weights and biases on features as they are give, `[rows, classes]`, in f64.
    fn probabilities(&self, solution: &Solution) -> Vec<f64> {
        let mut probabilities = Vec::new();
        for row in self.x.chunks(self.features) {
            let weights = solution.weight.chunks(self.features).zip(&solution.bias);
            let logits: Vec<f64> = weights
                .map(|(weight, bias)| {
                    let products = weight.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    products.sum::<f64>() + f64::from(*bias)
                })
                .collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
            probabilities.extend(logits.iter().map(|logit| (logit - most).exp() / sum));
        }
        probabilities
    }

    /// The objective of weights and biases on features as they are, in f64.
    fn objective(&self, solution: &Solution) -> f64 {
        let probabilities = self.probabilities(solution);
        let rows = probabilities.chunks(self.classes()).zip(&self.labels);
        let loss: f64 = rows.map(|(p, label)| -p[*label as usize].ln()).sum();
        let deviations = self.deviations();
        let squares: f64 = solution
            .weight
            .iter()
            .enumerate()
            .map(|(i, weight)| (f64::from(*weight) * deviations[i % self.features]).powi(2))
            .sum();
        loss / self.labels.len() as f64 + solution.strength / 2.0 * squares
    }
}

fn largest_difference(a: impl Iterator<Item = f64>, b: &[f64]) -> f64 {
    a.zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn the_objective_is_scikit_learns() {
    for case in cases() {
        for reference in &case.solutions {
            let solution = case.solve(&[reference.strength], 0);
            let what = format!("{}, strength {}", case.name, reference.strength);
            assert!(solution.converged, "{what}: not converged");
            assert!(solution.trials.is_empty(), "{what}: one strength needs no trial");
            let off = |objective: f64| (objective / reference.objective - 1.0).abs();
            assert!(off(solution.objective) < 1e-6, "{what}: off by {:e}", off(solution.objective));
            // With bias and weight as f32, for features as they are.
            let objective = case.objective(&solution);
            assert!(off(objective) < 1e-5, "{what}: folded back, off by {:e}", off(objective));
        }
    }
}

#[test]
fn weights_and_probabilities_are_scikit_learns() {
    for case in cases() {
        let deviations = case.deviations();
        for reference in &case.solutions {
            let solution = case.solve(&[reference.strength], 0);
            let what = format!("{}, strength {}", case.name, reference.strength);
            let largest = reference.weight.iter().fold(0.0, |most: f64, w| most.max(w.abs()));
            let standardised = solution.weight.iter().enumerate();
            let standardised = standardised.map(|(i, w)| f64::from(*w) * deviations[i % case.features]);
            let off = largest_difference(standardised, &reference.weight) / largest;
            assert!(off < 5e-3, "{what}: weights off by {off:e} of the largest");
            let off = largest_difference(case.probabilities(&solution).into_iter(), &reference.probabilities);
            assert!(off < 2e-3, "{what}: probabilities off by {off:e}");
        }
    }
}

#[test]
fn the_cross_validation_is_scikit_learns() {
    let cases = cases();
    let case = cases.iter().find(|case| !case.trials.is_empty()).expect("one case has trials");
    let strengths: Vec<f64> = case.trials.iter().map(|trial| trial.strength).collect();
    let solution = case.solve(&strengths, 7);
    assert_eq!((solution.folds, solution.trials.len()), (5, case.trials.len()));
    for (trial, reference) in solution.trials.iter().zip(&case.trials) {
        let near = |ours: f64, theirs: f64| (ours / theirs - 1.0).abs() < 0.05;
        assert_eq!(trial.strength, reference.strength);
        // The folds are not taken to the last digits.
        let off = (trial.loss - reference.loss).abs() / reference.loss_error;
        assert!(off < 0.5, "{trial:?}: the loss is off by {off} of its standard error");
        assert!(near(trial.loss_error, reference.loss_error), "{trial:?}: {}", reference.loss_error);
        // One row of two hundred may fall on the other side.
        assert!((trial.accuracy - reference.accuracy).abs() < 0.0051, "{trial:?}: {}", reference.accuracy);
        assert!(
            near(trial.accuracy_error, reference.accuracy_error),
            "{trial:?}: {}",
            reference.accuracy_error
        );
    }
    let best = case.trials.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).expect("there are trials");
    assert_eq!(solution.strength, best.strength);
}
