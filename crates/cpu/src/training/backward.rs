//! The backward pass of a training plan: the records of the forward pass, the last one first.

mod layer;
mod plain;

use engraft_engine::EngineError;
use engraft_kernels::Activation;

use super::plan::{Planned, Planner};
use super::record::{Record, What};
use super::step::Step;
use crate::call::{Call, Rows};
use crate::lower::natural;
use crate::program::{Combine, Value};
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
