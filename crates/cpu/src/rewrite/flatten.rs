//! A linear layer reads an image as it lies, channels last, with its weights in that order, instead of a flat copy.

use crate::program::{Before, Kind, Plain, Product, Program, See, Weights};

pub(super) fn before_product(program: &mut Program, place: usize) -> bool {
    let Kind::Product(product) = &program.operations[place].kind else { return false };
    let Product { input: flat, weights: Weights::Linear(_), before: Before::Nothing, .. } = *product else {
        return false;
    };
    let Some(made) = program.computed_at(flat) else { return false };
    let Kind::Plain(Plain::See { input, how: See::Reshape }) = program.operations[made].kind else {
        return false;
    };
    let is_flat = program
        .always([input, flat], |[image, flat]| image.len() == 4 && flat.len() == 2 && image[0] == flat[0]);
    // One pixel lies as its channels do.
    let is_flat = is_flat && !program.always([input], |[image]| image[2] * image[3] == 1);
    if is_flat {
        program.operations[place].kind =
            Kind::Product(Product { input, before: Before::Flatten, ..product.clone() });
    }
    is_flat
}
