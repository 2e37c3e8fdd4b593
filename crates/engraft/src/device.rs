//! Where the computing is done: the one place that chooses an engine.

use engraft_burn::BurnEngine;
use engraft_cpu::{CpuEngine, default_threads};
use engraft_engine::{Engine, EngineError, Network, Trainer, Training};
use engraft_graph::Graph;
use engraft_tensor::StateDict;

/// Where the computing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor, with so many threads, which do not change the result; `None` for one a core.
    Cpu {
        /// Threads of a pass.
        threads: Option<usize>,
    },
    /// The first graphics processor that this build can drive: it needs one of the features `cuda`, `rocm`, `metal`
    /// or `vulkan`.
    Gpu,
}

impl Default for Device {
    /// The processor, a thread a core.
    fn default() -> Self {
        Device::Cpu { threads: None }
    }
}

impl Device {
    /// The engine that runs networks on the device, and trains them.
    ///
    /// # Errors
    /// For a GPU that is not there, or that this build cannot drive.
    pub fn engine(self) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            Device::Cpu { threads } => {
                let running = CpuEngine::new(threads.unwrap_or_else(default_threads));
                Ok(Box::new(Processor { running, training: BurnEngine::cpu() }))
            }
            Device::Gpu => Ok(Box::new(BurnEngine::gpu()?)),
        }
    }
}

/// The processor: our own engine runs networks, Burn trains them.
struct Processor {
    running: CpuEngine,
    training: BurnEngine,
}

impl Engine for Processor {
    fn device(&self) -> String {
        self.running.device()
    }

    fn numerics(&self) -> String {
        self.running.numerics()
    }

    fn network(&self, graph: &Graph, state: StateDict) -> Result<Box<dyn Network>, EngineError> {
        self.running.network(graph, state)
    }

    fn trainer(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError> {
        self.training.trainer(graph, state, training)
    }
}
