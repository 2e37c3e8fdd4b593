//! From operations to steps: where every value lies, for inputs of one shape.

use std::collections::HashMap;
use std::sync::Arc;

use engraft_graph::{Graph, Node, Op, Shape, Windows};
use engraft_kernels::aliases;

use crate::attention::{WindowTable, window_table};
use crate::fuse::{Before, Kind, Operation, Value};
use crate::view::{Place, View};

/// The steps of a plan, and the buffers that they write.
pub(crate) struct Lowered {
    pub(crate) steps: Vec<Step>,
    /// Values in each buffer.
    pub(crate) buffers: Vec<usize>,
    pub(crate) output: View,
}

/// One kernel's call.
pub(crate) struct Step {
    pub(crate) work: Work,
    pub(crate) inputs: Vec<View>,
    /// Is added to the result; as the output, but for its strides.
    pub(crate) residual: Option<View>,
    pub(crate) output: View,
    /// Where [`Operation::means`] go.
    pub(crate) means: Option<View>,
    /// Its place among the steps of a plan.
    pub(crate) number: usize,
}

impl Step {
    /// All that it reads and writes.
    pub(crate) fn views(&self) -> impl Iterator<Item = &View> {
        self.inputs.iter().chain(&self.residual).chain([&self.output]).chain(&self.means)
    }
}

/// What a step does.
pub(crate) enum Work {
    /// The network's input, from an image on, to where the first operation reads it.
    Input { first_image: usize },
    /// The same values in another place.
    Copy,
    /// The operation of this number.
    Operation(usize),
    /// The attention of this operation, within windows.
    Windows(usize, Arc<WindowTable>),
}

/// Values of a cache line.
const CACHE_LINE: usize = 16;

/// The axes of an image, channels last.
const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

/// Finds a place for every value.
pub(crate) fn lower(graph: &Graph, shapes: &[Shape], operations: &[Operation]) -> Lowered {
    let mut lowering = Lowering {
        nodes: graph.nodes(),
        shapes,
        values: HashMap::new(),
        planned: HashMap::new(),
        lowered: Lowered {
            steps: Vec::new(),
            buffers: Vec::new(),
            output: View { place: Place::Buffer(0), offset: 0, shape: Vec::new(), strides: Vec::new() },
        },
    };
    lowering.place_concatenations(operations);
    for (number, operation) in operations.iter().enumerate() {
        let output = lowering.operation(number, operation);
        lowering.values.insert(operation.output, output);
    }
    lowering.lowered.output = lowering.values[&graph.output().0].clone();
    lowering.lowered
}

struct Lowering<'a> {
    nodes: &'a [Node],
    shapes: &'a [Shape],
    values: HashMap<Value, View>,
    /// Values that are computed right where a concatenation has them.
    planned: HashMap<Value, View>,
    lowered: Lowered,
}

impl Lowering<'_> {
    /// Gives the inputs of concatenations their part of the result, the outermost concatenation first.
    fn place_concatenations(&mut self, operations: &[Operation]) {
        let computed: HashMap<Value, &Operation> =
            operations.iter().map(|operation| (operation.output, operation)).collect();
        for operation in operations.iter().rev() {
            let Op::Concat { axis } = self.nodes[operation.node].op else { continue };
            let shape = &self.shapes[operation.node];
            let innermost = if shape.len() == 4 { 1 } else { shape.len() - 1 };
            if axis != innermost || operation.kind != Kind::Other {
                continue;
            }
            let order = natural_or_channels_last(shape.len());
            let whole = match self.planned.get(&operation.output) {
                Some(view) => view.clone(),
                None => self.dense(shape, &order),
            };
            self.planned.insert(operation.output, whole.clone());
            let mut start = 0;
            for input in &operation.inputs {
                let size = self.shapes[*input][axis];
                let part = whole.narrowed(axis, start, size);
                start += size;
                let is_computed = computed.get(input).is_some_and(|operation| self.is_computed(operation));
                if is_computed && !self.planned.contains_key(input) {
                    self.planned.insert(*input, part);
                }
            }
        }
    }

    /// Whether an operation computes its output, instead of seeing its input in another way.
    fn is_computed(&self, operation: &Operation) -> bool {
        operation.kind != Kind::Other || !self.nodes[operation.node].op.computes_nothing()
    }

    fn dense(&mut self, shape: &[usize], order: &[usize]) -> View {
        self.lowered.buffers.push(shape.iter().product());
        View::dense(Place::Buffer(self.lowered.buffers.len() - 1), shape, order)
    }

    /// As [`dense`](Self::dense), but rows whose beginnings would share a place of the cache are further apart.
    fn spaced(&mut self, shape: &[usize], order: &[usize]) -> View {
        let mut with_gaps = shape.to_vec();
        if let Some(&innermost) = order.last()
            && shape.iter().product::<usize>() > shape[innermost]
            && aliases(shape[innermost])
        {
            with_gaps[innermost] += CACHE_LINE;
        }
        let view = self.dense(&with_gaps, order);
        View { shape: shape.to_vec(), ..view }
    }

    /// Where an operation writes a value of this shape, whose axes lie in this order unless a concatenation has a place for it.
    /// The second view is that place, if the operation cannot write there because it reads the same buffer.
    fn output(
        &mut self,
        operation: &Operation,
        shape: &[usize],
        order: &[usize],
        reads: &[&View],
    ) -> (View, Option<View>) {
        let is_product = matches!(operation.kind, Kind::Conv | Kind::Linear);
        let Some(planned) = self.planned.get(&operation.output) else {
            let view = if is_product { self.spaced(shape, order) } else { self.dense(shape, order) };
            return (view, None);
        };
        let planned = match &operation.axes {
            Some(axes) => planned.permuted(&inverse(axes)),
            None => planned.clone(),
        };
        if reads.iter().any(|view| view.place == planned.place) || planned.order() != order {
            return (self.dense(shape, order), Some(planned));
        }
        (planned, None)
    }

    fn push(&mut self, work: Work, inputs: Vec<View>, residual: Option<View>, output: View) {
        let number = self.lowered.steps.len();
        self.lowered.steps.push(Step { work, inputs, residual, output, means: None, number });
    }

    /// The values of a view in a buffer of their own.
    fn copied(&mut self, view: &View, order: &[usize]) -> View {
        let copy = self.dense(&view.shape, order);
        self.push(Work::Copy, vec![view.clone()], None, copy.clone());
        copy
    }

    /// The view, or a copy of it that lies channels last.
    fn maps(&mut self, view: View) -> View {
        if view.pixel_stride().is_some() { view } else { self.copied(&view, &CHANNELS_LAST) }
    }

    /// The view, or a copy of it whose last axis lies side by side.
    fn rows(&mut self, view: View) -> View {
        if view.row_stride().is_some() { view } else { self.copied(&view, &natural(view.shape.len())) }
    }

    fn input(&self, operation: &Operation, number: usize) -> View {
        self.values[&operation.inputs[number]].clone()
    }

    /// Appends the steps of an operation; returns where its output is.
    fn operation(&mut self, number: usize, operation: &Operation) -> View {
        let node = operation.node;
        match (operation.kind, &self.nodes[node].op) {
            (Kind::Conv | Kind::Affine, _) => self.image_operation(number, operation),
            (Kind::Linear | Kind::Qkv | Kind::Projection, _) => self.row_operation(number, operation),
            (Kind::Attend, Op::Attention(attention)) => self.attend(number, operation, attention.windows),
            (_, Op::Input) => self.network_input(operation),
            (_, Op::Parameter { .. }) => {
                let shape = &self.shapes[node];
                View::dense(Place::Constant(node), shape, &natural(shape.len()))
            }
            (_, Op::Identity | Op::Dropout { .. } | Op::StochasticDepth { .. }) => self.input(operation, 0),
            (_, Op::PadToMultiple { .. }) if self.shapes[node] == self.shapes[operation.inputs[0]] => {
                self.input(operation, 0)
            }
            (_, Op::Permute { axes }) => self.input(operation, 0).permuted(axes),
            (_, Op::Chunk { axis, index, .. }) => {
                let size = self.shapes[node][*axis];
                self.input(operation, 0).narrowed(*axis, index * size, size)
            }
            (_, Op::Select { axis, index }) => self.input(operation, 0).selected(*axis, *index),
            (_, Op::ExpandBatch) => self.input(operation, 0).broadcast(&self.shapes[node]),
            (_, Op::Flatten { .. } | Op::Reshape { .. }) => self.reshape(operation),
            (_, Op::Concat { axis }) => self.concat(operation, *axis),
            (
                _,
                Op::MaxPool2d(_)
                | Op::AvgPool2d { .. }
                | Op::AdaptiveAvgPool2d { .. }
                | Op::LayerNorm2d { .. },
            ) => self.image_operation(number, operation),
            (_, Op::LayerNorm { .. }) => self.row_operation(number, operation),
            (_, Op::Mean { axes }) if self.shapes[operation.inputs[0]].len() == 4 && axes[..] == [2, 3] => {
                self.image_mean(number, operation)
            }
            (_, Op::Softmax { axis }) if axis + 1 == self.shapes[node].len() => {
                self.row_operation(number, operation)
            }
            (_, Op::Activation { .. }) => self.activation(number, operation),
            _ => self.general(number, operation),
        }
    }

    /// A function of single values, whose kernel wants rows, whichever axes these are.
    fn activation(&mut self, number: usize, operation: &Operation) -> View {
        let input = self.input(operation, 0);
        let order = input.order();
        let rows = input.permuted(&order).row_stride().is_some();
        let input = if rows { input } else { self.copied(&input, &order) };
        let shape = self.shapes[operation.node].clone();
        self.finish(number, operation, vec![input], &shape, &order)
    }

    fn network_input(&mut self, operation: &Operation) -> View {
        let shape = &self.shapes[operation.node];
        let output = self.dense(shape, &natural_or_channels_last(shape.len()));
        self.push(Work::Input { first_image: 0 }, Vec::new(), None, output.clone());
        output
    }

    /// An operation from image to image.
    fn image_operation(&mut self, number: usize, operation: &Operation) -> View {
        let input = self.input(operation, 0);
        let input = self.maps(input);
        let mut inputs = vec![input];
        if let Before::Scale(gate) = operation.before {
            let gate = self.values[&gate].clone();
            inputs.push(self.maps(gate));
        }
        let shape = self.shapes[operation.node].clone();
        self.finish(number, operation, inputs, &shape, &CHANNELS_LAST)
    }

    /// An operation on rows of features.
    fn row_operation(&mut self, number: usize, operation: &Operation) -> View {
        let mut shape = self.shapes[operation.node].clone();
        let input = self.input(operation, 0);
        let input = match operation.before {
            Before::Flattened(_) if input.pixel_stride() == Some(input.shape[1]) => input,
            Before::Flattened(_) => self.copied(&input, &CHANNELS_LAST),
            _ => self.rows(input),
        };
        if operation.kind == Kind::Qkv {
            // Queries, keys and values side by side.
            *shape.last_mut().unwrap_or(&mut 0) *= 3;
        }
        let order = natural(shape.len());
        self.finish(number, operation, vec![input], &shape, &order)
    }

    /// The step itself, with its residual, and a copy if the output must be elsewhere.
    fn finish(
        &mut self,
        number: usize,
        operation: &Operation,
        inputs: Vec<View>,
        shape: &[usize],
        order: &[usize],
    ) -> View {
        let residual = operation.residual.map(|residual| {
            let view = self.values[&residual].clone();
            let view = match &operation.axes {
                Some(axes) => view.permuted(&inverse(axes)),
                None => view,
            };
            let lies_as_output = view.permuted(order).row_stride().is_some();
            if lies_as_output { view } else { self.copied(&view, order) }
        });
        let reads: Vec<&View> = inputs.iter().chain(&residual).collect();
        let (output, elsewhere) = self.output(operation, shape, order, &reads);
        self.push(Work::Operation(number), inputs, residual, output.clone());
        if let Some(value) = operation.means {
            let means = self.dense(&self.shapes[value].clone(), &CHANNELS_LAST);
            self.values.insert(value, means.clone());
            if let Some(step) = self.lowered.steps.last_mut() {
                step.means = Some(means);
            }
        }
        let output = match elsewhere {
            Some(planned) => {
                self.push(Work::Copy, vec![output], None, planned.clone());
                planned
            }
            None => output,
        };
        match &operation.axes {
            Some(axes) => output.permuted(axes),
            None => output,
        }
    }

    /// The mean over height and width, which are removed.
    fn image_mean(&mut self, number: usize, operation: &Operation) -> View {
        let input = self.input(operation, 0);
        let input = self.maps(input);
        let shape = self.shapes[operation.node].clone();
        let with_pixel = [shape[0], shape[1], 1, 1];
        let output = self.dense(&with_pixel, &CHANNELS_LAST);
        self.push(Work::Operation(number), vec![input], None, output.clone());
        View { shape, strides: output.strides[..2].to_vec(), ..output }
    }

    fn attend(&mut self, number: usize, operation: &Operation, windows: Option<Windows>) -> View {
        let input = self.input(operation, 0);
        let shape = self.shapes[operation.node].clone();
        let output = self.dense(&shape, &natural(shape.len()));
        let work = match windows {
            None => Work::Operation(number),
            Some(windows) => Work::Windows(number, Arc::new(window_table(windows, [shape[1], shape[2]]))),
        };
        self.push(work, vec![input], None, output.clone());
        output
    }

    fn reshape(&mut self, operation: &Operation) -> View {
        let input = self.input(operation, 0);
        let shape = self.shapes[operation.node].clone();
        if let Some(view) = input.reshaped(&shape) {
            return view;
        }
        // Straight into the place that the output would like to have, if that can be seen as the input's shape.
        // Tokens, whose features lie side by side, stay tokens.
        let tokens = input.strides.last() == Some(&1);
        let order = if tokens { natural(shape.len()) } else { natural_or_channels_last(shape.len()) };
        let wanted = View::dense(Place::Buffer(self.lowered.buffers.len()), &shape, &order);
        if let Some(seen_as_input) = wanted.reshaped(&input.shape) {
            self.lowered.buffers.push(wanted.len());
            self.push(Work::Copy, vec![input], None, seen_as_input);
            return wanted;
        }
        let copy = self.copied(&input, &natural(input.shape.len()));
        copy.reshaped(&shape).unwrap_or_else(|| unreachable!("a tensor without gaps takes any shape"))
    }

    fn concat(&mut self, operation: &Operation, axis: usize) -> View {
        let shape = self.shapes[operation.node].clone();
        let whole = match self.planned.get(&operation.output) {
            Some(view) => view.clone(),
            None => self.dense(&shape, &natural_or_channels_last(shape.len())),
        };
        let mut start = 0;
        for number in 0..operation.inputs.len() {
            let input = self.input(operation, number);
            let size = input.shape[axis];
            let part = whole.narrowed(axis, start, size);
            start += size;
            if input.place == part.place && input.offset == part.offset {
                continue;
            }
            // A part of the same buffer cannot be read while it is written.
            let order = part.order();
            let input = if input.place == part.place { self.copied(&input, &order) } else { input };
            self.push(Work::Copy, vec![input], None, part);
        }
        whole
    }

    /// An operation that reads its inputs by their strides, whatever these are.
    fn general(&mut self, number: usize, operation: &Operation) -> View {
        let shape = self.shapes[operation.node].clone();
        let inputs: Vec<View> = (0..operation.inputs.len()).map(|i| self.input(operation, i)).collect();
        let keeps_order = inputs.first().filter(|input| input.shape == shape);
        let order = keeps_order.map_or_else(|| natural(shape.len()), View::order);
        self.finish(number, operation, inputs, &shape, &order)
    }
}

fn natural(axes: usize) -> Vec<usize> {
    (0..axes).collect()
}

fn natural_or_channels_last(axes: usize) -> Vec<usize> {
    if axes == 4 { CHANNELS_LAST.to_vec() } else { natural(axes) }
}

/// The permutation that undoes another.
fn inverse(axes: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(i, axis)| inverse[*axis] = i);
    inverse
}
