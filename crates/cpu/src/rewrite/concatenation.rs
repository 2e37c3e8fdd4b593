//! A concatenation that begins as another does is that one with more behind it, so that each value is computed right where all of them
//! have it: DenseNet as exporters write it.

use crate::program::{Kind, Plain, Program};

pub(super) fn nested(program: &mut Program, place: usize) -> bool {
    let Kind::Plain(Plain::Concat { inputs, axis }) = program.operations[place].kind.clone() else {
        return false;
    };
    let begins = |place: usize| match &program.operations[place].kind {
        Kind::Plain(Plain::Concat { inputs: first, axis: other }) => {
            *other == axis && first.len() > 1 && first.len() < inputs.len() && inputs.starts_with(first)
        }
        _ => false,
    };
    let length = |place: &usize| program.operations[*place].inputs().len();
    let Some(longest) = (0..place).filter(|place| begins(*place)).max_by_key(length) else { return false };
    let rest = &inputs[length(&longest)..];
    let whole = [&[program.operations[longest].output], rest].concat();
    program.operations[place].kind = Kind::Plain(Plain::Concat { inputs: whole, axis });
    true
}
