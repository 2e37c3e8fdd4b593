//! What is added to a product is added before this leaves the registers.

use engraft_kernels::Activation;

use crate::program::{Combine, Kind, Plain, Program, Residual, Value};

pub(super) fn into_end(program: &mut Program, place: usize) -> bool {
    let Kind::Plain(Plain::Combine { inputs: [a, b], by: Combine::Add }) = program.operations[place].kind
    else {
        return false;
    };
    let output = program.operations[place].output;
    if a == b || !program.always([a, b, output], |[a, b, sum]| a == b && a == sum) {
        return false;
    }
    // Of two products, the one that is computed later.
    let made = |value: Value| Some((program.computed_for_one(value)?, value));
    let mut products: Vec<(usize, Value)> = [a, b].into_iter().filter_map(made).collect();
    products.sort_unstable();
    for (made, value) in products.into_iter().rev() {
        let mut product = program.operations[made].clone();
        let Some(end) = product.end_mut() else { continue };
        if end.residual.is_none() && end.activation == Activation::Identity {
            end.residual = Some(Residual { value: if value == a { b } else { a }, to: value });
            program.merge(made, place, product.node, product.kind);
            return true;
        }
    }
    false
}
