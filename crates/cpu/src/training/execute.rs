//! The steps of a training plan as they run.

use std::ops::{ControlFlow, Range};

use engraft_engine::dropout_mask;
use engraft_graph::{Graph, Op, Scores};
use engraft_kernels::{
    self as kernels, Activation, AttentionGradients, AttentionShape, BatchNorm, FoldedNorm, Function,
    GradientEpilogue, Level, Maps, MapsMut, Matrix, MatrixMut, Pool, PoolGeometry, Prologue,
};

use super::layers::{Layers, Lies, Packed};
use super::parameters::Parameters;
use super::plan::TrainingPlan;
use super::position::position_gradients;
use super::step::{AttentionGradient, Folded, Norm, NormGradient, Step, Sum, position_tensors};
use engraft_tensor::Tensor;

use crate::call::{self, At, Call, Rows, Strided, Tokens};
use crate::execute::{Execution, execute};
use crate::general::for_each;
use crate::pack::{Finish, Similarity};
use crate::view::{Place, View};

/// What a batch is run with.
pub(crate) struct Run<'a> {
    pub(crate) level: Level,
    pub(crate) pool: &'a Pool,
    pub(crate) graph: &'a Graph,
    pub(crate) parameters: &'a mut Parameters,
    pub(crate) layers: &'a mut Layers,
    pub(crate) slots: &'a mut [Vec<f32>],
    pub(crate) plan: &'a TrainingPlan,
    pub(crate) input: &'a [f32],
    /// Of each output.
    pub(crate) coefficients: &'a [&'a [f32]],
    /// The examples of the plan among those of the batch, which may be more.
    pub(crate) examples: Range<usize>,
    pub(crate) scale: f32,
    pub(crate) draw: u64,
    /// Of all outputs, so far.
    pub(crate) loss: f64,
}

impl Run<'_> {
    /// Runs a step.
    pub(crate) fn step(&mut self, step: &Step) {
        if self.call(step).is_break() {
            return;
        }
        // What is written is taken out, so that it can be changed while others are read.
        let written = step.writes();
        let mut memory = match written.map(|extent| extent.at.place) {
            Some(Place::Buffer(buffer)) => std::mem::take(&mut self.slots[self.plan.memory.slot_of[buffer]]),
            Some(Place::Constant(_)) | None => Vec::new(),
        };
        let start = written.map_or(0, |extent| extent.at.offset);
        self.kernel(step, &mut memory[start..]);
        if let Some(Place::Buffer(buffer)) = written.map(|extent| extent.at.place) {
            self.slots[self.plan.memory.slot_of[buffer]] = memory;
        }
    }

    /// Runs a step that is a call of plans for evaluation, too.
    fn call(&mut self, step: &Step) -> ControlFlow<()> {
        let layered;
        let call = match step {
            Step::Call(call) => call,
            Step::Layer { layer, x, residual, to, tokens } => {
                let packed = self.layer(*layer);
                let finish = Finish { residual: *residual, activation: self.layers.activation(*layer) };
                layered = packed.call(*x, finish, *to, tokens.as_ref());
                match &layered {
                    Some(call) => call,
                    None => return ControlFlow::Break(()),
                }
            }
            _ => return ControlFlow::Continue(()),
        };
        self.execute(call);
        ControlFlow::Break(())
    }

    fn execute(&mut self, call: &Call) {
        let slot_of = &self.plan.memory.slot_of;
        let mut execution = Execution {
            level: self.level,
            pool: self.pool,
            parameters: &self.parameters.values,
            slot_of,
            crossing: &self.plan.crossing,
            slots: self.slots,
        };
        execute(&mut execution, call, 0..1, self.input);
    }

    /// The network's output.
    pub(crate) fn logits(&mut self) -> Tensor {
        let execution = Execution {
            level: self.level,
            pool: self.pool,
            parameters: &self.parameters.values,
            slot_of: &self.plan.memory.slot_of,
            crossing: &self.plan.crossing,
            slots: self.slots,
        };
        let (shape, values) = execution.output(&self.plan.logits, 1);
        Tensor::f32(shape, values)
    }

    fn layer(&mut self, layer: usize) -> Packed {
        self.layers.get(layer, self.level, self.pool, self.graph, self.parameters)
    }

    fn values(&self, at: &At) -> &[f32] {
        let memory = match at.place {
            Place::Buffer(buffer) => &self.slots[self.plan.memory.slot_of[buffer]],
            Place::Constant(tensor) => &self.parameters.values[tensor],
        };
        &memory[at.offset..]
    }

    fn matrix(&self, rows: &Rows) -> Matrix<'_> {
        Matrix { values: self.values(&rows.at), stride: rows.stride }
    }

    fn maps(&self, maps: &call::Maps) -> Maps<'_> {
        Maps { values: self.values(&maps.at), shape: maps.shape, stride: maps.stride }
    }

    /// Takes the gradient of a tensor out, and says whether something is to be added to it.
    fn take(&mut self, sum: Sum) -> Option<(Vec<f32>, bool)> {
        match sum {
            Sum::Trained { place, first } => {
                let adds = !first || self.parameters.has_gradients;
                Some((std::mem::take(&mut self.parameters.trained[place].gradient), adds))
            }
            Sum::Frozen | Sum::Buffer(_) => None,
        }
    }

    fn put_back(&mut self, sum: Sum, gradient: Option<(Vec<f32>, bool)>) {
        if let (Sum::Trained { place, .. }, Some((gradient, _))) = (sum, gradient) {
            self.parameters.trained[place].gradient = gradient;
        }
    }

    /// Calls with where a gradient goes, and whether it is added to what is there; with the memory given if it goes to a buffer.
    fn summed(&mut self, sum: Sum, memory: &mut [f32], body: impl FnOnce(&Self, &mut [f32], bool)) {
        if let Sum::Buffer(_) = sum {
            return body(self, memory, false);
        }
        let mut taken = self.take(sum);
        if let Some((gradient, adds)) = &mut taken {
            body(self, gradient, *adds);
        }
        self.put_back(sum, taken);
    }

    fn kernel(&mut self, step: &Step, memory: &mut [f32]) {
        let (level, pool) = (self.level, self.pool);
        let size = |rows: &Rows| [rows.rows, rows.columns];
        match step {
            // These are calls.
            Step::Call(_) | Step::Layer { .. } => {}
            Step::Mask { node, p, to } => {
                let values = to.view.len();
                let first = self.examples.start * (values / self.examples.len().max(1));
                mask(dropout_mask(self.draw, *node, first..first + values, *p), to, memory);
            }
            Step::Scale { x, factors, rows_per_image, to } => {
                let (scale, rows_per_image) = (self.matrix(factors), *rows_per_image);
                let function = Function::Scale { scale, rows_per_image };
                let x_rows = self.matrix(x);
                kernels::elementwise(
                    level,
                    pool,
                    size(x),
                    x_rows,
                    function,
                    Activation::Identity,
                    MatrixMut { values: memory, stride: to.stride },
                );
            }
            Step::ScaleImages { x, factors, rows_per_image, to } => {
                let factors = self.values(&factors.at);
                kernels::scale_images(
                    level,
                    pool,
                    size(x),
                    self.matrix(x),
                    factors,
                    *rows_per_image,
                    memory,
                    to.stride,
                );
            }
            Step::Statistics { norm, x, .. } => self.statistics(*norm, x, memory),
            Step::Normalise { x, statistics, residual, activation, to } => {
                let [_, _, scale, shift] = parts(self.values(&statistics.at), x.columns);
                let residual = residual.as_ref().map(|rows| self.matrix(rows));
                kernels::normalise(
                    level,
                    pool,
                    size(x),
                    self.matrix(x),
                    scale,
                    shift,
                    residual,
                    *activation,
                    memory,
                    to.stride,
                );
            }
            Step::Loss { output, logits, to } => {
                let coefficients = self.coefficients[*output];
                let gradient = Some((&mut *memory, to.stride));
                let loss = kernels::cross_entropy(
                    level,
                    pool,
                    size(logits),
                    self.matrix(logits),
                    coefficients,
                    gradient,
                );
                let weight = self.plan.weights[*output];
                self.loss += weight * loss;
                let factor = self.scale * weight as f32;
                if factor != 1.0 {
                    memory[..to.rows * to.columns].iter_mut().for_each(|value| *value *= factor);
                }
            }
            Step::Zero { to } => fill(to, memory),
            Step::Add { x, to } => kernels::add_rows(level, pool, size(x), self.matrix(x), memory, to.stride),
            Step::AddStrided { x, to } => {
                let x_values = self.values(&x.at);
                for_each(&x.view.shape, [&x.view.strides, &to.view.strides], |[from, at]| {
                    memory[at] += x_values[from];
                });
            }
            Step::AddColumnSums { x, .. } => {
                kernels::column_sums(level, pool, size(x), self.matrix(x), true, memory);
            }
            Step::AddColumnProducts { x, y, rows_per_image, to } => {
                let (x_rows, y) = (self.matrix(x), self.matrix(y));
                kernels::column_products(
                    level,
                    pool,
                    size(x),
                    x_rows,
                    y,
                    *rows_per_image,
                    true,
                    memory,
                    to.stride,
                );
            }
            Step::Activation { function, z, dy, dx } => {
                let dy = dy.as_ref().map(|dy| self.matrix(dy));
                kernels::activation_backward(
                    level,
                    pool,
                    size(z),
                    *function,
                    self.matrix(z),
                    dy,
                    memory,
                    dx.stride,
                );
            }
            Step::Softmax { y, dy, dx } => {
                kernels::softmax_backward(
                    level,
                    pool,
                    size(y),
                    self.matrix(y),
                    self.matrix(dy),
                    memory,
                    dx.stride,
                );
            }
            Step::InputGradient { layer, dy, accumulate, activation, dx } => {
                let packed = self.layer(*layer);
                let activation = activation.map(|(function, z)| (function, self.matrix(&z)));
                let epilogue = GradientEpilogue { accumulate: *accumulate, activation };
                self.input_gradient(&packed, dy, epilogue, dx, memory);
            }
            Step::ProductGradient { x, dy, to } => self.summed(*to, memory, |run, dw, adds| {
                let (x_rows, dy_rows) = (run.matrix(x), run.matrix(dy));
                let size = [dy.columns, x.columns];
                let dw = &mut dw[..dy.columns * x.columns];
                kernels::product_weight_gradient(
                    level,
                    pool,
                    x.rows,
                    size,
                    x_rows,
                    Prologue::None,
                    dy_rows,
                    adds,
                    dw,
                );
            }),
            Step::ConvGradient { geometry, x, dy, to } => self.summed(*to, memory, |run, dw, adds| {
                run.conv_gradient(*geometry, x, dy, adds, dw);
            }),
            Step::BiasGradient { dy, without, to } => self.summed(*to, memory, |run, sums, adds| {
                let kept = without.map(|[first, end]| sums[first..end].to_vec());
                kernels::column_sums(level, pool, size(dy), run.matrix(dy), adds, sums);
                if let (Some([first, end]), Some(kept)) = (without, kept) {
                    match adds {
                        true => sums[*first..*end].copy_from_slice(&kept),
                        false => sums[*first..*end].fill(0.0),
                    }
                }
            }),
            Step::FoldedGradient(folded) => self.folded_gradient(folded, memory),
            Step::NormGradient(gradient) => self.norm_gradient(gradient, memory),
            Step::LayerNormGradient { node, eps, x, dy, gamma, beta, accumulate, dx } => {
                let [mut dgamma, mut dbeta] = [self.take(*gamma), self.take(*beta)];
                let mut unused = [vec![0.0; x.columns], vec![0.0; x.columns]];
                let mut whole = Vec::new();
                let [unused_gamma, unused_beta] = &mut unused;
                let adds = dgamma.as_ref().or(dbeta.as_ref()).is_some_and(|(_, adds)| *adds);
                let weight = self.parameters.of(&self.graph.nodes()[*node], "weight");
                let (to, stride) = match dx {
                    Some(dx) => (memory, dx.stride),
                    None => {
                        whole.resize(x.rows * x.columns, 0.0);
                        (&mut whole[..], x.columns)
                    }
                };
                let epilogue = GradientEpilogue { accumulate: *accumulate, activation: None };
                kernels::layer_norm_backward(
                    level,
                    pool,
                    size(x),
                    self.matrix(x),
                    weight,
                    *eps as f32,
                    self.matrix(dy),
                    adds,
                    dgamma.as_mut().map_or(unused_gamma, |(gradient, _)| gradient),
                    dbeta.as_mut().map_or(unused_beta, |(gradient, _)| gradient),
                    epilogue,
                    to,
                    stride,
                );
                self.put_back(*gamma, dgamma);
                self.put_back(*beta, dbeta);
            }
            Step::Attention(gradient) => self.attention_gradient(gradient, memory),
            Step::MaxPool { window, x, dy, accumulate, dx } => {
                let to = MapsMut { values: memory, shape: dx.shape, stride: dx.stride };
                let epilogue = GradientEpilogue { accumulate: *accumulate, activation: None };
                kernels::max_pool_backward(
                    level,
                    pool,
                    self.maps(x),
                    pool_geometry(window),
                    self.maps(dy),
                    epilogue,
                    to,
                );
            }
            Step::AvgPool { window, count_include_pad, dy, accumulate, dx } => {
                let to = MapsMut { values: memory, shape: dx.shape, stride: dx.stride };
                let epilogue = GradientEpilogue { accumulate: *accumulate, activation: None };
                let (window, dy) = (pool_geometry(window), self.maps(dy));
                kernels::avg_pool_backward(level, pool, window, *count_include_pad, dy, epilogue, to);
            }
            Step::AdaptivePool { dy, accumulate, dx } => {
                let to = MapsMut { values: memory, shape: dx.shape, stride: dx.stride };
                let epilogue = GradientEpilogue { accumulate: *accumulate, activation: None };
                kernels::adaptive_avg_pool_backward(level, pool, self.maps(dy), epilogue, to);
            }
            Step::OperandGradient { dy, to } => self.summed(*to, memory, |run, gradient, adds| {
                if !adds {
                    gradient.fill(0.0);
                }
                let order: Vec<usize> = (0..dy.view.shape.len()).collect();
                let to = View::dense(Place::Buffer(0), &dy.view.shape, &order);
                let values = run.values(&dy.at);
                for_each(&dy.view.shape, [&dy.view.strides, &to.strides], |[from, at]| {
                    gradient[at] += values[from]
                });
            }),
        }
    }

    /// The statistics of a batch for a norm, which it remembers.
    fn statistics(&mut self, norm: Norm, x: &Rows, to: &mut [f32]) {
        let channels = x.columns;
        let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
        let size = [x.rows, channels];
        kernels::batch_statistics(self.level, self.pool, size, self.matrix(x), &mut mean, &mut variance);
        let rstd: Vec<f32> =
            variance.iter().map(|var| (1.0 / (f64::from(*var) + norm.eps).sqrt()) as f32).collect();
        let node = &self.graph.nodes()[norm.node];
        let (first, second) = to[..4 * channels].split_at_mut(2 * channels);
        let (scale, shift) = second.split_at_mut(channels);
        let batch_norm = BatchNorm {
            mean: &mean,
            rstd: &rstd,
            gamma: self.parameters.of(node, "weight"),
            beta: self.parameters.of(node, "bias"),
            batch: true,
        };
        kernels::batch_norm_affine(batch_norm, scale, shift);
        first[..channels].copy_from_slice(&mean);
        first[channels..].copy_from_slice(&rstd);
        // PyTorch normalises by the biased variance and keeps the unbiased one.
        let unbiased = (x.rows as f64 / (x.rows as f64 - 1.0)) as f32;
        let [keep, take] = [1.0 - norm.momentum, norm.momentum].map(|share| share as f32);
        for (name, new, factor) in [("running_mean", mean, 1.0), ("running_var", variance, unbiased)] {
            let id = self.parameters.id(node, name);
            let running = self.parameters.values[id].iter_mut();
            running.zip(new).for_each(|(running, new)| *running = *running * keep + new * factor * take);
        }
        let counter = self.parameters.id(node, "num_batches_tracked");
        self.parameters.count_batch(counter);
    }

    fn input_gradient(
        &self,
        packed: &Packed,
        dy: &Lies,
        epilogue: GradientEpilogue<'_>,
        dx: &Lies,
        memory: &mut [f32],
    ) {
        match (packed, dy, dx) {
            (Packed::Transposed(weights), Lies::Rows(dy), Lies::Rows(dx)) => {
                let stride = dx.stride;
                kernels::product_input_gradient(
                    self.pool,
                    dy.rows,
                    self.matrix(dy),
                    weights,
                    epilogue,
                    memory,
                    stride,
                );
            }
            (Packed::ConvGradient(weights), Lies::Maps(dy), Lies::Maps(dx)) => {
                let dx = MapsMut { values: memory, shape: dx.shape, stride: dx.stride };
                kernels::conv_input_gradient(self.pool, self.maps(dy), weights, epilogue, dx);
            }
            (Packed::DepthwiseGradient(weights), Lies::Maps(dy), Lies::Maps(dx)) => {
                let dx = MapsMut { values: memory, shape: dx.shape, stride: dx.stride };
                kernels::depthwise_input_gradient(self.pool, self.maps(dy), weights, epilogue, dx);
            }
            _ => debug_assert!(false, "a gradient lies as its layer reads it"),
        }
    }

    fn conv_gradient(
        &self,
        geometry: kernels::ConvGeometry,
        x: &call::Maps,
        dy: &call::Maps,
        adds: bool,
        dw: &mut [f32],
    ) {
        let (level, pool) = (self.level, self.pool);
        let (input, gradient) = (self.maps(x), self.maps(dy));
        let kernels::ConvGeometry { kernel, stride, padding, dilation, groups } = geometry;
        let [inputs, outputs] = [x.shape.channels, dy.shape.channels];
        let dw = &mut dw[..outputs * (inputs / groups) * kernel[0] * kernel[1]];
        if groups == inputs && groups == outputs {
            kernels::depthwise_weight_gradient(
                level, pool, input, gradient, kernel, stride, padding, dilation, adds, dw,
            );
        } else if kernel == [3, 3]
            && stride == [1, 1]
            && dilation == [1, 1]
            && groups == 1
            && inputs >= MANY_CHANNELS
            && outputs >= MANY_CHANNELS
        {
            kernels::winograd_weight_gradient(level, pool, input, gradient, padding, adds, dw);
        } else {
            kernels::conv_weight_gradient(level, pool, input, gradient, geometry, adds, dw);
        }
    }

    fn folded_gradient(&mut self, folded: &Folded, dw: &mut [f32]) {
        let Folded { conv, norm, weight, bias, gamma, beta, .. } = *folded;
        let (conv, node) = (&self.graph.nodes()[conv], &self.graph.nodes()[norm.node]);
        let channels = folded.dbias.columns;
        let dbias = self.values(&folded.dbias.at)[..channels].to_vec();
        let rstd = self.running_rstd(norm);
        let of_norm = |name| self.parameters.of(node, name);
        let mut mean = of_norm("running_mean").to_vec();
        let scale: Vec<f32> = of_norm("weight").iter().zip(&rstd).map(|(gamma, rstd)| gamma * rstd).collect();
        if let Op::Conv2d(engraft_graph::Conv2d { bias: true, .. }) = conv.op {
            // The norm of `x + bias` is that of `x` with another mean.
            mean.iter_mut().zip(self.parameters.of(conv, "bias")).for_each(|(mean, bias)| *mean -= bias);
        }
        if let Some(rows) = &folded.dw {
            let dw = &mut dw[..rows.rows * rows.columns];
            let mut dgamma = vec![0.0; channels];
            let folded = FoldedNorm {
                weight: self.parameters.of(conv, "weight"),
                mean: &mean,
                rstd: &rstd,
                gamma: of_norm("weight"),
            };
            kernels::folded_norm_backward(folded, &dbias, dw, Some(&mut dgamma));
            self.add_to(weight, dw);
            self.add_to(gamma, &dgamma);
        }
        let scaled: Vec<f32> = dbias.iter().zip(&scale).map(|(dbias, scale)| dbias * scale).collect();
        self.add_to(bias, &scaled);
        self.add_to(beta, &dbias);
    }

    fn add_to(&mut self, sum: Sum, values: &[f32]) {
        let (level, pool) = (self.level, self.pool);
        let mut taken = self.take(sum);
        match &mut taken {
            Some((gradient, true)) => {
                let x = Matrix { values, stride: values.len() };
                let columns = values.len();
                kernels::add_rows(level, pool, [1, columns], x, gradient, columns);
            }
            Some((gradient, false)) => gradient.copy_from_slice(values),
            None => {}
        }
        self.put_back(sum, taken);
    }

    /// The reciprocals of a norm's running deviations.
    fn running_rstd(&self, norm: Norm) -> Vec<f32> {
        let variances = self.parameters.of(&self.graph.nodes()[norm.node], "running_var");
        variances.iter().map(|var| (1.0 / (f64::from(*var) + norm.eps).sqrt()) as f32).collect()
    }

    fn norm_gradient(&mut self, gradient: &NormGradient, memory: &mut [f32]) {
        let NormGradient { norm, statistics, x, activation, dy, gamma, beta, accumulate, dx } = gradient;
        let channels = x.columns;
        let [mut dgamma, mut dbeta] = [self.take(*gamma), self.take(*beta)];
        let mut unused = [vec![0.0; channels], vec![0.0; channels]];
        let [unused_gamma, unused_beta] = &mut unused;
        let adds = dgamma.as_ref().or(dbeta.as_ref()).is_some_and(|(_, adds)| *adds);
        let node = &self.graph.nodes()[norm.node];
        let rstd_of_running;
        let (mean, rstd) = match statistics {
            Some(statistics) => {
                let [mean, rstd, ..] = parts(self.values(&statistics.at), channels);
                (mean, rstd)
            }
            None => {
                rstd_of_running = self.running_rstd(*norm);
                (self.parameters.of(node, "running_mean"), &rstd_of_running[..])
            }
        };
        let batch_norm = BatchNorm {
            mean,
            rstd,
            gamma: self.parameters.of(node, "weight"),
            beta: self.parameters.of(node, "bias"),
            batch: statistics.is_some(),
        };
        kernels::batch_norm_backward(
            self.level,
            self.pool,
            [x.rows, channels],
            self.matrix(x),
            batch_norm,
            *activation,
            None,
            dy.as_ref().map(|dy| self.matrix(dy)),
            adds,
            dgamma.as_mut().map_or(unused_gamma, |(gradient, _)| gradient),
            dbeta.as_mut().map_or(unused_beta, |(gradient, _)| gradient),
            dx.as_ref().map(|dx| (memory, dx.stride)),
            *accumulate,
        );
        self.put_back(*gamma, dgamma);
        self.put_back(*beta, dbeta);
    }

    fn attention_gradient(&mut self, gradient: &AttentionGradient, memory: &mut [f32]) {
        let Packed::Attend(layer) = self.layer(gradient.layer) else { return };
        let AttentionGradient { attention, node, qkv, dy, dqkv, .. } = gradient;
        let (groups, tokens, mask, windows) = match &gradient.tokens {
            Tokens::Groups(tokens) => (qkv.rows / tokens, *tokens, None, None),
            Tokens::Windows(table) => {
                let images = qkv.rows / table.pixels;
                let windows = kernels::Windows { rows: &table.rows, padding: &layer.padding };
                (images * table.windows, table.tokens, table.mask.as_deref(), Some(windows))
            }
        };
        let (dim, heads) = (attention.dim, attention.heads);
        let similarity = match &layer.similarity {
            Similarity::Product(scale) => kernels::Similarity::Product(*scale),
            Similarity::Cosine(scales) => kernels::Similarity::Cosine(scales),
        };
        let shape = AttentionShape { groups, tokens, heads, head_dim: dim / heads };
        let scores = kernels::Scores { similarity, bias: layer.position.as_deref(), mask };
        let wanted = |sum: &Sum, len: usize| (!matches!(sum, Sum::Frozen)).then(|| vec![0.0; len]);
        let any_position = gradient.position.iter().find(|sum| !matches!(sum, Sum::Frozen));
        let mut bias = any_position.and_then(|sum| wanted(sum, heads * tokens * tokens));
        let mut scales = wanted(&gradient.logit_scale, heads);
        let mut padding = wanted(&gradient.qkv_bias, 3 * dim);
        let gradients = AttentionGradients {
            bias: bias.as_deref_mut(),
            scales: scales.as_deref_mut(),
            padding: padding.as_deref_mut(),
            accumulate: false,
        };
        kernels::attention_backward(
            self.level,
            self.pool,
            shape,
            self.matrix(qkv),
            scores,
            windows,
            self.matrix(dy),
            memory,
            dqkv.stride,
            gradients,
        );
        let graph_node = &self.graph.nodes()[*node];
        if let Some(bias) = bias {
            let tensors = position_gradients(attention, &bias, |name| self.parameters.of(graph_node, name));
            debug_assert_eq!(tensors.len(), position_tensors(attention).len());
            for (sum, values) in gradient.position.iter().zip(tensors) {
                self.add_to(*sum, &values);
            }
        }
        if let Some(mut scales) = scales {
            // The scale is the exponential of what trains, up to a bound.
            let largest = 100.0_f32.ln();
            for (gradient, logit) in scales.iter_mut().zip(self.parameters.of(graph_node, "logit_scale")) {
                *gradient *= if *logit <= largest { logit.exp() } else { 0.0 };
            }
            self.add_to(gradient.logit_scale, &scales);
        }
        if let Some(mut padding) = padding {
            if attention.scores == Scores::Cosine {
                // Swin V2's keys have no bias.
                padding[dim..2 * dim].fill(0.0);
            }
            self.add_to(gradient.qkv_bias, &padding);
        }
    }
}

/// Channels from which on Winograd's method is faster for the gradient of a weight.
const MANY_CHANNELS: usize = 16;

/// The four rows of a norm's statistics.
fn parts(values: &[f32], channels: usize) -> [&[f32]; 4] {
    [0, 1, 2, 3].map(|part| &values[part * channels..][..channels])
}

fn pool_geometry(window: &engraft_graph::Pool) -> PoolGeometry {
    PoolGeometry { kernel: window.kernel, stride: window.stride, padding: window.padding }
}

/// Puts a mask, in the order of its axes, where it belongs.
fn mask(values: Vec<f32>, to: &Strided, memory: &mut [f32]) {
    let mut values = values.into_iter();
    for_each(&to.view.shape, [&to.view.strides], |[at]| memory[at] = values.next().unwrap_or_default());
}

fn fill(to: &Strided, memory: &mut [f32]) {
    let order = to.view.order();
    let view = to.view.permuted(&order);
    if view.strides
        == View::dense(Place::Buffer(0), &view.shape, &(0..view.shape.len()).collect::<Vec<_>>()).strides
    {
        memory[..view.len()].fill(0.0);
        return;
    }
    for_each(&view.shape, [&view.strides], |[at]| memory[at] = 0.0);
}
