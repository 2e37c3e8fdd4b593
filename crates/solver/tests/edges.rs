//! Problems that are small, odd or wrong, and what must not matter.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use engraft_solver::{Matrix, Options, Progress, Solution, SolverError, solve};

fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    // About normal.
    (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() - 3.0).collect()
}

/// Rows of `classes` clusters, one after the other.
fn clusters(rows: usize, features: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = (0..rows).map(|row| (row % classes) as u32).collect();
    let means = random(classes * features, 5);
    let mut x = random(rows * features, 6);
    for (row, x) in x.chunks_mut(features).enumerate() {
        x.iter_mut().zip(&means[row % classes * features..]).for_each(|(x, mean)| *x += mean);
    }
    (x, labels)
}

fn run(x: &[f32], features: usize, labels: &[u32], classes: usize) -> Result<Solution, SolverError> {
    let options = Options { threads: 2, ..Options::default() };
    solve(&Matrix::new(x, features), labels, classes, &options, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Several blocks, more classes than a panel has, and features that are no multiple of anything.
    let (x, labels) = clusters(6100, 203, 37);
    let solution = |threads: usize| {
        let options = Options { strengths: vec![0.1, 0.01, 0.001], folds: 3, seed: 1, threads };
        let x = Matrix::new(&x, 203);
        solve(&x, &labels, 37, &options, &AtomicBool::new(false), &mut |_| {}).expect("the rows are good")
    };
    let one = solution(1);
    assert!(one.trials.len() > 1 && one.converged);
    for threads in [2, 3, 5] {
        assert_eq!(solution(threads), one, "{threads} threads");
    }
}

#[test]
fn few_rows_are_no_trouble() {
    for (rows, features, classes) in [(2, 1, 2), (3, 4, 3), (6, 2, 2), (9, 700, 3), (5, 3, 2), (40, 1, 4)] {
        let (x, labels) = clusters(rows, features, classes);
        let solution = run(&x, features, &labels, classes).expect("the rows are good");
        let what = format!("{rows} x {features}, {classes} classes: {solution:?}");
        assert_eq!(solution.folds, if rows == classes { 0 } else { rows.div_ceil(classes).min(5) }, "{what}");
        assert!(solution.weight.iter().chain(&solution.bias).all(|value| value.is_finite()), "{what}");
        assert!(solution.converged, "{what}");
        assert_eq!((solution.weight.len(), solution.bias.len()), (classes * features, classes));
    }
}

/// Every fold lacks some class among the rows that are left out, and class 2 is never left out.
#[test]
fn a_class_may_be_missing_in_a_fold() {
    let (x, mut labels) = clusters(60, 5, 2);
    labels[7] = 2;
    (labels[20], labels[40]) = (3, 3);
    let solution = run(&x, 5, &labels, 4).expect("the rows are good");
    assert!(solution.converged && solution.folds == 5);
    assert!(solution.trials.iter().all(|trial| trial.loss.is_finite()));
}

#[test]
fn a_constant_column_has_no_weight() {
    let (mut x, labels) = clusters(300, 4, 3);
    let without = run(&x, 4, &labels, 3).expect("the rows are good");
    // 0.1 has no exact mean in binary.
    x = x.chunks(4).flat_map(|row| [0.1, row[0], row[1], -1e15, row[2], row[3]]).collect();
    let with = run(&x, 6, &labels, 3).expect("the rows are good");
    assert_eq!(with.strength, without.strength);
    assert!((with.objective / without.objective - 1.0).abs() < 1e-6);
    for (with, without) in with.weight.chunks(6).zip(without.weight.chunks(4)) {
        assert_eq!([with[0], with[3]], [0.0, 0.0]);
        let largest = without.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        for (a, b) in [with[1], with[2], with[4], with[5]].iter().zip(without) {
            assert!((a - b).abs() < 1e-3 * largest, "{with:?} beside {without:?}");
        }
    }
    // Nothing but constants: the classes' shares are all there is to say.
    let solution = run(&[7.0; 10], 1, &[0, 0, 0, 1, 0, 0, 1, 0, 0, 0], 2).expect("the rows are good");
    assert!((solution.bias[0] - solution.bias[1] - 4f32.ln()).abs() < 1e-2, "{solution:?}");
}

#[test]
fn what_is_wrong_is_named() {
    let (mut x, labels) = clusters(600, 3, 2);
    let error =
        |x: &[f32], labels: &[u32], classes| run(x, 3, labels, classes).expect_err("something is wrong");
    assert_eq!(error(&[], &[], 2), SolverError::Empty { rows: 0, features: 3 });
    let none = run(&[], 0, &[], 2).expect_err("there are no features");
    assert_eq!(none, SolverError::Empty { rows: 0, features: 0 });
    assert_eq!(error(&x, &labels[1..], 2), SolverError::Labels { rows: 600, labels: 599 });
    assert_eq!(error(&x, &labels, 1), SolverError::Classes { classes: 1 });
    assert_eq!(error(&x, &labels, 3), SolverError::EmptyClass { class: 2 });
    let mut wrong = labels.clone();
    wrong[17] = 2;
    assert_eq!(error(&x, &wrong, 2), SolverError::Label { row: 17, label: 2, classes: 2 });
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        x[3 * 421 + 1] = bad;
        let SolverError::Feature { row, feature, value } = error(&x, &labels, 2) else { panic!("{bad}") };
        assert_eq!((row, feature, value.to_bits()), (421, 1, bad.to_bits()));
    }
    let (x, labels) = clusters(20, 3, 2);
    for strength in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let options = Options { strengths: vec![1.0, strength], ..Options::default() };
        let x = Matrix::new(&x, 3);
        let error = solve(&x, &labels, 2, &options, &AtomicBool::new(false), &mut |_| {});
        assert!(matches!(error, Err(SolverError::Strength { .. })), "{strength}: {error:?}");
    }
}

#[test]
fn it_says_where_it_is_and_stops_when_told() {
    let (x, labels) = clusters(500, 6, 3);
    let x = Matrix::new(&x, 6);
    let options = Options { threads: 2, ..Options::default() };
    let all = Cell::new(0);
    let mut last = None;
    let solution = solve(&x, &labels, 3, &options, &AtomicBool::new(false), &mut |progress: &Progress| {
        all.set(all.get() + 1);
        assert_eq!(progress.passes, all.get());
        last = Some(*progress);
    });
    let solution = solution.expect("the rows are good");
    let last = last.expect("there were passes");
    assert_eq!((solution.passes, last.strength), (all.get(), solution.strength));
    assert_eq!((last.tried, last.strengths), (solution.trials.len(), solution.trials.len()));
    // Early, amid the cross-validation, and in the last fit.
    for at in [1, all.get() / 2, all.get() - 1] {
        let stop = AtomicBool::new(false);
        let error = solve(&x, &labels, 3, &options, &stop, &mut |progress| {
            assert!(progress.passes <= at, "a pass after the flag was raised");
            stop.store(progress.passes == at, Ordering::Relaxed);
        });
        assert_eq!(error, Err(SolverError::Stopped), "after pass {at} of {}", all.get());
    }
}
