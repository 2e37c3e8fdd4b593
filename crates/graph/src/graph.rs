//! The graph: nodes in the order in which they run, beside the tree of modules they belong to.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::shape::{check_attributes, elements};
use crate::{GraphError, Op, TensorSpec};

/// A node's place in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// One operation in a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From which nodes' outputs; all of them come earlier in the graph.
    pub inputs: Vec<NodeId>,
    /// PyTorch's path of the module that computes it, as in `layer1.0.conv1`. For a function called in a module's
    /// `forward`, the path of that module; empty for the network itself.
    pub module: String,
}

impl Node {
    /// The tensors the node needs, by their full names.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors = self.op.tensors();
        for tensor in &mut tensors {
            tensor.name = join(&self.module, &tensor.name);
        }
        tensors
    }

    /// How a message calls the node: its module and its operation.
    pub fn describe(&self) -> String {
        match self.module.as_str() {
            "" => self.op.name().to_string(),
            module => format!("{module} ({})", self.op.name()),
        }
    }
}

/// One module of the tree that PyTorch prints: a layer with an operation, or a container with children.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Its name within its parent; empty for the network itself.
    pub name: String,
    /// PyTorch's class name, as in `Sequential`.
    pub class: String,
    /// What a layer computes; `None` for a container.
    pub op: Option<Op>,
    /// The tensors that a container itself holds, by their own names: a class token, a table of biases.
    pub tensors: Vec<TensorSpec>,
    /// In the order of registration, which is the order of printing and of the state dict.
    pub children: Vec<Module>,
}

impl Module {
    /// A container without children yet.
    pub fn container(name: &str, class: &str) -> Self {
        Self { name: name.into(), class: class.into(), op: None, tensors: Vec::new(), children: Vec::new() }
    }

    /// A module that is one operation.
    pub fn layer(name: &str, op: Op) -> Self {
        Self { op: Some(op.clone()), ..Self::container(name, op.name()) }
    }

    /// Calls `visit` with every module below this one and its path from here, parents first.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&str, &'a Module)) {
        self.walk_below("", visit);
    }

    fn walk_below<'a>(&'a self, prefix: &str, visit: &mut impl FnMut(&str, &'a Module)) {
        for child in &self.children {
            let path = join(prefix, &child.name);
            visit(&path, child);
            child.walk_below(&path, visit);
        }
    }

    /// The module at a path below this one.
    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut Module> {
        path.split('.')
            .try_fold(self, |module, name| module.children.iter_mut().find(|child| child.name == name))
    }
}

/// A network as data. Built by a [`Builder`](crate::Builder); prints as PyTorch prints it.
///
/// What is deserialised is checked: nodes read from nodes before them, attributes make sense, and the output can be computed
/// for the input the network was designed for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) output: NodeId,
    /// The outputs of auxiliary heads, which PyTorch gives in training only.
    pub(crate) aux: Vec<NodeId>,
    pub(crate) root: Module,
    /// The input it was designed for, without the batch: `[channels, height, width]`.
    pub(crate) input: Vec<usize>,
}

/// A graph as somebody wrote it down.
#[derive(Deserialize)]
struct Unchecked {
    nodes: Vec<Node>,
    output: NodeId,
    #[serde(default)]
    aux: Vec<NodeId>,
    root: Module,
    input: Vec<usize>,
}

impl TryFrom<Unchecked> for Graph {
    type Error = GraphError;

    fn try_from(Unchecked { nodes, output, aux, root, input }: Unchecked) -> Result<Self, GraphError> {
        let malformed = |text: String| Err(GraphError::Malformed(text));
        for (index, node) in nodes.iter().enumerate() {
            if let Some(NodeId(later)) = node.inputs.iter().find(|input| input.0 >= index) {
                let node = node.describe();
                return malformed(format!(
                    "node {index}, {node}, reads from node {later}, which is not before it"
                ));
            }
            check_attributes(node)?;
        }
        if let Some(NodeId(missing)) = [output].iter().chain(&aux).find(|id| id.0 >= nodes.len()) {
            return malformed(format!("its output is node {missing}, of {} nodes", nodes.len()));
        }
        let mut checked = Ok(());
        let mut check = |path: &str, module: &Module| {
            if module.tensors.iter().any(|tensor| elements(&tensor.shape).is_none()) {
                checked = Err(GraphError::Malformed(format!("no memory holds the tensors of {path}")));
            }
            if let (Some(op), Ok(())) = (&module.op, &checked) {
                let node = Node { op: op.clone(), inputs: Vec::new(), module: path.into() };
                checked = check_attributes(&node);
            }
        };
        check("", &root);
        root.walk(&mut check);
        checked?;
        let graph = Self { nodes, output, aux, root, input };
        graph.until(output).output_shape()?;
        Ok(graph)
    }
}

impl Graph {
    /// All nodes; every node comes after its inputs.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node whose output is the network's.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// The nodes whose outputs are those of auxiliary heads, which help to train the layers before them (GoogLeNet, Inception).
    pub fn aux(&self) -> &[NodeId] {
        &self.aux
    }

    /// The same network without auxiliary heads.
    pub fn without_aux(&self) -> Graph {
        Graph { aux: Vec::new(), ..self.clone() }.pruned()
    }

    /// The input size it was designed for, without the batch: `[channels, height, width]`.
    pub fn input(&self) -> &[usize] {
        &self.input
    }

    /// The same network for an input of another shape, given without the batch.
    ///
    /// # Errors
    /// Names the first node on the way to the output that cannot take its input then. Auxiliary heads may need larger images.
    pub fn for_input(self, shape: &[usize]) -> Result<Graph, GraphError> {
        let graph = Graph { input: shape.into(), ..self };
        graph.until(graph.output).output_shape()?;
        Ok(graph)
    }

    /// The tree of modules.
    pub fn modules(&self) -> &Module {
        &self.root
    }

    /// The tensors of the state dict, in PyTorch's order.
    pub fn state(&self) -> Vec<TensorSpec> {
        let mut state = Vec::new();
        let mut add = |path: &str, module: &Module| {
            for mut tensor in module.tensors.iter().cloned().chain(module.op.iter().flat_map(Op::tensors)) {
                tensor.name = join(path, &tensor.name);
                state.push(tensor);
            }
        };
        add("", &self.root);
        self.root.walk(&mut add);
        state
    }

    /// The part of the network that leads to a node, whose output becomes the network's.
    pub fn until(&self, node: NodeId) -> Graph {
        Graph { output: node, aux: Vec::new(), ..self.clone() }.pruned()
    }

    /// The node that gives the output of the module at `path`; `output` means the network's.
    ///
    /// # Errors
    /// When the network has no such module, or the module takes no part in computing the output, or none of its own.
    pub fn module_output(&self, path: &str) -> Result<NodeId, GraphError> {
        if path == "output" {
            return Ok(self.output);
        }
        self.require_module(path)?;
        let last = self.nodes.iter().rposition(|node| is_within(&node.module, path));
        last.map(NodeId).ok_or_else(|| self.no_output(path))
    }

    /// Why a module that exists has no output.
    pub(crate) fn no_output(&self, path: &str) -> GraphError {
        let is_whole = |node: &&Node| matches!(node.op, Op::Attention(_)) && is_within(path, &node.module);
        match self.nodes.iter().find(is_whole) {
            Some(node) => GraphError::PartOfModule { path: path.into(), whole: node.module.clone() },
            None => GraphError::UnusedModule { path: path.into() },
        }
    }

    /// The paths of all modules, parents before children.
    pub fn module_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.root.walk(&mut |path, _| paths.push(path.to_string()));
        paths
    }

    pub(crate) fn require_module(&self, path: &str) -> Result<(), GraphError> {
        let paths = self.module_paths();
        if paths.iter().any(|known| known == path) {
            return Ok(());
        }
        let nearest = paths.into_iter().max_by(|a, b| {
            let [a, b] = [a, b].map(|known| strsim::jaro_winkler(known, path));
            a.total_cmp(&b)
        });
        Err(GraphError::NoSuchModule { path: path.into(), nearest: nearest.unwrap_or_default() })
    }

    /// Marks each node that `node`'s output depends on, itself included.
    pub(crate) fn ancestors(&self, node: NodeId) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        needed[node.0] = true;
        for index in (0..=node.0).rev() {
            if needed[index] {
                for input in &self.nodes[index].inputs {
                    needed[input.0] = true;
                }
            }
        }
        needed
    }

    /// Marks each node that one of the network's outputs depends on.
    pub(crate) fn needed(&self) -> Vec<bool> {
        let mut needed = self.ancestors(self.output);
        for aux in &self.aux {
            needed.iter_mut().zip(self.ancestors(*aux)).for_each(|(needed, too)| *needed |= too);
        }
        needed
    }

    /// The same network without the nodes that none of its outputs depends on, and without their modules. Modules that
    /// never had a node (PyTorch registers some that `forward` does not call) stay beside their parent.
    pub(crate) fn pruned(&self) -> Graph {
        let needed = self.needed();
        let mut new_id = vec![NodeId(0); self.nodes.len()];
        let mut nodes = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| needed[*index]) {
            new_id[index] = NodeId(nodes.len());
            let inputs = node.inputs.iter().map(|input| new_id[input.0]).collect();
            nodes.push(Node { inputs, ..node.clone() });
        }
        let lost: HashSet<&str> = self.nodes.iter().map(|node| node.module.as_str()).collect();
        let kept: HashSet<&str> = nodes.iter().map(|node| node.module.as_str()).collect();
        let mut root = self.root.clone();
        let gone = |path: &str| {
            let within = |paths: &HashSet<&str>| paths.iter().any(|used| is_within(used, path));
            within(&lost) && !within(&kept)
        };
        retain_modules(&mut root, "", &|path| !gone(path));
        retain_tensors(&mut root, "", &tensor_names(&nodes));
        let aux = self.aux.iter().map(|id| new_id[id.0]).collect();
        Graph { output: new_id[self.output.0], aux, nodes, root, input: self.input.clone() }
    }
}

fn retain_modules(module: &mut Module, prefix: &str, keep: &impl Fn(&str) -> bool) {
    module.children.retain(|child| keep(&join(prefix, &child.name)));
    for child in &mut module.children {
        retain_modules(child, &join(prefix, &child.name), keep);
    }
}

/// Drops the tensors of containers that no node needs.
fn retain_tensors(module: &mut Module, path: &str, needed: &HashSet<String>) {
    module.tensors.retain(|tensor| needed.contains(&join(path, &tensor.name)));
    for child in &mut module.children {
        let path = join(path, &child.name);
        retain_tensors(child, &path, needed);
    }
}

/// The full names of the tensors that nodes need.
pub(crate) fn tensor_names(nodes: &[Node]) -> HashSet<String> {
    nodes.iter().flat_map(Node::tensors).map(|tensor| tensor.name).collect()
}

/// Whether the module or tensor at `path` is `ancestor` or below it: `layer1.0.conv1.weight` is within `layer1`, but
/// `layer10` is not.
pub fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A child's path from its parent's path and its own name.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}
