//! Constants for each channel before a convolution go into its weights, if no padding lies between.

use engraft_kernels::Activation;

use crate::program::{Before, Constants, Conv, Kind, Product, Program, Value, Weights};

pub(super) fn into_weights(program: &mut Program, place: usize) -> bool {
    let (input, folded) = match &mut program.operations[place].kind {
        Kind::Product(Product {
            input, weights: Weights::Conv(_), folded, before: Before::Nothing, ..
        }) => (input, folded),
        Kind::Conv(Conv { input, conv, folded, .. }) if conv.padding == [0, 0] && conv.groups == 1 => {
            (input, folded)
        }
        _ => return false,
    };
    if folded.is_some() {
        return false;
    }
    let read = *input;
    let Some((constants, from)) = constants_of(program, read) else { return false };
    match &mut program.operations[place].kind {
        Kind::Product(Product { input, folded, .. }) | Kind::Conv(Conv { input, folded, .. }) => {
            *input = from;
            *folded = Some(constants);
        }
        _ => return false,
    }
    true
}

/// The constants for each channel that a value was made with, and of which value, if nobody else reads it.
fn constants_of(program: &Program, value: Value) -> Option<(Constants, Value)> {
    program.only_reader(value)?;
    match program.operations[program.computed_at(value)?].kind {
        Kind::Affine { input, constants, axis: 1, activation: Activation::Identity } => {
            Some((constants, input))
        }
        _ => None,
    }
}
