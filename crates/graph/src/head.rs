//! Where a network's classification head is: found by walking back from the output, never by its name.

use crate::graph::is_within;
use crate::{Graph, GraphError, Node, NodeId, Op};

/// The classification head of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The node that gives one value a class: a linear layer or a convolution.
    pub layer: NodeId,
    /// The path of the last layer, as in `classifier.6`.
    pub layer_path: String,
    /// The path of the classifier as a whole, as in `classifier`: what a graft replaces if nothing else is said.
    pub path: String,
}

impl Graph {
    /// Finds the classification head.
    ///
    /// From the output back, past operations without weights (pooling, flattening, activations), the first linear or
    /// convolutional layer gives the classes. The classifier begins with the first linear layer of the unbroken chain of linear
    /// layers, activations and dropouts that ends in that layer, within one child of the network (or of the module that wraps it). Its path
    /// is the outermost module that holds nothing else but a dropout before it: `classifier` of a VGG, but `classifier.2` of
    /// a ConvNeXt, whose `classifier` also normalises and flattens.
    ///
    /// # Errors
    /// When the walk meets an operation with several inputs, or the network's input, before it meets a layer.
    pub fn head(&self) -> Result<Head, GraphError> {
        let layer = self.last_layer_before(self.output)?;
        let begin = self.classifier_begin(layer);
        let path = self.outermost_module(begin);
        Ok(Head { layer, layer_path: self.nodes[layer.0].module.clone(), path })
    }

    /// The first linear or convolutional layer on the way back from a node.
    pub(crate) fn last_layer_before(&self, node: NodeId) -> Result<NodeId, GraphError> {
        let mut id = node;
        loop {
            let node = &self.nodes[id.0];
            match (&node.op, node.inputs.as_slice()) {
                (Op::Linear(_) | Op::Conv2d(_), _) => return Ok(id),
                (_, [input]) => id = *input,
                _ => return Err(GraphError::NoHead { node: node.describe() }),
            }
        }
    }

    fn classifier_begin(&self, layer: NodeId) -> NodeId {
        let child = self.child_of_body(&self.nodes[layer.0].module);
        let mut begin = layer;
        let mut id = layer;
        while let [input] = self.nodes[id.0].inputs[..] {
            if !is_within(&self.nodes[input.0].module, child) {
                break;
            }
            match self.nodes[input.0].op {
                Op::Linear(_) => begin = input,
                // Belong to the classifier only if a linear layer comes before them.
                Op::Activation { .. } | Op::Dropout { .. } => {}
                _ => break,
            }
            id = input;
        }
        begin
    }

    /// Of the modules around a layer, given by its path, the outermost that does not hold all weights of the network.
    fn child_of_body<'a>(&self, layer: &'a str) -> &'a str {
        let with_weights: Vec<&Node> = self.nodes.iter().filter(|node| node.op.widths().is_some()).collect();
        let holds_all = |module: &&str| with_weights.iter().all(|node| is_within(&node.module, module));
        modules_around(layer).find(|module| !holds_all(module)).unwrap_or(layer)
    }

    /// The outermost module around `begin` of which nothing but dropouts comes before it.
    fn outermost_module(&self, begin: NodeId) -> String {
        let mut before = self.ancestors(begin);
        let mut id = begin;
        before[id.0] = false;
        while let [input] = self.nodes[id.0].inputs[..]
            && let Op::Dropout { .. } = self.nodes[input.0].op
        {
            before[input.0] = false;
            id = input;
        }
        let path = self.nodes[begin.0].module.as_str();
        let begins_so = |module: &&str| {
            !self.nodes.iter().zip(&before).any(|(node, before)| *before && is_within(&node.module, module))
        };
        modules_around(path).find(begins_so).unwrap_or(path).to_string()
    }
}

/// The paths of the modules around the one at `path`, outermost first, itself last.
fn modules_around(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end])
}
