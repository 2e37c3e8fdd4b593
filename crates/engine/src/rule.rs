//! How gradients change parameters.

use crate::EngineError;

/// The rule by which a parameter follows its gradient. Each computes what the class of its name in `torch.optim` computes, with a
/// dampening of zero and without `amsgrad`; learning rate and weight decay come with each update ([`Rate`]).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "suite", derive(serde::Deserialize))]
pub enum Rule {
    /// Stochastic gradient descent. Weight decay is added to the gradient.
    Sgd {
        /// How much of the last step's direction stays, `0..1`; 0 is plain descent.
        momentum: f64,
        /// Whether the gradient is taken a step ahead (Sutskever et al. 2013, "On the importance of initialization and momentum in
        /// deep learning"), which needs a momentum.
        nesterov: bool,
    },
    /// Adam (Kingma and Ba 2014, arXiv 1412.6980). Weight decay is added to the gradient.
    Adam {
        /// How much of the running means of the gradients and of their squares stays, `0..1` both.
        betas: [f64; 2],
        /// Added to the root of the second mean, at least 0.
        eps: f64,
    },
    /// Adam with weight decay decoupled from the gradient (Loshchilov and Hutter 2017, arXiv 1711.05101).
    AdamW {
        /// As Adam's.
        betas: [f64; 2],
        /// As Adam's.
        eps: f64,
    },
}

impl Rule {
    /// Plain stochastic gradient descent.
    pub const SGD: Rule = Rule::Sgd { momentum: 0.0, nesterov: false };
    /// Adam with torch's defaults.
    pub const ADAM: Rule = Rule::Adam { betas: [0.9, 0.999], eps: 1e-8 };
    /// AdamW with torch's defaults.
    pub const ADAM_W: Rule = Rule::AdamW { betas: [0.9, 0.999], eps: 1e-8 };

    /// What is remembered of each parameter from one update to the next, by torch's names. It begins with zeros.
    pub fn moments(&self) -> &'static [&'static str] {
        match self {
            Rule::Sgd { momentum: 0.0, .. } => &[],
            Rule::Sgd { .. } => &["momentum_buffer"],
            Rule::Adam { .. } | Rule::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// Fails for numbers outside the ranges that the fields say.
    ///
    /// # Errors
    /// Says which number it is.
    pub fn check(&self) -> Result<(), EngineError> {
        let share = |name: &str, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => {
                Err(EngineError::Setting(format!("{name} must be at least 0 and less than 1, not {value}")))
            }
        };
        match *self {
            Rule::Sgd { momentum: 0.0, nesterov: true } => {
                Err(EngineError::Setting("Nesterov's rule needs a momentum, and it is 0".into()))
            }
            Rule::Sgd { momentum, .. } => share("the momentum", momentum),
            Rule::Adam { betas, eps } | Rule::AdamW { betas, eps } => {
                share("the first beta", betas[0])?;
                share("the second beta", betas[1])?;
                at_least_zero("epsilon", eps)
            }
        }
    }
}

/// How fast the parameters of a group change in one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The size of the step, at least 0.
    pub learning_rate: f64,
    /// How strongly the values are drawn to zero, at least 0. What it means is the [`Rule`]'s.
    pub weight_decay: f64,
}

impl Rate {
    /// Fails for numbers below zero, and for those that are none.
    ///
    /// # Errors
    /// Says which number it is.
    pub fn check(&self) -> Result<(), EngineError> {
        at_least_zero("the learning rate", self.learning_rate)?;
        at_least_zero("the weight decay", self.weight_decay)
    }
}

fn at_least_zero(name: &str, value: f64) -> Result<(), EngineError> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(EngineError::Setting(format!("{name} must be a number of at least 0, not {value}"))),
    }
}
