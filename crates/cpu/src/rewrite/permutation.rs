//! What is done element by element to a product whose axes were permuted is done before they are permuted, so that it can go into the
//! product. To permute a value costs nothing: it is seen in another way.

use crate::program::{Combine, Kind, Operation, Plain, Program, See};

pub(super) fn behind(program: &mut Program, place: usize) -> bool {
    let operation = &program.operations[place];
    let Kind::Plain(Plain::See { input, how: See::Permute(axes) }) = &operation.kind else { return false };
    let (input, axes, node, permuted) = (*input, axes.clone(), operation.node, operation.output);
    let is_product = |value| {
        let made = program.computed_for_one(value).map(|place| &program.operations[place]);
        made.is_some_and(|made| made.channels(program.axes(value)).is_some())
    };
    let Some(next) = program.only_reader(permuted).filter(|_| is_product(input)) else { return false };
    // What the next operation does, but to the input; and a value that is to be permuted back for it.
    let (kind, other) = match program.operations[next].kind.clone() {
        Kind::Affine { constants, axis, activation, .. } => {
            (Kind::Affine { input, constants, axis: axes[axis], activation }, None)
        }
        Kind::Plain(Plain::Activation { function, .. }) => {
            (Kind::Plain(Plain::Activation { input, function }), None)
        }
        Kind::Plain(Plain::Combine { inputs: [a, b], by: Combine::Add }) => {
            let other = if a == permuted { b } else { a };
            let output = program.operations[next].output;
            let alike = program.always([permuted, other, output], |[a, b, c]| a == b && a == c);
            if is_product(other) || !alike {
                return false;
            }
            (Kind::Plain(Plain::Combine { inputs: [input, other], by: Combine::Add }), Some(other))
        }
        _ => return false,
    };
    let output = program.operations[next].output;
    let inner = program.permuted(output, &inverse(&axes));
    let mut operations = vec![
        Operation { node: program.operations[next].node, kind, output: inner },
        Operation {
            node,
            kind: Kind::Plain(Plain::See { input: inner, how: See::Permute(axes.clone()) }),
            output,
        },
    ];
    if let Some(other) = other {
        let back = program.permuted(other, &inverse(&axes));
        let how = See::Permute(inverse(&axes));
        if let Kind::Plain(Plain::Combine { inputs, .. }) = &mut operations[0].kind {
            inputs[1] = back;
        }
        let kind = Kind::Plain(Plain::See { input: other, how });
        operations.insert(0, Operation { node, kind, output: back });
    }
    program.operations.splice(next..=next, operations);
    program.operations.remove(place);
    true
}

/// The permutation that undoes another.
fn inverse(axes: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(i, axis)| inverse[*axis] = i);
    inverse
}
