//! Grafting: a new head in the place of a network's own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::graph::{is_within, join};
use crate::{Activation, Graph, GraphError, Linear, Module, Node, NodeId, Op};

/// A classification head: hidden layers, each followed by ReLU and dropout, then the output layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSpec {
    /// Units of the hidden layers in order, at most [`MOST_UNITS`](Self::MOST_UNITS) each; none for a linear probe.
    pub hidden_units: Vec<usize>,
    /// Number of classes, the width of the output layer: 1 to [`MOST_UNITS`](Self::MOST_UNITS).
    pub classes: usize,
    /// Probability of dropping a hidden unit in training, `0 <= dropout < 1`.
    pub dropout: f64,
}

impl HeadSpec {
    /// The most units of a hidden layer, and the most classes.
    pub const MOST_UNITS: usize = 1 << 16;

    /// The most hidden layers.
    pub const MOST_HIDDEN_LAYERS: usize = 64;

    /// Whether a head can be made so, on any network: what [`Graph::graft`] accepts, a checkpoint can hold.
    ///
    /// # Errors
    /// Says what is too many, too few, or no probability.
    pub fn check(&self) -> Result<(), GraphError> {
        let bad = |text: String| Err(GraphError::BadHead(text));
        if self.classes == 0 {
            return bad("a head needs at least one class".into());
        }
        if self.hidden_units.contains(&0) {
            return bad("a hidden layer needs at least one unit; for a head without hidden layers leave the hidden units away".into());
        }
        if self.classes > Self::MOST_UNITS {
            return bad(format!("a head has at most {} classes, not {}", Self::MOST_UNITS, self.classes));
        }
        if let Some(units) = self.hidden_units.iter().find(|units| **units > Self::MOST_UNITS) {
            return bad(format!("a hidden layer has at most {} units, not {units}", Self::MOST_UNITS));
        }
        if self.hidden_units.len() > Self::MOST_HIDDEN_LAYERS {
            let (most, asked) = (Self::MOST_HIDDEN_LAYERS, self.hidden_units.len());
            return bad(format!("a head has at most {most} hidden layers, not {asked}"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad(format!("the dropout {} is not a probability from 0 to below 1", self.dropout));
        }
        Ok(())
    }

    /// The layers for `features` inputs: names within the head, and operations.
    fn layers(&self, features: usize) -> Vec<Op> {
        let mut layers = Vec::new();
        let mut width = features;
        for &units in &self.hidden_units {
            layers.push(Linear::new(width, units).into());
            layers.push(Activation::ReLU.into());
            if self.dropout > 0.0 {
                layers.push(Op::dropout(self.dropout));
            }
            width = units;
        }
        layers.push(Linear::new(width, self.classes).into());
        layers
    }
}

/// A network with a new head.
#[derive(Clone, Debug, PartialEq)]
pub struct Graft {
    /// The network.
    pub graph: Graph,
    /// The node whose output the head sees, `[batch, features]`.
    pub features: NodeId,
    /// What was done.
    pub report: GraftReport,
    /// Paths of the new last layers of auxiliary heads.
    pub aux_heads: Vec<String>,
    /// The path of the module whose children are blocks.
    pub(crate) extractor: String,
}

impl Graft {
    /// Whether a tensor, by its full name, belongs to the new head, or to the new layer of an auxiliary one.
    pub fn is_of_head(&self, tensor: &str) -> bool {
        is_within(tensor, &self.report.path) || self.aux_heads.iter().any(|path| is_within(tensor, path))
    }
}

/// What a graft did; prints as one line for the user, as in
/// `classifier: Linear 25088->4096 ... 4096->1000 replaced by 25088->1024->512->256->34, dropout 0.2`.
#[derive(Clone, Debug, PartialEq)]
pub struct GraftReport {
    /// The path of the head.
    pub path: String,
    /// First and last layer that went: class, input and output width.
    pub replaced: Vec<(String, [usize; 2])>,
    /// Whether layers outside `path`, behind it, went as well.
    pub beyond: bool,
    /// How the features became a vector, if the network itself did not see to it.
    pub pooled: Option<&'static str>,
    /// Widths from the features to the classes.
    pub widths: Vec<usize>,
    /// As in the specification, if there are hidden layers.
    pub dropout: Option<f64>,
}

impl fmt::Display for GraftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.beyond {
            f.write_str(" and all behind it")?;
        }
        f.write_str(if self.replaced.is_empty() { ": nothing with weights" } else { ": " })?;
        let mut last_class = "";
        for (i, (class, [from, to])) in self.replaced.iter().enumerate() {
            f.write_str(if i > 0 { " ... " } else { "" })?;
            if class != last_class {
                write!(f, "{class} ")?;
            }
            write!(f, "{from}->{to}")?;
            last_class = class;
        }
        let widths: Vec<String> = self.widths.iter().map(usize::to_string).collect();
        write!(f, " replaced by {}", widths.join("->"))?;
        if let Some(dropout) = self.dropout {
            write!(f, ", dropout {dropout}")?;
        }
        if let Some(pooled) = self.pooled {
            write!(f, ", after {pooled}")?;
        }
        Ok(())
    }
}

impl Graph {
    /// Replaces the classifier, or the module at `cut` and all that comes behind it, by a new head, which takes over the
    /// path of what it replaces.
    ///
    /// What the cut leaves reaches the head as `[batch, features]`: by what the network itself did before the cut (the
    /// flatten of a VGG), otherwise by global average pooling. The number of features is computed. Auxiliary heads are dropped.
    ///
    /// # Errors
    /// When there is no such module, no head to be found, more than one value enters the module, or the
    /// specification makes no head.
    pub fn graft(&self, spec: &HeadSpec, cut: Option<&str>) -> Result<Graft, GraphError> {
        Graph { aux: Vec::new(), ..self.clone() }.graft_with_aux(spec, cut)
    }

    /// As [`graft`](Self::graft), but keeps the auxiliary heads that branch off before the cut, each with a new last layer for the
    /// classes: they help to train the layers before them, and are of no use on a frozen network.
    ///
    /// # Errors
    /// As [`graft`](Self::graft).
    pub fn graft_with_aux(&self, spec: &HeadSpec, cut: Option<&str>) -> Result<Graft, GraphError> {
        spec.check()?;
        let path = match cut {
            Some(path) => path.to_string(),
            None => self.head()?.path,
        };
        let entry = self.entry(&path)?;
        let kept = self.ancestors(entry);
        if !(0..self.nodes.len()).any(|i| kept[i] && self.nodes[i].op.widths().is_some()) {
            return Err(GraphError::NothingLeft { path });
        }

        let mut graph = Graph { aux: self.aux_before(&kept), ..self.clone() };
        let aux_heads = graph.replace_aux_layers(spec.classes)?;
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent).to_string();
        let (features, pooled) = graph.append_pooling(entry, parent)?;
        let width = graph.width_of(features)?;
        graph.append_head(&path, features, spec.layers(width));
        let (replaced, beyond) = self.replaced(&path, &kept);
        let report = GraftReport {
            replaced,
            beyond,
            pooled,
            widths: [&[width], spec.hidden_units.as_slice(), &[spec.classes]].concat(),
            dropout: (!spec.hidden_units.is_empty()).then_some(spec.dropout),
            path,
        };

        // Pruning keeps the order of the nodes, so the features' node moves down by the number of nodes lost before it.
        let needed = graph.needed();
        let features = NodeId(needed[..features.0].iter().filter(|needed| **needed).count());
        let extractor = self.extractor();
        Ok(Graft { graph: graph.pruned(), features, report, aux_heads, extractor })
    }

    /// What a head sees: the network up to where [`graft`](Self::graft) would put one.
    ///
    /// # Errors
    /// As [`graft`](Self::graft).
    pub fn before_head(&self, cut: Option<&str>) -> Result<Graph, GraphError> {
        let probe = HeadSpec { hidden_units: Vec::new(), classes: 1, dropout: 0.0 };
        let Graft { graph, features, .. } = self.graft(&probe, cut)?;
        Ok(graph.until(features))
    }

    /// The auxiliary heads of which a cut leaves all that they share with the rest of the network.
    fn aux_before(&self, kept: &[bool]) -> Vec<NodeId> {
        let main = self.ancestors(self.output);
        let is_left = |aux: &NodeId| {
            let of_aux = self.ancestors(*aux);
            (0..self.nodes.len()).all(|i| kept[i] || !of_aux[i] || !main[i])
        };
        self.aux.iter().copied().filter(is_left).collect()
    }

    /// Gives each auxiliary head as many outputs as there are classes, and returns the paths of the layers that changed.
    fn replace_aux_layers(&mut self, classes: usize) -> Result<Vec<String>, GraphError> {
        let mut paths = Vec::new();
        for aux in self.aux.clone() {
            let layer = self.last_layer_before(aux)?;
            let node = &mut self.nodes[layer.0];
            match &mut node.op {
                Op::Linear(linear) => linear.out_features = classes,
                Op::Conv2d(conv) => conv.out_channels = classes,
                _ => return Err(GraphError::NoHead { node: node.describe() }),
            }
            let (path, op) = (node.module.clone(), node.op.clone());
            if let Some(module) = self.root.get_mut(&path) {
                module.op = Some(op);
            }
            paths.push(path);
        }
        Ok(paths)
    }

    /// The one node outside the module at `path` whose output enters it.
    fn entry(&self, path: &str) -> Result<NodeId, GraphError> {
        self.require_module(path)?;
        let needed = self.ancestors(self.output);
        let mut entries: Vec<NodeId> = Vec::new();
        let nodes = self.nodes.iter().zip(needed);
        for (node, _) in nodes.filter(|(node, needed)| *needed && is_within(&node.module, path)) {
            entries.extend(node.inputs.iter().filter(|id| !is_within(&self.nodes[id.0].module, path)));
        }
        entries.sort_unstable();
        entries.dedup();
        match entries[..] {
            [entry] => Ok(entry),
            [] => Err(self.no_output(path)),
            _ => Err(GraphError::SeveralInputs { path: path.into(), inputs: entries.len() }),
        }
    }

    /// Adds what turns the output of `node` into `[batch, features]`, and says what that was.
    fn append_pooling(
        &mut self,
        node: NodeId,
        module: String,
    ) -> Result<(NodeId, Option<&'static str>), GraphError> {
        let rank = self.shape_of(node)?.len();
        let channels_last = self.is_channels_last(node);
        let mut append = |op, input| {
            self.nodes.push(Node { op, inputs: vec![input], module: module.clone() });
            NodeId(self.nodes.len() - 1)
        };
        match rank {
            2 => Ok((node, None)),
            3 => Ok((append(Op::Mean { axes: vec![1] }, node), Some("the mean over tokens"))),
            4 if channels_last => {
                Ok((append(Op::Mean { axes: vec![1, 2] }, node), Some("global average pooling")))
            }
            _ => {
                let pooled = append(Op::AdaptiveAvgPool2d { output: [1, 1], square: false }, node);
                Ok((append(Op::Flatten { start: 1 }, pooled), Some("global average pooling")))
            }
        }
    }

    /// Whether the last axis of a node's image-like output is that of the channels, as in Swin: the nearest operation on the way
    /// back to the input that works on channels decides.
    pub fn is_channels_last(&self, node: NodeId) -> bool {
        let mut id = node;
        loop {
            let node = &self.nodes[id.0];
            match &node.op {
                // Moved to the end, or from there; other axes may change places.
                Op::Permute { axes } if axes.last() == Some(&1) => return true,
                Op::Permute { axes } if axes.iter().position(|axis| axis + 1 == axes.len()) == Some(1) => {
                    return false;
                }
                Op::Linear(_) | Op::LayerNorm { .. } | Op::Attention(_) => return true,
                Op::Conv2d(_) | Op::BatchNorm2d(_) | Op::LayerNorm2d { .. } => return false,
                _ => {}
            }
            match node.inputs.last() {
                Some(input) => id = *input,
                None => return false,
            }
        }
    }

    fn append_head(&mut self, path: &str, features: NodeId, layers: Vec<Op>) {
        let single = layers.len() == 1;
        let name = path.rsplit('.').next().unwrap_or(path).to_string();
        let mut head = Module::container(&name, "Sequential");
        let mut output = features;
        for (index, op) in layers.into_iter().enumerate() {
            let layer = Module::layer(&index.to_string(), op.clone());
            let module = if single { path.to_string() } else { join(path, &layer.name) };
            self.nodes.push(Node { op, inputs: vec![output], module });
            output = NodeId(self.nodes.len() - 1);
            head.children.push(layer);
        }
        if single && let Some(layer) = head.children.pop() {
            head = Module { name, ..layer };
        }
        if let Some(module) = self.root.get_mut(path) {
            *module = head;
        }
        self.output = output;
    }

    /// First and last of the layers that are not kept, and whether some are outside the module at `path`.
    fn replaced(&self, path: &str, kept: &[bool]) -> (Vec<(String, [usize; 2])>, bool) {
        let needed = self.ancestors(self.output);
        let gone = |i: &usize| needed[*i] && !kept[*i] && self.nodes[*i].op.widths().is_some();
        let gone: Vec<&Node> = (0..self.nodes.len()).filter(gone).map(|i| &self.nodes[i]).collect();
        let beyond = gone.iter().any(|node| !is_within(&node.module, path));
        let ends = match gone[..] {
            [first, .., last] => vec![first, last],
            _ => gone,
        };
        let describe = |node: &Node| Some((node.op.name().to_string(), node.op.widths()?));
        (ends.into_iter().filter_map(describe).collect(), beyond)
    }

    fn shape_of(&self, node: NodeId) -> Result<Vec<usize>, GraphError> {
        let shape = self.until(node).output_shape()?;
        Ok([&[1], shape.as_slice()].concat())
    }

    fn width_of(&self, node: NodeId) -> Result<usize, GraphError> {
        Ok(self.shape_of(node)?[1..].iter().product())
    }
}
