//! Constants for each channel before a convolution go into its weights, if no padding lies between.

use engraft_kernels::Activation;

use crate::program::{Before, Conv, Kind, Product, Program, Weights};

pub(super) fn into_weights(program: &mut Program, place: usize) -> bool {
    let mut kind = program.operations[place].kind.clone();
    let (input, folded) = match &mut kind {
        Kind::Product(Product {
            input, weights: Weights::Conv(_), folded, before: Before::Nothing, ..
        }) => (input, folded),
        Kind::Conv(Conv { input, conv, folded, .. }) if conv.padding == [0, 0] && conv.groups == 1 => {
            (input, folded)
        }
        _ => return false,
    };
    let Some(made) = program.computed_for_one(*input).filter(|_| folded.is_none()) else { return false };
    let Kind::Affine { input: from, constants, axis: 1, activation: Activation::Identity } =
        program.operations[made].kind
    else {
        return false;
    };
    (*input, *folded) = (from, Some(constants));
    program.operations[place].kind = kind;
    true
}
