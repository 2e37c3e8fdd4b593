//! Where a network's classification head is: found by walking back from the output, never by its name.

use crate::graph::is_within;
use crate::{Graph, GraphError, NodeId, Op};

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
    /// convolutional layer gives the classes. The classifier begins where, within the same child of the network, the unbroken
    /// chain of linear layers, activations and dropouts that ends in that layer begins. Its path is the outermost module that holds nothing else: `classifier`
    /// of a VGG, but `classifier.2` of a ConvNeXt, whose `classifier` also normalises and flattens.
    ///
    /// # Errors
    /// When the walk meets an operation with several inputs, or the network's input, before it meets a layer.
    pub fn head(&self) -> Result<Head, GraphError> {
        let layer = self.last_layer()?;
        let begin = self.classifier_begin(layer);
        let path = self.outermost_module(begin);
        Ok(Head { layer, layer_path: self.nodes[layer.0].module.clone(), path })
    }

    fn last_layer(&self) -> Result<NodeId, GraphError> {
        let mut id = self.output;
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
        let path = &self.nodes[layer.0].module;
        let outermost = path.split('.').next().unwrap_or(path);
        let mut begin = layer;
        let mut id = layer;
        while let [input] = self.nodes[id.0].inputs[..] {
            if !is_within(&self.nodes[input.0].module, outermost) {
                break;
            }
            match self.nodes[input.0].op {
                Op::Linear(_) | Op::Dropout { .. } => begin = input,
                // Belongs to the classifier only if a linear layer comes before it.
                Op::Activation { .. } => {}
                _ => break,
            }
            id = input;
        }
        begin
    }

    /// The outermost module around `begin` all of whose nodes come no earlier than `begin` on the way to the output.
    fn outermost_module(&self, begin: NodeId) -> String {
        let before = self.ancestors(begin);
        let path = self.nodes[begin.0].module.as_str();
        let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
        let mut outward = ends.map(|end| &path[..end]);
        let holds_nothing_else = |module: &&str| {
            let mut nodes = self.nodes.iter().enumerate();
            !nodes.any(|(i, node)| i != begin.0 && before[i] && is_within(&node.module, module))
        };
        outward.find(holds_nothing_else).unwrap_or(path).to_string()
    }
}
