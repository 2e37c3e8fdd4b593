//! Initial values against those that torchvision draws (`parity/initial.py`).

use std::collections::BTreeMap;

use engraft_engine::initial_state;
use engraft_engine::suite::fixture;
use engraft_tensor::Tensor;
use engraft_zoo::architecture;

/// Of each tensor by name: mean, deviation, and largest magnitude.
type Drawn = BTreeMap<String, [f32; 3]>;

/// Constants are the same to the bit. What is random has the same deviation as far as so few values can show it, is around zero, and is
/// uniform or normal as torchvision's is.
#[test]
fn initial_values_are_distributed_as_torchvisions() {
    for (arch, drawn) in fixture::read::<BTreeMap<String, Drawn>>("engine/initial") {
        let state = initial_state(&architecture(&arch).unwrap().state(), 1);
        let compared = state
            .iter()
            .filter(|(name, tensor)| tensor.as_f32().is_some() && !name.ends_with("relative_coords_table"));
        assert_eq!(compared.count(), drawn.len(), "{arch}");
        for (name, expected) in &drawn {
            let values = state.get(name).and_then(Tensor::as_f32).unwrap();
            check(values, *expected, &format!("{arch}: {name}"));
        }
    }
}

fn check(values: &[f32], [mean, deviation, largest]: [f32; 3], what: &str) {
    if deviation == 0.0 {
        assert!(values.iter().all(|value| *value == mean), "{what} is not {mean}");
        return;
    }
    let ([mean, deviation, largest], expected) = (summary(values), [mean, deviation, largest].map(f64::from));
    // Five deviations of what is compared, if both are normal; less if they are uniform.
    let margin = 5.0 / (values.len() as f64).sqrt();
    let of_deviation = (deviation / expected[1] - 1.0).abs();
    assert!(of_deviation < margin, "{what}: deviation {deviation:e}, not {:e}", expected[1]);
    assert!(mean.abs() < margin * deviation, "{what}: mean {mean:e} of deviation {deviation:e}");
    // Uniform values end at the root of 3 deviations; of a thousand normal ones some are beyond two and a half.
    if values.len() >= 1000 {
        let [ends, expected_ends] = [largest / deviation < 1.8, expected[2] / expected[1] < 1.8];
        assert_eq!(
            ends, expected_ends,
            "{what} is uniform: {ends}, largest {largest:e}, deviation {deviation:e}"
        );
        assert!(ends || largest > 2.5 * deviation, "{what}: largest {largest:e}, deviation {deviation:e}");
    }
}

/// Mean, deviation from it, and largest magnitude.
fn summary(values: &[f32]) -> [f64; 3] {
    let values = || values.iter().map(|value| f64::from(*value));
    let count = values().len() as f64;
    let mean = values().sum::<f64>() / count;
    let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    [mean, variance.sqrt(), values().fold(0.0, |largest, value| largest.max(value.abs()))]
}
