//! The product of a value and a parameter that has one value a channel is an operation with constants for each channel.

use engraft_kernels::Activation;

use crate::program::{Combine, Constants, Kind, Plain, Program};

pub(super) fn as_constants(program: &mut Program, place: usize) -> bool {
    let operation = &program.operations[place];
    let Kind::Plain(Plain::Combine { inputs: [a, b], by: Combine::Multiply }) = operation.kind else {
        return false;
    };
    for (input, factor) in [(a, b), (b, a)] {
        let of_parameter = program.computed_at(factor).map(|place| &program.operations[place]);
        let Some(parameter) = of_parameter.filter(|factor| factor.kind == Kind::Plain(Plain::Parameter))
        else {
            continue;
        };
        let node = parameter.node;
        // Axes are compared from the last on, as they are broadcast. The first is the batch's.
        let axis = (1..program.axes(operation.output)).find(|axis| {
            program.always([input, factor, operation.output], |[shape, factor, output]| {
                let behind = output.len() - 1 - axis;
                // A factor for all lies along an axis of one place by chance.
                shape == output
                    && shape[*axis] > 1
                    && factor.len() > behind
                    && factor.len() <= shape.len()
                    && factor
                        .iter()
                        .rev()
                        .enumerate()
                        .all(|(i, size)| *size == if i == behind { shape[*axis] } else { 1 })
            })
        });
        if let Some(axis) = axis {
            let constants = Constants(node);
            let kind = Kind::Affine { input, constants, axis, activation: Activation::Identity };
            program.operations[place].kind = kind;
            return true;
        }
    }
    false
}
