//! Where the computing is done: the one place that chooses an engine.

use engraft_cpu::{CpuEngine, default_threads, free_memory};
use engraft_engine::{Engine, EngineError};

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
        self.engine_within(None)
    }

    /// The same, but trainings on the CPU take no more than so many bytes, by default four fifths of those that are free.
    ///
    /// # Errors
    /// As [`engine`](Self::engine).
    pub fn engine_within(self, memory: Option<u64>) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            Device::Cpu { threads } => {
                let engine = CpuEngine::new(threads.unwrap_or_else(default_threads));
                Ok(Box::new(match memory.or_else(free_memory) {
                    Some(bytes) => engine.with_memory(bytes),
                    None => engine,
                }))
            }
            #[cfg(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan"))]
            Device::Gpu => Ok(Box::new(engraft_burn::BurnEngine::gpu()?)),
            #[cfg(not(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan")))]
            Device::Gpu => Err(EngineError::Device(
                "this engraft is built for the CPU alone; for a GPU build it with one of the features cuda (NVIDIA), \
                 rocm (AMD), metal (Apple) or vulkan (any), as in `cargo build --release --features vulkan`"
                    .into(),
            )),
        }
    }
}
