//! A network in evaluation mode.

use std::collections::HashMap;

use burn_tensor::{Device, Tensor, TensorData};
use engraft_engine::{EngineError, Network, take_floats};
use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor as HostTensor};

use crate::forward::{Context, forward};

/// Parameters and buffers on the device, flat, by their full names.
pub(crate) type Tensors = HashMap<String, Tensor<1>>;

pub(crate) struct BurnNetwork {
    graph: Graph,
    tensors: Tensors,
    device: Device,
}

impl BurnNetwork {
    pub(crate) fn new(graph: &Graph, state: StateDict, device: &Device) -> Result<Self, EngineError> {
        let graph = graph.without_aux();
        Ok(Self { tensors: upload(&graph, state, device)?, graph, device: device.clone() })
    }
}

impl Network for BurnNetwork {
    fn forward(&mut self, input: &HostTensor) -> Result<HostTensor, EngineError> {
        evaluate(&self.graph, &|name| self.tensors[name].clone(), input, &self.device)
    }
}

/// Moves the floats that a graph needs to a device.
pub(crate) fn upload(graph: &Graph, state: StateDict, device: &Device) -> Result<Tensors, EngineError> {
    let upload = |(name, values): (String, Vec<f32>)| {
        let shape = [values.len()];
        (name, Tensor::from_data(TensorData::new(values, shape), device))
    };
    Ok(take_floats(graph, state)?.into_iter().map(upload).collect())
}

/// The output of a network in evaluation mode; `tensor` gives its tensors by their full names.
pub(crate) fn evaluate(
    graph: &Graph,
    tensor: &dyn Fn(&str) -> Tensor<1>,
    input: &HostTensor,
    device: &Device,
) -> Result<HostTensor, EngineError> {
    let outputs = forward(graph, input, device, &mut Evaluation(tensor))?;
    let output = outputs.into_iter().next().unwrap_or_else(|| unreachable!("every network has an output"));
    Ok(HostTensor::f32(output.shape(), output.into_vec()))
}

struct Evaluation<'a>(&'a dyn Fn(&str) -> Tensor<1>);

impl Context for Evaluation<'_> {
    fn tensor(&mut self, name: &str) -> Tensor<1> {
        self.0(name)
    }
}
