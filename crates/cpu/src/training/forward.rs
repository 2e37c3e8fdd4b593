//! The forward pass of a training plan.

use std::sync::Arc;

use engraft_engine::EngineError;
use engraft_graph::{BatchNorm2d, Op};
use engraft_kernels::Activation;

use super::layers::{Lies, Part, Spec};
use super::plan::Planner;
use super::record::{Kind, LayerRecord, NormRecord, Normalised, Record, What};
use super::step::{Norm, Step};
use crate::attention::window_table;
use crate::call::{Rows, Tokens};
use crate::lower::{CHANNELS_LAST, natural};
use crate::program::{self, Axis, Combine, Conv, Depthwise, Plain, Product, Value, Weights};
use crate::view::{Place, View};

/// Whether the derivative of a function can be told from what it gives.
pub(crate) fn shows_derivative(function: Activation) -> bool {
    matches!(function, Activation::Identity | Activation::ReLU | Activation::ReLU6)
}

impl Planner<'_> {
    /// Appends the steps of all operations.
    pub(crate) fn forward(&mut self) -> Result<(), EngineError> {
        self.place_concatenations();
        for number in 0..self.operations.len() {
            if self.done[number] {
                continue;
            }
            let operation = self.operations[number].clone();
            self.lowering.node = operation.node;
            match operation.kind {
                Kind::Drop { input, p, whole_examples } => {
                    self.drop_values(operation.output, input, p, whole_examples)?;
                }
                Kind::Evaluated(kind) => self.operation(operation.node, operation.output, kind)?,
            }
            self.flush();
        }
        Ok(())
    }

    fn operation(&mut self, node: usize, output: Value, kind: program::Kind) -> Result<(), EngineError> {
        match kind {
            program::Kind::Product(_) | program::Kind::Conv(_) | program::Kind::Depthwise(_) => {
                self.layer(node, output, kind)
            }
            program::Kind::Affine { input, axis, .. } => self.norm(node, output, input, axis),
            program::Kind::Norm { input, over, eps } => self.layer_norm(node, output, input, over, eps),
            program::Kind::Attend { qkv, attention } => {
                let shape = self.lowering.shapes[output].clone();
                let order = natural(shape.len());
                let x = self.lowering.rows(qkv, &order)?;
                let tokens = match attention.windows {
                    None => Tokens::Groups(shape[shape.len() - 2]),
                    Some(windows) => Tokens::Windows(Arc::new(window_table(windows, [shape[1], shape[2]]))),
                };
                let layer = self.add_layer(node, Part::Attend, None, Activation::Identity);
                let place = self.lowering.place(output, &order, false, &[x.at.place]);
                let to = self.to_rows(&place.0, &order)?;
                let [x_lies, to] = [x, to].map(Lies::Rows);
                let step = Step::Layer { layer, x: x_lies, residual: None, to, tokens: Some(tokens.clone()) };
                self.finish(output, place, step);
                self.record(node, output, What::Attend { qkv, x, layer, tokens });
                Ok(())
            }
            program::Kind::Plain(Plain::Parameter) => {
                let graph_node = &self.setting.graph.nodes()[node];
                let Op::Parameter { name, shape } = &graph_node.op else {
                    return Err(EngineError::NoKernel { node: graph_node.describe() });
                };
                let place = Place::Constant(self.setting.parameters.id(graph_node, name));
                self.lowering.values.insert(output, View::dense(place, shape, &natural(shape.len())));
                self.record(node, output, What::Plain(Plain::Parameter));
                Ok(())
            }
            program::Kind::Plain(Plain::Combine { inputs, by: Combine::Multiply })
                if self.scale(node, output, inputs)? =>
            {
                Ok(())
            }
            program::Kind::Plain(plain) => {
                let view = self.lowering.plain(node, output, &plain)?;
                self.lowering.values.insert(output, view);
                self.record(node, output, What::Plain(plain));
                Ok(())
            }
        }
    }

    fn record(&mut self, node: usize, output: Value, what: What) {
        if self.needs[output] {
            self.records.push(Record { node, output, what });
        }
    }

    /// Appends the step that computes a value, and a copy if it must be elsewhere.
    fn finish(&mut self, value: Value, (place, elsewhere): (View, Option<View>), step: Step) {
        self.push(step);
        if let Some(planned) = &elsewhere {
            self.lowering.copy(&place, planned);
        }
        self.lowering.values.insert(value, elsewhere.unwrap_or(place));
    }

    /// A place as rows. It lies so, as it was made for them.
    pub(crate) fn to_rows(&self, view: &View, order: &[usize]) -> Result<Rows, EngineError> {
        self.lowering.as_rows(&view.permuted(order)).ok_or_else(|| self.lowering.other_shapes())
    }

    /// The only operation that reads a value, if nothing else needs it.
    fn only_reader(&self, value: Value) -> Option<usize> {
        match self.readers[value][..] {
            [reader] if !self.is_output[value] => Some(reader),
            _ => None,
        }
    }

    /// The batch norm of a node, and whether it is live.
    fn batch_norm(&self, node: usize) -> Option<(Norm, bool)> {
        match self.setting.graph.nodes()[node].op {
            Op::BatchNorm2d(BatchNorm2d { eps, momentum, .. }) => {
                Some((Norm { node, eps, momentum }, self.setting.live[node]))
            }
            _ => None,
        }
    }

    /// A value that is added to the one given by the only operation that reads it, and is there already; takes that operation's result in
    /// place of the value.
    fn residual_after(&mut self, value: &mut Value) -> Option<Value> {
        let reader = self.only_reader(*value)?;
        let Kind::Evaluated(program::Kind::Plain(Plain::Combine { inputs, by: Combine::Add })) =
            self.operations[reader].kind
        else {
            return None;
        };
        let other = if inputs[0] == *value { inputs[1] } else { inputs[0] };
        let alike = self.lowering.shapes[other] == self.lowering.shapes[*value];
        if !alike || !self.lowering.values.contains_key(&other) {
            return None;
        }
        self.done[reader] = true;
        *value = self.operations[reader].output;
        Some(other)
    }

    /// The activation that follows a value, if its derivative shows in what it gives, none is wanted, or what comes before it `derives` any;
    /// takes its result in place of the value.
    fn activation_after(&mut self, value: &mut Value, derives: bool) -> Activation {
        if let Some(reader) = self.only_reader(*value)
            && let Kind::Evaluated(program::Kind::Plain(Plain::Activation { function, .. })) =
                self.operations[reader].kind
            && (shows_derivative(function) || derives || !self.needs[*value])
        {
            self.done[reader] = true;
            *value = self.operations[reader].output;
            return function;
        }
        Activation::Identity
    }

    /// The number of a layer.
    pub(crate) fn add_layer(
        &mut self,
        node: usize,
        part: Part,
        constants: Option<usize>,
        activation: Activation,
    ) -> usize {
        let spec = Spec { node, part, constants, activation };
        let parameters = self.setting.parameters;
        let ids = super::layers::tensors(self.setting.graph, parameters, &spec);
        let changes = ids.into_iter().any(|id| parameters.place_of_trained(id).is_some());
        self.layers.add(spec, changes)
    }

    /// A product or a convolution with all that follows.
    fn layer(&mut self, node: usize, output: Value, kind: program::Kind) -> Result<(), EngineError> {
        let (input, part, is_rows, is_conv) = match &kind {
            program::Kind::Product(Product { input, weights, .. }) => match weights {
                Weights::Conv(_) => (*input, None, true, true),
                Weights::Linear(_) => (*input, None, true, false),
                Weights::Qkv(_) => (*input, Some(Part::Qkv), true, false),
                Weights::Projection(_) => (*input, Some(Part::Projection), true, false),
            },
            program::Kind::Conv(Conv { input, .. }) | program::Kind::Depthwise(Depthwise { input, .. }) => {
                (*input, None, false, true)
            }
            _ => return Err(EngineError::NoKernel { node: self.setting.graph.nodes()[node].describe() }),
        };
        let mut last = output;
        let mut norm = None;
        if let Some(reader) = self.only_reader(output).filter(|_| is_conv)
            && let Some((frozen, false)) = self.batch_norm(self.operations[reader].node)
        {
            (norm, last) = (Some(frozen), self.operations[reader].output);
            self.done[reader] = true;
        }
        let residual = self.residual_after(&mut last);
        let activation = self.activation_after(&mut last, false);
        let order = if is_conv { CHANNELS_LAST.to_vec() } else { natural(self.lowering.shapes[last].len()) };
        let x = match is_rows {
            true => Lies::Rows(self.lowering.rows(input, &order)?),
            false => Lies::Maps(self.lowering.maps(input)?),
        };
        let added = self.lowering.residual(residual, last, &order)?;
        let mut read = vec![x.extent().at.place];
        read.extend(added.map(|residual| residual.at.place));
        let place = self.lowering.place(last, &order, true, &read);
        let to = match is_rows {
            true => Lies::Rows(self.to_rows(&place.0, &order)?),
            false => {
                let maps = self.lowering.as_maps(&place.0);
                Lies::Maps(maps.ok_or_else(|| self.lowering.other_shapes())?)
            }
        };
        let pixels = self.lowering.shapes[last].iter().skip(2).product();
        let part = part.unwrap_or(Part::Forward { pixels });
        let layer = self.add_layer(node, part, norm.map(|norm| norm.node), activation);
        self.finish(last, place, Step::Layer { layer, x, residual: added, to, tokens: None });
        let record = LayerRecord { input, kind, x, norm, residual, activation, order };
        self.record(node, last, What::Layer(record));
        Ok(())
    }

    /// A batch norm or an affine node.
    fn norm(&mut self, node: usize, mut output: Value, input: Value, axis: usize) -> Result<(), EngineError> {
        let norm = self.batch_norm(node);
        let mut order = natural(self.lowering.shapes[output].len());
        order.remove(axis);
        order.push(axis);
        let x = self.lowering.rows(input, &order)?;
        if let Some((norm, true)) = norm {
            let residual = self.residual_after(&mut output);
            let activation = self.activation_after(&mut output, residual.is_none());
            let statistics = self.lowering.dense(&[4, x.columns], &[0, 1]);
            let statistics = self.to_rows(&statistics, &[0, 1])?;
            self.push(Step::Statistics { norm, x, to: statistics });
            let added = self.lowering.residual(residual, output, &order)?;
            let mut read = vec![x.at.place];
            read.extend(added.map(|residual| residual.at.place));
            let place = self.lowering.place(output, &order, true, &read);
            let to = self.to_rows(&place.0, &order)?;
            self.finish(output, place, Step::Normalise { x, statistics, residual: added, activation, to });
            if residual.is_none() {
                self.normalised.insert(output, Normalised { x, statistics, activation });
            }
            let statistics = Some(statistics);
            let record = NormRecord { input, norm: Some(norm), statistics, residual, activation, order };
            self.record(node, output, What::Norm(record));
            return Ok(());
        }
        let activation = self.activation_after(&mut output, norm.is_some());
        let layer = self.add_layer(node, Part::Affine, None, activation);
        let place = self.lowering.place(output, &order, false, &[x.at.place]);
        let to = self.to_rows(&place.0, &order)?;
        let [x, to] = [x, to].map(Lies::Rows);
        self.finish(output, place, Step::Layer { layer, x, residual: None, to, tokens: None });
        let norm = norm.map(|(norm, _)| norm);
        let record = NormRecord { input, norm, statistics: None, residual: None, activation, order };
        self.record(node, output, What::Norm(record));
        Ok(())
    }

    fn layer_norm(
        &mut self,
        node: usize,
        output: Value,
        input: Value,
        over: Axis,
        eps: f64,
    ) -> Result<(), EngineError> {
        let order = match over {
            Axis::Last => natural(self.lowering.shapes[output].len()),
            Axis::Channels => CHANNELS_LAST.to_vec(),
        };
        let x = self.lowering.rows(input, &order)?;
        let layer = self.add_layer(node, Part::Norm, None, Activation::Identity);
        let place = self.lowering.place(output, &order, false, &[x.at.place]);
        let to = self.to_rows(&place.0, &order)?;
        let [x_lies, to] = [x, to].map(Lies::Rows);
        self.finish(output, place, Step::Layer { layer, x: x_lies, residual: None, to, tokens: None });
        self.record(node, output, What::LayerNorm { input, x, eps, order });
        Ok(())
    }

    /// Dropout, or stochastic depth.
    fn drop_values(
        &mut self,
        output: Value,
        input: Value,
        p: f64,
        whole_examples: bool,
    ) -> Result<(), EngineError> {
        let node = self.lowering.node;
        let order = self.lowering.values[&input].order();
        let x = self.lowering.rows(input, &order)?;
        let place = self.lowering.place(output, &order, false, &[x.at.place]);
        let to = self.to_rows(&place.0, &order)?;
        let shape = self.lowering.shapes[output].clone();
        if whole_examples {
            let batch = shape.first().copied().unwrap_or(1).max(1);
            // The batch comes first in every order that values lie in.
            let rows_per_example = x.rows / batch;
            let factors = self.lowering.dense(&[1, batch], &[0, 1]);
            let strided = self.lowering.strided(&factors);
            self.push(Step::Mask { node, p, to: strided });
            let mask = self.to_rows(&factors, &[0, 1])?;
            let step = Step::ScaleImages { x, factors: mask, rows_per_image: rows_per_example, to };
            self.finish(output, place, step);
            let rows_per_example = Some(rows_per_example);
            self.record(node, output, What::Drop { input, mask, order, rows_per_example });
            return Ok(());
        }
        let mask = self.lowering.dense(&shape, &order);
        let strided = self.lowering.strided(&mask);
        self.push(Step::Mask { node, p, to: strided });
        let mask = self.to_rows(&mask, &order)?;
        let call = crate::call::Call::Combine { by: Combine::Multiply, x, other: mask, to };
        self.finish(output, place, Step::Call(call));
        self.record(node, output, What::Drop { input, mask, order, rows_per_example: None });
        Ok(())
    }

    /// A product of an image, or of rows, with factors for each channel; returns whether it is one.
    fn scale(&mut self, node: usize, output: Value, inputs: [Value; 2]) -> Result<bool, EngineError> {
        for [image, factor] in [inputs, [inputs[1], inputs[0]]] {
            let [shape, factors] = [image, factor].map(|value| self.lowering.shapes[value].clone());
            if shape != self.lowering.shapes[output] || shape == factors || shape.is_empty() {
                continue;
            }
            let axes = shape.len();
            let padded = [vec![1; axes - factors.len()], factors.clone()].concat();
            // The axis of the factors, and the order in which it is the last.
            let order = if axes == 4 && padded[1] == shape[1] && padded[2..] == [1, 1] {
                CHANNELS_LAST.to_vec()
            } else if padded[axes - 1] == shape[axes - 1] && padded[..axes - 1].iter().all(|size| *size == 1)
            {
                natural(axes)
            } else {
                continue;
            };
            let columns = shape[order[axes - 1]];
            let rows = shape.iter().product::<usize>() / columns.max(1);
            let images = padded.iter().product::<usize>() / columns.max(1);
            if images > 1 && images != shape[0] || rows == 0 {
                continue;
            }
            let view = self.view(factor);
            let Some(view) = view.reshaped(&[images, columns]) else { continue };
            let factors = self.lowering.view_as_rows(view, &[0, 1])?;
            let x = self.lowering.rows(image, &order)?;
            let place = self.lowering.place(output, &order, true, &[x.at.place, factors.at.place]);
            let to = self.to_rows(&place.0, &order)?;
            let rows_per_image = rows / images;
            self.finish(output, place, Step::Scale { x, factors, rows_per_image, to });
            self.record(node, output, What::Scale { image, factor, x, factors, rows_per_image, order });
            return Ok(true);
        }
        Ok(false)
    }
}
