//! Gradients through what has weights: products and convolutions, norms, attention.

use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::{Conv2d, Op, Scores};
use engraft_kernels::Activation;

use super::super::layers::{Lies, Part, backward_tile};
use super::super::plan::Planner;
use super::super::record::{LayerRecord, NormRecord, Normalised};
use super::super::step::{AttentionGradient, Folded, Norm, NormGradient, Step, Sum, position_tensors};
use crate::call::{Call, Rows, Tokens};
use crate::lower::{CHANNELS_LAST, natural};
use crate::pack::{Affine, AffineLayer, geometry};
use crate::program::{self, Conv, Depthwise, Product, Value, Weights};
use crate::view::View;

impl Planner<'_> {
    pub(super) fn layer_gradient(
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
        norm: Option<Norm>,
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
    pub(super) fn again(&mut self, input: Value, x: Lies, order: &[usize]) -> Result<Lies, EngineError> {
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

    pub(super) fn norm_gradient(
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

    pub(super) fn attention_gradient(
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
}
