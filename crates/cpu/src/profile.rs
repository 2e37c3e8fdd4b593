//! What a plan does, and how long each part of it takes.

use std::fmt;

use engraft_graph::{Node, Op};

use crate::fuse::{Before, Kind, Operation, is_product};
use crate::layer::{Layer, Layers};
use crate::lower::{Step, Work};

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

/// Describes a step of a plan.
pub(crate) fn describe(
    nodes: &[Node],
    operations: &[Operation],
    layers: &Layers,
    step: &Step,
    multiply_adds: &[u64],
) -> StepProfile {
    let values: usize =
        step.inputs.iter().chain(&step.residual).chain([&step.output]).map(|view| view.len()).sum();
    let mut profile = StepProfile {
        module: String::new(),
        kernel: String::new(),
        output: step.output.shape.clone(),
        bytes: 4 * values,
        multiply_adds: 0,
        seconds: 0.0,
    };
    match &step.work {
        Work::Input { .. } => profile.kernel = "input".into(),
        Work::Copy => profile.kernel = "copy".into(),
        Work::Operation(number) | Work::Windows(number, _) => {
            let operation = &operations[*number];
            let node = &nodes[operation.node];
            profile.module = node.module.clone();
            profile.kernel = kernel(operation, &node.op, &layers.layers[*number]);
            if let Some(expand) = &operation.expand {
                let first = kernel(expand, &nodes[expand.node].op, &layers.layers[*number]);
                profile.kernel = format!("{first}, {}", profile.kernel);
            }
            profile.bytes += layers.layers[*number].bytes();
            let expand = operation.expand.as_ref().map_or(0, |expand| multiply_adds[expand.node]);
            let all = expand + multiply_adds[operation.node];
            profile.multiply_adds = match (operation.kind, &node.op) {
                // Of an attention's four products the projections are three and one part.
                (Kind::Qkv, Op::Attention(attention)) => {
                    3 * (attention.dim * attention.dim * rows(step, 3 * attention.dim)) as u64
                }
                (Kind::Projection, Op::Attention(attention)) => {
                    (attention.dim * attention.dim * rows(step, attention.dim)) as u64
                }
                (Kind::Attend, Op::Attention(attention)) => {
                    let projections = 4 * attention.dim * attention.dim * rows(step, attention.dim);
                    all.saturating_sub(projections as u64)
                }
                _ => all,
            };
        }
    }
    profile
}

fn rows(step: &Step, columns: usize) -> usize {
    step.output.len() / columns
}

fn kernel(operation: &Operation, op: &Op, layer: &Layer) -> String {
    let mut text = match (operation.kind, op, layer) {
        (_, Op::Conv2d(conv), layer) => {
            let name = match layer {
                _ if is_product(conv) => "product",
                Layer::Winograd { .. } => "winograd",
                Layer::Depthwise { .. } | Layer::ExpandDepthwise { .. } => "depthwise",
                _ if conv.groups > 1 => "grouped",
                _ => "direct",
            };
            let [height, width] = conv.kernel;
            let stride = if conv.stride == [1, 1] { String::new() } else { format!(" /{}", conv.stride[0]) };
            format!("{name} {height}x{width}{stride}")
        }
        (Kind::Qkv | Kind::Projection | Kind::Linear, ..) => "product".into(),
        (Kind::Attend, ..) => "attention".into(),
        (Kind::Affine, ..) => "affine".into(),
        _ => op.name().to_string(),
    };
    match operation.before {
        Before::Affine(..) => text.insert_str(0, "affine, "),
        Before::Scale(_) => text.insert_str(0, "scale, "),
        _ => {}
    }
    if !operation.affine.is_empty() {
        text += " + affine";
    }
    if operation.residual.is_some() {
        text += " + residual";
    }
    if operation.activation != engraft_kernels::Activation::Identity {
        text += &format!(" + {:?}", operation.activation);
    }
    text
}
