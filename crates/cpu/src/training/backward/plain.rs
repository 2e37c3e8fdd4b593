//! Gradients through operations without weights.

use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::Op;
use engraft_kernels::Activation;

use super::super::forward::shows_derivative;
use super::super::layers::Lies;
use super::super::plan::Planner;
use super::super::step::Step;
use crate::call::Call;
use crate::general::General;
use crate::lower::{CHANNELS_LAST, natural};
use crate::pack::{Affine, AffineLayer};
use crate::program::{Combine, Plain, Pooling, See, Value};
use crate::view::View;

impl Planner<'_> {
    pub(super) fn plain_gradient(
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
