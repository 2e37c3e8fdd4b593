//! The smallest network that still fails.

use std::time::{Duration, Instant};

use engraft_graph::{Activation, Conv2d, Dim, Linear, Op, PositionBias, Resize, ResizeMode, ResizeTo};

use crate::case::Case;

/// After this time a case is as small as it gets: what hangs takes long to try.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a case smaller, step by step, as long as `fails` says so of what is left.
pub fn shrink(mut case: Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let valid = |candidate: &Case| *candidate != case && candidate.shapes().is_some();
        let smaller = candidates(&case).into_iter().map(|candidate| candidate.pruned()).filter(valid);
        match smaller.take_while(|_| start.elapsed() < PATIENCE).find(&mut fails) {
            Some(smaller) => case = smaller,
            None => break,
        }
    }
    case
}

/// Simpler networks, those that lack most first. Not all are valid.
fn candidates(case: &Case) -> Vec<Case> {
    let mut candidates = vec![Case { aux: Vec::new(), ..case.clone() }];
    for output in 0..=case.steps.len() {
        candidates.push(Case { output, aux: Vec::new(), ..case.clone() });
    }
    for value in (1..=case.steps.len()).rev() {
        candidates.extend(begun_at(case, value));
    }
    for value in (1..=case.steps.len()).rev() {
        // First by what it reads, then by whatever comes before it.
        let inputs = case.steps[value - 1].inputs.iter().copied();
        candidates.extend(inputs.chain(0..value).map(|other| replaced(case, value, other)));
    }
    for input in 0..case.inputs.len() {
        let mut fewer = case.clone();
        if fewer.inputs.len() > 1 {
            fewer.inputs.remove(input);
            candidates.push(fewer);
        }
    }
    for input in 0..case.inputs.len() {
        for batch in [1, 2, 3, 4, 8].into_iter().filter(|batch| *batch < case.inputs[input][0]) {
            let mut smaller = case.clone();
            smaller.inputs[input][0] = batch;
            candidates.push(smaller);
        }
        // Of the size of another.
        for other in 0..case.inputs.len() {
            let mut alike = case.clone();
            alike.inputs[input] = [&case.inputs[input][..1], &case.inputs[other][1..]].concat();
            candidates.push(alike);
        }
    }
    for step in 0..case.steps.len() {
        candidates.extend(simplified(case, step));
    }
    candidates.extend(with_smaller_numbers(case));
    candidates
}

/// Wherever a value is read, another is.
fn replaced(case: &Case, value: usize, other: usize) -> Case {
    let mut changed = case.clone();
    let inputs = changed.steps.iter_mut().flat_map(|step| &mut step.inputs);
    inputs.chain([&mut changed.output]).filter(|input| **input == value).for_each(|input| *input = other);
    changed
}

/// The network behind a value, which becomes its input.
fn begun_at(case: &Case, value: usize) -> Option<Case> {
    let inputs: Vec<Vec<usize>> =
        case.shapes()?.into_iter().map(|mut shapes| shapes.swap_remove(value)).collect();
    let keeps_batch = inputs.iter().zip(&case.inputs).all(|(new, old)| new[0] == old[0]);
    keeps_batch.then(|| Case { inputs, ..replaced(case, value, 0) })
}

/// One step with simpler attributes, or fewer inputs.
fn simplified(case: &Case, step: usize) -> Vec<Case> {
    let mut changed = Vec::new();
    let mut with = |op: Op| changed.push(with_op(case, step, op));
    match &case.steps[step].op {
        Op::Conv2d(conv) => {
            with(Conv2d { bias: false, ..conv.clone() }.into());
            with(Conv2d { groups: 1, ..conv.clone() }.into());
        }
        Op::Resize(resize) => with(Resize { mode: ResizeMode::Nearest, ..resize.clone() }.into()),
        Op::Linear(linear) => with(Linear { bias: false, ..linear.clone() }.into()),
        Op::Activation { function, .. } if *function != Activation::ReLU => with(Activation::ReLU.into()),
        Op::Attention(attention) if attention.position != PositionBias::None => {
            let mut plain = attention.clone();
            plain.position = PositionBias::None;
            with(plain.into());
        }
        Op::Reshape { shape } => {
            for place in 0..shape.len() {
                let mut shorter = shape.clone();
                shorter.remove(place);
                with(Op::Reshape { shape: shorter });
                let mut kept = shape.clone();
                kept[place] = Dim::Keep(place);
                with(Op::Reshape { shape: kept });
            }
        }
        _ => {}
    }
    if case.steps[step].inputs.len() > 1 {
        for input in 0..case.steps[step].inputs.len() {
            let mut fewer = case.clone();
            fewer.steps[step].inputs.remove(input);
            changed.push(fewer);
        }
    }
    let name = &case.steps[step].name;
    if !name.is_empty() && case.steps[..step].iter().any(|other| other.name == *name) {
        let mut own = case.clone();
        own.steps[step].name.push('x');
        changed.push(own);
    }
    changed
}

/// With another operation for a step, and for those that share its weights.
fn with_op(case: &Case, step: usize, op: Op) -> Case {
    let mut changed = case.clone();
    let name = case.steps[step].name.clone();
    changed.steps[step].op = op.clone();
    changed
        .steps
        .iter_mut()
        .filter(|other| !name.is_empty() && other.name == name)
        .for_each(|other| other.op = op.clone());
    changed
}

/// A number that is the same in several places is made smaller in all of them, then in each alone.
fn with_smaller_numbers(case: &Case) -> Vec<Case> {
    let mut distinct: Vec<usize> = numbers(&mut case.clone()).iter().map(|number| **number).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut changed = Vec::new();
    for from in distinct.into_iter().rev() {
        for to in smaller(from) {
            let mut everywhere = case.clone();
            for number in numbers(&mut everywhere).into_iter().filter(|number| **number == from) {
                *number = to;
            }
            shorten_constants(&mut everywhere, from, to);
            changed.push(everywhere);
        }
    }
    for place in 0..numbers(&mut case.clone()).len() {
        let from = *numbers(&mut case.clone())[place];
        for to in smaller(from) {
            let mut once = case.clone();
            *numbers(&mut once)[place] = to;
            changed.push(once);
        }
    }
    for case in &mut changed {
        consistent(case);
    }
    changed
}

fn smaller(from: usize) -> Vec<usize> {
    let mut smaller = vec![0, 1, 2, 3, from / 2, from.saturating_sub(1)];
    smaller.retain(|to| *to < from);
    smaller.dedup();
    smaller
}

/// All numbers of a network that may shrink.
fn numbers(case: &mut Case) -> Vec<&mut usize> {
    let mut numbers: Vec<&mut usize> = case.inputs.iter_mut().flat_map(|input| &mut input[1..]).collect();
    for step in &mut case.steps {
        match &mut step.op {
            Op::Conv2d(conv) => {
                numbers.extend([&mut conv.in_channels, &mut conv.out_channels, &mut conv.groups]);
                let pairs = [&mut conv.kernel, &mut conv.stride, &mut conv.padding, &mut conv.dilation];
                numbers.extend(pairs.into_iter().flatten());
            }
            Op::Linear(linear) => numbers.extend([&mut linear.in_features, &mut linear.out_features]),
            Op::BatchNorm2d(norm) => numbers.push(&mut norm.features),
            Op::LayerNorm { features, .. } | Op::LayerNorm2d { features, .. } => numbers.push(features),
            Op::Attention(attention) => {
                numbers.extend([&mut attention.dim, &mut attention.heads]);
                match &mut attention.position {
                    PositionBias::None => {}
                    PositionBias::Table { window, .. } | PositionBias::Network { window } => {
                        numbers.push(window)
                    }
                }
                numbers.extend(
                    attention.windows.iter_mut().flat_map(|windows| [&mut windows.side, &mut windows.shift]),
                );
            }
            Op::Parameter { shape, .. } => numbers.extend(shape),
            Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => {
                numbers.extend([&mut window.kernel, &mut window.stride, &mut window.padding]);
            }
            Op::AdaptiveAvgPool2d { output, .. } => numbers.extend(output),
            Op::Resize(Resize { to: ResizeTo::Size(size), .. }) => numbers.extend(size),
            Op::Chunk { index, parts, .. } => numbers.extend([index, parts]),
            Op::Select { index, .. } => numbers.push(index),
            Op::PadToMultiple { of, .. } => numbers.push(of),
            Op::Reshape { shape } => {
                for dim in shape {
                    match dim {
                        Dim::Fixed(size) | Dim::Div(_, size) => numbers.push(size),
                        Dim::Keep(_) | Dim::Infer => {}
                    }
                }
            }
            Op::ChannelAffine { .. }
            | Op::Input
            | Op::Identity
            | Op::Activation { .. }
            | Op::Softmax { .. }
            | Op::Dropout { .. }
            | Op::StochasticDepth { .. }
            | Op::Resize(_)
            | Op::Flatten { .. }
            | Op::Mean { .. }
            | Op::Add
            | Op::Mul
            | Op::MatMul
            | Op::Concat { .. }
            | Op::ExpandBatch
            | Op::Permute { .. }
            | Op::Roll { .. } => {}
        }
    }
    numbers
}

/// Steps of one name have one operation.
fn consistent(case: &mut Case) {
    for step in 1..case.steps.len() {
        let (before, after) = case.steps.split_at_mut(step);
        let first = before.iter().find(|other| !other.name.is_empty() && other.name == after[0].name);
        if let Some(first) = first {
            after[0].op = first.op.clone();
        }
    }
}

/// Constants for `from` channels become constants for `to`.
fn shorten_constants(case: &mut Case, from: usize, to: usize) {
    for step in &mut case.steps {
        if let Op::ChannelAffine { scale, shift } = &mut step.op
            && scale.len() == from
        {
            scale.truncate(to);
            shift.truncate(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use engraft_graph::Op;

    use super::shrink;
    use crate::case::Case;
    use crate::generate;

    /// A softmax of what is not the input, for more than one example: the smallest is two steps, one value wide.
    #[test]
    fn what_is_left_is_what_matters() {
        let fails = |case: &Case| {
            let softmax =
                |step: &&crate::case::Step| matches!(step.op, Op::Softmax { .. }) && step.inputs != [0];
            case.steps.iter().any(|step| softmax(&step)) && case.inputs.iter().any(|input| input[0] > 1)
        };
        let mut shrunk = (0..2_000).map(generate::case).filter(fails).map(|case| shrink(case, fails));
        assert!(shrunk.by_ref().take(50).all(|case| case.steps.len() == 2 && case.inputs.len() == 1));
    }
}
