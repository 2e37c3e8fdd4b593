//! What is computed together: small rewrites of a program, each of which makes fewer or better operations of some and knows none of the
//! others. A program means the same before and after each.

mod activation;
mod affine;
mod concatenation;
mod constants;
mod expand;
mod factor;
mod flatten;
mod fold;
mod means;
mod permutation;
mod residual;
mod scale;

use crate::program::Program;

/// Changes the operations around the one at a place, if it is one of those that it is about.
pub(crate) type Rewrite = fn(&mut Program, usize) -> bool;

/// Those that are applied together, until none finds anything. What comes first is done first: a batch norm goes into the weights before it
/// rather than into those behind it.
const STAGES: &[&[Rewrite]] = &[
    &[concatenation::nested, factor::as_constants],
    // What follows a product goes into it.
    &[permutation::behind, constants::into_weights, residual::into_end, activation::into_end],
    // What comes before a product goes into it.
    &[fold::into_weights, affine::before_product, scale::before_product, flatten::before_product],
    // What a depthwise convolution computes along.
    &[means::along, expand::before_depthwise],
];

/// Applies all rewrites.
pub(crate) fn rewrite(program: &mut Program) {
    STAGES.iter().for_each(|stage| apply(program, stage));
}

/// Applies some rewrites wherever they find something to do.
pub(crate) fn apply(program: &mut Program, rewrites: &[Rewrite]) {
    let mut changed = true;
    // What was changed may have become what another is about, and so may what reads or computes its values.
    while std::mem::take(&mut changed) {
        let mut place = 0;
        while place < program.operations.len() {
            if rewrites.iter().any(|rewrite| rewrite(program, place)) {
                program.drop_unread();
                changed = true;
            }
            place += 1;
        }
    }
}

#[cfg(test)]
mod tests;
