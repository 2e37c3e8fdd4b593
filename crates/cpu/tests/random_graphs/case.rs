//! A network as a list of steps, which can be changed and written down.

use std::fmt;

use engraft_graph::{Builder, Graph, NodeId, Op, Shape};

/// A network and what goes through it, one input after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The shapes of the inputs, batch first; the network is designed for the first.
    pub inputs: Vec<Shape>,
    /// Step `i` computes value `i + 1`; value 0 is the input.
    pub steps: Vec<Step>,
    /// The value that is the output.
    pub output: usize,
    /// Values that are outputs of auxiliary heads.
    pub aux: Vec<usize>,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub op: Op,
    /// Values before the step's own.
    pub inputs: Vec<usize>,
    /// The module; empty for a function. Two steps of one name share their weights.
    pub name: String,
}

impl Case {
    /// An input that is the output.
    pub fn new(inputs: Vec<Shape>) -> Case {
        Case { inputs, steps: Vec::new(), output: 0, aux: Vec::new() }
    }

    /// A network that somebody wrote down, and batches of the input that it is designed for.
    pub fn of(graph: &Graph, batches: &[usize]) -> Case {
        let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect();
        let nodes = graph.nodes().iter().skip(1);
        Case {
            steps: nodes
                .map(|node| Step {
                    op: node.op.clone(),
                    inputs: numbers(&node.inputs),
                    name: node.module.clone(),
                })
                .collect(),
            output: graph.output().0,
            aux: numbers(graph.aux()),
            ..Case::new(batches.iter().map(|batch| [&[*batch], graph.input()].concat()).collect())
        }
    }

    /// The network.
    pub fn graph(&self) -> Graph {
        let (mut b, input) = Builder::with_input("Random", &self.inputs[0][1..]);
        let mut values = vec![input];
        for Step { op, inputs, name } in &self.steps {
            let inputs: Vec<NodeId> = inputs.iter().map(|input| values[*input]).collect();
            values.push(match op {
                Op::Parameter { name, shape } => b.parameter(name, shape),
                Op::Attention(attention) => b.attention(name, "Attention", attention.clone(), inputs[0]),
                _ if name.is_empty() => b.function(op.clone(), &inputs),
                _ => b.layer(name, op.clone(), inputs[0]),
            });
        }
        self.aux.iter().for_each(|aux| b.auxiliary(values[*aux]));
        b.finish(values[self.output])
    }

    /// The shape of every value for each of the inputs; none if the graph is not valid for one of them, or Burn has no tensors of
    /// such ranks.
    pub fn shapes(&self) -> Option<Vec<Vec<Shape>>> {
        let graph = self.graph();
        let of_input = |input: &Shape| {
            let shapes = graph.shapes(input).ok()?;
            shapes.iter().all(|shape| (1..=6).contains(&shape.len())).then_some(shapes)
        };
        self.inputs.iter().map(of_input).collect()
    }

    /// The same without the steps on which no output depends.
    pub fn pruned(&self) -> Case {
        let mut needed = vec![false; self.steps.len() + 1];
        self.aux.iter().chain([&self.output]).for_each(|value| needed[*value] = true);
        for (index, step) in self.steps.iter().enumerate().rev() {
            if needed[index + 1] {
                step.inputs.iter().for_each(|input| needed[*input] = true);
            }
        }
        needed[0] = true;
        let number: Vec<usize> = needed
            .iter()
            .scan(0, |next, needed| {
                let number = *next;
                *next += usize::from(*needed);
                Some(number)
            })
            .collect();
        let renumbered = |values: &[usize]| values.iter().map(|value| number[*value]).collect();
        let kept = self.steps.iter().zip(&needed[1..]).filter(|(_, needed)| **needed);
        Case {
            steps: kept.map(|(step, _)| Step { inputs: renumbered(&step.inputs), ..step.clone() }).collect(),
            output: number[self.output],
            aux: renumbered(&self.aux),
            ..self.clone()
        }
    }
}

/// The Rust text that builds it, where all of `engraft_graph` is imported.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "// Inputs {:?}.", self.inputs)?;
        writeln!(f, "let (mut b, x0) = Builder::with_input(\"Random\", &{:?});", &self.inputs[0][1..])?;
        for (number, Step { op, inputs, name }) in self.steps.iter().enumerate() {
            let inputs = inputs.iter().map(|input| format!("x{input}")).collect::<Vec<_>>().join(", ");
            let call = match op {
                Op::Parameter { name, shape } => format!("parameter(\"{name}\", &{shape:?})"),
                Op::Attention(_) => format!("attention(\"{name}\", \"Attention\", {}, {inputs})", text(op)),
                _ if name.is_empty() => format!("function({}, &[{inputs}])", text(op)),
                _ => format!("layer(\"{name}\", {}, {inputs})", text(op)),
            };
            writeln!(f, "let x{} = b.{call};", number + 1)?;
        }
        self.aux.iter().try_for_each(|aux| writeln!(f, "b.auxiliary(x{aux});"))?;
        write!(f, "let graph = b.finish(x{});", self.output)
    }
}

/// An operation as Rust text: what `Debug` writes, with paths, and vectors where there are some.
fn text(op: &Op) -> String {
    match op {
        Op::Conv2d(conv) => format!("{conv:?}"),
        Op::Linear(linear) => format!("{linear:?}"),
        Op::BatchNorm2d(norm) => format!("{norm:?}"),
        Op::Attention(attention) => format!("{attention:?}")
            .replace("names: ", "names: ProjectionNames::")
            .replace("scores: ", "scores: Scores::")
            .replace("position: ", "position: PositionBias::"),
        Op::Activation { function, .. } => format!("Activation::{function:?}"),
        Op::AdaptiveAvgPool2d { .. } => format!("Op::{op:?}"),
        Op::Resize(resize) => {
            format!("{resize:?}").replace("to: ", "to: ResizeTo::").replace("mode: ", "mode: ResizeMode::")
        }
        Op::Reshape { shape } => {
            let dims: Vec<String> = shape.iter().map(|dim| format!("Dim::{dim:?}")).collect();
            format!("Op::Reshape {{ shape: vec![{}] }}", dims.join(", "))
        }
        _ => format!("Op::{op:?}").replace(": [", ": vec!["),
    }
}
