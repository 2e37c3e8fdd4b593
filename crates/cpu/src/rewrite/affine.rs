//! Constants for each channel, with an activation, before a 1x1 convolution are applied when it reads its input: DenseNet.

use crate::program::{Before, Kind, Product, Program, Weights};

pub(super) fn before_product(program: &mut Program, place: usize) -> bool {
    let Kind::Product(product) = &program.operations[place].kind else { return false };
    let Product { input, weights: Weights::Conv(_), before: Before::Nothing, folded: None, .. } = *product
    else {
        return false;
    };
    let made = program.computed_for_one(input).map(|made| &program.operations[made].kind);
    let Some(&Kind::Affine { input: from, constants, axis: 1, activation }) = made else { return false };
    let before = Before::Affine(constants, activation);
    program.operations[place].kind = Kind::Product(Product { input: from, before, ..product.clone() });
    true
}
