//! Tensors that follow from their name and shape: the formula of `parity/formula.py`, by which reference values need no files
//! of weights.

use std::slice;

use engraft_graph::{Graph, TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor};

use crate::{SplitMix64, initial_state};

/// The centre of the norms' weights where a fixture does not give another.
pub const NORM: f32 = 0.75;

/// All tensors of a network; `norm` is the centre of the norms' weights.
pub fn state(graph: &Graph, norm: f32) -> StateDict {
    graph.state().iter().map(|spec| (spec.name.clone(), tensor(spec, norm))).collect()
}

/// One tensor of a network: its [`values`], or for a buffer that the architecture computes what it computes.
pub fn tensor(spec: &TensorSpec, norm: f32) -> Tensor {
    let is_computed = spec.kind == TensorKind::Index || spec.name.ends_with("relative_coords_table");
    let computed = if is_computed { initial_state(slice::from_ref(spec), 0) } else { StateDict::new() };
    computed.get(&spec.name).cloned().unwrap_or_else(|| values(&spec.name, &spec.shape, norm))
}

/// The parameter or buffer of this full name.
pub fn values(name: &str, shape: &[usize], norm: f32) -> Tensor {
    let (centre, width) = match name.rsplit('.').next().unwrap_or_default() {
        "num_batches_tracked" => return Tensor::counter(0),
        "running_mean" => (0.0, 0.2),
        "running_var" => (1.0, 1.0),
        own if own.ends_with("bias") => (0.0, 0.2),
        "class_token" | "pos_embedding" => (0.0, 2.0),
        "logit_scale" => (2.0, 5.5),
        own if own == "layer_scale" || shape.len() == 1 => (norm, 0.5),
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            (0.0, (2.0 * (6.0 / fan_in as f64).sqrt()) as f32)
        }
    };
    uniform(name, shape, centre, width)
}

/// The input of this name: in [-2, 2), about the range of a normalised photo.
pub fn inputs(name: &str, shape: &[usize]) -> Tensor {
    uniform(name, shape, 0.0, 4.0)
}

/// Values uniform in `centre - width / 2 .. centre + width / 2`, from the name alone.
pub fn uniform(name: &str, shape: &[usize], centre: f32, width: f32) -> Tensor {
    let seed = seed(name);
    let value = |index: usize| {
        let bits = SplitMix64::new(seed.wrapping_add(index as u64)).next_u64();
        let unit = (bits >> 40) as f32 / (1u32 << 24) as f32;
        centre + (unit - 0.5) * width
    };
    Tensor::f32(shape, (0..shape.iter().product()).map(value).collect())
}

/// FNV-1a, 64 bits.
fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples in the text of `parity/formula.py`, to the bit.
    #[test]
    fn the_documented_examples_hold() {
        let first = |tensor: Tensor| tensor.as_f32().unwrap()[..3].to_vec();
        let weight = values("features.0.weight", &[64, 3, 3, 3], NORM);
        assert_eq!(first(weight), [0.335_411_37, -0.012_282_603, -0.452_796_97]);
        assert_eq!(first(values("bn1.weight", &[64], NORM)), [0.680_102, 0.730_14, 0.640_745_64]);
        assert_eq!(first(inputs("input", &[1, 3, 224, 224])), [-1.608_726_7, -1.410_085_7, 0.296_337_6]);
    }
}
