//! The plan of a batch: all steps forward and backward for inputs of one shape, and their memory.

use std::collections::{HashMap, HashSet};

use engraft_engine::{AUX_WEIGHT, EngineError};
use engraft_graph::{Graph, Op, Shape};

use super::layers::Layers;
use super::parameters::Parameters;
use super::recompute;
use super::record::{Kind, Normalised, Operation, Record};
use super::step::{Step, Sum};
use crate::call::Strided;
use crate::lower::Lowering;
use crate::memory::{Memory, assign_slots};
use crate::program::{self, Plain, Value};
use crate::translate::Translation;
use crate::view::View;

/// All that is done with a batch of one shape.
pub(crate) struct TrainingPlan {
    pub(crate) steps: Vec<Planned>,
    /// How many of the steps are forward.
    pub(crate) forward: usize,
    /// The numbers of the steps as they run: some of the forward pass twice, if they are [recomputed](Self::recomputed).
    pub(crate) order: Vec<usize>,
    /// Values in each buffer.
    buffers: Vec<usize>,
    pub(crate) memory: Memory,
    /// No buffer has the values of only some images.
    pub(crate) crossing: Vec<bool>,
    /// The places of what has a gradient, among all that trains.
    pub(crate) written: HashSet<usize>,
    /// The network's output.
    pub(crate) logits: Strided,
    /// What the loss of each output counts.
    pub(crate) weights: Vec<f64>,
}

/// A step, and the node that it belongs to.
pub(crate) struct Planned {
    pub(crate) node: usize,
    pub(crate) step: Step,
}

/// What the plans of a training have in common.
pub(crate) struct Setting<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) parameters: &'a Parameters,
    /// Whether the batch norm of a node normalises by the statistics of the batch.
    pub(crate) live: &'a [bool],
}

/// Makes a plan from the shapes of all nodes.
///
/// # Errors
/// Names a node that cannot be computed, or through which no gradient can go.
pub(crate) fn plan(
    setting: &Setting<'_>,
    layers: &mut Layers,
    nodes: &[Shape],
) -> Result<TrainingPlan, EngineError> {
    let graph = setting.graph;
    let outputs: Vec<usize> = [graph.output()].iter().chain(graph.aux()).map(|id| id.0).collect();
    let (operations, extents, sources) = operations(graph, nodes, &outputs)?;
    let shapes: Vec<Shape> = extents.iter().map(|extent| extent.shape(nodes)).collect();
    let outputs: Vec<Value> = outputs.into_iter().map(|node| sources[node]).collect();
    let mut readers = vec![Vec::new(); shapes.len()];
    for (number, operation) in operations.iter().enumerate() {
        for input in operation.inputs() {
            readers[input].push(number);
        }
    }
    let mut planner = Planner {
        setting,
        layers,
        lowering: Lowering::new(graph, &shapes, 1),
        needs: needs(setting, &operations, shapes.len()),
        done: vec![false; operations.len()],
        operations,
        readers,
        is_output: (0..shapes.len()).map(|value| outputs.contains(&value)).collect(),
        records: Vec::new(),
        normalised: HashMap::new(),
        gradients: HashMap::new(),
        written: HashSet::new(),
        steps: Vec::new(),
    };
    planner.forward()?;
    let forward = planner.steps.len();
    planner.losses(&outputs)?;
    planner.backward()?;
    let logits = planner.lowering.strided(&planner.lowering.values[&outputs[0]]);
    let weights = (0..outputs.len()).map(|output| if output == 0 { 1.0 } else { AUX_WEIGHT }).collect();
    let Planner { steps, lowering, written, .. } = planner;
    let buffers = lowering.buffers;
    let crossing = vec![false; buffers.len()];
    let memory = Memory { slot_of: Vec::new(), slots: Vec::new() };
    let plan = TrainingPlan {
        steps,
        forward,
        order: Vec::new(),
        buffers,
        memory,
        crossing,
        written,
        logits,
        weights,
    };
    Ok(plan.recomputed(1))
}

impl TrainingPlan {
    /// The same plan, but of so many segments of the forward pass it keeps only what passes between them, and computes the rest again.
    pub(crate) fn recomputed(mut self, segments: usize) -> TrainingPlan {
        let Self { steps, forward, buffers, logits, .. } = &self;
        let order = recompute::order(steps, *forward, buffers, segments);
        let lives = recompute::lives(steps, *forward, &order, buffers.len(), logits.at.place);
        self.memory = assign_slots(&lives, buffers);
        self.order = order;
        self
    }
}

/// The operations that lead to the outputs, the extents of all values, and where each node's output is.
#[expect(clippy::type_complexity, reason = "they are the parts of a program")]
fn operations(
    graph: &Graph,
    nodes: &[Shape],
    outputs: &[usize],
) -> Result<(Vec<Operation>, Vec<program::Extent>, Vec<Value>), EngineError> {
    let mut needed = vec![false; nodes.len()];
    outputs.iter().for_each(|output| needed[*output] = true);
    for (index, node) in graph.nodes().iter().enumerate().rev().filter(|(index, _)| *index < nodes.len()) {
        if needed[index] {
            node.inputs.iter().for_each(|input| needed[input.0] = true);
        }
    }
    let mut translation = Translation::new(nodes);
    let mut operations = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let drops = match node.op {
            Op::Dropout { p, .. } if p > 0.0 => Some((p, false)),
            Op::StochasticDepth { p } if p > 0.0 => Some((p, true)),
            _ => None,
        };
        let source = match drops {
            _ if !needed[index] => index,
            Some((p, whole_examples)) => {
                let input = translation.source[node.inputs[0].0];
                let kind = Kind::Drop { input, p, whole_examples };
                operations.push(Operation { node: index, output: index, kind });
                index
            }
            None => translation.node(index, node)?,
        };
        translation.source.push(source);
        let new = translation.operations.drain(..);
        operations.extend(new.map(|program::Operation { node, kind, output }| Operation {
            node,
            output,
            kind: Kind::Evaluated(kind),
        }));
    }
    Ok((operations, translation.extents, translation.source))
}

/// The values through which a gradient goes on to something that trains.
fn needs(setting: &Setting<'_>, operations: &[Operation], values: usize) -> Vec<bool> {
    let mut needs = vec![false; values];
    for operation in operations {
        let trains = operation.tensors(setting.graph).iter().any(|name| {
            let id = setting.parameters.id(&setting.graph.nodes()[operation.node], name);
            setting.parameters.place_of_trained(id).is_some()
        });
        needs[operation.output] = trains || operation.inputs().iter().any(|input| needs[*input]);
    }
    needs
}

/// A plan as far as it is made.
pub(crate) struct Planner<'a> {
    pub(crate) setting: &'a Setting<'a>,
    pub(crate) layers: &'a mut Layers,
    /// Calls, values and buffers.
    pub(crate) lowering: Lowering<'a>,
    pub(crate) operations: Vec<Operation>,
    /// Of each value, the operations that read it.
    pub(crate) readers: Vec<Vec<usize>>,
    pub(crate) is_output: Vec<bool>,
    /// Whether a value's gradient is wanted.
    pub(crate) needs: Vec<bool>,
    /// Operations that are computed within another.
    pub(crate) done: Vec<bool>,
    /// What is to be differentiated, in the order of the forward pass.
    pub(crate) records: Vec<Record>,
    /// Values that the backward pass computes again, so that they need not be kept.
    pub(crate) normalised: HashMap<Value, Normalised>,
    /// Of values, as far as they are added up.
    pub(crate) gradients: HashMap<Value, View>,
    /// What has a gradient already, by its place among what trains.
    pub(crate) written: HashSet<usize>,
    pub(crate) steps: Vec<Planned>,
}

impl Planner<'_> {
    pub(crate) fn push(&mut self, step: Step) {
        self.flush();
        let node = self.lowering.node;
        self.steps.push(Planned { node, step });
    }

    /// Takes over the calls that the lowering has appended: copies for the most part.
    pub(crate) fn flush(&mut self) {
        let node = self.lowering.node;
        let calls = self.lowering.steps.drain(..);
        self.steps.extend(calls.map(|step| Planned { node, step: Step::Call(step.call) }));
    }

    pub(crate) fn view(&self, value: Value) -> View {
        self.lowering.values[&value].clone()
    }

    /// Where the gradient of a node's tensor goes.
    pub(crate) fn sum(&mut self, node: usize, name: &str) -> Sum {
        let Setting { graph, parameters, .. } = self.setting;
        match parameters.place_of_trained(parameters.id(&graph.nodes()[node], name)) {
            Some(place) => Sum::Trained { place, first: self.written.insert(place) },
            None => Sum::Frozen,
        }
    }

    /// Whether a node's tensor trains.
    pub(crate) fn trains(&self, node: usize, name: &str) -> bool {
        let Setting { graph, parameters, .. } = self.setting;
        parameters.place_of_trained(parameters.id(&graph.nodes()[node], name)).is_some()
    }

    /// Gives concatenations their inputs' places.
    pub(crate) fn place_concatenations(&mut self) {
        let concatenations = self.operations.iter().rev().filter_map(|operation| match &operation.kind {
            Kind::Evaluated(program::Kind::Plain(Plain::Concat { inputs, axis })) => {
                Some((operation.output, &inputs[..], *axis))
            }
            _ => None,
        });
        let computed = self.operations.iter().filter(|operation| operation.is_computed());
        let computed: HashSet<Value> = computed.map(|operation| operation.output).collect();
        self.lowering.place_concatenations(concatenations, &computed);
    }
}
