//! A function of what a kernel has just computed is its last step.

use engraft_kernels::Activation;

use crate::program::{Kind, Plain, Program};

pub(super) fn into_end(program: &mut Program, place: usize) -> bool {
    let Kind::Plain(Plain::Activation { input, function }) = program.operations[place].kind else {
        return false;
    };
    let Some(made) = program.computed_for_one(input) else { return false };
    let mut operation = program.operations[made].clone();
    let activation = match &mut operation.kind {
        Kind::Affine { activation, .. } => activation,
        _ => match operation.end_mut() {
            Some(end) => &mut end.activation,
            None => return false,
        },
    };
    if *activation != Activation::Identity {
        return false;
    }
    *activation = function;
    program.merge(made, place, operation.node, operation.kind);
    true
}
