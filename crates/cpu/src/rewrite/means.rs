//! The global average pool of a depthwise convolution's output is computed along with it: squeeze-and-excitation.

use crate::program::{Depthwise, Kind, Plain, Pooling, Program};

pub(super) fn along(program: &mut Program, place: usize) -> bool {
    let Kind::Plain(Plain::Pool { input, pooling: Pooling::Adaptive }) = program.operations[place].kind
    else {
        return false;
    };
    let pooled = program.operations[place].output;
    let Some(made) = program.computed_at(input) else { return false };
    let is_global = program.always([pooled], |[shape]| shape[2..] == [1, 1]);
    match &mut program.operations[made].kind {
        Kind::Depthwise(Depthwise { means, .. }) if means.is_none() && is_global => {
            *means = Some(pooled);
        }
        _ => return false,
    }
    program.operations.remove(place);
    true
}
