//! A network in training: forward, backward, update.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn_tensor::{Device, Tensor, TensorData, activation::log_softmax};
use engraft_engine::{
    AUX_WEIGHT, Accumulated, EngineError, Rate, Rule, Snapshot, Targets, Trainer, Training,
};
use engraft_graph::{BatchNorm2d, Graph, Op, Shape, TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor as HostTensor, TensorData as HostData};
use indexmap::IndexMap;

use crate::forward::{Context, forward};
use crate::network::{Tensors, evaluate, upload};
use crate::optimiser;
use crate::value::{Rank, Value};

pub(crate) struct BurnTrainer {
    graph: Graph,
    /// Without auxiliary heads.
    evaluated: Graph,
    /// Of all tensors, in the order of the graph.
    shapes: IndexMap<String, Shape>,
    /// All parameters and buffers, without gradients.
    tensors: Tensors,
    /// Those that change, in the order of the graph.
    parameters: Vec<Parameter>,
    /// The module paths of the batch norms that use and update statistics of batches.
    live_norms: HashSet<String>,
    /// Averages of what changes; empty until an update averages.
    average: Tensors,
    /// Tensors of integers: counters of batch norms, and constants.
    integers: HashMap<String, HostTensor>,
    rule: Rule,
    updates: u64,
    device: Device,
}

/// A parameter that changes.
struct Parameter {
    name: String,
    group: usize,
    /// Added up since the last update.
    gradient: Option<Tensor<1>>,
    /// See [`Rule::moments`].
    moments: Vec<Tensor<1>>,
}

impl BurnTrainer {
    pub(crate) fn new(
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
        device: &Device,
    ) -> Result<Self, EngineError> {
        training.rule.check()?;
        let integers = take_integers(graph, &state);
        let tensors = upload(graph, state, device)?;
        let used = names_in_use(graph);
        let mut parameters = Vec::new();
        for TensorSpec { name, kind, .. } in graph.state() {
            let is_in_use = kind == TensorKind::Parameter && used.contains(&name);
            if let Some(group) = (training.group)(&name).filter(|_| is_in_use) {
                let moments = training.rule.moments().iter().map(|_| tensors[&name].zeros_like()).collect();
                parameters.push(Parameter { name, group, gradient: None, moments });
            }
        }
        if parameters.is_empty() {
            return Err(EngineError::NothingTrains);
        }
        let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::BatchNorm2d(_)));
        let live = norms.map(|node| &node.module).filter(|module| (training.live_norms)(module));
        Ok(Self {
            graph: graph.clone(),
            evaluated: graph.without_aux(),
            shapes: graph.state().into_iter().map(|spec| (spec.name, spec.shape)).collect(),
            live_norms: live.cloned().collect(),
            tensors,
            parameters,
            average: Tensors::new(),
            integers,
            rule: training.rule,
            updates: 0,
            device: device.clone(),
        })
    }

    /// Fails if a live batch norm would see one value a channel.
    fn check_norms(&self, shapes: &[Shape]) -> Result<(), EngineError> {
        let mut nodes = self.graph.nodes().iter().zip(shapes);
        let single = nodes.find(|(node, shape)| match shape[..] {
            [batch, _, height, width] => {
                matches!(node.op, Op::BatchNorm2d(_))
                    && self.live_norms.contains(&node.module)
                    && batch * height * width == 1
            }
            _ => false,
        });
        match single {
            Some((node, _)) => Err(EngineError::SingleValue { module: node.module.clone() }),
            None => Ok(()),
        }
    }

    fn update_running_statistics(&mut self, statistics: Vec<Statistics>) {
        for Statistics { module, momentum, mean, variance, count } in statistics {
            // PyTorch normalises by the biased variance and keeps the unbiased one.
            let unbiased = variance * (count as f64 / (count as f64 - 1.0));
            for (name, value) in [("running_mean", mean), ("running_var", unbiased)] {
                if let Some(running) = self.tensors.get_mut(&format!("{module}.{name}")) {
                    running.inplace(|running| running * (1.0 - momentum) + value * momentum);
                }
            }
            let counter = self.integers.get_mut(&format!("{module}.num_batches_tracked"));
            if let Some(HostTensor { data: HostData::I64(values), .. }) = counter {
                values.iter_mut().for_each(|count| *count += 1);
            }
        }
    }

    /// A parameter or buffer, or its average if that is wanted and there is one.
    fn tensor(&self, name: &str, averaged: bool) -> &Tensor<1> {
        self.average.get(name).filter(|_| averaged).unwrap_or_else(|| &self.tensors[name])
    }

    /// The norm of the gradients as one vector.
    fn norm(&self) -> Result<f64, EngineError> {
        // Sums of few squares, so that their number costs no precision, added up in one order.
        const SQUARES: usize = 1 << 16;
        let mut parts = Vec::new();
        for parameter in &self.parameters {
            let gradient = parameter.gradient.as_ref().ok_or(EngineError::NoGradients)?;
            let [len] = gradient.dims();
            let part = |start| gradient.clone().narrow(0, start, SQUARES.min(len - start));
            parts.extend((0..len).step_by(SQUARES).map(|start| (&parameter.name, part(start))));
        }
        let sums = parts.iter().map(|(_, part)| part.clone().square().sum()).collect();
        let sums = Value::R1(Tensor::cat(sums, 0)).into_vec();
        let mut squares = 0.0;
        for ((name, part), sum) in parts.into_iter().zip(sums) {
            squares += match f64::from(sum) {
                sum if sum.is_finite() => sum,
                // Numbers above 1e19 have squares that only f64 can hold.
                _ => Value::R1(part).into_vec().into_iter().map(|value| f64::from(value).powi(2)).sum(),
            };
            if !squares.is_finite() {
                return Err(EngineError::NotFinite { parameter: name.clone() });
            }
        }
        Ok(squares.sqrt())
    }

    /// The names of what has an average: parameters and running statistics that change.
    fn averaged_names(&self) -> Vec<String> {
        let statistics = self.live_norms.iter().flat_map(|module| {
            ["running_mean", "running_var"].map(|statistic| format!("{module}.{statistic}"))
        });
        self.parameters.iter().map(|parameter| parameter.name.clone()).chain(statistics).collect()
    }

    /// Moves the averages of everything that changes towards what it is now.
    fn average(&mut self, decay: f64) {
        for name in self.averaged_names() {
            let value = self.tensors[&name].clone();
            let average = match self.average.remove(&name) {
                Some(average) => average * decay + value * (1.0 - decay),
                None => value,
            };
            self.average.insert(name, average);
        }
    }

    /// The tensor of this name on the host, with the values given.
    fn download(&self, name: &str, values: &Tensor<1>) -> HostTensor {
        HostTensor::f32(self.shapes[name].clone(), Value::R1(values.clone()).into_vec())
    }

    /// Tensors of a snapshot on the device: all of `part`, which holds for each wanted name a tensor of the shape of another name.
    fn upload_part<'a>(
        &self,
        part: &str,
        given: StateDict,
        wanted: impl Iterator<Item = (String, &'a str)>,
    ) -> Result<Vec<Tensor<1>>, EngineError> {
        let mut given: BTreeMap<String, HostTensor> = given.into_iter().collect();
        let mut tensors = Vec::new();
        for (name, like) in wanted {
            let shape = &self.shapes[like];
            let tensor = given.remove(&name).filter(|tensor| tensor.shape == *shape);
            let Some(HostData::F32(values)) = tensor.map(|tensor| tensor.data) else {
                return Err(EngineError::Snapshot(format!("its {part} lacks `{name}` of shape {shape:?}")));
            };
            tensors.push(to_device(values, &self.device));
        }
        match given.into_keys().next() {
            Some(name) => Err(EngineError::Snapshot(format!(
                "its {part} holds `{name}`, which is not in this training"
            ))),
            None => Ok(tensors),
        }
    }
}

impl Trainer for BurnTrainer {
    fn accumulate(
        &mut self,
        input: &HostTensor,
        targets: &Targets,
        scale: f32,
        draw: u64,
    ) -> Result<Accumulated, EngineError> {
        let shapes = self.graph.shapes(&input.shape)?;
        let outputs = [&[self.graph.output()], self.graph.aux()].concat();
        let coefficients: Result<Vec<_>, _> =
            outputs.iter().map(|output| targets.coefficients(&shapes[output.0])).collect();
        let coefficients = coefficients?;
        self.check_norms(&shapes)?;

        let leaf = |name: &String| self.tensors[name].clone().autodiff().require_grad();
        let leaves: Tensors =
            self.parameters.iter().map(|parameter| (parameter.name.clone(), leaf(&parameter.name))).collect();
        let mut pass = Pass {
            tensors: &self.tensors,
            leaves: &leaves,
            live_norms: &self.live_norms,
            draw,
            statistics: Vec::new(),
        };
        let outputs = forward(&self.graph, input, &self.device, &mut pass)?;
        let statistics = pass.statistics;

        let logits: Tensor<2> = outputs[0].clone().tensor();
        let losses = outputs.into_iter().zip(coefficients);
        let losses = losses.map(|(logits, coefficients)| cross_entropy(logits, coefficients, &self.device));
        let loss = losses.reduce(|loss, aux| loss + aux * AUX_WEIGHT);
        let loss = loss.unwrap_or_else(|| unreachable!("every network has an output"));
        let mut gradients = (loss.clone() * scale).backward();
        for parameter in &mut self.parameters {
            let gradient = leaves[&parameter.name].grad_remove(&mut gradients);
            let gradient = gradient.unwrap_or_else(|| self.tensors[&parameter.name].zeros_like());
            parameter.gradient = Some(match parameter.gradient.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        self.update_running_statistics(statistics);
        let logits = Value::R2(logits.without_autodiff());
        let outputs = HostTensor::f32(logits.shape(), logits.into_vec());
        Ok(Accumulated { loss: loss.into_scalar::<f32>(), outputs })
    }

    fn gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        for Parameter { name, gradient, .. } in &mut self.parameters {
            if let Some(values) = gradient.take() {
                let mut values = Value::R1(values).into_vec();
                visit(name, &mut values);
                *gradient = Some(to_device(values, &self.device));
            }
        }
    }

    fn update(
        &mut self,
        rates: &[Rate],
        clip: Option<f64>,
        average: Option<f64>,
    ) -> Result<f64, EngineError> {
        rates.iter().try_for_each(Rate::check)?;
        if let Some(Parameter { name, group, .. }) = self.parameters.iter().find(|p| p.group >= rates.len()) {
            return Err(EngineError::NoRate { parameter: name.clone(), group: *group, rates: rates.len() });
        }
        if let Some(clip) = clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
            return Err(EngineError::Setting(format!(
                "the largest norm of gradients must be above 0, not {clip}"
            )));
        }
        if let Some(decay) = average.filter(|decay| !(0.0..=1.0).contains(decay)) {
            return Err(EngineError::Setting(format!(
                "the decay of averages must be from 0 to 1, not {decay}"
            )));
        }
        let norm = self.norm()?;
        // As torch has it, lest a norm of zero divides.
        let scale = clip.map(|clip| clip / (norm + 1e-6)).filter(|scale| *scale < 1.0);
        self.updates += 1;
        for Parameter { name, group, gradient, moments } in &mut self.parameters {
            if let (Some(gradient), Some(value)) = (gradient.take(), self.tensors.get_mut(name)) {
                let gradient = match scale {
                    Some(scale) => gradient * scale,
                    None => gradient,
                };
                optimiser::update(self.rule, rates[*group], self.updates, value, gradient, moments);
            }
        }
        if let Some(decay) = average {
            self.average(decay);
        }
        Ok(norm)
    }

    fn evaluate(&mut self, input: &HostTensor, averaged: bool) -> Result<HostTensor, EngineError> {
        evaluate(&self.evaluated, &|name| self.tensor(name, averaged).clone(), input, &self.device)
    }

    fn state(&self, averaged: bool) -> StateDict {
        let tensor = |name: &String| match self.integers.get(name) {
            Some(integers) => integers.clone(),
            None => self.download(name, self.tensor(name, averaged)),
        };
        self.shapes.keys().map(|name| (name.clone(), tensor(name))).collect()
    }

    fn save(&self) -> Snapshot {
        let moments = self.rule.moments().iter().enumerate().flat_map(|(number, moment)| {
            self.parameters.iter().map(move |Parameter { name, moments, .. }| {
                (format!("{moment}.{name}"), self.download(name, &moments[number]))
            })
        });
        let average = self.average.iter().map(|(name, values)| (name.clone(), self.download(name, values)));
        Snapshot {
            updates: self.updates,
            state: self.state(false),
            average: average.collect(),
            moments: moments.collect(),
        }
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), EngineError> {
        let Snapshot { updates, state, average, moments } = snapshot;
        if let Some(name) = state.names().find(|name| !self.shapes.contains_key(*name)) {
            return Err(EngineError::Snapshot(format!(
                "its state holds `{name}`, which is not in this network"
            )));
        }
        let integers = take_integers(&self.graph, &state);
        let tensors = upload(&self.graph, state, &self.device)?;
        let averaged = if average.is_empty() { Vec::new() } else { self.averaged_names() };
        let average =
            self.upload_part("average", average, averaged.iter().map(|name| (name.clone(), name.as_str())))?;
        let names = self.rule.moments().iter().flat_map(|moment| {
            self.parameters
                .iter()
                .map(move |Parameter { name, .. }| (format!("{moment}.{name}"), name.as_str()))
        });
        let moments = self.upload_part("memory of the optimiser", moments, names)?;
        // Nothing fails from here on.
        self.updates = updates;
        self.integers = integers;
        self.tensors = tensors;
        self.average = averaged.into_iter().zip(average).collect();
        let count = self.parameters.len();
        for (number, parameter) in self.parameters.iter_mut().enumerate() {
            parameter.gradient = None;
            parameter.moments = moments.iter().skip(number).step_by(count).cloned().collect();
        }
        Ok(())
    }
}

fn to_device(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The integers that a graph needs; those that are missing are zero.
fn take_integers(graph: &Graph, state: &StateDict) -> HashMap<String, HostTensor> {
    let specs = graph.state().into_iter().filter(|spec| !spec.kind.is_float());
    let integers = |spec: TensorSpec| {
        let given = state.get(&spec.name).filter(|tensor| matches!(tensor.data, HostData::I64(_)));
        (spec.name, given.cloned().unwrap_or_else(|| HostTensor::counter(0)))
    };
    specs.map(integers).collect()
}

/// The names of the tensors on which an output depends, those of auxiliary heads included.
fn names_in_use(graph: &Graph) -> HashSet<String> {
    let outputs = [&[graph.output()], graph.aux()].concat();
    outputs.into_iter().flat_map(|output| graph.until(output).state()).map(|spec| spec.name).collect()
}

/// The sum of minus the logarithms of the probabilities, each counted as [`Targets::coefficients`] says.
fn cross_entropy(logits: Value, coefficients: Vec<f32>, device: &Device) -> Tensor<1> {
    let coefficients: Tensor<2> = Value::new(&logits.shape(), coefficients, device).tensor();
    // In two steps, as Burn adds up very long vectors in an order that the number of threads decides.
    (log_softmax(logits.tensor(), 1) * coefficients).sum_dim(1).sum().neg()
}

/// What a batch norm saw of a batch.
struct Statistics {
    module: String,
    momentum: f64,
    mean: Tensor<1>,
    variance: Tensor<1>,
    count: usize,
}

/// A batch of training as the interpreter sees it.
struct Pass<'a> {
    tensors: &'a Tensors,
    leaves: &'a Tensors,
    live_norms: &'a HashSet<String>,
    draw: u64,
    statistics: Vec<Statistics>,
}

impl Context for Pass<'_> {
    fn tensor(&mut self, name: &str) -> Tensor<1> {
        self.leaves.get(name).unwrap_or_else(|| &self.tensors[name]).clone()
    }

    fn draw(&self) -> Option<u64> {
        Some(self.draw)
    }

    fn uses_batch_statistics(&self, module: &str) -> bool {
        self.live_norms.contains(module)
    }

    fn batch_statistics(
        &mut self,
        module: &str,
        norm: &BatchNorm2d,
        mean: Tensor<1>,
        variance: Tensor<1>,
        count: usize,
    ) {
        self.statistics.push(Statistics {
            module: module.into(),
            momentum: norm.momentum,
            mean: mean.without_autodiff(),
            variance: variance.without_autodiff(),
            count,
        });
    }
}
