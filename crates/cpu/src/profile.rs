//! What a plan does, and how long each part of it takes.

use std::fmt;

use engraft_graph::{Node, Shape};

use crate::call::Call;
use crate::pack::Packed;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StepProfile {
    /// The module that is computed, by its path, as in `layer1.0.conv1`.
    pub module: String,
    /// What computes it, and what is computed with it.
    pub kernel: String,
    /// The output's shape.
    pub output: Vec<usize>,
    /// Bytes that are read and written, weights included.
    pub bytes: usize,
    /// Multiplications followed by additions, as the network's definition has them; Winograd's kernels do with fewer.
    pub multiply_adds: u64,
    /// Wall time; zero in a description.
    pub seconds: f64,
}

/// All steps of a plan for inputs of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// In the order in which they run.
    pub steps: Vec<StepProfile>,
    /// Bytes of the packed weights.
    pub weight_bytes: usize,
    /// Bytes of all buffers.
    pub buffer_bytes: usize,
    /// The shape of the input.
    pub input: Vec<usize>,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timed = self.steps.iter().any(|step| step.seconds > 0.0);
        for step in &self.steps {
            let gmac = step.multiply_adds as f64 / 1e9;
            let megabytes = step.bytes as f64 / 1e6;
            write!(f, "{:<36} {:<44} {:<20} ", step.module, step.kernel, format!("{:?}", step.output))?;
            write!(f, "{megabytes:>8.2} MB {gmac:>8.3} GMAC")?;
            if timed {
                let rate = if step.seconds > 0.0 { 2.0 * gmac / step.seconds } else { 0.0 };
                write!(f, " {:>8.3} ms {rate:>7.1} GFLOP/s", 1e3 * step.seconds)?;
            }
            writeln!(f)?;
        }
        let gmac = self.steps.iter().map(|step| step.multiply_adds).sum::<u64>() as f64 / 1e9;
        write!(
            f,
            "{} steps for {:?}: {gmac:.3} GMAC, weights {:.1} MB, buffers {:.1} MB",
            self.steps.len(),
            self.input,
            self.weight_bytes as f64 / 1e6,
            self.buffer_bytes as f64 / 1e6,
        )
    }
}

impl StepProfile {
    /// Of a call for so many images, without a time. `shape` is that of the operation's value.
    pub(crate) fn new(
        call: &Call,
        operation: &Packed,
        node: &Node,
        shape: Shape,
        images: usize,
    ) -> StepProfile {
        let mut profile = StepProfile {
            module: node.module.clone(),
            kernel: call.name(),
            output: shape,
            bytes: images * call.value_bytes() + operation.kernel.weight_bytes(),
            multiply_adds: (images * call.multiply_adds()) as u64,
            seconds: 0.0,
        };
        if let Call::Input { to } | Call::Copy { to, .. } = call {
            profile.module.clear();
            profile.output = to.of_images(images).shape;
            profile.bytes = images * call.value_bytes();
        }
        profile
    }
}
