//! Constants for each channel behind a product go into its weights.

use engraft_kernels::Activation;

use crate::program::{Kind, Program};

pub(super) fn into_weights(program: &mut Program, place: usize) -> bool {
    let Kind::Affine { input, constants, axis, activation: Activation::Identity } =
        program.operations[place].kind
    else {
        return false;
    };
    let Some(made) = program.computed_for_one(input) else { return false };
    let mut product = program.operations[made].clone();
    let along_channels = product.channels(program.axes(input)) == Some(axis);
    let Some(end) = product
        .end_mut()
        .filter(|end| along_channels && end.residual.is_none() && end.activation == Activation::Identity)
    else {
        return false;
    };
    end.constants.push(constants);
    program.merge(made, place, product.node, product.kind);
    true
}
