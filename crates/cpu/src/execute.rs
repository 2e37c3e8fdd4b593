//! One step of a plan: which kernel it calls.

use engraft_graph::{Node, Op, Pool as Window};
use engraft_kernels::{
    self as kernels, Activation, AttentionShape, Epilogue, Function, Level, Maps, MapsMut, MapsShape, Matrix,
    Pool, Prologue, Scores,
};

use crate::attention::WindowTable;
use crate::fuse::{Before, Kind, Operation, kernel_activation};
use crate::general::{self, Operand};
use crate::layer::{Attend, Layer, Layers, Similarity};
use crate::lower::{Step, Work};
use crate::view::{Place, View};

/// A run of a plan.
pub(crate) struct Execution<'a> {
    pub(crate) level: Level,
    pub(crate) pool: &'a Pool,
    pub(crate) nodes: &'a [Node],
    pub(crate) operations: &'a [Operation],
    pub(crate) layers: &'a Layers,
    pub(crate) slot_of: &'a [usize],
    pub(crate) slots: &'a mut Vec<Vec<f32>>,
}

/// Runs a step. Its output's memory is none of its inputs'.
pub(crate) fn execute(execution: &mut Execution<'_>, step: &Step, input: &[f32]) {
    let slot = execution.slot(&step.output);
    let mut memory = std::mem::take(&mut execution.slots[slot]);
    let means_slot = step.means.as_ref().map(|means| execution.slot(means));
    let mut means = means_slot.map(|slot| std::mem::take(&mut execution.slots[slot]));
    let output = &mut memory[step.output.offset..];
    match &step.work {
        Work::Input { first_image } => {
            let image = step.output.len() / step.output.shape.first().copied().unwrap_or(1).max(1);
            execution.network_input(&input[first_image * image..], output, &step.output);
        }
        Work::Copy => general::copy(execution.pool, execution.operand(&step.inputs[0]), output, &step.output),
        Work::Operation(number) => {
            // Those of the images that go through the step now.
            let offset = step.means.as_ref().map_or(0, |means| means.offset);
            let means = means.as_deref_mut().map(|means| &mut means[offset..]);
            execution.operation(*number, step, output, means);
        }
        Work::Windows(number, table) => execution.windows(*number, step, table, output),
    }
    execution.slots[slot] = memory;
    if let (Some(slot), Some(means)) = (means_slot, means) {
        execution.slots[slot] = means;
    }
}

impl Execution<'_> {
    /// The slot of a view that is written.
    fn slot(&self, view: &View) -> usize {
        match view.place {
            Place::Buffer(buffer) => self.slot_of[buffer],
            Place::Constant(_) => unreachable!("constants are not written"),
        }
    }

    /// What a view sees, from its first value on.
    pub(crate) fn values(&self, view: &View) -> &[f32] {
        match view.place {
            Place::Buffer(buffer) => &self.slots[self.slot_of[buffer]][view.offset..],
            Place::Constant(node) => &self.layers.constants[&node][view.offset..],
        }
    }

    pub(crate) fn operand<'a>(&'a self, view: &'a View) -> Operand<'a> {
        Operand { values: self.values(view), view }
    }

    fn network_input(&self, input: &[f32], output: &mut [f32], to: &View) {
        if to.pixel_stride().is_some() {
            kernels::to_channels_last(self.pool, input, maps_mut(output, to));
            return;
        }
        let order: Vec<usize> = (0..to.shape.len()).collect();
        let view = View::dense(Place::Buffer(0), &to.shape, &order);
        general::copy(self.pool, Operand { values: input, view: &view }, output, to);
    }

    fn maps<'a>(&'a self, view: &View) -> Maps<'a> {
        let stride = view.pixel_stride().unwrap_or_else(|| unreachable!("the step was lowered to maps"));
        Maps { values: self.values(view), shape: maps_shape(view), stride }
    }

    fn rows<'a>(&'a self, view: &View) -> Matrix<'a> {
        Matrix { values: self.values(view), stride: row_stride(view) }
    }

    fn epilogue<'a>(&'a self, operation: &Operation, step: &Step, bias: &'a [f32]) -> Epilogue<'a> {
        let residual = step.residual.as_ref();
        let residual = residual
            .map(|view| Matrix { values: self.values(view), stride: product_stride(operation, view) });
        Epilogue { bias: Some(bias), residual, activation: operation.activation }
    }

    fn operation(&self, number: usize, step: &Step, output: &mut [f32], means: Option<&mut [f32]>) {
        let operation = &self.operations[number];
        let activation = operation.activation;
        match &self.layers.layers[number] {
            Layer::Product { weights, bias } => {
                let (rows, a) = match operation.kind {
                    Kind::Conv => {
                        let maps = self.maps(&step.inputs[0]);
                        (maps.shape.pixels(), Matrix { values: maps.values, stride: maps.stride })
                    }
                    _ if matches!(operation.before, Before::Flattened(_)) => {
                        let rows = step.inputs[0].shape[0];
                        (rows, Matrix { values: self.values(&step.inputs[0]), stride: weights.k() })
                    }
                    _ => (step.inputs[0].len() / weights.k(), self.rows(&step.inputs[0])),
                };
                let stride = product_stride(operation, &step.output);
                let epilogue = self.epilogue(operation, step, bias);
                let prologue = self.prologue(number, operation, step);
                kernels::gemm(self.pool, rows, a, prologue, weights, epilogue, output, stride);
            }
            Layer::Winograd { weights, bias, padding } => {
                let epilogue = self.epilogue(operation, step, bias);
                let (input, output) = (self.maps(&step.inputs[0]), maps_mut(output, &step.output));
                kernels::winograd(self.pool, input, weights, *padding, epilogue, output);
            }
            Layer::Conv { weights, bias } => {
                let epilogue = self.epilogue(operation, step, bias);
                let (input, output) = (self.maps(&step.inputs[0]), maps_mut(output, &step.output));
                kernels::conv(self.pool, input, weights, epilogue, output);
            }
            Layer::Depthwise { weights, bias, geometry } => {
                let epilogue = self.epilogue(operation, step, bias);
                let (input, output) = (self.maps(&step.inputs[0]), maps_mut(output, &step.output));
                kernels::depthwise(
                    self.pool,
                    input,
                    weights,
                    geometry.stride,
                    geometry.padding,
                    geometry.dilation,
                    epilogue,
                    means,
                    output,
                );
            }
            Layer::ExpandDepthwise { weights, between, bias, geometry } => {
                let expand =
                    operation.expand.as_ref().map_or(Activation::Identity, |expand| expand.activation);
                let between = Epilogue { bias: Some(between), residual: None, activation: expand };
                let epilogue = self.epilogue(operation, step, bias);
                let (input, output) = (self.maps(&step.inputs[0]), maps_mut(output, &step.output));
                let (stride, padding) = (geometry.stride, geometry.padding);
                kernels::expand_depthwise(
                    self.pool, input, weights, between, stride, padding, epilogue, means, output,
                );
            }
            Layer::Affine(affine) => {
                let input = self.maps(&step.inputs[0]);
                let output = maps_mut(output, &step.output);
                let size = [input.shape.pixels(), input.shape.channels];
                let function = Function::Affine { scale: &affine.scale, shift: &affine.shift };
                let x = Matrix { values: input.values, stride: input.stride };
                kernels::elementwise(
                    self.level,
                    self.pool,
                    size,
                    x,
                    function,
                    activation,
                    output.values,
                    output.stride,
                );
            }
            Layer::Norm(norm) => {
                let (rows, a, stride) = match self.nodes[operation.node].op {
                    Op::LayerNorm2d { .. } => {
                        let maps = self.maps(&step.inputs[0]);
                        let stride = step.output.pixel_stride().unwrap_or(maps.shape.channels);
                        (maps.shape.pixels(), Matrix { values: maps.values, stride: maps.stride }, stride)
                    }
                    _ => {
                        let rows = step.inputs[0].len() / norm.scale.len();
                        (rows, self.rows(&step.inputs[0]), row_stride(&step.output))
                    }
                };
                let (Op::LayerNorm { eps, .. } | Op::LayerNorm2d { eps, .. }) = self.nodes[operation.node].op
                else {
                    unreachable!("only norms have such a layer")
                };
                let columns = norm.scale.len();
                let (gamma, beta) = (&norm.scale, &norm.shift);
                kernels::layer_norm(
                    self.level,
                    self.pool,
                    [rows, columns],
                    a,
                    gamma,
                    beta,
                    eps as f32,
                    output,
                    stride,
                );
            }
            Layer::Attend(attend) => {
                let input = &step.inputs[0];
                let axes = input.shape.len();
                let tokens = input.shape[axes - 2];
                let groups = input.len() / input.shape[axes - 1] / tokens;
                self.attention(attend, input, [groups, tokens], None, output);
            }
            Layer::Nothing => self.without_weights(operation, step, output),
        }
    }

    fn prologue<'a>(&'a self, number: usize, operation: &Operation, step: &Step) -> Prologue<'a> {
        match operation.before {
            Before::Affine(_, activation) => {
                let affine = &self.layers.before[&number];
                Prologue::Affine { scale: &affine.scale, shift: &affine.shift, activation }
            }
            Before::Scale(_) => {
                let &[_, _, height, width] = &step.inputs[0].shape[..] else {
                    unreachable!("only images are scaled")
                };
                let gate = self.maps(&step.inputs[1]);
                Prologue::ImageScale {
                    scale: Matrix { values: gate.values, stride: gate.stride },
                    rows_per_image: height * width,
                }
            }
            _ => Prologue::None,
        }
    }

    fn windows(&self, number: usize, step: &Step, table: &WindowTable, output: &mut [f32]) {
        let Layer::Attend(attend) = &self.layers.layers[number] else {
            unreachable!("only attentions have windows")
        };
        let groups = step.inputs[0].shape[0] * table.windows;
        self.attention(attend, &step.inputs[0], [groups, table.tokens], Some(table), output);
    }

    fn attention(
        &self,
        attend: &Attend,
        input: &View,
        [groups, tokens]: [usize; 2],
        table: Option<&WindowTable>,
        output: &mut [f32],
    ) {
        let dim = attend.padding.len() / 3;
        let shape = AttentionShape { groups, tokens, heads: attend.heads, head_dim: dim / attend.heads };
        let similarity = match &attend.similarity {
            Similarity::Product(scale) => kernels::Similarity::Product(*scale),
            Similarity::Cosine(scales) => kernels::Similarity::Cosine(scales),
        };
        let mask = table.and_then(|table| table.mask.as_deref());
        let scores = Scores { similarity, bias: attend.position.as_deref(), mask };
        let windows = table.map(|table| kernels::Windows { rows: &table.rows, padding: &attend.padding });
        kernels::attention(self.level, self.pool, shape, self.rows(input), scores, windows, output, dim);
    }

    /// The rows of an input whose views [lie alike](lie_alike).
    fn ordered_rows<'a>(&'a self, view: &View, step: &Step) -> Matrix<'a> {
        Matrix { values: self.values(view), stride: row_stride(&view.permuted(&step.output.order())) }
    }

    fn elementwise(&self, function: Function<'_>, activation: Activation, step: &Step, output: &mut [f32]) {
        let ordered = step.output.permuted(&step.output.order());
        let columns = ordered.shape.last().copied().unwrap_or(1);
        let size = [step.output.len() / columns.max(1), columns];
        let x = self.ordered_rows(&step.inputs[0], step);
        kernels::elementwise(
            self.level,
            self.pool,
            size,
            x,
            function,
            activation,
            output,
            row_stride(&ordered),
        );
    }

    fn without_weights(&self, operation: &Operation, step: &Step, output: &mut [f32]) {
        let (input, to) = (&step.inputs[0], &step.output);
        match &self.nodes[operation.node].op {
            Op::MaxPool2d(window) => {
                kernels::max_pool(
                    self.level,
                    self.pool,
                    self.maps(input),
                    pool_window(window),
                    maps_mut(output, to),
                );
            }
            Op::AvgPool2d { window, count_include_pad } => {
                let (input, output) = (self.maps(input), maps_mut(output, to));
                kernels::avg_pool(
                    self.level,
                    self.pool,
                    input,
                    pool_window(window),
                    *count_include_pad,
                    output,
                );
            }
            Op::AdaptiveAvgPool2d { .. } => {
                kernels::adaptive_avg_pool(self.level, self.pool, self.maps(input), maps_mut(output, to));
            }
            Op::Mean { .. } if to.pixel_stride().is_some() && input.pixel_stride().is_some() => {
                kernels::adaptive_avg_pool(self.level, self.pool, self.maps(input), maps_mut(output, to));
            }
            Op::Activation { function, .. } if lie_alike(step) => {
                self.elementwise(Function::Identity, kernel_activation(*function), step, output);
            }
            Op::Add if lie_alike(step) => {
                self.elementwise(
                    Function::Add(self.ordered_rows(&step.inputs[1], step)),
                    Activation::Identity,
                    step,
                    output,
                );
            }
            Op::Mul if lie_alike(step) => {
                self.elementwise(
                    Function::Multiply(self.ordered_rows(&step.inputs[1], step)),
                    Activation::Identity,
                    step,
                    output,
                );
            }
            op => {
                let inputs: Vec<Operand<'_>> = step.inputs.iter().map(|view| self.operand(view)).collect();
                general::compute(self.pool, op, &inputs, output, to);
            }
        }
    }
}

/// Whether all views of a step have one shape and lie in rows when the output's axes are in their order.
fn lie_alike(step: &Step) -> bool {
    let order = step.output.order();
    step.views().all(|view| view.shape == step.output.shape && view.permuted(&order).row_stride().is_some())
}

fn maps_shape(view: &View) -> MapsShape {
    let &[batch, channels, height, width] = &view.shape[..] else {
        unreachable!("the step was lowered to maps")
    };
    MapsShape { batch, height, width, channels }
}

fn maps_mut<'a>(values: &'a mut [f32], view: &View) -> MapsMut<'a> {
    let stride = view.pixel_stride().unwrap_or_else(|| unreachable!("the step was lowered to maps"));
    MapsMut { values, shape: maps_shape(view), stride }
}

/// From row to row of what a product writes or adds: of pixels or of features, even if there is but one channel.
fn product_stride(operation: &Operation, view: &View) -> usize {
    let stride = if operation.kind == Kind::Conv { view.pixel_stride() } else { view.row_stride() };
    stride.unwrap_or_else(|| unreachable!("the step was lowered to rows"))
}

fn row_stride(view: &View) -> usize {
    view.row_stride().unwrap_or_else(|| unreachable!("the step was lowered to rows"))
}

fn pool_window(window: &Window) -> kernels::PoolGeometry {
    kernels::PoolGeometry { kernel: window.kernel, stride: window.stride, padding: window.padding }
}
