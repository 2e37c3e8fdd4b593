//! Constants for each channel behind a product go into its weights.

use engraft_kernels::Activation;

use crate::program::{Kind, Program};

pub(super) fn into_weights(program: &mut Program, place: usize) -> bool {
    let Kind::Affine { input, constants, axis, activation: Activation::Identity } =
        program.operations[place].kind
    else {
        return false;
    };
    let Some(made) = program.computed_at(input).filter(|_| program.only_reader(input).is_some()) else {
        return false;
    };
    let mut product = program.operations[made].clone();
    let takes = product.end(program.axes(input)).is_some_and(|(end, channels)| {
        end.residual.is_none() && end.activation == Activation::Identity && channels == axis
    });
    let Some(end) = product.end_mut().filter(|_| takes) else { return false };
    end.constants.push(constants);
    program.merge(made, place, product.node, product.kind);
    true
}
