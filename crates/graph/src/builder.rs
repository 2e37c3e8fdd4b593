//! How a network is written down: layers applied in the order of PyTorch's `forward`, within the modules of its
//! `__init__`.

use crate::{Attention, Graph, Module, Node, NodeId, Op, graph::join};

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
    aux: Vec<NodeId>,
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
        (Self { nodes: vec![input], open, input: shape.into(), aux: Vec::new() }, NodeId(0))
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

    /// Applies a layer whose class in PyTorch has another name than its operation.
    pub fn layer_of_class(&mut self, name: &str, class: &str, op: impl Into<Op>, input: NodeId) -> NodeId {
        let output = self.layer(name, op, input);
        if let Some(module) = self.here().children.iter_mut().find(|child| child.name == name) {
            module.class = class.into();
        }
        output
    }

    /// Adds a layer that PyTorch registers but its `forward` does not call.
    pub fn unused_layer(&mut self, name: &str, op: impl Into<Op>) {
        self.here().children.push(Module::layer(name, op.into()));
    }

    /// The name of the next layer of a `Sequential`: how many there are already.
    pub fn next_name(&self) -> String {
        self.open.last().map_or(0, |module| module.children.len()).to_string()
    }

    /// Applies an attention module of a PyTorch class, whose projections are layers within it.
    pub fn attention(&mut self, name: &str, class: &str, attention: Attention, input: NodeId) -> NodeId {
        self.module(name, class, |b| {
            b.here().tensors = attention.own_tensors();
            for (path, op) in attention.layers() {
                b.add_layer(path, op);
            }
            b.function(attention, &[input])
        })
    }

    /// A learned tensor of the module that is open, as the output of a node.
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> NodeId {
        let op = Op::Parameter { name: name.into(), shape: shape.into() };
        let mut tensors = op.tensors();
        self.here().tensors.append(&mut tensors);
        self.function(op, &[])
    }

    /// Adds a layer, at a path of up to two names, that no node stands for.
    fn add_layer(&mut self, path: &str, op: Op) {
        let Some((container, name)) = path.split_once('.') else {
            let class = if path == "out_proj" { "NonDynamicallyQuantizableLinear" } else { op.name() };
            let layer = Module::layer(path, op.clone());
            return self.here().children.push(Module { class: class.into(), ..layer });
        };
        if self.here().children.last().is_none_or(|last| last.name != container) {
            self.here().children.push(Module::container(container, "Sequential"));
        }
        if let Some(last) = self.here().children.last_mut() {
            last.children.push(Module::layer(name, op));
        }
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

    /// Marks the output of an auxiliary head.
    pub fn auxiliary(&mut self, output: NodeId) {
        self.aux.push(output);
    }

    /// The finished network, whose output is `output`.
    pub fn finish(mut self, output: NodeId) -> Graph {
        let root = self.open.swap_remove(0);
        Graph { nodes: self.nodes, output, aux: self.aux, root, input: self.input }
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
