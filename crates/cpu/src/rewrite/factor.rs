//! A product's or a convolution's output times a parameter that has one value a channel is an operation with constants for each channel.

use engraft_kernels::Activation;

use crate::program::{Combine, Constants, Kind, Plain, Program, See, Value};

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
        // Axes are compared from the last on, as they are broadcast.
        let axis = channels(program, input).filter(|axis| {
            program.always([input, factor, operation.output], |[shape, factor, output]| {
                let behind = output.len() - 1 - axis;
                let mut sizes = factor.iter().rev().enumerate();
                shape == output
                    && (behind + 1..=shape.len()).contains(&factor.len())
                    && sizes.all(|(i, size)| *size == if i == behind { shape[*axis] } else { 1 })
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

/// The axis of a value that is as long as weights say, in any image.
fn channels(program: &Program, value: Value) -> Option<usize> {
    let operation = &program.operations[program.computed_at(value)?];
    match &operation.kind {
        Kind::Plain(Plain::See { input, how: See::Permute(axes) }) => {
            let channels = channels(program, *input)?;
            axes.iter().position(|axis| *axis == channels)
        }
        _ => operation.channels(program.axes(value)),
    }
}
