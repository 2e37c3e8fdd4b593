//! The values that layers begin with.

use engraft_graph::{TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor, TensorData};

use crate::SplitMix64;
use crate::relative_position::{relative_coords_table, relative_position_index, window_of_index};

/// Initial values as torchvision's ResNets, Vision Transformers, Swin Transformers, ConvNeXts and MaxViTs draw them; which of them it
/// is, the names of the tensors tell. Every other network is drawn as a ResNet: convolutions normal with deviation
/// `sqrt(2 / outputs of a unit)` and without bias (He et al. 2015, arXiv 1502.01852, `kaiming_normal_` with `fan_out`), linear layers
/// uniform within `1 / sqrt(inputs of a unit)` (`torch.nn.Linear`), norms one and zero. A layer alone, as the new head of a network that
/// has its weights, is drawn so as well.
///
/// Each tensor's values depend on the seed, the family, its name and its layer alone, so that they are the same whatever else is initialised.
pub fn initial_state(specs: &[TensorSpec], seed: u64) -> StateDict {
    let family = Family::of(specs);
    // A bias follows the weight of its layer.
    let mut of_bias = Draw::Constant(0.0);
    let mut value = |spec: &TensorSpec| {
        let own = spec.name.rsplit('.').next().unwrap_or_default();
        let draw = match (spec.kind, own) {
            (TensorKind::Counter, _) => return Tensor::counter(0),
            (TensorKind::Index, _) => {
                let data = TensorData::I64(relative_position_index(window_of_index(spec.len())));
                return Tensor { shape: spec.shape.clone(), data };
            }
            (TensorKind::Buffer, "relative_coords_table") => {
                let side = spec.shape.get(1).copied().unwrap_or_default();
                return Tensor::f32(spec.shape.clone(), relative_coords_table(side.div_ceil(2)));
            }
            (TensorKind::Buffer, "running_var") => Draw::Constant(1.0),
            (TensorKind::Buffer, _) => Draw::Constant(0.0),
            (TensorKind::Parameter, "layer_scale") => Draw::Constant(1e-6),
            (TensorKind::Parameter, "logit_scale") => Draw::Constant(10.0_f32.ln()),
            (TensorKind::Parameter, "class_token" | "in_proj_bias") => Draw::Constant(0.0),
            (TensorKind::Parameter, "pos_embedding" | "relative_position_bias_table") => Draw::Normal(0.02),
            (TensorKind::Parameter, "bias") => of_bias,
            (TensorKind::Parameter, _) => {
                let [weight, bias] = family.layer(spec);
                of_bias = bias;
                weight
            }
        };
        match draw {
            Draw::Constant(value) => Tensor::f32(spec.shape.clone(), vec![value; spec.len()]),
            Draw::Uniform(bound) => uniform(spec, bound, seed),
            Draw::Normal(deviation) => normal(spec, deviation, seed),
        }
    };
    specs.iter().map(|spec| (spec.name.clone(), value(spec))).collect()
}

/// How values are drawn.
#[derive(Clone, Copy)]
enum Draw {
    Constant(f32),
    /// From minus this to this.
    Uniform(f64),
    /// Around zero, with this deviation. Where torchvision cuts such values off, it does so a hundred deviations away.
    Normal(f64),
}

/// Networks whose layers are drawn alike.
#[derive(Clone, Copy)]
enum Family {
    ResNet,
    VisionTransformer,
    Swin,
    /// ConvNeXt and MaxViT.
    NormalEverywhere,
}

impl Family {
    fn of(specs: &[TensorSpec]) -> Self {
        let has = |own: &str| specs.iter().any(|spec| spec.name.rsplit('.').next() == Some(own));
        // Both transformers in windows have indices of positions; one of them has batch norms.
        match (has("class_token"), has("relative_position_index"), has("running_var"), has("layer_scale")) {
            (true, ..) => Self::VisionTransformer,
            (_, true, false, _) => Self::Swin,
            (_, true, true, _) | (.., true) => Self::NormalEverywhere,
            _ => Self::ResNet,
        }
    }

    /// How a layer's weight and its bias are drawn.
    fn layer(self, spec: &TensorSpec) -> [Draw; 2] {
        let zero = Draw::Constant(0.0);
        let of_inputs = |inputs: usize| Draw::Uniform(1.0 / (inputs as f64).sqrt());
        let glorot = |outputs: usize, inputs: usize| Draw::Uniform((6.0 / (outputs + inputs) as f64).sqrt());
        let torchs_attention = spec.name.ends_with("out_proj.weight");
        match (self, spec.shape.as_slice()) {
            (_, [outputs, inputs]) if spec.name.ends_with("in_proj_weight") => {
                [glorot(*outputs, *inputs), zero]
            }
            (_, [_, inputs]) if torchs_attention => [of_inputs(*inputs), zero],
            (Self::NormalEverywhere, [_, _, _, _] | [_, _]) | (Self::Swin, [_, _]) => {
                [Draw::Normal(0.02), zero]
            }
            (Self::Swin, [_, inputs, height, width]) => [of_inputs(inputs * height * width); 2],
            (Self::VisionTransformer, [_, inputs, height, width]) => {
                [Draw::Normal(1.0 / ((inputs * height * width) as f64).sqrt()), zero]
            }
            (Self::VisionTransformer, [_, _]) if spec.name.starts_with("heads.") => [zero, zero],
            (Self::VisionTransformer, [outputs, inputs]) => [glorot(*outputs, *inputs), Draw::Normal(1e-6)],
            (Self::ResNet, [outputs, _, height, width]) => {
                [Draw::Normal((2.0 / (outputs * height * width) as f64).sqrt()), zero]
            }
            (Self::ResNet, [_, inputs]) => [of_inputs(*inputs); 2],
            // A norm's.
            _ => [Draw::Constant(1.0), zero],
        }
    }
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
