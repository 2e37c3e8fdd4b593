//! The loss of classification.

use crate::bounds::check_output;
use crate::{Level, Matrix, Pool};

/// The sum of `-ln p coefficient` over `[rows, classes]`, `p` being the softmax of each row of logits, and its gradient by the logits:
/// `p (sum of the row's coefficients) - coefficient`.
///
/// The coefficients are without gaps; they carry labels, smoothing, mixed targets, weights of classes and the mean over the batch.
///
/// # Panics
/// When a slice is too short, or the rows of `dlogits` overlap.
pub fn cross_entropy(
    _level: Level,
    _pool: &Pool,
    [rows, classes]: [usize; 2],
    logits: Matrix<'_>,
    coefficients: &[f32],
    dlogits: Option<(&mut [f32], usize)>,
) -> f64 {
    assert!(logits.has(rows, classes), "there are fewer than {rows} rows of {classes} logits");
    let enough = rows.checked_mul(classes).is_some_and(|count| coefficients.len() >= count);
    assert!(enough, "there are fewer than {rows} rows of {classes} coefficients");
    if classes == 0 {
        return 0.0;
    }
    let mut loss = 0.0;
    let mut to = dlogits;
    if let Some((dlogits, stride)) = &to {
        check_output(dlogits.len(), [rows, classes], *stride);
    }
    for row in 0..rows {
        let logits = &logits.values[row * logits.stride..][..classes];
        let coefficients = &coefficients[row * classes..][..classes];
        let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        let total: f64 = coefficients.iter().map(|c| f64::from(*c)).sum();
        for (x, coefficient) in logits.iter().zip(coefficients) {
            // A class that does not count may have a probability of zero.
            if *coefficient != 0.0 {
                loss += f64::from(*coefficient) * (sum.ln() - f64::from(x - largest));
            }
        }
        if let Some((dlogits, stride)) = &mut to {
            let to = &mut dlogits[row * *stride..][..classes];
            for ((to, x), coefficient) in to.iter_mut().zip(logits).zip(coefficients) {
                let p = f64::from(x - largest).exp() / sum;
                *to = (p * total - f64::from(*coefficient)) as f32;
            }
        }
    }
    loss
}
