//! From operations to calls: where every value lies, for inputs of one size.
//!
//! What operations differ in is how their inputs must lie: in rows, as images whose channels lie last, or in any way. A value that lies
//! otherwise is copied.

mod operands;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::{Graph, Shape};
use engraft_kernels::{Activation, PoolGeometry};

use crate::attention::window_table;
use crate::call::{Call, Maps, Rows, Scale, Strided, Tokens, Windows};
use crate::general::General;
use crate::pack::{Finish, Kernel, Packed, Reads};
use crate::program::{Axis, Combine, Plain, Pooling, Residual, See, Value};
use crate::view::{Place, View};

/// The calls of a plan, and the buffers that they write.
pub(crate) struct Lowered {
    pub(crate) steps: Vec<Step>,
    /// Values of an image in each buffer.
    pub(crate) buffers: Vec<usize>,
    pub(crate) output: Strided,
}

/// A call, and the operation whose it is.
pub(crate) struct Step {
    pub(crate) operation: usize,
    pub(crate) call: Call,
}

/// The axes of an image, channels last.
pub(crate) const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

/// Finds a place for every value. `shapes` are those of the values for a batch of `images`, of which each can be computed apart.
///
/// # Errors
/// When values that are alike in the network's own images are not for this input.
pub(crate) fn lower(
    graph: &Graph,
    operations: &[Packed],
    output: Value,
    shapes: &[Shape],
    images: usize,
) -> Result<Lowered, EngineError> {
    let mut lowering = Lowering::new(graph, shapes, images);
    let concatenations = operations.iter().filter_map(|operation| match &operation.kernel {
        Kernel::Plain(Plain::Concat { inputs, axis }) => Some((operation.output, &inputs[..], *axis)),
        _ => None,
    });
    let computed: HashSet<Value> = operations
        .iter()
        .filter(|operation| is_computed(operation))
        .map(|operation| operation.output)
        .collect();
    lowering.place_concatenations(concatenations.rev(), &computed);
    for (number, operation) in operations.iter().enumerate() {
        (lowering.operation, lowering.node) = (number, operation.node);
        let place = lowering.operation(operation)?;
        lowering.values.insert(operation.output, place);
    }
    let output = lowering.strided(&lowering.values[&output]);
    let buffers = lowering.buffers.iter().map(|values| values / images).collect();
    Ok(Lowered { steps: lowering.steps, buffers, output })
}

/// Calls and the places of values, as far as they are found.
pub(crate) struct Lowering<'a> {
    graph: &'a Graph,
    pub(crate) shapes: &'a [Shape],
    /// Of the batch that the shapes are for.
    images: usize,
    pub(crate) values: HashMap<Value, View>,
    /// Values that are computed right where a concatenation has them.
    planned: HashMap<Value, View>,
    pub(crate) steps: Vec<Step>,
    /// Values of the whole batch in each.
    pub(crate) buffers: Vec<usize>,
    /// The operation that is being lowered, and its node.
    operation: usize,
    pub(crate) node: usize,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(graph: &'a Graph, shapes: &'a [Shape], images: usize) -> Lowering<'a> {
        Lowering {
            graph,
            shapes,
            images,
            values: HashMap::new(),
            planned: HashMap::new(),
            steps: Vec::new(),
            buffers: Vec::new(),
            operation: 0,
            node: 0,
        }
    }
}

impl Lowering<'_> {
    /// Gives the inputs of concatenations (output, inputs and axis of each; the outermost first) their part of the result, if they are
    /// among the `computed`.
    pub(crate) fn place_concatenations<'b>(
        &mut self,
        concatenations: impl Iterator<Item = (Value, &'b [Value], usize)>,
        computed: &HashSet<Value>,
    ) {
        for (output, inputs, axis) in concatenations {
            let shape = &self.shapes[output];
            let innermost = if shape.len() == 4 { 1 } else { shape.len() - 1 };
            if axis != innermost {
                continue;
            }
            let order = natural_or_channels_last(shape.len());
            let whole = match self.planned.get(&output) {
                Some(view) => view.clone(),
                None => self.dense(shape, &order),
            };
            self.planned.insert(output, whole.clone());
            let mut start = 0;
            for input in inputs {
                let size = self.shapes[*input][axis];
                let part = whole.narrowed(axis, start, size);
                start += size;
                if computed.contains(input) && !self.planned.contains_key(input) {
                    self.planned.insert(*input, part);
                }
            }
        }
    }

    fn push(&mut self, call: Call) {
        self.steps.push(Step { operation: self.operation, call });
    }

    pub(crate) fn other_shapes(&self) -> EngineError {
        let node = self.graph.nodes()[self.node].describe();
        EngineError::OtherShapes { node, input: self.graph.input().to_vec() }
    }

    /// # Errors
    /// Unless shapes are alike as they are in the network's own images.
    pub(crate) fn require(&self, alike: bool) -> Result<(), EngineError> {
        if alike { Ok(()) } else { Err(self.other_shapes()) }
    }

    /// What is done to sums whose axes lie in an order.
    fn finish(&mut self, finish: Finish<Residual>, order: &[usize]) -> Result<Finish<Rows>, EngineError> {
        let Finish { residual, activation } = finish;
        let residual = residual.map(|residual| self.rows(residual.value, order)).transpose()?;
        Ok(Finish { residual, activation })
    }

    /// Appends the calls of an operation whose residual has another shape in these images than what it is added to: it is added when
    /// that is computed, and what follows it follows.
    fn apart(&mut self, operation: &Packed, residual: Residual) -> Result<View, EngineError> {
        let Packed { node, output, .. } = *operation;
        let mut bare = Packed { node, output: residual.to, kernel: operation.kernel.clone() };
        let mut activation = Activation::Identity;
        if let Some(finish) = bare.kernel.finish_mut() {
            activation = std::mem::take(&mut finish.activation);
            finish.residual = None;
        }
        let means = match &mut bare.kernel {
            Kernel::Depthwise { means, .. } => means.take(),
            _ => None,
        };
        let sums = self.operation(&bare)?;
        self.values.insert(residual.to, sums);
        let add = Plain::Combine { inputs: [residual.to, residual.value], by: Combine::Add };
        let mut view = self.plain(node, output, &add)?;
        if activation != Activation::Identity {
            self.values.insert(output, view);
            let after = Plain::Activation { input: output, function: activation };
            view = self.plain(node, output, &after)?;
        }
        if let Some(means) = means {
            self.values.insert(output, view.clone());
            let means_view = self.pool(means, output, &Pooling::Adaptive)?;
            self.values.insert(means, means_view);
        }
        Ok(view)
    }

    /// What is added to a result whose axes lie in an order.
    pub(crate) fn residual(
        &mut self,
        residual: Option<Value>,
        output: Value,
        order: &[usize],
    ) -> Result<Option<Rows>, EngineError> {
        let Some(residual) = residual else { return Ok(None) };
        self.require(self.shapes[residual] == self.shapes[output])?;
        self.rows(residual, order).map(Some)
    }

    /// Where a value is written whose axes lie in this order unless a concatenation has a place for it. The second view is that place, if
    /// the value cannot be written there because what it is computed from is in the same buffer.
    pub(crate) fn place(
        &mut self,
        value: Value,
        order: &[usize],
        spaced: bool,
        reads: &[Place],
    ) -> (View, Option<View>) {
        let shape = self.shapes[value].clone();
        let Some(planned) = self.planned.get(&value).cloned() else {
            let view = if spaced { self.spaced(&shape, order) } else { self.dense(&shape, order) };
            return (view, None);
        };
        // Of a concatenation of single channels, no part lies in rows.
        let lies_so = self.as_rows(&planned.permuted(order)).is_some();
        if reads.contains(&planned.place) || !lies_so {
            return (self.dense(&shape, order), Some(planned));
        }
        (planned, None)
    }

    /// Appends the call that computes a value, and a copy if it must be elsewhere; returns where it is.
    fn computed(
        &mut self,
        value: Value,
        (place, elsewhere): (View, Option<View>),
        call: Option<Call>,
    ) -> Result<View, EngineError> {
        let call = call.ok_or_else(|| self.other_shapes())?;
        self.push(call);
        debug_assert_eq!(place.shape, self.shapes[value]);
        Ok(match elsewhere {
            Some(planned) => {
                self.copy(&place, &planned);
                planned
            }
            None => place,
        })
    }

    /// Appends the calls of an operation; returns where its output is.
    fn operation(&mut self, operation: &Packed) -> Result<View, EngineError> {
        let value = operation.output;
        if let Some(residual) = operation.kernel.residual() {
            let [sum, a, b] = [value, residual.to, residual.value].map(|value| &self.shapes[value]);
            if sum != a || sum != b {
                return self.apart(operation, residual);
            }
        }
        let axes = self.shapes[value].len();
        match &operation.kernel {
            Kernel::Product { layer, reads, input, finish } => {
                let order = match reads {
                    Reads::Pixels | Reads::Scaled(_) => CHANNELS_LAST.to_vec(),
                    Reads::Rows | Reads::Images { .. } => natural(axes),
                };
                let (x, scale) = match reads {
                    Reads::Images { channels } => (self.images_as_rows(*input, *channels), None),
                    Reads::Rows | Reads::Pixels => (self.rows(*input, &order)?, None),
                    Reads::Scaled(gate) => self.scaled(*input, *gate)?,
                };
                let finish = self.finish(*finish, &order)?;
                let mut read = vec![x.at.place];
                read.extend(scale.map(|scale| scale.values.at.place));
                read.extend(finish.residual.map(|residual| residual.at.place));
                let place = self.place(value, &order, true, &read);
                let to = self.as_rows(&place.0.permuted(&order));
                let layer = Arc::clone(layer);
                let call = to.map(|to| Call::Product { layer, x, scale, finish, to });
                self.computed(value, place, call)
            }
            Kernel::Winograd { layer, input, finish } => {
                let (x, finish, place, to) = self.convolution(value, *input, *finish)?;
                let layer = Arc::clone(layer);
                self.computed(value, place, to.map(|to| Call::Winograd { layer, x, finish, to }))
            }
            Kernel::Conv { layer, input, finish } => {
                let (x, finish, place, to) = self.convolution(value, *input, *finish)?;
                let layer = Arc::clone(layer);
                self.computed(value, place, to.map(|to| Call::Conv { layer, x, finish, to }))
            }
            Kernel::Depthwise { layer, input, finish, means } => {
                let (x, finish, place, to) = self.convolution(value, *input, *finish)?;
                let means = match means {
                    Some(means) => Some(self.means(*means, value)?),
                    None => None,
                };
                let layer = Arc::clone(layer);
                let call = to.map(|to| Call::Depthwise { layer, x, finish, to, means });
                self.computed(value, place, call)
            }
            Kernel::Affine { layer, axis, input } => {
                let channels = self.shapes[value].get(*axis).copied();
                self.require(
                    channels == Some(layer.affine.scale.len()) && self.shapes[*input] == self.shapes[value],
                )?;
                let mut order = natural(axes);
                order.remove(*axis);
                order.push(*axis);
                let x = self.rows(*input, &order)?;
                let place = self.place(value, &order, false, &[x.at.place]);
                let to = self.as_rows(&place.0.permuted(&order));
                let layer = Arc::clone(layer);
                self.computed(value, place, to.map(|to| Call::Affine { layer, x, to }))
            }
            Kernel::Norm { layer, over, input } => {
                let order = match over {
                    Axis::Last => natural(axes),
                    Axis::Channels => CHANNELS_LAST.to_vec(),
                };
                let x = self.rows(*input, &order)?;
                let place = self.place(value, &order, false, &[x.at.place]);
                let to = self.as_rows(&place.0.permuted(&order));
                let layer = Arc::clone(layer);
                self.computed(value, place, to.map(|to| Call::Norm { layer, x, to }))
            }
            Kernel::Attend { layer, windows, qkv } => {
                let order = natural(axes);
                let x = self.rows(*qkv, &order)?;
                let tokens = match windows {
                    None => Tokens::Groups(self.shapes[value][axes - 2]),
                    Some(windows) => {
                        let &[_, height, width, _] = &self.shapes[value][..] else {
                            return Err(self.other_shapes());
                        };
                        Tokens::Windows(Arc::new(window_table(*windows, [height, width])))
                    }
                };
                let place = self.place(value, &order, false, &[x.at.place]);
                let to = self.as_rows(&place.0);
                let layer = Arc::clone(layer);
                self.computed(value, place, to.map(|to| Call::Attend { layer, tokens, x, to }))
            }
            Kernel::Plain(plain) => self.plain(operation.node, value, plain),
        }
    }

    pub(crate) fn plain(&mut self, node: usize, value: Value, plain: &Plain) -> Result<View, EngineError> {
        let shape = self.shapes[value].clone();
        match plain {
            Plain::Input => {
                let view = self.dense(&shape, &natural_or_channels_last(shape.len()));
                let to = self.strided(&view);
                self.push(Call::Input { to });
                Ok(view)
            }
            Plain::Parameter => Ok(View::dense(Place::Constant(node), &shape, &natural(shape.len()))),
            Plain::See { input, how } => {
                let input = self.values[input].clone();
                Ok(match how {
                    See::Permute(axes) => input.permuted(axes),
                    See::Part { axis, index } => input.narrowed(*axis, index * shape[*axis], shape[*axis]),
                    See::Select { axis, index } => input.selected(*axis, *index),
                    See::Repeat => input.broadcast(&shape),
                    See::Reshape => self.reshaped(&input, &shape),
                })
            }
            Plain::Pool { input, pooling } => self.pool(value, *input, pooling),
            Plain::Activation { input, function } => {
                let order = self.values[input].order();
                let x = self.rows(*input, &order)?;
                let place = self.place(value, &order, false, &[x.at.place]);
                let to = self.as_rows(&place.0.permuted(&order));
                let function = *function;
                self.computed(value, place, to.map(|to| Call::Activation { function, x, to }))
            }
            Plain::Combine { inputs, by } => {
                let (views, place) = self.any_way(value, inputs);
                let order = place.0.order();
                let alike = |view: &View| {
                    let fits = view.shape == shape;
                    fits.then(|| self.as_rows(&view.permuted(&order))).flatten()
                };
                let call = match (alike(&views[0]), alike(&views[1]), alike(&place.0)) {
                    (Some(x), Some(other), Some(to)) => Call::Combine { by: *by, x, other, to },
                    _ => self.general(General::of_combine(*by), &views, &place.0),
                };
                self.computed(value, place, Some(call))
            }
            Plain::Concat { inputs, axis } => Ok(self.concat(value, inputs, *axis)),
            Plain::General { inputs, what: General::Pad } if shape == self.shapes[inputs[0]] => {
                Ok(self.values[&inputs[0]].clone())
            }
            Plain::General { inputs, what: General::Softmax { axis } } if axis + 1 == shape.len() => {
                let order = natural(shape.len());
                let x = self.rows(inputs[0], &order)?;
                let place = self.place(value, &order, false, &[x.at.place]);
                let to = self.as_rows(&place.0);
                self.computed(value, place, to.map(|to| Call::Softmax { x, to }))
            }
            Plain::General { inputs, what } => {
                let (views, place) = self.any_way(value, inputs);
                let call = self.general(what.clone(), &views, &place.0);
                self.computed(value, place, Some(call))
            }
        }
    }

    /// What a convolution from image to image reads, adds and writes.
    #[expect(clippy::type_complexity, reason = "they are the parts of a call")]
    fn convolution(
        &mut self,
        value: Value,
        input: Value,
        finish: Finish<Residual>,
    ) -> Result<(Maps, Finish<Rows>, (View, Option<View>), Option<Maps>), EngineError> {
        let x = self.maps(input)?;
        let finish = self.finish(finish, &CHANNELS_LAST)?;
        let mut read = vec![x.at.place];
        read.extend(finish.residual.map(|residual| residual.at.place));
        let place = self.place(value, &CHANNELS_LAST, true, &read);
        let to = self.as_maps(&place.0);
        Ok((x, finish, place, to))
    }

    /// The pixels of an image, and the value of each channel of each image by which they are scaled. Where the gate has another shape than
    /// in the network's own images the two are multiplied first.
    fn scaled(&mut self, image: Value, gate: Value) -> Result<(Rows, Option<Scale>), EngineError> {
        let [shape, gate_shape] = [&self.shapes[image], &self.shapes[gate]];
        self.require(shape.len() == 4 && gate_shape.len() == 4)?;
        if gate_shape[..] == [shape[0], shape[1], 1, 1] {
            let (x, rows) = (self.rows(image, &CHANNELS_LAST)?, shape[2] * shape[3]);
            return Ok((x, Some(Scale { values: self.rows(gate, &CHANNELS_LAST)?, rows })));
        }
        let whole: Shape = shape.iter().zip(gate_shape).map(|(a, b)| *a.max(b)).collect();
        let to = self.dense(&whole, &CHANNELS_LAST);
        let views = [image, gate].map(|value| self.values[&value].clone());
        let call = self.general(General::Multiply, &views, &to);
        self.push(call);
        let x = self.as_pixels(&to).ok_or_else(|| self.other_shapes())?;
        Ok((x, None))
    }

    /// Where the means of an image's channels go.
    fn means(&mut self, means: Value, image: Value) -> Result<Rows, EngineError> {
        let [means_shape, shape] = [&self.shapes[means], &self.shapes[image]];
        self.require(means_shape[..] == [shape[0], shape[1], 1, 1])?;
        let view = self.dense(&means_shape.clone(), &CHANNELS_LAST);
        let rows = self.as_pixels(&view).ok_or_else(|| self.other_shapes())?;
        self.values.insert(means, view);
        Ok(rows)
    }

    fn pool(&mut self, value: Value, input: Value, pooling: &Pooling) -> Result<View, EngineError> {
        let x = self.maps(input)?;
        let of = |window: &engraft_graph::Pool| PoolGeometry {
            kernel: window.kernel,
            stride: window.stride,
            padding: window.padding,
        };
        let windows = match pooling {
            Pooling::Max(window) => Windows::Max(of(window)),
            Pooling::Average { window, count_include_pad } => {
                Windows::Average { window: of(window), count_include_pad: *count_include_pad }
            }
            Pooling::Adaptive | Pooling::Image => Windows::Adaptive,
        };
        if *pooling == Pooling::Image {
            // As an image of one pixel, whose axes are not there afterwards.
            let shape = self.shapes[value].clone();
            let one_pixel = self.dense(&[shape[0], shape[1], 1, 1], &CHANNELS_LAST);
            let to = self.as_maps(&one_pixel).ok_or_else(|| self.other_shapes())?;
            self.push(Call::Pool { windows, x, to });
            return Ok(View { shape, strides: one_pixel.strides[..2].to_vec(), ..one_pixel });
        }
        let place = self.place(value, &CHANNELS_LAST, false, &[x.at.place]);
        let to = self.as_maps(&place.0);
        self.computed(value, place, to.map(|to| Call::Pool { windows, x, to }))
    }

    fn concat(&mut self, value: Value, inputs: &[Value], axis: usize) -> View {
        let shape = self.shapes[value].clone();
        let whole = match self.planned.get(&value) {
            Some(view) => view.clone(),
            None => self.dense(&shape, &natural_or_channels_last(shape.len())),
        };
        let mut start = 0;
        for input in inputs {
            let input = self.values[input].clone();
            let size = input.shape[axis];
            let part = whole.narrowed(axis, start, size);
            start += size;
            if input.place == part.place && input.offset == part.offset && input.strides == part.strides {
                continue;
            }
            // A part of the same buffer cannot be read while it is written.
            let order = part.order();
            let input = if input.place == part.place { self.copied(&input, &order) } else { input };
            self.copy(&input, &part);
        }
        whole
    }

    /// What an operation reads by its strides, whatever these are, and where it writes: values of the same shape, and images, lie as
    /// those that it reads.
    fn any_way(&mut self, value: Value, inputs: &[Value]) -> (Vec<View>, (View, Option<View>)) {
        let shape = &self.shapes[value];
        let views: Vec<View> = inputs.iter().map(|input| self.values[input].clone()).collect();
        let is_image = |input: &View| shape.len() == 4 && input.pixel_stride().is_some();
        let keeps_order = views.first().filter(|input| input.shape == *shape || is_image(input));
        let order = keeps_order.map_or_else(|| natural(shape.len()), View::order);
        let read: Vec<Place> = views.iter().map(|view| view.place).collect();
        let place = self.place(value, &order, false, &read);
        (views, place)
    }

    pub(crate) fn general(&self, what: General, views: &[View], to: &View) -> Call {
        let inputs = views.iter().map(|view| self.strided(view)).collect();
        Call::General { what, inputs, to: self.strided(to) }
    }
}

/// Whether an operation computes its output, instead of seeing another value in another way.
fn is_computed(operation: &Packed) -> bool {
    !matches!(operation.kernel, Kernel::Plain(Plain::Input | Plain::Parameter | Plain::See { .. }))
}

pub(crate) fn natural(axes: usize) -> Vec<usize> {
    (0..axes).collect()
}

pub(crate) fn natural_or_channels_last(axes: usize) -> Vec<usize> {
    if axes == 4 { CHANNELS_LAST.to_vec() } else { natural(axes) }
}
