//! A network in training: forward, backward, Adam.

use std::collections::{HashMap, HashSet};

use burn_tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use engraft_engine::{AUX_WEIGHT, EngineError, Network, Trainer, Training};
use engraft_graph::{BatchNorm2d, Graph, TensorKind, TensorSpec};
use engraft_tensor::{StateDict, Tensor as HostTensor, TensorData as HostData};

use crate::adam::Adam;
use crate::forward::{Context, forward};
use crate::network::{Tensors, evaluate, upload};
use crate::value::{Rank, Value};

pub(crate) struct BurnTrainer {
    graph: Graph,
    /// Without auxiliary heads.
    evaluated: Graph,
    /// All parameters and buffers, without gradients.
    tensors: Tensors,
    /// The names of those that change.
    trainable: HashSet<String>,
    /// Tensors of integers: counters of batch norms, and constants.
    integers: HashMap<String, HostTensor>,
    adam: Adam,
    seed: u64,
    device: Device,
}

impl BurnTrainer {
    pub(crate) fn new(
        graph: &Graph,
        state: &StateDict,
        training: Training<'_>,
        device: &Device,
    ) -> Result<Self, EngineError> {
        let mut trainable = HashSet::new();
        let mut integers = HashMap::new();
        for TensorSpec { name, kind, .. } in graph.state() {
            match kind {
                TensorKind::Parameter if (training.trainable)(&name) => {
                    trainable.insert(name);
                }
                TensorKind::Counter | TensorKind::Index => {
                    let given = state.get(&name).filter(|tensor| matches!(tensor.data, HostData::I64(_)));
                    let tensor = given.cloned().unwrap_or_else(|| HostTensor::counter(0));
                    integers.insert(name, tensor);
                }
                _ => {}
            }
        }
        Ok(Self {
            graph: graph.clone(),
            evaluated: graph.without_aux(),
            tensors: upload(graph, state.clone(), device)?,
            trainable,
            integers,
            adam: Adam::default(),
            seed: training.seed,
            device: device.clone(),
        })
    }

    /// Labels must fit the network's output, and those of its auxiliary heads.
    fn check_labels(&self, input: &HostTensor, labels: &[usize]) -> Result<(), EngineError> {
        let shapes = self.graph.shapes(&input.shape)?;
        let outputs = [&[self.graph.output()], self.graph.aux()].concat();
        outputs.iter().try_for_each(|output| check_labels(&shapes[output.0], labels))
    }

    fn update_running_statistics(&mut self, statistics: Vec<Statistics>) {
        for Statistics { module, momentum, mean, variance, count } in statistics {
            // PyTorch normalises by the biased variance and keeps the unbiased one.
            let unbiased = variance * (count as f64 / (count as f64 - 1.0).max(1.0));
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
}

impl Network for BurnTrainer {
    fn forward(&self, input: &HostTensor) -> Result<HostTensor, EngineError> {
        evaluate(&self.evaluated, &self.tensors, input, &self.device)
    }
}

impl Trainer for BurnTrainer {
    fn step(&mut self, input: &HostTensor, labels: &[usize], learning_rate: f64) -> Result<f32, EngineError> {
        self.check_labels(input, labels)?;
        let leaf = |name: &String| (name.clone(), self.tensors[name].clone().autodiff().require_grad());
        let leaves: Tensors = self.trainable.iter().map(leaf).collect();
        let mut context = Step {
            tensors: &self.tensors,
            leaves: &leaves,
            dropout: (self.seed, self.adam.steps()),
            statistics: Vec::new(),
        };
        let outputs = forward(&self.graph, input, &self.device, &mut context)?;
        let statistics = context.statistics;
        let losses = outputs.into_iter().map(|logits| cross_entropy(logits, labels, &self.device));
        let loss = losses.reduce(|loss, aux| loss + aux * AUX_WEIGHT);
        let loss = loss.unwrap_or_else(|| unreachable!("every network has an output"));
        self.adam.begin_step();
        // It is not if nothing trains on which it depends.
        if loss.is_tracked() {
            let mut gradients = loss.backward();
            for (name, leaf) in &leaves {
                let gradient = leaf.grad_remove(&mut gradients);
                if let (Some(gradient), Some(value)) = (gradient, self.tensors.get_mut(name)) {
                    self.adam.update(name, value, gradient, learning_rate);
                }
            }
        }
        self.update_running_statistics(statistics);
        Ok(loss.into_scalar::<f32>())
    }

    fn state(&self) -> StateDict {
        let tensor = |spec: TensorSpec| {
            let tensor = match spec.kind {
                TensorKind::Counter | TensorKind::Index => self.integers[&spec.name].clone(),
                _ => HostTensor::f32(spec.shape, Value::R1(self.tensors[&spec.name].clone()).into_vec()),
            };
            (spec.name, tensor)
        };
        self.graph.state().into_iter().map(tensor).collect()
    }
}

fn check_labels(output: &[usize], labels: &[usize]) -> Result<(), EngineError> {
    let problem = match *output {
        [batch, _] if labels.len() != batch => {
            format!("there are {} labels for a batch of {batch}", labels.len())
        }
        [_, classes] => match labels.iter().find(|label| **label >= classes) {
            Some(label) => format!("there is a label {label}, but only {classes} classes"),
            None => return Ok(()),
        },
        _ => format!(
            "a network that is trained to classify gives [batch, classes], but this one gives {output:?}"
        ),
    };
    Err(EngineError::Labels(problem))
}

/// Mean over the batch of minus the logarithm of the probability of the right class.
fn cross_entropy(logits: Value, labels: &[usize], device: &Device) -> Tensor<1> {
    let batch = labels.len();
    let labels: Vec<i32> = labels.iter().map(|label| *label as i32).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [batch, 1]), device);
    let logits: Tensor<2> = logits.tensor();
    log_softmax(logits, 1).gather(1, labels).mean().neg()
}

/// What a batch norm saw of a batch.
struct Statistics {
    module: String,
    momentum: f64,
    mean: Tensor<1>,
    variance: Tensor<1>,
    count: usize,
}

/// One training step as the interpreter sees it.
struct Step<'a> {
    tensors: &'a Tensors,
    leaves: &'a Tensors,
    dropout: (u64, u64),
    statistics: Vec<Statistics>,
}

impl Context for Step<'_> {
    fn tensor(&mut self, name: &str) -> Tensor<1> {
        self.leaves.get(name).unwrap_or_else(|| &self.tensors[name]).clone()
    }

    fn dropout(&self) -> Option<(u64, u64)> {
        Some(self.dropout)
    }

    fn uses_batch_statistics(&self, module: &str) -> bool {
        self.leaves.contains_key(&format!("{module}.weight"))
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
