//! Element-wise nonlinearities.

use serde::{Deserialize, Serialize};

use crate::Op;
use crate::print::Float;

/// Element-wise nonlinearities, named as in `torch.nn`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// `max(x, 0)`
    ReLU,
    /// `x` where it is positive, elsewhere `negative_slope x`
    LeakyReLU {
        /// 0.01 in PyTorch, where nothing else is said.
        negative_slope: f64,
    },
    /// `min(max(x, 0), 6)`
    ReLU6,
    /// `x sigmoid(x)`
    SiLU,
    /// `x relu6(x + 3) / 6`
    Hardswish,
    /// `relu6(x + 3) / 6`
    Hardsigmoid,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x Phi(x)` with the exact normal distribution function
    GELU,
    /// Hyperbolic tangent
    Tanh,
}

impl From<Activation> for Op {
    fn from(function: Activation) -> Op {
        Op::Activation { function, inplace: false }
    }
}

impl Activation {
    /// The same function, printed with `inplace=True`.
    pub fn inplace(self) -> Op {
        Op::Activation { function: self, inplace: true }
    }

    /// PyTorch's class name.
    pub fn name(self) -> &'static str {
        match self {
            Activation::ReLU => "ReLU",
            Activation::LeakyReLU { .. } => "LeakyReLU",
            Activation::ReLU6 => "ReLU6",
            Activation::SiLU => "SiLU",
            Activation::Hardswish => "Hardswish",
            Activation::Hardsigmoid => "Hardsigmoid",
            Activation::Sigmoid => "Sigmoid",
            Activation::GELU => "GELU",
            Activation::Tanh => "Tanh",
        }
    }

    /// What PyTorch prints between parentheses.
    pub(crate) fn arguments(self, inplace: bool) -> String {
        match self {
            Activation::GELU => "approximate='none'".into(),
            Activation::LeakyReLU { negative_slope } => {
                let inplace = if inplace { ", inplace=True" } else { "" };
                format!("negative_slope={}{inplace}", Float(negative_slope))
            }
            Activation::ReLU | Activation::ReLU6 | Activation::SiLU if inplace => "inplace=True".into(),
            // Hardswish and Hardsigmoid take the option as well, but do not print it.
            _ => String::new(),
        }
    }
}
