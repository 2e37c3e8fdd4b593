//! The scale of squeeze-and-excitation is applied when the 1x1 convolution behind it reads its input.

use crate::program::{Before, Combine, Kind, Plain, Product, Program, Weights};

pub(super) fn before_product(program: &mut Program, place: usize) -> bool {
    let Kind::Product(product) = &program.operations[place].kind else { return false };
    let Product { input, weights: Weights::Conv(_), before: Before::Nothing, folded: None, .. } = *product
    else {
        return false;
    };
    let made = program.computed_for_one(input).map(|made| &program.operations[made].kind);
    let Some(&Kind::Plain(Plain::Combine { inputs: [a, b], by: Combine::Multiply })) = made else {
        return false;
    };
    for (image, gate) in [(a, b), (b, a)] {
        let fits = program.always([image, gate, input], |[image, gate, product]| {
            image == product && image.len() == 4 && *gate == [image[0], image[1], 1, 1]
        });
        if fits {
            let before = Before::Scale(gate);
            program.operations[place].kind =
                Kind::Product(Product { input: image, before, ..product.clone() });
            return true;
        }
    }
    false
}
