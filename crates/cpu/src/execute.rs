//! Calls as they run: kernels on the memory of a plan.

use std::ops::Range;

use engraft_kernels::{
    self as kernels, AttentionShape, Epilogue, Function, LayerNorm, Level, MapsMut, MapsShape, Matrix,
    MatrixMut, Pool, Prologue, Scores,
};

use crate::call::{At, Call, Maps, Rows, Strided, Tokens, Windows};
use crate::general::{Operand, Target, copy};
use crate::pack::{AttendLayer, DepthwiseKernel, Finish, Similarity};
use crate::program::Combine;
use crate::view::{Place, View};

/// What a plan runs on.
pub(crate) struct Execution<'a> {
    pub(crate) level: Level,
    pub(crate) pool: &'a Pool,
    /// Parameters that are operands, by node.
    pub(crate) parameters: &'a [Vec<f32>],
    /// The slot of each buffer.
    pub(crate) slot_of: &'a [usize],
    /// Whether a buffer has the values of the whole batch, not only those of the images of a call.
    pub(crate) crossing: &'a [bool],
    pub(crate) slots: &'a mut [Vec<f32>],
}

/// Runs a call for some images of a batch. Its output's memory is none of its inputs'.
pub(crate) fn execute(execution: &mut Execution<'_>, call: &Call, images: Range<usize>, input: &[f32]) {
    // Taken out, so that they can be written while the others are read.
    let mut output = execution.take(&call.to().at);
    let mut means = call.means().map(|means| (execution.take(&means.at), means.at));
    let running = Running { execution, images };
    let start = running.start(&call.to().at);
    let along = means.as_mut().map(|(memory, at)| &mut memory[running.start(at)..]);
    running.call(call, input, &mut output[start..], along);
    execution.put_back(&call.to().at, output);
    if let Some((memory, at)) = means {
        execution.put_back(&at, memory);
    }
}

impl Execution<'_> {
    /// The memory of an operand that is written: never a parameter.
    fn take(&mut self, at: &At) -> Vec<f32> {
        match at.place {
            Place::Buffer(buffer) => std::mem::take(&mut self.slots[self.slot_of[buffer]]),
            Place::Constant(_) => Vec::new(),
        }
    }

    fn put_back(&mut self, at: &At, memory: Vec<f32>) {
        if let Place::Buffer(buffer) = at.place {
            self.slots[self.slot_of[buffer]] = memory;
        }
    }

    /// The network's output for a batch, in the order of its axes.
    pub(crate) fn output(&self, from: &Strided, batch: usize) -> (Vec<usize>, Vec<f32>) {
        let running = Running { execution: self, images: 0..batch };
        let from = running.strided(from);
        let mut values = vec![0.0; from.view.len()];
        let order: Vec<usize> = (0..from.view.shape.len()).collect();
        let to = View::dense(Place::Buffer(0), &from.view.shape, &order);
        let shape = to.shape.clone();
        copy(self.pool, &from, Target { values: &mut values, view: to });
        (shape, values)
    }
}

/// Some images on their way.
struct Running<'a> {
    execution: &'a Execution<'a>,
    images: Range<usize>,
}

impl<'a> Running<'a> {
    /// Where an operand begins in its memory.
    fn start(&self, at: &At) -> usize {
        let whole_batch = match at.place {
            Place::Buffer(buffer) => self.execution.crossing[buffer],
            Place::Constant(_) => false,
        };
        at.offset + if whole_batch { self.images.start * at.image } else { 0 }
    }

    fn values(&self, at: &At) -> &'a [f32] {
        let memory = match at.place {
            Place::Buffer(buffer) => &self.execution.slots[self.execution.slot_of[buffer]],
            Place::Constant(node) => &self.execution.parameters[node],
        };
        &memory[self.start(at)..]
    }

    fn matrix(&self, rows: &Rows) -> Matrix<'a> {
        Matrix { values: self.values(&rows.at), stride: rows.stride }
    }

    fn rows(&self, rows: &Rows) -> usize {
        rows.rows * self.images.len()
    }

    fn maps(&self, maps: &Maps) -> kernels::Maps<'a> {
        kernels::Maps { values: self.values(&maps.at), shape: self.shape(maps), stride: maps.stride }
    }

    fn maps_mut<'b>(&self, maps: &Maps, values: &'b mut [f32]) -> MapsMut<'b> {
        MapsMut { values, shape: self.shape(maps), stride: maps.stride }
    }

    fn shape(&self, maps: &Maps) -> MapsShape {
        MapsShape { batch: maps.shape.batch * self.images.len(), ..maps.shape }
    }

    fn strided(&self, strided: &Strided) -> Operand<'a> {
        Operand { values: self.values(&strided.at), view: strided.of_images(self.images.len()) }
    }

    fn target<'b>(&self, strided: &Strided, values: &'b mut [f32]) -> Target<'b> {
        Target { values, view: strided.of_images(self.images.len()) }
    }

    fn epilogue(&self, bias: &'a [f32], finish: &Finish<Rows>) -> Epilogue<'a> {
        let residual = finish.residual.as_ref().map(|rows| self.matrix(rows));
        Epilogue { bias: Some(bias), residual, activation: finish.activation }
    }

    fn call(&self, call: &'a Call, input: &[f32], output: &mut [f32], means: Option<&mut [f32]>) {
        let Execution { level, pool, .. } = *self.execution;
        match call {
            Call::Input { to } => {
                let image = to.view.len();
                let target = self.target(to, output);
                let order: Vec<usize> = (0..target.view.shape.len()).collect();
                let view = View::dense(Place::Buffer(0), &target.view.shape, &order);
                let values = &input[self.images.start * image..][..view.len()];
                match (target.view.pixel_stride(), &target.view.shape[..]) {
                    (Some(stride), &[batch, channels, height, width]) => {
                        let shape = MapsShape { batch, height, width, channels };
                        let output = MapsMut { values: target.values, shape, stride };
                        kernels::to_channels_last(pool, values, output);
                    }
                    _ => copy(pool, &Operand { values, view }, target),
                }
            }
            Call::Copy { from, to } => copy(pool, &self.strided(from), self.target(to, output)),
            Call::Product { layer, x, scale, finish, to } => {
                let prologue = match (&layer.before, scale) {
                    (Some((affine, activation)), _) => Prologue::Affine {
                        scale: &affine.scale,
                        shift: &affine.shift,
                        activation: *activation,
                    },
                    (None, Some(scale)) => {
                        Prologue::ImageScale { scale: self.matrix(&scale.values), rows_per_image: scale.rows }
                    }
                    (None, None) => Prologue::None,
                };
                let epilogue = self.epilogue(&layer.bias, finish);
                let (rows, a) = (self.rows(x), self.matrix(x));
                kernels::gemm(pool, rows, a, prologue, &layer.weights, epilogue, output, to.stride);
            }
            Call::Winograd { layer, x, finish, to } => {
                let epilogue = self.epilogue(&layer.bias, finish);
                let output = self.maps_mut(to, output);
                kernels::winograd(pool, self.maps(x), &layer.weights, layer.padding, epilogue, output);
            }
            Call::Conv { layer, x, finish, to } => {
                let epilogue = self.epilogue(&layer.bias, finish);
                kernels::conv(pool, self.maps(x), &layer.weights, epilogue, self.maps_mut(to, output));
            }
            Call::Depthwise { layer, x, finish, to, .. } => {
                let epilogue = self.epilogue(&layer.bias, finish);
                let (input, output) = (self.maps(x), self.maps_mut(to, output));
                match &layer.weights {
                    DepthwiseKernel::Alone(weights) => {
                        kernels::depthwise(pool, input, weights, epilogue, means, output);
                    }
                    DepthwiseKernel::Expand(weights, bias, activation) => {
                        let between = Epilogue { bias: Some(bias), residual: None, activation: *activation };
                        let kernels::ConvGeometry { stride, padding, .. } = layer.geometry;
                        kernels::expand_depthwise(
                            pool, input, weights, between, stride, padding, epilogue, means, output,
                        );
                    }
                }
            }
            Call::Affine { layer, x, to } => {
                let function = Function::Affine { scale: &layer.affine.scale, shift: &layer.affine.shift };
                self.elementwise(x, function, layer.activation, to, output);
            }
            Call::Norm { layer, x, to } => {
                let (size, output) = ([self.rows(x), x.columns], matrix_mut(to, output));
                let norm =
                    LayerNorm { gamma: &layer.affine.scale, beta: &layer.affine.shift, eps: layer.eps };
                kernels::layer_norm(level, pool, size, self.matrix(x), norm, output);
            }
            Call::Softmax { x, to } => {
                let size = [self.rows(x), x.columns];
                kernels::softmax(level, pool, size, self.matrix(x), matrix_mut(to, output));
            }
            Call::Attend { layer, tokens, x, to } => self.attend(layer, tokens, x, to, output),
            Call::Pool { windows, x, to } => {
                let (input, output) = (self.maps(x), self.maps_mut(to, output));
                match *windows {
                    Windows::Max(window) => kernels::max_pool(level, pool, input, window, output),
                    Windows::Average { window, count_include_pad } => {
                        kernels::avg_pool(level, pool, input, window, count_include_pad, output);
                    }
                    Windows::Adaptive => kernels::adaptive_avg_pool(level, pool, input, output),
                }
            }
            Call::Activation { function, x, to } => {
                self.elementwise(x, Function::Identity, *function, to, output);
            }
            Call::Combine { by, x, other, to } => {
                let other = self.matrix(other);
                let function = match by {
                    Combine::Add => Function::Add(other),
                    Combine::Multiply => Function::Multiply(other),
                };
                self.elementwise(x, function, kernels::Activation::Identity, to, output);
            }
            Call::General { what, inputs, to } => {
                let inputs: Vec<Operand<'_>> = inputs.iter().map(|input| self.strided(input)).collect();
                what.compute(level, pool, &inputs, self.target(to, output));
            }
        }
    }

    fn elementwise(
        &self,
        x: &Rows,
        function: Function<'_>,
        activation: kernels::Activation,
        to: &Rows,
        output: &mut [f32],
    ) {
        let Execution { level, pool, .. } = *self.execution;
        let size = [self.rows(x), x.columns];
        let output = matrix_mut(to, output);
        kernels::elementwise(level, pool, size, self.matrix(x), function, activation, output);
    }

    fn attend(&self, layer: &'a AttendLayer, tokens: &Tokens, x: &Rows, to: &Rows, output: &mut [f32]) {
        let Execution { level, pool, .. } = *self.execution;
        let similarity = match &layer.similarity {
            Similarity::Product(scale) => kernels::Similarity::Product(*scale),
            Similarity::Cosine(scales) => kernels::Similarity::Cosine(scales),
        };
        let (groups, tokens, mask, windows) = match tokens {
            Tokens::Groups(tokens) => (self.rows(x) / tokens, *tokens, None, None),
            Tokens::Windows(table) => {
                // A unit may be a batch of images.
                let images = self.rows(x) / table.pixels;
                let windows = kernels::Windows { rows: &table.rows, padding: &layer.padding };
                (images * table.windows, table.tokens, table.mask.as_deref(), Some(windows))
            }
        };
        let head_dim = layer.dim / layer.heads;
        let shape = AttentionShape { groups, tokens, heads: layer.heads, head_dim };
        let scores = Scores { similarity, bias: layer.position.as_deref(), mask };
        kernels::attention(level, pool, shape, self.matrix(x), scores, windows, output, to.stride);
    }
}

fn matrix_mut<'a>(to: &Rows, values: &'a mut [f32]) -> MatrixMut<'a> {
    MatrixMut { values, stride: to.stride }
}
