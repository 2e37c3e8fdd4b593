//! A network seen from afar: blocks of operations, and what flows between them.

use std::collections::{HashMap, HashSet};

use engraft_graph::{Cost, Graph, GraphError, Module, Node, NodeId, Op, Shape, TensorKind, is_within};

use crate::caption::{describe, describe_op};

/// What becomes of a block in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing is said about it.
    Body,
    /// It keeps its values.
    Frozen,
    /// It is, or belongs to, the classification head.
    Head,
}

/// A part of a network that is drawn as one box.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The paths of the modules it consists of; none for operations that are no module's own.
    pub modules: Vec<String>,
    /// What it consists of, as in `BasicBlock` or `Conv2d 3×3, ReLU`.
    pub content: String,
    /// How many such it stands for.
    pub repeats: usize,
    /// What becomes of it in training.
    pub part: Part,
    /// How many parameters it has.
    pub parameters: u64,
    /// Its work.
    pub cost: Cost,
    /// The shape of its output.
    pub output: Shape,
}

/// A value that one block hands to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The block that gives it, by its place.
    pub from: usize,
    /// The block that takes it, by its place.
    pub to: usize,
    /// Its shape.
    pub shape: Shape,
}

/// A network as blocks and what flows between them. Can be written as [SVG](Self::to_svg) and for [Graphviz](Self::to_dot).
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// The first is the network's input.
    pub blocks: Vec<Block>,
    /// No two between the same blocks.
    pub edges: Vec<Edge>,
}

impl Drawing {
    /// A network as blocks, for an input `[batch, channels, height, width]`.
    ///
    /// A block is a module at a depth of `depth` (1: the network's children), or, without it, one that makes a stage: a module
    /// is opened as long as it halves the resolution more than once, or holds the head beside other layers; and of
    /// equal blocks in a row only one is drawn. Layers that act on each element, and norms, belong to the layer before them.
    ///
    /// `part` tells for a module's path what becomes of it.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn of(
        graph: &Graph,
        input: &[usize],
        depth: Option<usize>,
        part: impl Fn(&str) -> Part,
    ) -> Result<Self, GraphError> {
        let shapes = graph.shapes(input)?;
        let opened = opened(graph, &shapes, depth);
        let mut modules = HashMap::new();
        graph.modules().walk(&mut |path, module| _ = modules.insert(path.to_string(), module));
        let mut groups = Grouping { graph, modules, opened, groups: Vec::new(), of: Vec::new() };
        for id in 0..graph.nodes().len() {
            groups.add(id, &part);
        }
        let costs = graph.costs(input)?;
        let blocks = groups.groups.iter().map(|group| groups.block(group, &costs, &shapes)).collect();
        let edges = groups.edges().map(|(from, to, NodeId(id))| Edge { from, to, shape: shapes[id].clone() });
        let mut drawing = Drawing { edges: edges.collect(), blocks };
        if depth.is_none() {
            drawing.fold_repeats();
        }
        Ok(drawing)
    }
}

/// The paths of the modules whose children are looked at one by one; the network itself is one.
fn opened(graph: &Graph, shapes: &[Shape], depth: Option<usize>) -> HashSet<String> {
    let head = graph.head().map_or_else(|_| String::new(), |head| head.path);
    let mut opened = HashSet::from([String::new()]);
    graph.modules().walk(&mut |path, module| {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        if module.children.is_empty() || !opened.contains(parent) {
            return;
        }
        let open = match depth {
            Some(depth) => path.split('.').count() < depth,
            None => (is_within(&head, path) && head != path) || resolutions(graph, path, module, shapes) > 2,
        };
        if open {
            opened.insert(path.into());
        }
    });
    opened
}

/// How many image sizes there are among the outputs of a module's children.
fn resolutions(graph: &Graph, path: &str, module: &Module, shapes: &[Shape]) -> usize {
    let size = |child: &Module| {
        let id = graph.module_output(&format!("{path}.{}", child.name)).ok()?;
        match (shapes[id.0].as_slice(), graph.is_channels_last(id)) {
            (&[_, height, width, _], true) | (&[_, _, height, width], false) => Some([height, width]),
            _ => None,
        }
    };
    module.children.iter().filter_map(size).collect::<HashSet<_>>().len()
}

/// Nodes that are drawn as one block.
struct Group {
    /// The module they belong to; none for layers in a row.
    module: Option<String>,
    part: Part,
    nodes: Vec<usize>,
}

struct Grouping<'a> {
    graph: &'a Graph,
    /// By path.
    modules: HashMap<String, &'a Module>,
    opened: HashSet<String>,
    groups: Vec<Group>,
    /// The group of every node so far.
    of: Vec<usize>,
}

impl Grouping<'_> {
    fn add(&mut self, id: usize, part: impl Fn(&str) -> Part) {
        let node = &self.graph.nodes()[id];
        let module = self.closed_module(&node.module);
        let part = part(module.as_deref().unwrap_or(&node.module));
        let group = match &module {
            Some(path) => self.groups.iter().rposition(|group| group.module.as_ref() == Some(path)),
            None => self.layer_before(id, part),
        };
        match group.filter(|group| !self.would_loop(id, *group)) {
            Some(group) => {
                self.groups[group].nodes.push(id);
                self.of.push(group);
            }
            None => {
                self.of.push(self.groups.len());
                self.groups.push(Group { module, part, nodes: vec![id] });
            }
        }
    }

    /// The module with children that holds a node and is not opened, though its parent is.
    fn closed_module(&self, path: &str) -> Option<String> {
        let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
        let closed = ends.map(|end| &path[..end]).find(|path| !self.opened.contains(*path))?;
        let module = self.modules.get(closed)?;
        (!module.children.is_empty()).then(|| closed.into())
    }

    /// The group of the layer before, for a node that changes its output but little, if nobody else reads that.
    fn layer_before(&self, id: usize, part: Part) -> Option<usize> {
        let node = &self.graph.nodes()[id];
        let mut inputs = self.inputs(id);
        let (Some(NodeId(input)), None) = (inputs.next(), inputs.next()) else { return None };
        if begins_block(&node.op) {
            return None;
        }
        let readers = self.graph.nodes().iter().filter(|node| node.inputs.contains(&NodeId(input)));
        let group = self.of[input];
        let layers = self.groups[group].module.is_none() && self.groups[group].part == part;
        let arranges = node.op.computes_nothing() && !self.is_layer(node);
        (input > 0 && (layers || arranges) && readers.count() == 1).then_some(group)
    }

    /// Whether a node is a module of its own, not a function that a module's `forward` calls.
    fn is_layer(&self, node: &Node) -> bool {
        self.modules.get(&node.module).is_some_and(|module| module.op.is_some())
    }

    /// Whether a group, with this node in it, would depend on itself.
    fn would_loop(&self, id: usize, group: usize) -> bool {
        let mut pending: Vec<usize> = self.inputs(id).map(|input| self.of[input.0]).collect();
        pending.retain(|from| *from != group);
        let mut seen = HashSet::new();
        while let Some(next) = pending.pop() {
            if next == group {
                return true;
            }
            if seen.insert(next) {
                let nodes = self.groups[next].nodes.iter().flat_map(|id| self.inputs(*id));
                pending.extend(nodes.map(|input| self.of[input.0]).filter(|from| *from != next));
            }
        }
        false
    }

    /// The nodes whose values a node reads.
    fn inputs(&self, id: usize) -> impl Iterator<Item = NodeId> {
        let node = &self.graph.nodes()[id];
        node.inputs.iter().take(node.op.operands()).copied()
    }

    fn block(&self, group: &Group, costs: &[Cost], shapes: &[Shape]) -> Block {
        let nodes = || group.nodes.iter().map(|id| &self.graph.nodes()[*id]);
        let mut cost = Cost::default();
        group.nodes.iter().for_each(|id| cost += costs[*id]);
        let tensors: HashSet<_> = nodes().flat_map(|node| node.tensors()).collect();
        let parameters = tensors.iter().filter(|tensor| tensor.kind == TensorKind::Parameter);
        let (modules, content) = match &group.module {
            Some(path) => (vec![path.clone()], describe(self.modules[path])),
            None => {
                let mut modules: Vec<String> =
                    nodes().filter(|node| self.is_layer(node)).map(|node| node.module.clone()).collect();
                // How `forward` arranges values between layers is not worth a word, unless there is nothing else to say.
                let said = nodes().filter(|node| self.is_layer(node) || !node.op.computes_nothing());
                let mut content: Vec<String> = said.map(|node| describe_op(&node.op)).collect();
                if content.is_empty() {
                    content.extend(nodes().take(1).map(|node| describe_op(&node.op)));
                }
                modules.dedup();
                content.dedup();
                (modules, content.join(", "))
            }
        };
        Block {
            modules,
            content,
            repeats: 1,
            part: group.part,
            parameters: parameters.map(|tensor| tensor.len() as u64).sum(),
            cost,
            output: group.nodes.last().map_or_else(Vec::new, |id| shapes[*id].clone()),
        }
    }

    /// Which group hands which node's output to which.
    fn edges(&self) -> impl Iterator<Item = (usize, usize, NodeId)> {
        let mut seen = HashSet::new();
        let all = (0..self.of.len()).flat_map(|to| self.inputs(to).map(move |input| (to, input)));
        let between = all.map(|(to, input)| (self.of[input.0], self.of[to], input));
        between.filter(move |(from, to, _)| from != to && seen.insert((*from, *to)))
    }
}

/// Whether an operation is more than something that is done to the output of the layer before it.
fn begins_block(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv2d(_)
            | Op::Linear(_)
            | Op::Attention(_)
            | Op::MaxPool2d(_)
            | Op::AvgPool2d { .. }
            | Op::AdaptiveAvgPool2d { .. }
            | Op::Mean { .. }
    )
}

impl Drawing {
    /// Of blocks in a row that are equal, and give outputs of one shape, keeps one.
    fn fold_repeats(&mut self) {
        let mut at = 0;
        while at < self.blocks.len() {
            match self.repeat_of(at) {
                Some(next) => self.merge(at, next),
                None => at += 1,
            }
        }
    }

    /// The block that alone follows this one, if it is its repeat.
    fn repeat_of(&self, at: usize) -> Option<usize> {
        let mut readers = self.edges.iter().filter(|edge| edge.from == at);
        let (Some(edge), None) = (readers.next(), readers.next()) else { return None };
        let alone = self.edges.iter().filter(|other| other.to == edge.to).count() == 1;
        let (block, next) = (&self.blocks[at], &self.blocks[edge.to]);
        let equal = block.content == next.content && block.output == next.output && block.part == next.part;
        (alone && equal && !next.modules.is_empty()).then_some(edge.to)
    }

    /// Makes a block part of the one before it.
    fn merge(&mut self, into: usize, next: usize) {
        let merged = self.blocks.remove(next);
        let block = &mut self.blocks[into];
        block.modules.extend(merged.modules);
        block.repeats += 1;
        block.parameters += merged.parameters;
        block.cost += merged.cost;
        self.edges.retain(|edge| edge.to != next);
        for place in self.edges.iter_mut().flat_map(|edge| [&mut edge.from, &mut edge.to]) {
            match *place {
                place_of_next if place_of_next == next => *place = into,
                other => *place -= usize::from(other > next),
            }
        }
    }
}
