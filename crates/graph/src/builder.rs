//! How a network is written down: layers applied in the order of PyTorch's `forward`, within the modules of its
//! `__init__`.

use crate::{Graph, Module, Node, NodeId, Op, graph::join};

/// Writes a network down, node by node.
///
/// # Panics
/// Its methods panic when the caller contradicts itself, which no input of a user can cause: two different layers of one
/// name, or an order of modules that are not there.
pub struct Builder {
    nodes: Vec<Node>,
    /// The modules that are open, outermost first; the first is the network itself.
    open: Vec<Module>,
    input: Vec<usize>,
}

impl Builder {
    /// A network of a PyTorch class, as in `ResNet`, and its input, for images of a size in pixels:
    /// `[batch, channels, size, size]`.
    pub fn new(class: &str, channels: usize, size: usize) -> (Self, NodeId) {
        Self::with_input(class, &[channels, size, size])
    }

    /// A network with an input of any shape, given without the batch.
    pub fn with_input(class: &str, shape: &[usize]) -> (Self, NodeId) {
        let input = Node { op: Op::Input, inputs: Vec::new(), module: String::new() };
        let open = vec![Module::container("", class)];
        (Self { nodes: vec![input], open, input: shape.into() }, NodeId(0))
    }

    /// Adds a container module and whatever `contents` adds inside it.
    pub fn module<R>(&mut self, name: &str, class: &str, contents: impl FnOnce(&mut Self) -> R) -> R {
        self.open.push(Module::container(name, class));
        let result = contents(self);
        if let Some(module) = self.open.pop() {
            self.here().children.push(module);
        }
        result
    }

    /// Adds a `Sequential` module and whatever `contents` adds inside it.
    pub fn sequential<R>(&mut self, name: &str, contents: impl FnOnce(&mut Self) -> R) -> R {
        self.module(name, "Sequential", contents)
    }

    /// Applies a layer that is a module of its own. A name used again is the same module called again.
    pub fn layer(&mut self, name: &str, op: impl Into<Op>, input: NodeId) -> NodeId {
        let op = op.into();
        match self.here().children.iter().find(|child| child.name == name) {
            None => self.here().children.push(Module::layer(name, op.clone())),
            Some(known) => assert_eq!(known.op.as_ref(), Some(&op), "two layers are called `{name}`"),
        }
        let module = join(&self.path(), name);
        self.push(op, vec![input], module)
    }

    /// Applies an operation that PyTorch's `forward` does as a function.
    pub fn function(&mut self, op: impl Into<Op>, inputs: &[NodeId]) -> NodeId {
        let module = self.path();
        self.push(op.into(), inputs.to_vec(), module)
    }

    /// Puts the children of the module that is open into the order in which PyTorch registers them, where that is not
    /// the order in which `forward` calls them. Children that are not named keep their order, after those that are.
    pub fn registered_in_order(&mut self, names: &[&str]) {
        let place = |module: &Module| names.iter().position(|name| *name == module.name);
        self.here().children.sort_by_key(|module| place(module).unwrap_or(names.len()));
    }

    /// The finished network, whose output is `output`.
    pub fn finish(mut self, output: NodeId) -> Graph {
        let root = self.open.swap_remove(0);
        Graph { nodes: self.nodes, output, root, input: self.input }
    }

    fn push(&mut self, op: Op, inputs: Vec<NodeId>, module: String) -> NodeId {
        self.nodes.push(Node { op, inputs, module });
        NodeId(self.nodes.len() - 1)
    }

    fn here(&mut self) -> &mut Module {
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, module| join(&path, &module.name))
    }
}
