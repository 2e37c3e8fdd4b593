//! The engine: Burn's devices behind Engraft's interface.

use burn_tensor::{Device, DeviceFilter};
use engraft_engine::{Engine, EngineError, Network, Trainer, Training};
use engraft_graph::Graph;
use engraft_tensor::StateDict;

use crate::network::BurnNetwork;
use crate::trainer::BurnTrainer;

/// Runs and trains networks on a device that Burn drives.
pub struct BurnEngine {
    device: Device,
    name: String,
}

impl BurnEngine {
    /// The processor, by Burn's `flex` backend.
    pub fn cpu() -> Self {
        Self { device: Device::flex(), name: "cpu".into() }
    }

    /// The first graphics processor that a backend of this build finds.
    ///
    /// # Errors
    /// When the build has no such backend, or it finds no device.
    pub fn gpu() -> Result<Self, EngineError> {
        if !cfg!(any(feature = "cuda", feature = "rocm", feature = "metal", feature = "vulkan")) {
            return Err(EngineError::Device(
                "this engraft is built for the CPU alone; for a GPU build it with one of the features cuda (NVIDIA), \
                 rocm (AMD), metal (Apple) or vulkan (any), as in `cargo build --release --features vulkan`"
                    .into(),
            ));
        }
        let found = Device::enumerate(gpu_backends()).into_iter().next();
        let device = found.ok_or_else(|| {
            EngineError::Device("no GPU was found; check that its driver is installed".into())
        })?;
        let name = format!("gpu ({device:?})");
        Ok(Self { device, name })
    }
}

/// The backends for graphics processors that this build has, the fastest first.
#[allow(unused_mut, reason = "a build without features leaves it empty")]
fn gpu_backends() -> DeviceFilter {
    let mut backends = DeviceFilter::new();
    #[cfg(feature = "cuda")]
    {
        backends = backends.with(burn_tensor::DeviceType::Cuda);
    }
    #[cfg(feature = "rocm")]
    {
        backends = backends.with(burn_tensor::DeviceType::Rocm);
    }
    #[cfg(feature = "metal")]
    {
        backends = backends.with(burn_tensor::DeviceType::Metal);
    }
    #[cfg(feature = "vulkan")]
    {
        backends = backends.with(burn_tensor::DeviceType::Vulkan);
    }
    backends
}

impl Engine for BurnEngine {
    fn device(&self) -> String {
        self.name.clone()
    }

    fn numerics(&self) -> String {
        format!("burn {} {}", env!("CARGO_PKG_VERSION"), self.name)
    }

    fn network(&self, graph: &Graph, state: StateDict) -> Result<Box<dyn Network>, EngineError> {
        Ok(Box::new(BurnNetwork::new(graph, state, &self.device)?))
    }

    fn trainer(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError> {
        Ok(Box::new(BurnTrainer::new(graph, state, training, &self.device)?))
    }
}
