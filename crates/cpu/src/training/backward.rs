//! The backward pass of a training plan: the records of the forward pass, the last one first.

use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::{Conv2d, Op, Scores};
use engraft_kernels::Activation;

use super::forward::shows_derivative;
use super::layers::{Lies, Part, backward_tile};
use super::plan::{Planned, Planner};
use super::record::{LayerRecord, NormRecord, Normalised, Record, What};
use super::step::{AttentionGradient, Folded, NormGradient, Step, Sum, position_tensors};
use crate::call::{Call, Rows, Tokens};
use crate::general::General;
use crate::lower::{CHANNELS_LAST, natural};
use crate::pack::{Affine, AffineLayer, geometry};
use crate::program::{self, Combine, Conv, Depthwise, Plain, Pooling, Product, See, Value, Weights};
use crate::view::{Place, View};

impl Planner<'_> {
    /// Appends the losses of the outputs.
    pub(crate) fn losses(&mut self, outputs: &[Value]) -> Result<(), EngineError> {
        for (number, output) in outputs.iter().enumerate() {
            if self.lowering.shapes[*output].len() != 2 {
                // No targets fit it: a batch is refused before it is run.
                continue;
            }
            if !self.needs[*output] {
                // Its loss is told all the same, and its gradient is read by nobody.
                self.needs[*output] = true;
            }
            let logits = self.lowering.rows(*output, &[0, 1])?;
            let gradient = self.lowering.dense(&self.lowering.shapes[*output].clone(), &[0, 1]);
            let to = self.to_rows(&gradient, &[0, 1])?;
            self.push(Step::Loss { output: number, logits, to });
            self.add_gradient(*output, gradient)?;
        }
        Ok(())
    }

    /// Appends the gradients of all that is recorded.
    pub(crate) fn backward(&mut self) -> Result<(), EngineError> {
        while let Some(Record { node, output, what }) = self.records.pop() {
            self.lowering.node = node;
            let Some(dy) = self.gradients.remove(&output) else { continue };
            match what {
                What::Layer(layer) => self.layer_gradient(node, output, dy, layer)?,
                What::Norm(norm) => self.norm_gradient(node, output, dy, norm)?,
                What::LayerNorm { input, x, eps, order } => {
                    let dy = self.lowering.view_as_rows(dy, &order)?;
                    let [gamma, beta] = ["weight", "bias"].map(|name| self.sum(node, name));
                    let (dx, accumulate) = match self.needs[input] {
                        true => {
                            let (dx, accumulate) =
                                self.gradient_of(input, &order, &[dy.at.place, x.at.place])?;
                            (Some(self.to_rows(&dx, &order)?), accumulate)
                        }
                        false => (None, false),
                    };
                    self.push(Step::LayerNormGradient { node, eps, x, dy, gamma, beta, accumulate, dx });
                }
                What::Attend { qkv, x, layer, tokens } => {
                    self.attention_gradient(node, dy, qkv, x, layer, tokens)?
                }
                What::Drop { input, mask, order, rows_per_example } => {
                    let dy = self.lowering.view_as_rows(dy, &order)?;
                    let dx = self.lowering.dense(&self.lowering.shapes[input].clone(), &order);
                    let to = self.to_rows(&dx, &order)?;
                    self.push(match rows_per_example {
                        Some(rows_per_image) => {
                            Step::ScaleImages { x: dy, factors: mask, rows_per_image, to }
                        }
                        None => Step::Call(Call::Combine { by: Combine::Multiply, x: dy, other: mask, to }),
                    });
                    self.add_gradient(input, dx)?;
                }
                What::Scale { image, factor, x, factors, rows_per_image, order } => {
                    let dy = self.lowering.view_as_rows(dy, &order)?;
                    if self.needs[factor] {
                        let sums = self.lowering.dense(&[x.rows / rows_per_image, x.columns], &[0, 1]);
                        let to = self.zeroed(&sums)?;
                        self.push(Step::AddColumnProducts { x: dy, y: x, rows_per_image, to });
                        let shape = self.lowering.shapes[factor].clone();
                        let sums = self.lowering.reshaped(&sums, &shape);
                        self.add_gradient(factor, sums)?;
                    }
                    if self.needs[image] {
                        let dx = self.lowering.dense(&self.lowering.shapes[image].clone(), &order);
                        let to = self.to_rows(&dx, &order)?;
                        self.push(Step::Scale { x: dy, factors, rows_per_image, to });
                        self.add_gradient(image, dx)?;
                    }
                }
                What::Plain(plain) => self.plain_gradient(node, output, dy, &plain)?,
            }
            self.flush();
        }
        Ok(())
    }

    /// Rows of a new buffer, after they are set to zero.
    fn zeroed(&mut self, view: &View) -> Result<Rows, EngineError> {
        let to = self.lowering.strided(view);
        self.push(Step::Zero { to });
        self.to_rows(view, &natural(view.shape.len()))
    }

    /// Whether a gradient can be changed in place: every value has a place of its own, and no other gradient is there.
    fn is_own(&self, view: &View) -> bool {
        let repeated = view.shape.iter().zip(&view.strides).any(|(size, stride)| *size > 1 && *stride == 0);
        !repeated && !self.gradients.values().any(|other| overlap(view, other))
    }

    /// Adds what is computed, or seen, to the gradient of a value.
    fn add_gradient(&mut self, value: Value, view: View) -> Result<(), EngineError> {
        if !self.needs[value] {
            return Ok(());
        }
        let Some(before) = self.gradients.remove(&value) else {
            self.gradients.insert(value, view);
            return Ok(());
        };
        let sum = if before.place != view.place && self.is_own(&before) {
            before
        } else {
            let order = self.lowering.values[&value].order();
            self.lowering.copied(&before, &order)
        };
        self.add(&view, &sum);
        self.gradients.insert(value, sum);
        Ok(())
    }

    /// Appends `to += from`.
    fn add(&mut self, from: &View, to: &View) {
        let order = to.order();
        let rows = |view: &View| self.lowering.as_rows(&view.permuted(&order));
        let step = match (rows(from), rows(to)) {
            (Some(x), Some(to)) => Step::Add { x, to },
            _ => Step::AddStrided { x: self.lowering.strided(from), to: self.lowering.strided(to) },
        };
        self.push(step);
    }

    /// Where a kernel writes the gradient of a value whose axes lie in an order, and whether it adds it to what is there. What the kernel
    /// reads is in other buffers.
    fn gradient_of(
        &mut self,
        value: Value,
        order: &[usize],
        reads: &[Place],
    ) -> Result<(View, bool), EngineError> {
        let shape = self.lowering.shapes[value].clone();
        let Some(before) = self.gradients.remove(&value) else {
            let view = self.lowering.dense(&shape, order);
            self.gradients.insert(value, view.clone());
            return Ok((view, false));
        };
        let lies_so = self.lowering.as_rows(&before.permuted(order)).is_some();
        let own = lies_so && self.is_own(&before) && !reads.contains(&before.place);
        let view = if own { before } else { self.lowering.copied(&before, order) };
        self.gradients.insert(value, view.clone());
        Ok((view, true))
    }

    /// The gradient before an activation, from that behind it and what the activation gave.
    fn before_activation(
        &mut self,
        activation: Activation,
        output: Value,
        dy: View,
        order: &[usize],
    ) -> Result<View, EngineError> {
        if activation == Activation::Identity {
            return Ok(dy);
        }
        let z = self.lowering.rows(output, order)?;
        self.activation_gradient(activation, z, dy, order)
    }

    fn activation_gradient(
        &mut self,
        function: Activation,
        z: Rows,
        dy: View,
        order: &[usize],
    ) -> Result<View, EngineError> {
        if self.is_own(&dy)
            && let Some(dx) = self.lowering.as_rows(&dy.permuted(order))
        {
            // A kernel that has just written it does this along.
            self.flush();
            if let Some(Planned { step: Step::InputGradient { activation, dx: written, .. }, .. }) =
                self.steps.last_mut()
                && activation.is_none()
                && written.extent() == dx.extent()
            {
                *activation = Some((function, z));
            } else {
                self.push(Step::Activation { function, z, dy: None, dx });
            }
            return Ok(dy);
        }
        let to = self.lowering.dense(&dy.shape, order);
        let dx = self.to_rows(&to, order)?;
        let dy = Some(self.lowering.view_as_rows(dy, order)?);
        self.push(Step::Activation { function, z, dy, dx });
        Ok(to)
    }

    fn layer_gradient(
        &mut self,
        node: usize,
        output: Value,
        dy: View,
        record: LayerRecord,
    ) -> Result<(), EngineError> {
        let LayerRecord { input, kind, x, norm, residual, activation, order } = record;
        let dy = self.before_activation(activation, output, dy, &order)?;
        if let Some(residual) = residual {
            self.add_gradient(residual, dy.clone())?;
        }
        // All that it is read as.
        let (rows, lies) = match x {
            Lies::Rows(_) => {
                let rows = self.lowering.view_as_rows(dy, &order)?;
                (rows, Lies::Rows(rows))
            }
            Lies::Maps(_) => {
                let maps = self.lowering.view_as_maps(dy)?;
                let shape = maps.shape;
                let rows =
                    Rows { at: maps.at, rows: shape.pixels(), columns: shape.channels, stride: maps.stride };
                (rows, Lies::Maps(maps))
            }
        };
        self.parameter_gradients(node, &kind, (input, x, &order[..]), norm, rows, lies)?;
        if !self.needs[input] {
            return Ok(());
        }
        let pixels = self.lowering.shapes[input].iter().skip(2).product();
        let part = match &kind {
            program::Kind::Product(Product { weights: Weights::Qkv(_), .. }) => Part::QkvBackward,
            program::Kind::Product(Product { weights: Weights::Projection(_), .. }) => {
                Part::ProjectionBackward
            }
            _ => Part::Backward { pixels },
        };
        let layer = self.add_layer(node, part, norm.map(|norm| norm.node), Activation::Identity);
        if let program::Kind::Conv(Conv { conv, .. }) = &kind
            && backward_tile(conv, pixels).is_some()
        {
            // It is a convolution like that of the forward pass, which adds what is elsewhere.
            let before = self.gradients.remove(&input);
            let residual =
                before.map(|before| self.lowering.view_as_rows(before, &CHANNELS_LAST)).transpose()?;
            let view = self.lowering.dense(&self.lowering.shapes[input].clone(), &CHANNELS_LAST);
            let dx = Lies::Maps(self.lowering.as_maps(&view).ok_or_else(|| self.lowering.other_shapes())?);
            self.push(Step::Layer { layer, x: lies, residual, to: dx, tokens: None });
            return self.add_gradient(input, view);
        }
        let reads = [rows.at.place, x.extent().at.place];
        let (dx, accumulate) = self.gradient_of(input, &order, &reads)?;
        let dx = match x {
            Lies::Rows(_) => Lies::Rows(self.to_rows(&dx, &order)?),
            Lies::Maps(_) => {
                Lies::Maps(self.lowering.as_maps(&dx).ok_or_else(|| self.lowering.other_shapes())?)
            }
        };
        self.push(Step::InputGradient { layer, dy: lies, accumulate, activation: None, dx });
        Ok(())
    }

    /// The gradients of a layer's weight and bias, and of the batch norm that is folded into them.
    fn parameter_gradients(
        &mut self,
        node: usize,
        kind: &program::Kind,
        (input, x, order): (Value, Lies, &[usize]),
        norm: Option<super::step::Norm>,
        rows: Rows,
        dy: Lies,
    ) -> Result<(), EngineError> {
        let (prefix, has_bias, without, conv) = match kind {
            program::Kind::Product(Product { weights, .. }) => match weights {
                Weights::Conv(conv) => ("", conv.bias, None, Some(conv)),
                Weights::Linear(linear) => ("", linear.bias, None, None),
                Weights::Qkv(attention) => {
                    // Swin V2's keys have no bias.
                    let keys = [attention.dim, 2 * attention.dim];
                    let without = (attention.scores == Scores::Cosine).then_some(keys);
                    (attention.projections()[0], true, without, None)
                }
                Weights::Projection(attention) => (attention.projections()[1], true, None, None),
            },
            program::Kind::Conv(Conv { conv, .. }) | program::Kind::Depthwise(Depthwise { conv, .. }) => {
                ("", conv.bias, None, Some(conv))
            }
            _ => return Err(self.lowering.other_shapes()),
        };
        let [weight, bias] = ["weight", "bias"].map(|name| format!("{prefix}{name}"));
        let Some((norm, conv)) = norm.zip(conv) else {
            if has_bias && self.trains(node, &bias) {
                let to = self.sum(node, &bias);
                self.push(Step::BiasGradient { dy: rows, without, to });
            }
            if self.trains(node, &weight) {
                let to = self.sum(node, &weight);
                let x = self.again(input, x, order)?;
                self.weight_gradient(conv, x, dy, to)?;
            }
            return Ok(());
        };
        let trains_weight = self.trains(node, "weight");
        let trains_bias = has_bias && self.trains(node, "bias");
        let [trains_gamma, trains_beta] = ["weight", "bias"].map(|name| self.trains(norm.node, name));
        if !(trains_weight || trains_bias || trains_gamma || trains_beta) {
            return Ok(());
        }
        let dbias = self.lowering.dense(&[1, conv.out_channels], &[0, 1]);
        let dbias = self.to_rows(&dbias, &[0, 1])?;
        self.push(Step::BiasGradient { dy: rows, without: None, to: Sum::Buffer(dbias) });
        let mut dw = None;
        if trains_weight || trains_gamma {
            let row = conv.in_channels / conv.groups * conv.kernel[0] * conv.kernel[1];
            let buffer = self.lowering.dense(&[conv.out_channels, row], &[0, 1]);
            let buffer = self.to_rows(&buffer, &[0, 1])?;
            let x = self.again(input, x, order)?;
            self.weight_gradient(Some(conv), x, dy, Sum::Buffer(buffer))?;
            dw = Some(buffer);
        }
        let bias = if has_bias { self.sum(node, "bias") } else { Sum::Frozen };
        let weight = self.sum(node, "weight");
        let [gamma, beta] = ["weight", "bias"].map(|name| self.sum(norm.node, name));
        let folded = Folded { conv: node, norm, dw, dbias, weight, bias, gamma, beta };
        self.push(Step::FoldedGradient(folded));
        Ok(())
    }

    /// A layer's input, computed again if a batch norm gave it: the pass is cheap, and two maps need not be kept where one is enough.
    fn again(&mut self, input: Value, x: Lies, order: &[usize]) -> Result<Lies, EngineError> {
        let normalised = self.normalised.get(&input).filter(|_| *order == CHANNELS_LAST);
        let Some(Normalised { x: from, statistics, activation }) = normalised.copied() else {
            return Ok(x);
        };
        let view = self.lowering.dense(&self.lowering.shapes[input].clone(), order);
        let to = self.to_rows(&view, order)?;
        let lies = match x {
            Lies::Rows(_) => Lies::Rows(to),
            Lies::Maps(_) => {
                Lies::Maps(self.lowering.as_maps(&view).ok_or_else(|| self.lowering.other_shapes())?)
            }
        };
        self.push(Step::Normalise { x: from, statistics, residual: None, activation, to });
        Ok(lies)
    }

    fn weight_gradient(
        &mut self,
        conv: Option<&Conv2d>,
        x: Lies,
        dy: Lies,
        to: Sum,
    ) -> Result<(), EngineError> {
        let step = match (x, dy, conv) {
            (Lies::Rows(x), Lies::Rows(dy), _) => Step::ProductGradient { x, dy, to },
            (Lies::Maps(x), Lies::Maps(dy), Some(conv)) => {
                Step::ConvGradient { geometry: geometry(conv), x, dy, to }
            }
            _ => return Err(self.lowering.other_shapes()),
        };
        self.push(step);
        Ok(())
    }

    fn norm_gradient(
        &mut self,
        node: usize,
        output: Value,
        dy: View,
        record: NormRecord,
    ) -> Result<(), EngineError> {
        let NormRecord { input, norm, statistics, residual, activation, order } = record;
        let Some(norm) = norm else {
            // An affine node: its constants do not train.
            let dy = self.before_activation(activation, output, dy, &order)?;
            let Op::ChannelAffine { scale, .. } = &self.setting.graph.nodes()[node].op else {
                return Err(EngineError::NoKernel { node: self.setting.graph.nodes()[node].describe() });
            };
            let affine = Affine { scale: scale.clone(), shift: vec![0.0; scale.len()] };
            let layer = Arc::new(AffineLayer { affine, activation: Activation::Identity });
            let x = self.lowering.view_as_rows(dy, &order)?;
            let dx = self.lowering.dense(&self.lowering.shapes[input].clone(), &order);
            let to = self.to_rows(&dx, &order)?;
            self.push(Step::Call(Call::Affine { layer, x, to }));
            return self.add_gradient(input, dx);
        };
        let x = self.lowering.rows(input, &order)?;
        let mut dy = dy;
        let mut fused = activation;
        if let Some(residual) = residual {
            dy = self.before_activation(activation, output, dy, &order)?;
            self.add_gradient(residual, dy.clone())?;
            fused = Activation::Identity;
        }
        let [gamma, beta] = ["weight", "bias"].map(|name| self.sum(norm.node, name));
        let mut gradient = NormGradient {
            norm,
            statistics,
            x,
            activation: fused,
            dy: None,
            gamma,
            beta,
            accumulate: false,
            dx: None,
        };
        if !self.needs[input] {
            gradient.dy = Some(self.lowering.view_as_rows(dy, &order)?);
            self.push(Step::NormGradient(gradient));
            return Ok(());
        }
        // In place, if the gradient is nobody else's.
        if !self.gradients.contains_key(&input)
            && self.is_own(&dy)
            && let Some(dx) = self.lowering.as_rows(&dy.permuted(&order))
        {
            gradient.dx = Some(dx);
            self.push(Step::NormGradient(gradient));
            return self.add_gradient(input, dy);
        }
        let dy = self.lowering.view_as_rows(dy, &order)?;
        let (dx, accumulate) = self.gradient_of(input, &order, &[dy.at.place, x.at.place])?;
        (gradient.dy, gradient.accumulate) = (Some(dy), accumulate);
        gradient.dx = Some(self.to_rows(&dx, &order)?);
        self.push(Step::NormGradient(gradient));
        Ok(())
    }

    fn attention_gradient(
        &mut self,
        node: usize,
        dy: View,
        qkv: Value,
        x: Rows,
        layer: usize,
        tokens: Tokens,
    ) -> Result<(), EngineError> {
        let Op::Attention(attention) = &self.setting.graph.nodes()[node].op else {
            return Err(EngineError::NoKernel { node: self.setting.graph.nodes()[node].describe() });
        };
        let order = natural(dy.shape.len());
        let dy = self.lowering.view_as_rows(dy, &order)?;
        let dqkv = self.lowering.dense(&self.lowering.shapes[qkv].clone(), &order);
        let position = position_tensors(attention).iter().map(|name| self.sum(node, name)).collect();
        let logit_scale = match attention.scores {
            Scores::Cosine => self.sum(node, "logit_scale"),
            Scores::Product { .. } => Sum::Frozen,
        };
        let qkv_bias = match &tokens {
            Tokens::Windows(table) if table.is_padded() => {
                self.sum(node, &format!("{}bias", attention.projections()[0]))
            }
            Tokens::Windows(_) | Tokens::Groups(_) => Sum::Frozen,
        };
        let gradient = AttentionGradient {
            layer,
            node,
            attention: Arc::new(attention.clone()),
            tokens,
            qkv: x,
            dy,
            dqkv: self.to_rows(&dqkv, &order)?,
            position,
            logit_scale,
            qkv_bias,
        };
        self.push(Step::Attention(gradient));
        self.add_gradient(qkv, dqkv)
    }

    fn plain_gradient(
        &mut self,
        node: usize,
        output: Value,
        dy: View,
        plain: &Plain,
    ) -> Result<(), EngineError> {
        match plain {
            Plain::Input => Ok(()),
            Plain::Parameter => {
                let graph_node = &self.setting.graph.nodes()[node];
                let Op::Parameter { name, .. } = &graph_node.op else {
                    return Err(EngineError::NoKernel { node: graph_node.describe() });
                };
                let to = self.sum(node, name);
                let dy = self.lowering.strided(&dy);
                self.push(Step::OperandGradient { dy, to });
                Ok(())
            }
            Plain::See { input, how } => self.see_gradient(*input, dy, how),
            Plain::Pool { input, pooling } => self.pool_gradient(*input, dy, pooling),
            Plain::Activation { input, function } => {
                // What it gives the next layer keeps anyway.
                let z = if shows_derivative(*function) { output } else { *input };
                let order = self.lowering.values[&z].order();
                let z = self.lowering.rows(z, &order)?;
                let dx = self.activation_gradient(*function, z, dy, &order)?;
                self.add_gradient(*input, dx)
            }
            Plain::Combine { inputs, by: Combine::Add } => {
                inputs.iter().try_for_each(|input| self.add_repeated(*input, dy.clone()))
            }
            Plain::Combine { inputs: [a, b], by: Combine::Multiply } => {
                for (input, other) in [(*a, *b), (*b, *a)] {
                    if !self.needs[input] {
                        continue;
                    }
                    let order = dy.order();
                    let product = self.lowering.dense(&dy.shape, &order);
                    let other = self.view(other);
                    let rows = |view: &View| self.lowering.as_rows(&view.permuted(&order));
                    let call = match (rows(&dy), rows(&other), rows(&product)) {
                        (Some(x), Some(other_rows), Some(to)) if other.shape == dy.shape => {
                            Call::Combine { by: Combine::Multiply, x, other: other_rows, to }
                        }
                        _ => self.lowering.general(General::Multiply, &[dy.clone(), other], &product),
                    };
                    self.push(Step::Call(call));
                    self.add_repeated(input, product)?;
                }
                Ok(())
            }
            Plain::Concat { inputs, axis } => {
                let mut start = 0;
                for input in inputs {
                    let size = self.lowering.shapes[*input][*axis];
                    self.add_gradient(*input, dy.narrowed(*axis, start, size))?;
                    start += size;
                }
                Ok(())
            }
            Plain::General { inputs, what } => self.general_gradient(output, inputs, dy, what),
        }
    }

    /// Adds a gradient to that of a value that was repeated to its shape.
    fn add_repeated(&mut self, value: Value, dy: View) -> Result<(), EngineError> {
        let shape = self.lowering.shapes[value].clone();
        if !self.needs[value] || shape == dy.shape {
            return self.add_gradient(value, dy);
        }
        let sum = self.lowering.dense(&shape, &self.lowering.values[&value].order());
        let to = self.lowering.strided(&sum);
        self.push(Step::Zero { to });
        self.add_summed(&dy, &sum.broadcast(&dy.shape));
        self.add_gradient(value, sum)
    }

    /// Appends `to += from`, of a target that is repeated along some axes.
    fn add_summed(&mut self, from: &View, to: &View) {
        // Whole columns, if the axes along which it is repeated are the outermost.
        let order = from.order();
        let [x, sum] = [from, to].map(|view| view.permuted(&order));
        let outer = sum.strides.iter().take_while(|stride| **stride == 0).count();
        let inner: usize = x.shape[outer..].iter().product();
        let rows: usize = x.shape[..outer].iter().product();
        let flat =
            |view: &View| view.reshaped(&[rows, inner]).filter(|view| inner == 1 || view.strides[1] == 1);
        let mut whole = sum.clone();
        whole.shape[..outer].fill(1);
        let columns =
            View { shape: whole.shape[outer..].to_vec(), strides: whole.strides[outer..].to_vec(), ..whole };
        let step = match (flat(&x), columns.reshaped(&[1, inner])) {
            (Some(x), Some(to)) if outer > 0 && (inner == 1 || to.strides[1] == 1) => self
                .lowering
                .as_rows(&x)
                .zip(self.lowering.as_rows(&to))
                .map(|(x, to)| Step::AddColumnSums { x, to }),
            _ => None,
        };
        let strided = || Step::AddStrided { x: self.lowering.strided(from), to: self.lowering.strided(to) };
        let step = step.unwrap_or_else(strided);
        self.push(step);
    }

    fn see_gradient(&mut self, input: Value, dy: View, how: &See) -> Result<(), EngineError> {
        let shape = self.lowering.shapes[input].clone();
        match how {
            See::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                axes.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
                self.add_gradient(input, dy.permuted(&inverse))
            }
            See::Reshape => {
                let dy = self.lowering.reshaped(&dy, &shape);
                self.add_gradient(input, dy)
            }
            See::Repeat => self.add_repeated(input, dy),
            See::Part { axis, index } => {
                let size = dy.shape[*axis];
                self.add_to_part(input, &dy, |whole| whole.narrowed(*axis, index * size, size))
            }
            See::Select { axis, index } => {
                self.add_to_part(input, &dy, |whole| whole.selected(*axis, *index))
            }
        }
    }

    /// Adds a gradient to that of a part of a value.
    fn add_to_part(
        &mut self,
        value: Value,
        dy: &View,
        part: impl Fn(&View) -> View,
    ) -> Result<(), EngineError> {
        if !self.needs[value] {
            return Ok(());
        }
        let order = self.lowering.values[&value].order();
        let (whole, begun) = self.gradient_of(value, &order, &[dy.place])?;
        if !begun {
            let to = self.lowering.strided(&whole);
            self.push(Step::Zero { to });
        }
        self.add(dy, &part(&whole));
        Ok(())
    }

    fn pool_gradient(&mut self, input: Value, dy: View, pooling: &Pooling) -> Result<(), EngineError> {
        let mut dy = dy;
        if *pooling == Pooling::Image {
            let shape = [&dy.shape[..], &[1, 1]].concat();
            dy = self.lowering.reshaped(&dy, &shape);
        }
        let dy = self.lowering.view_as_maps(dy)?;
        let mut reads = vec![dy.at.place];
        // Only where the largest values are follows from what was pooled.
        let largest = match pooling {
            Pooling::Max(window) => {
                let maps = Lies::Maps(self.lowering.maps(input)?);
                let Lies::Maps(x) = self.again(input, maps, &CHANNELS_LAST)? else {
                    return Err(self.lowering.other_shapes());
                };
                reads.push(x.at.place);
                Some((window.clone(), x))
            }
            Pooling::Average { .. } | Pooling::Adaptive | Pooling::Image => None,
        };
        let (dx, accumulate) = self.gradient_of(input, &CHANNELS_LAST, &reads)?;
        let dx = self.lowering.as_maps(&dx).ok_or_else(|| self.lowering.other_shapes())?;
        self.push(match (largest, pooling) {
            (Some((window, x)), _) => Step::MaxPool { window, x, dy, accumulate, dx },
            (None, Pooling::Average { window, count_include_pad }) => {
                let (window, count_include_pad) = (window.clone(), *count_include_pad);
                Step::AvgPool { window, count_include_pad, dy, accumulate, dx }
            }
            (None, Pooling::Max(_) | Pooling::Adaptive | Pooling::Image) => {
                Step::AdaptivePool { dy, accumulate, dx }
            }
        });
        Ok(())
    }

    fn general_gradient(
        &mut self,
        output: Value,
        inputs: &[Value],
        dy: View,
        what: &General,
    ) -> Result<(), EngineError> {
        match (what, inputs) {
            (General::MatMul, &[a, b]) => {
                let turned = |view: View| {
                    let mut axes = natural(view.shape.len());
                    let last = axes.len() - 1;
                    axes.swap(last - 1, last);
                    view.permuted(&axes)
                };
                let [of_a, of_b] = [a, b].map(|value| self.view(value));
                for (value, factors) in [(a, [dy.clone(), turned(of_b)]), (b, [turned(of_a), dy.clone()])] {
                    if self.needs[value] {
                        self.general_step(value, General::MatMul, &factors)?;
                    }
                }
                Ok(())
            }
            (General::Softmax { axis }, &[x]) => {
                let mut order = natural(dy.shape.len());
                order.remove(*axis);
                order.push(*axis);
                let y = self.lowering.rows(output, &order)?;
                let dx = self.lowering.dense(&dy.shape, &order);
                let dy = self.lowering.view_as_rows(dy, &order)?;
                let rows = self.to_rows(&dx, &order)?;
                self.push(Step::Softmax { y, dy, dx: rows });
                self.add_gradient(x, dx)
            }
            (General::Mean { axes }, &[x]) => {
                let shape = self.lowering.shapes[x].clone();
                let count: usize = axes.iter().map(|axis| shape[*axis]).product();
                let order = natural(dy.shape.len());
                let share = self.lowering.dense(&dy.shape, &order);
                let scale = vec![1.0 / count.max(1) as f32; share.shape.last().copied().unwrap_or(1)];
                let shift = vec![0.0; scale.len()];
                let affine = Affine { scale, shift };
                let layer = Arc::new(AffineLayer { affine, activation: Activation::Identity });
                let (from, to) = (self.lowering.view_as_rows(dy, &order)?, self.to_rows(&share, &order)?);
                self.push(Step::Call(Call::Affine { layer, x: from, to }));
                let mut kept = shape.clone();
                axes.iter().for_each(|axis| kept[*axis] = 1);
                let share = self.lowering.reshaped(&share, &kept).broadcast(&shape);
                self.add_gradient(x, share)
            }
            (General::Pad, &[x]) => {
                let inner = View { shape: self.lowering.shapes[x].clone(), ..dy };
                self.add_gradient(x, inner)
            }
            (General::Roll { shifts, axes }, &[x]) => {
                let shifts = shifts.iter().map(|shift| -shift).collect();
                self.general_step(x, General::Roll { shifts, axes: axes.clone() }, &[dy])
            }
            (General::Resize(how), &[x]) => self.general_step(x, General::ResizeGradient(how.clone()), &[dy]),
            _ => {
                let node = &self.setting.graph.nodes()[self.lowering.node];
                Err(EngineError::NoKernel { node: format!("the gradient of {}", node.describe()) })
            }
        }
    }

    /// Adds what an operation computes to the gradient of a value.
    fn general_step(&mut self, value: Value, what: General, inputs: &[View]) -> Result<(), EngineError> {
        let dx =
            self.lowering.dense(&self.lowering.shapes[value].clone(), &self.lowering.values[&value].order());
        let call = self.lowering.general(what, inputs, &dx);
        self.push(Step::Call(call));
        self.add_gradient(value, dx)
    }
}

/// Whether two tensors may have a place in common. They have none if they are different parts along an axis of one tensor.
fn overlap(a: &View, b: &View) -> bool {
    if a.place != b.place {
        return false;
    }
    let (low, high) = if a.offset <= b.offset { (a, b) } else { (b, a) };
    if low.shape.len() != high.shape.len() {
        return true;
    }
    let mut axes = natural(low.shape.len());
    axes.sort_by_key(|axis| std::cmp::Reverse(low.strides[*axis].max(high.strides[*axis])));
    let mut distance = high.offset - low.offset;
    for axis in axes {
        let (stride, other) = (low.strides[axis], high.strides[axis]);
        if low.shape[axis] == 1 && high.shape[axis] == 1 {
            continue;
        }
        if stride != other || stride == 0 {
            return true;
        }
        let steps = distance / stride;
        if steps >= low.shape[axis] {
            return false;
        }
        distance %= stride;
    }
    distance == 0
}
