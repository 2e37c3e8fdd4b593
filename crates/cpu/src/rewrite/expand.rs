//! A 1x1 convolution that only a depthwise one reads is computed by that, a few rows at a time: the inverted residual.

use crate::program::{Before, Expand, Kind, Product, Program, Weights};

pub(super) fn before_depthwise(program: &mut Program, place: usize) -> bool {
    let Kind::Depthwise(depthwise) = &program.operations[place].kind else { return false };
    let mut depthwise = depthwise.clone();
    if depthwise.expand.is_some() || depthwise.conv.dilation != [1, 1] {
        return false;
    }
    let Some(made) = program.computed_for_one(depthwise.input) else { return false };
    let node = program.operations[made].node;
    let Kind::Product(Product { input, weights: Weights::Conv(conv), folded, before: Before::Nothing, end }) =
        program.operations[made].kind.clone()
    else {
        return false;
    };
    if end.residual.is_some() {
        return false;
    }
    depthwise.input = input;
    depthwise.expand =
        Some(Expand { node, conv, folded, constants: end.constants, activation: end.activation });
    let name = program.operations[place].node;
    program.merge(made, place, name, Kind::Depthwise(depthwise));
    true
}
