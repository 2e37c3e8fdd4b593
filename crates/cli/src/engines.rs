//! Two engines as one.

use engraft_engine::{Engine, EngineError, Network, Trainer, Training};
use engraft_graph::Graph;
use engraft_tensor::StateDict;

/// Runs networks on one engine and trains them on another.
pub(crate) struct RunAndTrain<R, T> {
    pub(crate) run: R,
    pub(crate) train: T,
}

impl<R: Engine, T: Engine> Engine for RunAndTrain<R, T> {
    fn device(&self) -> String {
        self.run.device()
    }

    fn network(&self, graph: &Graph, state: StateDict) -> Result<Box<dyn Network>, EngineError> {
        self.run.network(graph, state)
    }

    fn trainer(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError> {
        self.train.trainer(graph, state, training)
    }
}
