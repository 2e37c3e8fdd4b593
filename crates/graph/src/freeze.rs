//! Freezing: what does not change in training, and where the changing part begins.

use std::collections::HashSet;

use crate::graph::{is_within, join, tensor_names};
use crate::{Graph, GraphError, Module, Node, NodeId, Op, TensorKind};

impl Graph {
    /// The last node on the way to the output that everything passes and before which nothing is trainable: what it gives
    /// for an image is constant, so that it need be computed only once. The input itself if all is trainable.
    ///
    /// `trainable` tells it for the full name of a parameter, as in `fc.weight`.
    pub fn frontier(&self, trainable: impl Fn(&str) -> bool) -> NodeId {
        let needed = self.needed();
        let mut frontier = NodeId(0);
        // Of the nodes so far, the furthest one that reads from each.
        let mut reach = 0;
        let mut last_reader = vec![0; self.nodes.len()];
        for (reader, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
            for input in &node.inputs {
                last_reader[input.0] = reader;
            }
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
            let tensors = node.tensors();
            let mut parameters = tensors.iter().filter(|tensor| tensor.kind == TensorKind::Parameter);
            if parameters.any(|parameter| trainable(&parameter.name)) {
                break;
            }
            if reach <= index {
                frontier = NodeId(index);
            }
            reach = reach.max(last_reader[index]);
        }
        frontier
    }

    /// Cuts the network in two at a node that everything passes, auxiliary heads included: the part that leads to it, and the part behind it, whose
    /// input is the node's output. Module paths, and so the names of tensors, stay.
    ///
    /// # Errors
    /// When something behind the node also reads from before it, as within a residual block: the second part would have two inputs.
    ///
    /// # Panics
    /// When the node is none of this graph's.
    pub fn split(&self, node: NodeId) -> Result<(Graph, Graph), GraphError> {
        let trunk = self.until(node);
        let shape = trunk.output_shape()?;
        let mut nodes = self.nodes.clone();
        nodes[node.0] = Node { op: Op::Input, inputs: Vec::new(), module: String::new() };
        let mut rest = Graph { nodes, input: shape, ..self.clone() }.pruned();
        if rest.nodes.iter().filter(|node| node.op == Op::Input).count() > 1 {
            return Err(GraphError::NotPassedByAll { node: self.nodes[node.0].describe() });
        }
        let names = tensor_names(&rest.nodes);
        keep_used(&rest.nodes, &names, "", &mut rest.root);
        Ok((trunk, rest))
    }
}

/// Drops the modules that no node belongs to and whose tensors none needs.
fn keep_used(nodes: &[Node], names: &HashSet<String>, prefix: &str, module: &mut Module) {
    module.children.retain(|child| {
        let path = join(prefix, &child.name);
        nodes.iter().any(|node| is_within(&node.module, &path))
            || names.iter().any(|name| is_within(name, &path))
    });
    for child in &mut module.children {
        let path = join(prefix, &child.name);
        keep_used(nodes, names, &path, child);
    }
}
