//! Reference values that the scripts in `parity/` wrote.

use std::fs::File;
use std::path::{Path, PathBuf};

use engraft_tensor::Tensor;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads `parity/fixtures/<name>.json.gz`, as in `read("engine/ops")`.
///
/// # Panics
/// When there is no such file, or it holds something else.
pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = folder().join(format!("{name}.json.gz"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_reader(GzDecoder::new(file))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures")
}

/// A tensor of a fixture.
#[derive(Debug, Deserialize)]
pub struct Reference {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// In row-major order.
    pub values: Vec<f32>,
}

impl Reference {
    /// Checks that a tensor has the same shape and, up to `tolerance` times the largest magnitude, the same values.
    ///
    /// # Panics
    /// If not; the message begins with `what`.
    pub fn check(&self, tensor: &Tensor, tolerance: f32, what: &str) {
        assert_eq!(tensor.shape, self.shape, "{what}: shape");
        let values = tensor.as_f32().unwrap_or_else(|| panic!("{what}: not of f32"));
        let difference = relative_difference(values, &self.values);
        assert!(difference <= tolerance, "{what}: off by {difference:e} of the largest value");
    }
}

/// The largest difference between two lists of one length, relative to the largest magnitude in the second. NaN if there is
/// a NaN in either.
pub fn relative_difference(values: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(values.len(), reference.len(), "number of values");
    // `f32::max` would lose a NaN.
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let largest = reference.iter().map(|value| value.abs()).fold(f32::MIN_POSITIVE, larger);
    values.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(0.0, larger) / largest
}

#[cfg(test)]
mod tests {
    use super::relative_difference;

    #[test]
    fn differences_are_relative_to_the_largest_and_keep_a_nan() {
        assert_eq!(relative_difference(&[1.0, -4.5], &[1.25, -5.0]), 0.1);
        assert_eq!(relative_difference(&[0.0], &[0.0]), 0.0);
        assert!(relative_difference(&[f32::NAN, 1.0], &[0.0, 1.0]).is_nan());
        assert!(relative_difference(&[0.0, 1.0], &[f32::NAN, 1.0]).is_nan());
    }
}
