//! The engine: the CPU behind Engraft's interface.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use engraft_engine::{Engine, EngineError, Network, Trainer, Training, take_floats};
use engraft_graph::Graph;
use engraft_kernels::{Level, Pool, peak_flops};
use engraft_tensor::{StateDict, Tensor};

use crate::plan::Plan;
use crate::profile::Profile;
use crate::program::Program;
use crate::rewrite::rewrite;
use crate::training::CpuTrainer;
use crate::translate::translate;

/// One thread a core.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs and trains networks on the CPU by compiled plans. Clones share their threads.
#[derive(Clone)]
pub struct CpuEngine {
    pub(crate) level: Level,
    pub(crate) pool: Arc<Pool>,
    /// Bytes that a training may take.
    pub(crate) memory: Option<u64>,
}

impl CpuEngine {
    /// With this many threads, and the best instruction set of the machine ([`Level::detect`]).
    pub fn new(threads: usize) -> CpuEngine {
        CpuEngine::with_level(Level::detect(), threads)
    }

    /// As [`new`](Self::new), with a certain instruction set.
    pub fn with_level(level: Level, threads: usize) -> CpuEngine {
        CpuEngine { level, pool: Arc::new(Pool::new(threads)), memory: None }
    }

    /// The same, but a training takes no more than so many bytes for its tensors, gradients, packed weights and buffers, and computes in
    /// parts, or twice, what else would not fit (`docs/engine.md`). [`free_memory`](crate::free_memory) says what there is.
    pub fn with_memory(self, bytes: u64) -> CpuEngine {
        CpuEngine { memory: Some(bytes), ..self }
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set, as in `avx2`.
    pub fn instruction_set(&self) -> String {
        self.level.to_string()
    }

    /// The most floating-point operations a second that all threads reach together: see [`peak_flops`].
    pub fn peak_flops(&self) -> f64 {
        peak_flops(self.level, &self.pool)
    }

    /// As [`Engine::network`], with what this engine can tell of the network besides.
    ///
    /// # Errors
    /// When the state dict lacks a tensor of the graph, or has it in another shape, or the graph has an operation without a kernel.
    pub fn compile(&self, graph: &Graph, state: StateDict) -> Result<CpuNetwork, EngineError> {
        let graph = graph.without_aux();
        let tensors = take_floats(&graph, state)?;
        let mut program = translate(&graph)?;
        rewrite(&mut program);
        let stage = Stage::New { program, tensors };
        Ok(CpuNetwork { level: self.level, pool: Arc::clone(&self.pool), graph, stage })
    }

    /// As [`Engine::trainer`], with what this engine can tell of a training besides.
    ///
    /// # Errors
    /// As [`Engine::trainer`].
    pub fn train(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<CpuTrainer, EngineError> {
        CpuTrainer::new(self.clone(), graph, state, training)
    }
}

impl Engine for CpuEngine {
    fn device(&self) -> String {
        "cpu".into()
    }

    fn numerics(&self) -> String {
        format!("cpu {} {}", engraft_kernels::VERSION, self.level)
    }

    fn network(&self, graph: &Graph, state: StateDict) -> Result<Box<dyn Network>, EngineError> {
        Ok(Box::new(self.compile(graph, state)?))
    }

    fn trainer(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError> {
        Ok(Box::new(self.train(graph, state, training)?))
    }
}

/// A network on the CPU. Its weights are packed when the first input comes: where all features are in a cache none does.
pub struct CpuNetwork {
    level: Level,
    pool: Arc<Pool>,
    graph: Graph,
    stage: Stage,
}

enum Stage {
    New { program: Program, tensors: HashMap<String, Vec<f32>> },
    Packed(Box<Plan>),
}

impl CpuNetwork {
    /// The steps of the plan for inputs of this shape, `[batch, channels, height, width]`, without times.
    ///
    /// # Errors
    /// When the shape does not fit the network.
    pub fn describe(&mut self, shape: &[usize]) -> Result<Profile, EngineError> {
        self.plan()?.describe(shape)
    }

    /// Runs an input several times; returns the steps with the least time that each took.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    pub fn profile(&mut self, input: &Tensor) -> Result<Profile, EngineError> {
        let pool = Arc::clone(&self.pool);
        self.plan()?.profile(&pool, input)
    }

    /// Bytes of packed weights and of the buffers that passes have needed so far.
    pub fn memory_bytes(&self) -> usize {
        match &self.stage {
            Stage::New { tensors, .. } => tensors.values().map(|values| size_of_val(&values[..])).sum(),
            Stage::Packed(plan) => plan.memory_bytes(),
        }
    }

    /// The plan, made if there is none.
    fn plan(&mut self) -> Result<&mut Plan, EngineError> {
        if let Stage::New { program, tensors } = &mut self.stage {
            let plan = Plan::new(self.level, &self.graph, program.clone(), std::mem::take(tensors))?;
            self.stage = Stage::Packed(Box::new(plan));
        }
        match &mut self.stage {
            Stage::Packed(plan) => Ok(plan),
            Stage::New { .. } => unreachable!("it was packed just now"),
        }
    }
}

impl Network for CpuNetwork {
    fn forward(&mut self, input: &Tensor) -> Result<Tensor, EngineError> {
        let pool = Arc::clone(&self.pool);
        self.plan()?.run(&pool, input)
    }
}
