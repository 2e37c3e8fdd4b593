//! What the forward pass leaves for the backward pass to know.

use engraft_graph::Graph;
use engraft_kernels::Activation;

use super::layers::{LayerId, Lies};
use super::step::Norm;
use crate::call::{Rows, Tokens};
use crate::program::{self, Plain, Value, Weights};

/// An operation of a network in training.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) node: usize,
    pub(crate) output: Value,
    pub(crate) kind: Kind,
}

#[expect(clippy::large_enum_variant, reason = "a plan has some hundred of them, while it is made")]
#[derive(Clone)]
pub(crate) enum Kind {
    /// One that is the same in evaluation mode.
    Evaluated(program::Kind),
    /// Dropout, or stochastic depth, which drops whole examples.
    Drop { input: Value, p: f64, whole_examples: bool },
}

impl Operation {
    /// The values that it reads.
    pub(crate) fn inputs(&self) -> Vec<Value> {
        match &self.kind {
            Kind::Evaluated(kind) => {
                program::Operation { node: self.node, output: self.output, kind: kind.clone() }.inputs()
            }
            Kind::Drop { input, .. } => vec![*input],
        }
    }

    /// Whether it computes its output, instead of seeing another value in another way.
    pub(crate) fn is_computed(&self) -> bool {
        !matches!(
            &self.kind,
            Kind::Evaluated(program::Kind::Plain(Plain::Input | Plain::Parameter | Plain::See { .. }))
        )
    }

    /// The names of its tensors within its node's module, as far as they can train.
    pub(crate) fn tensors(&self, graph: &Graph) -> Vec<String> {
        let Kind::Evaluated(kind) = &self.kind else { return Vec::new() };
        let all = graph.nodes()[self.node].op.tensors().into_iter();
        let parameters =
            all.filter(|spec| spec.kind == engraft_graph::TensorKind::Parameter).map(|spec| spec.name);
        match kind {
            program::Kind::Product(product) => match &product.weights {
                Weights::Conv(_) | Weights::Linear(_) => parameters.collect(),
                Weights::Qkv(attention) => {
                    let [qkv, _] = attention.projections();
                    ["weight", "bias"].map(|name| format!("{qkv}{name}")).to_vec()
                }
                Weights::Projection(attention) => {
                    let [_, out] = attention.projections();
                    ["weight", "bias"].map(|name| format!("{out}{name}")).to_vec()
                }
            },
            program::Kind::Attend { attention, .. } => {
                let of_projections = attention.projections();
                // The queries, keys and values of padding are the bias of the projection.
                let bias = format!("{}bias", of_projections[0]);
                let belongs = |name: &String| {
                    *name == bias || !of_projections.iter().any(|projection| name.starts_with(projection))
                };
                parameters.filter(belongs).collect()
            }
            program::Kind::Conv(_)
            | program::Kind::Depthwise(_)
            | program::Kind::Affine { .. }
            | program::Kind::Norm { .. }
            | program::Kind::Plain(_) => parameters.collect(),
        }
    }
}

/// An operation, with those that were computed in one with it, as the backward pass must know it.
pub(crate) struct Record {
    pub(crate) node: usize,
    /// What it gave.
    pub(crate) output: Value,
    pub(crate) what: What,
}

#[expect(clippy::large_enum_variant, reason = "a plan has some hundred of them, while it is made")]
pub(crate) enum What {
    Layer(LayerRecord),
    Norm(NormRecord),
    LayerNorm {
        input: Value,
        x: Rows,
        eps: f64,
        order: Vec<usize>,
    },
    Attend {
        qkv: Value,
        x: Rows,
        layer: LayerId,
        tokens: Tokens,
    },
    /// With the mask, or with a factor for each example.
    Drop {
        input: Value,
        mask: Rows,
        order: Vec<usize>,
        rows_per_example: Option<usize>,
    },
    /// A value times a factor for each column of so many rows.
    Scale {
        image: Value,
        factor: Value,
        x: Rows,
        factors: Rows,
        rows_per_image: usize,
        order: Vec<usize>,
    },
    Plain(Plain),
}

/// A product or a convolution: `activation(constants(x weights + bias) + residual)`.
pub(crate) struct LayerRecord {
    pub(crate) input: Value,
    pub(crate) kind: program::Kind,
    pub(crate) x: Lies,
    pub(crate) norm: Option<Norm>,
    pub(crate) residual: Option<Value>,
    pub(crate) activation: Activation,
    /// The axes of the output as it lies.
    pub(crate) order: Vec<usize>,
}

/// A batch norm, or an affine node, that is computed alone: `activation(norm(x) + residual)`.
pub(crate) struct NormRecord {
    pub(crate) input: Value,
    pub(crate) norm: Option<Norm>,
    pub(crate) statistics: Option<Rows>,
    pub(crate) residual: Option<Value>,
    pub(crate) activation: Activation,
    pub(crate) order: Vec<usize>,
}

/// What a live batch norm's output can be computed from again.
#[derive(Clone, Copy)]
pub(crate) struct Normalised {
    pub(crate) x: Rows,
    pub(crate) statistics: Rows,
    pub(crate) activation: Activation,
}
