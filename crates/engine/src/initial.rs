//! The values that layers begin with.

use engraft_graph::{TensorKind, TensorSpec};
use engraft_weights::{StateDict, Tensor};

use crate::SplitMix64;

/// Initial values as PyTorch's `reset_parameters` draws them: weights and biases of linear layers and convolutions uniform
/// within `1 / sqrt(inputs of a unit)`, norms one and zero.
///
/// Each tensor's values depend on the seed and its name alone, so that they are the same whatever else is initialised.
pub fn initial_state(specs: &[TensorSpec], seed: u64) -> StateDict {
    let mut bound = 0.0;
    let value = |spec: &TensorSpec| {
        let own = spec.name.rsplit('.').next().unwrap_or_default();
        let constant = |value: f32| Tensor::f32(spec.shape.clone(), vec![value; spec.len()]);
        match (spec.kind, own) {
            (TensorKind::Counter, _) => Tensor::counter(0),
            (TensorKind::Buffer, "running_var") => constant(1.0),
            (TensorKind::Buffer, _) => constant(0.0),
            (TensorKind::Parameter, "bias") => uniform(spec, bound, seed),
            (TensorKind::Parameter, _) if spec.shape.len() < 2 => {
                bound = 0.0;
                constant(1.0)
            }
            (TensorKind::Parameter, _) => {
                let inputs: usize = spec.shape[1..].iter().product();
                bound = 1.0 / (inputs as f64).sqrt();
                uniform(spec, bound, seed)
            }
        }
    };
    // A bias follows the weight of its layer, whose bound it shares; that of a norm has none and is zero.
    let names = specs.iter().map(|spec| spec.name.clone());
    names.zip(specs.iter().map(value)).collect()
}

fn uniform(spec: &TensorSpec, bound: f64, seed: u64) -> Tensor {
    let hash = blake3::hash(spec.name.as_bytes());
    let mut of_name = [0; 8];
    of_name.copy_from_slice(&hash.as_bytes()[..8]);
    let mut random = SplitMix64::new(seed ^ u64::from_le_bytes(of_name));
    let values = (0..spec.len()).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32);
    Tensor::f32(spec.shape.clone(), values.collect())
}

#[cfg(test)]
mod tests {
    use engraft_graph::{BatchNorm2d, Builder, Conv2d, Linear};

    use super::*;

    #[test]
    fn values_lie_within_the_bounds_of_their_layer() {
        let (mut b, x) = Builder::new("Net", 3, 8);
        let x = b.layer("conv", Conv2d::new(3, 16, 3), x);
        let x = b.layer("bn", BatchNorm2d::new(16), x);
        let x = b.layer("fc", Linear::new(100, 50), x);
        let state = initial_state(&b.finish(x).state(), 3);
        let largest = |name: &str| {
            let values = state.get(name).and_then(Tensor::as_f32).unwrap();
            values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()))
        };
        for (name, bound) in
            [("conv.weight", 27.0), ("conv.bias", 27.0), ("fc.weight", 100.0), ("fc.bias", 100.0)]
        {
            let bound = 1.0 / f32::sqrt(bound);
            assert!(largest(name) <= bound && largest(name) > 0.8 * bound, "{name}: {}", largest(name));
        }
        assert_eq!([largest("bn.weight"), largest("bn.bias")], [1.0, 0.0]);
        assert_eq!([largest("bn.running_mean"), largest("bn.running_var")], [0.0, 1.0]);
    }

    #[test]
    fn a_tensor_does_not_depend_on_the_others() {
        let spec =
            |name: &str| TensorSpec { name: name.into(), shape: vec![4, 4], kind: TensorKind::Parameter };
        let both = initial_state(&[spec("a.weight"), spec("b.weight")], 5);
        let one = initial_state(&[spec("b.weight")], 5);
        assert_eq!(both.get("b.weight"), one.get("b.weight"));
        assert_ne!(both.get("a.weight"), both.get("b.weight"));
        assert_ne!(one, initial_state(&[spec("b.weight")], 6));
    }
}
