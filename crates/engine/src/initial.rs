//! The values that layers begin with.

use engraft_graph::{TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor, TensorData};

use crate::SplitMix64;
use crate::relative_position::{relative_coords_table, relative_position_index, window_of_index};

/// Initial values as torchvision's networks draw them: convolutions normal with deviation `sqrt(2 / outputs of a unit)` and without
/// bias (He et al. 2015, arXiv 1502.01852, `kaiming_normal_` with `fan_out`), linear layers uniform within
/// `1 / sqrt(inputs of a unit)` (`torch.nn.Linear`), norms one and zero, and what transformers have besides as their files say.
///
/// Each tensor's values depend on the seed, its name and its layer alone, so that they are the same whatever else is initialised.
pub fn initial_state(specs: &[TensorSpec], seed: u64) -> StateDict {
    // A bias follows the weight of its layer; those of convolutions and norms are zero.
    let mut bias_bound = 0.0;
    let mut value = |spec: &TensorSpec| {
        let own = spec.name.rsplit('.').next().unwrap_or_default();
        let constant = |value: f32| Tensor::f32(spec.shape.clone(), vec![value; spec.len()]);
        match (spec.kind, own, spec.shape.as_slice()) {
            (TensorKind::Counter, ..) => Tensor::counter(0),
            (TensorKind::Index, ..) => {
                let data = TensorData::I64(relative_position_index(window_of_index(spec.len())));
                Tensor { shape: spec.shape.clone(), data }
            }
            (TensorKind::Buffer, "relative_coords_table", [_, side, ..]) => {
                Tensor::f32(spec.shape.clone(), relative_coords_table(side.div_ceil(2)))
            }
            (TensorKind::Parameter, "layer_scale", _) => constant(1e-6),
            (TensorKind::Parameter, "logit_scale", _) => constant(10.0_f32.ln()),
            (TensorKind::Parameter, "class_token", _) => constant(0.0),
            (TensorKind::Parameter, "pos_embedding" | "relative_position_bias_table", _) => {
                normal(spec, 0.02, seed)
            }
            (TensorKind::Buffer, "running_var", _) => constant(1.0),
            (TensorKind::Buffer, ..) => constant(0.0),
            (TensorKind::Parameter, "bias", _) => uniform(spec, bias_bound, seed),
            (TensorKind::Parameter, _, [outputs, _, height, width]) => {
                bias_bound = 0.0;
                normal(spec, (2.0 / (outputs * height * width) as f64).sqrt(), seed)
            }
            (TensorKind::Parameter, _, [_, inputs]) => {
                bias_bound = 1.0 / (*inputs as f64).sqrt();
                uniform(spec, bias_bound, seed)
            }
            (TensorKind::Parameter, ..) => {
                bias_bound = 0.0;
                constant(1.0)
            }
        }
    };
    specs.iter().map(|spec| (spec.name.clone(), value(spec))).collect()
}

fn uniform(spec: &TensorSpec, bound: f64, seed: u64) -> Tensor {
    let mut random = random_of(spec, seed);
    let values = (0..spec.len()).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32);
    Tensor::f32(spec.shape.clone(), values.collect())
}

/// By the method of Box and Muller 1958.
fn normal(spec: &TensorSpec, deviation: f64, seed: u64) -> Tensor {
    let mut random = random_of(spec, seed);
    let mut value = || {
        let radius = (-2.0 * (1.0 - random.uniform()).ln()).sqrt();
        (deviation * radius * (std::f64::consts::TAU * random.uniform()).cos()) as f32
    };
    Tensor::f32(spec.shape.clone(), (0..spec.len()).map(|_| value()).collect())
}

fn random_of(spec: &TensorSpec, seed: u64) -> SplitMix64 {
    let hash = blake3::hash(spec.name.as_bytes());
    let mut of_name = [0; 8];
    of_name.copy_from_slice(&hash.as_bytes()[..8]);
    SplitMix64::new(seed ^ u64::from_le_bytes(of_name))
}

#[cfg(test)]
mod tests {
    use engraft_graph::{BatchNorm2d, Builder, Conv2d, Linear};

    use super::*;

    #[test]
    fn values_are_drawn_as_their_layer_needs() {
        let (mut b, x) = Builder::new("Net", 3, 8);
        let x = b.layer("conv", Conv2d::new(3, 64, 3), x);
        let x = b.layer("bn", BatchNorm2d::new(64), x);
        let x = b.layer("fc", Linear::new(100, 50), x);
        let state = initial_state(&b.finish(x).state(), 3);
        let values = |name: &str| state.get(name).and_then(Tensor::as_f32).unwrap();
        let largest =
            |name: &str| values(name).iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let deviation = |name: &str| {
            let values = values(name);
            (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
        };
        assert!((deviation("conv.weight") / f32::sqrt(2.0 / (64.0 * 9.0)) - 1.0).abs() < 0.05);
        assert!(largest("conv.weight") > 2.5 * deviation("conv.weight"));
        for name in ["fc.weight", "fc.bias"] {
            assert!(largest(name) <= 0.1 && largest(name) > 0.08, "{name}: {}", largest(name));
        }
        assert_eq!([largest("conv.bias"), largest("bn.bias"), largest("bn.running_mean")], [0.0; 3]);
        assert_eq!([deviation("bn.weight"), deviation("bn.running_var")], [1.0; 2]);
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
