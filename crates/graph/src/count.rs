//! What a network costs: parameters, multiply-adds, and the memory that its values take.

use crate::graph::is_within;
use crate::{
    Attention, Conv2d, Graph, GraphError, Module, Node, NodeId, Op, PositionBias, Shape, TensorKind,
    TensorSpec,
};

/// The work of one node in evaluation mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiplications that are each followed by an addition, in convolutions, linear layers and matrix products, those
    /// within attention included; nothing else counts. This is what torchvision documents as GFLOPS of its weights.
    pub multiply_adds: u64,
    /// Bytes of the output as `f32`; none where the output is the input, only looked at anew (flatten, reshape, permute, a
    /// slice, dropout). Attention counts as one operation.
    pub activation_bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.multiply_adds += other.multiply_adds;
        self.activation_bytes += other.activation_bytes;
    }
}

/// What one module has and costs, all modules below it included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCost {
    /// Its path; empty for the network itself.
    pub path: String,
    /// PyTorch's class name.
    pub class: String,
    /// The shape of its output, of the last one if it is called several times; none for a module that computes nothing.
    pub output: Option<Shape>,
    /// How many parameters it has.
    pub parameters: u64,
    /// How many of them are trained.
    pub trainable: u64,
    /// Its work.
    pub cost: Cost,
}

impl Graph {
    /// The cost of every node for an input `[batch, channels, height, width]`: nothing for those that the output does not depend
    /// on, as auxiliary heads, which run in training only.
    ///
    /// # Errors
    /// As [`shapes`](Self::shapes).
    pub fn costs(&self, input: &[usize]) -> Result<Vec<Cost>, GraphError> {
        let shapes = self.shapes(input)?;
        let needed = self.ancestors(self.output);
        let cost = |(id, node): (usize, &Node)| match needed[id] {
            true => Cost {
                multiply_adds: multiply_adds(node, &shapes, &shapes[id]),
                activation_bytes: if node.op.computes_nothing() { 0 } else { 4 * product(&shapes[id]) },
            },
            false => Cost::default(),
        };
        Ok(self.nodes.iter().enumerate().map(cost).collect())
    }

    /// What every module has and costs for an input `[batch, channels, height, width]`: the network itself first, then its modules
    /// in the order in which they are printed.
    ///
    /// `trainable` tells for the full name of a parameter, as in `fc.weight`, whether it is trained.
    ///
    /// # Errors
    /// As [`shapes`](Self::shapes).
    pub fn module_costs(
        &self,
        input: &[usize],
        trainable: impl Fn(&str) -> bool,
    ) -> Result<Vec<ModuleCost>, GraphError> {
        let (shapes, costs, state) = (self.shapes(input)?, self.costs(input)?, self.state());
        let parameters: Vec<&TensorSpec> =
            state.iter().filter(|tensor| tensor.kind == TensorKind::Parameter).collect();
        let mut modules = Vec::new();
        let mut add = |path: &str, module: &Module| {
            let is_inside = |other: &str| path.is_empty() || is_within(other, path);
            let nodes = || (0..self.nodes.len()).filter(|id| is_inside(&self.nodes[*id].module));
            let mut cost = Cost::default();
            nodes().for_each(|id| cost += costs[id]);
            let mut counts = [0; 2];
            for tensor in parameters.iter().filter(|tensor| is_inside(&tensor.name)) {
                counts[0] += tensor.len() as u64;
                counts[1] += if trainable(&tensor.name) { tensor.len() as u64 } else { 0 };
            }
            let last = if path.is_empty() { Some(self.output.0) } else { nodes().next_back() };
            modules.push(ModuleCost {
                path: path.into(),
                class: module.class.clone(),
                output: last.map(|id| shapes[id].clone()),
                parameters: counts[0],
                trainable: counts[1],
                cost,
            });
        };
        add("", &self.root);
        self.root.walk(&mut add);
        Ok(modules)
    }
}

fn multiply_adds(node: &Node, shapes: &[Shape], output: &[usize]) -> u64 {
    let input = |index: usize| node.inputs.get(index).map_or(&[][..], |NodeId(id)| &shapes[*id]);
    match &node.op {
        Op::Conv2d(Conv2d { in_channels, groups, kernel, .. }) => {
            product(output) * (in_channels / groups) as u64 * product(kernel)
        }
        Op::Linear(linear) => product(output) * linear.in_features as u64,
        Op::MatMul => product(output) * input(0).last().map_or(0, |size| *size as u64),
        Op::Attention(attention) => attention_multiply_adds(attention, input(0)),
        _ => 0,
    }
}

/// Four projections of every token, and in every window two products of each token with each.
fn attention_multiply_adds(attention: &Attention, input: &[usize]) -> u64 {
    let (groups, tokens) = match (attention.windows, input) {
        (Some(windows), [batch, height, width, _]) => {
            let across = |size: &usize| size.div_ceil(windows.side.max(1)) as u64;
            (*batch as u64 * across(height) * across(width), (windows.side * windows.side) as u64)
        }
        (_, [groups @ .., tokens, _]) => (product(groups), *tokens as u64),
        _ => (0, 0),
    };
    let dim = attention.dim as u64;
    let position: u64 = match attention.position {
        PositionBias::Network { window } => {
            let distances = (2 * window as u64 - 1).pow(2);
            let layers = attention.layers();
            let widths = layers.iter().filter(|(path, _)| path.starts_with("cpb_mlp"));
            widths.filter_map(|(_, op)| op.widths()).map(|widths| distances * product(&widths)).sum()
        }
        _ => 0,
    };
    groups * (4 * tokens * dim * dim + 2 * tokens * tokens * dim) + position
}

fn product(sizes: &[usize]) -> u64 {
    sizes.iter().map(|size| *size as u64).product()
}
