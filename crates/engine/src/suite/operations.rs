//! Every operation alone.

use engraft_graph::{Builder, Dim, Graph, Linear, NodeId, Op};
use engraft_tensor::{StateDict, Tensor};
use serde::Deserialize;

use super::fixture::{self, Reference};
use super::formula;
use crate::Engine;

/// Relative to the largest value of the output. torch's own f32 is within 4e-7.
const TOLERANCE: f32 = 1e-5;

/// A case of `engine/ops.json.gz`.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) op: Op,
    /// Shapes.
    pub(super) inputs: Vec<Vec<usize>>,
    input_centre: f32,
    pub(super) input_width: f32,
    /// Names and shapes, buffers included.
    parameters: Vec<(String, Vec<usize>)>,
    pub(super) output: Reference,
    /// What PyTorch prints, of modules.
    print: Option<String>,
}

/// The cases of `parity/engine.py`.
pub(super) fn cases() -> Vec<Case> {
    fixture::read("engine/ops")
}

/// Every operation in evaluation mode, on inputs of many shapes; and it is printed as PyTorch prints it.
pub fn operations_give_torchs_values(engine: &dyn Engine) {
    for case in cases() {
        let (graph, state) = case.network();
        let output =
            engine.network(&graph, state.clone()).and_then(|mut network| network.forward(&case.input(0)));
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        case.output.check(&output, TOLERANCE, &case.name);
        if let Some(print) = &case.print {
            assert_eq!(graph.to_string(), format!("Case(\n  (op): {print}\n)"), "{}", case.name);
        }
    }
}

impl Case {
    /// The values of an input.
    pub(super) fn input(&self, number: usize) -> Tensor {
        let name = format!("input{number}");
        formula::uniform(&name, &self.inputs[number], self.input_centre, self.input_width)
    }

    /// A network of the operation alone, and its state.
    fn network(&self) -> (Graph, StateDict) {
        let (mut b, x) = Builder::with_input("Case", &self.inputs[0][1..]);
        let width = self.inputs[0].iter().product();
        let row = reshape(&mut b, &[1, width], x);
        let mut state = StateDict::new();
        let output = self.apply(&mut b, &mut state, x, (row, width));
        (b.finish(output), state)
    }

    /// Applies the operation to `x`, which has the shape of its first input, and adds its tensors to `state`. Further inputs
    /// are [`constant`]s.
    pub(super) fn apply(
        &self,
        b: &mut Builder,
        state: &mut StateDict,
        x: NodeId,
        row: (NodeId, usize),
    ) -> NodeId {
        if self.inputs.len() == 1 {
            let tensors = self.op.tensors();
            let named = tensors.iter().map(|spec| (spec.name.clone(), spec.shape.clone()));
            assert_eq!(named.collect::<Vec<_>>(), self.parameters, "{}", self.name);
            for spec in &tensors {
                state.insert(format!("op.{}", spec.name), formula::tensor(spec, formula::NORM));
            }
            return b.layer("op", self.op.clone(), x);
        }
        let mut inputs = vec![x];
        for number in 1..self.inputs.len() {
            inputs.push(constant(b, state, &format!("input{number}"), self.input(number), row));
        }
        b.function(self.op.clone(), &inputs)
    }
}

/// A tensor in a network, which has no other input than its own: the bias of a linear layer whose weight is zero, so that it does
/// not matter on what it works. That is `row`, of shape `[1, width]`, told with its width.
pub(super) fn constant(
    b: &mut Builder,
    state: &mut StateDict,
    name: &str,
    values: Tensor,
    (row, width): (NodeId, usize),
) -> NodeId {
    let (len, shape) = (values.len(), values.shape.clone());
    state.insert(format!("{name}.weight"), Tensor::f32([len, width], vec![0.0; len * width]));
    state.insert(format!("{name}.bias"), Tensor { shape: vec![len], ..values });
    let x = b.layer(name, Linear::new(width, len), row);
    reshape(b, &shape, x)
}

/// The same elements in the shape given.
pub(super) fn reshape(b: &mut Builder, shape: &[usize], x: NodeId) -> NodeId {
    b.function(Op::Reshape { shape: shape.iter().copied().map(Dim::Fixed).collect() }, &[x])
}
