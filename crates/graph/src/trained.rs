//! The part of a grafted network that a policy trains: which parameters, and how a person calls them.

use std::collections::HashSet;
use std::fmt;

use crate::graph::{is_within, join};
use crate::{Graft, Graph, GraphError, Module, Node, NodeId, Op, Part, TensorKind};

/// A module that holds so many of ten layers is looked into for blocks.
const NEARLY_ALL: usize = 9;

/// How many modules are named.
const NAMED: usize = 6;

/// The parameters that train.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    names: HashSet<String>,
    /// The modules that train as a whole, the outermost of each, in the order of printing.
    pub modules: Vec<String>,
    /// How many values train.
    pub parameters: usize,
    /// How many the network has.
    pub of: usize,
}

impl Trained {
    /// Whether a parameter, by its full name, trains.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

impl fmt::Display for Trained {
    /// As in `layer4, fc: 14,968,834 of 23,512,130 parameters`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [parameters, of] = [self.parameters, self.of].map(thousands);
        match &self.modules[..] {
            _ if self.parameters == self.of => return write!(f, "the whole network: {of} parameters"),
            modules if modules.len() <= NAMED => f.write_str(&modules.join(", "))?,
            [first, second, .., last] => {
                write!(f, "{} modules ({first}, {second}, ... {last})", self.modules.len())?;
            }
            _ => {}
        }
        write!(f, ": {parameters} of {of} parameters")
    }
}

/// `23,512,130`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(String::from_utf8_lossy);
    let groups: Vec<_> = (first > 0).then(|| digits[..first].into()).into_iter().chain(groups).collect();
    groups.join(",")
}

impl Graph {
    /// The innermost module that holds nearly all layers before the head (nine tenths): `features`, `encoder.layers`,
    /// `trunk_output`; empty if that is the network itself, as in a ResNet.
    pub(crate) fn extractor(&self) -> String {
        let head = self.head().ok();
        let is_of_head = |path: &str| head.as_ref().is_some_and(|head| is_within(path, &head.path));
        let needed = self.ancestors(self.output);
        let nodes = self.nodes.iter().zip(needed).filter(|(_, needed)| *needed).map(|(node, _)| node);
        let layers: Vec<&str> = nodes
            .filter(|node| is_layer(node) && !is_of_head(&node.module))
            .map(|node| node.module.as_str())
            .collect();
        let mut path = "";
        loop {
            let child = layers.iter().map(|layer| child_towards(path, layer)).find(|child| {
                // A layer itself holds none.
                let holds = |layer: &&&str| is_within(layer, child) && layer.len() > child.len();
                10 * layers.iter().filter(holds).count() >= NEARLY_ALL * layers.len()
            });
            match child {
                Some(child) if child != path => path = child,
                _ => return path.into(),
            }
        }
    }
}

/// The path of the child of the module at `path` that is, or holds, the one at `below`; `below` itself if that is elsewhere.
fn child_towards<'a>(path: &str, below: &'a str) -> &'a str {
    let start = match path {
        "" => 0,
        _ if is_within(below, path) => (path.len() + 1).min(below.len()),
        _ => return below,
    };
    below[start..].find('.').map_or(below, |end| &below[..start + end])
}

/// What a block needs one of: a norm, an activation or a pool is none by itself.
fn is_layer(node: &Node) -> bool {
    matches!(node.op, Op::Conv2d(_) | Op::Linear(_) | Op::Attention(_))
}

impl Graft {
    /// The blocks before the head, in the order in which they run: the first node of each.
    ///
    /// A block is a child of the feature extractor, or of a module around it, that has a convolution, a linear layer or an attention,
    /// with the children behind it that have none: `layer4` of a ResNet, `features.18` of MobileNetV2, `features.10` (a
    /// convolution) to `features.12` of AlexNet, `denseblock4` with `norm5` of a DenseNet. The feature extractor is the innermost module
    /// that holds nine tenths of the layers of the network as it was before the graft.
    pub fn blocks(&self) -> Vec<NodeId> {
        let nodes = &self.graph.nodes()[..=self.features.0];
        let mut blocks = Vec::new();
        let mut current = "";
        for (id, node) in nodes.iter().enumerate() {
            let unit = self.unit(&node.module);
            // A function between modules belongs to what is before it.
            if unit.is_empty() || unit == current {
                continue;
            }
            current = unit;
            if nodes.iter().any(|node| is_layer(node) && is_within(&node.module, unit)) {
                blocks.push(NodeId(id));
            }
        }
        blocks
    }

    /// The child of the feature extractor or of a module around it that is, or holds, the module at `path`; empty for these
    /// themselves.
    fn unit<'a>(&self, path: &'a str) -> &'a str {
        let mut around = "";
        while is_within(&self.extractor, around) || around.is_empty() {
            if around == path {
                return "";
            }
            let child = child_towards(around, path);
            if !is_within(&self.extractor, child) {
                return child;
            }
            around = &path[..child.len()];
        }
        path
    }

    /// The parameters that a part has.
    ///
    /// # Errors
    /// When the network has no such module, or not as many blocks.
    pub fn trained(&self, part: &Part) -> Result<Trained, GraphError> {
        let nodes = self.graph.nodes();
        let from = match part {
            Part::Head | Part::Norm => nodes.len(),
            Part::All => 0,
            Part::Last(count) => {
                let blocks = self.blocks();
                let place = blocks.len().checked_sub(*count);
                let place = place.ok_or(GraphError::TooFewBlocks { asked: *count, blocks: blocks.len() })?;
                blocks.get(place).map_or(nodes.len(), |block| block.0)
            }
            Part::From(path) => {
                self.graph.require_module(path)?;
                let first = nodes.iter().position(|node| is_within(&node.module, path));
                first.ok_or_else(|| self.graph.no_output(path))?
            }
        };
        let is_norm =
            |op: &Op| matches!(op, Op::BatchNorm2d(_) | Op::LayerNorm { .. } | Op::LayerNorm2d { .. });
        let in_part: HashSet<String> = nodes
            .iter()
            .enumerate()
            .filter(|(id, node)| *id >= from || (*part == Part::Norm && is_norm(&node.op)))
            .flat_map(|(_, node)| node.tensors())
            .map(|tensor| tensor.name)
            .collect();
        let all = self.graph.state().into_iter().filter(|tensor| tensor.kind == TensorKind::Parameter);
        let all: Vec<_> = all.collect();
        let trains = |name: &str| in_part.contains(name) || self.is_of_head(name);
        let [mut parameters, mut of] = [0, 0];
        let mut names = HashSet::new();
        let mut frozen = HashSet::new();
        for tensor in all {
            of += tensor.len();
            match trains(&tensor.name) {
                true => {
                    parameters += tensor.len();
                    names.insert(tensor.name);
                }
                false => {
                    frozen.insert(tensor.name);
                }
            }
        }
        let mut modules = Vec::new();
        whole_modules(self.graph.modules(), "", &names, &frozen, &mut modules);
        Ok(Trained { names, modules, parameters, of })
    }
}

/// The outermost modules below one that have parameters of which all train.
fn whole_modules(
    module: &Module,
    path: &str,
    trained: &HashSet<String>,
    frozen: &HashSet<String>,
    found: &mut Vec<String>,
) {
    for child in &module.children {
        let path = join(path, &child.name);
        let has = |names: &HashSet<String>| names.iter().any(|name| is_within(name, &path));
        match (has(trained), has(frozen)) {
            (true, false) => found.push(path),
            (true, true) => whole_modules(child, &path, trained, frozen, found),
            (false, _) => {}
        }
    }
}
