//! The values that a graph needs of a state dict.

use std::collections::HashMap;

use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor, TensorData};

use crate::EngineError;

/// The float tensors of a graph by their full names, taken out of a state dict.
///
/// # Errors
/// When one is missing, or has another shape or type.
pub fn take_floats(graph: &Graph, state: StateDict) -> Result<HashMap<String, Vec<f32>>, EngineError> {
    let mut given: HashMap<String, Tensor> = state.into_iter().collect();
    let mut floats = HashMap::new();
    for spec in graph.state().into_iter().filter(|spec| spec.kind.is_float()) {
        let error =
            |found: String| EngineError::State { name: spec.name.clone(), needed: spec.shape.clone(), found };
        let tensor = given.remove(&spec.name).ok_or_else(|| error("there is none".into()))?;
        match tensor.data {
            TensorData::F32(values) if tensor.shape == spec.shape => floats.insert(spec.name, values),
            TensorData::F32(_) => return Err(error(format!("there is one of shape {:?}", tensor.shape))),
            TensorData::I64(_) => return Err(error("there is one of integers".into())),
        };
    }
    Ok(floats)
}
