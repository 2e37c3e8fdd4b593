//! Updates: what gradients change.

use engraft_engine::{EngineError, Rate, Rule};
use engraft_kernels::{self as kernels, Adam, Level, Pool, Sgd};

use super::parameters::{Parameters, Trained};

/// Changes what trains by the gradients, and forgets them; returns their norm before clipping.
///
/// # Errors
/// Those of [`engraft_engine::Trainer::update`]; nothing has changed then.
pub(crate) fn update(
    level: Level,
    pool: &Pool,
    rule: Rule,
    parameters: &mut Parameters,
    rates: &[Rate],
    clip: Option<f64>,
    average: Option<f64>,
) -> Result<f64, EngineError> {
    rates.iter().try_for_each(Rate::check)?;
    if let Some(Trained { id, group, .. }) = parameters.trained.iter().find(|t| t.group >= rates.len()) {
        let parameter = parameters.name(*id).to_string();
        return Err(EngineError::NoRate { parameter, group: *group, rates: rates.len() });
    }
    if let Some(clip) = clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
        return Err(EngineError::Setting(format!(
            "the largest norm of gradients must be above 0, not {clip}"
        )));
    }
    if let Some(decay) = average.filter(|decay| !(0.0..=1.0).contains(decay)) {
        return Err(EngineError::Setting(format!("the decay of averages must be from 0 to 1, not {decay}")));
    }
    if !parameters.has_gradients {
        return Err(EngineError::NoGradients);
    }
    let mut squares = 0.0;
    for Trained { id, gradient, .. } in &parameters.trained {
        squares += kernels::sum_of_squares(level, pool, gradient);
        if !squares.is_finite() {
            return Err(EngineError::NotFinite { parameter: parameters.name(*id).to_string() });
        }
    }
    let norm = squares.sqrt();
    // As torch has it, lest a norm of zero divides.
    let factor = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0)) as f32;
    parameters.updates += 1;
    let Parameters { values, trained, updates, .. } = parameters;
    for Trained { id, group, gradient, moments } in trained {
        let Rate { learning_rate, weight_decay } = rates[*group];
        let values = &mut values[*id];
        match rule {
            Rule::Sgd { momentum, nesterov } => {
                let rule = Sgd { learning_rate, weight_decay, momentum, nesterov };
                let velocity = moments.first_mut().map(|velocity| &mut velocity[..]);
                kernels::sgd(level, pool, rule, factor, values, gradient, velocity);
            }
            Rule::Adam { betas, eps } | Rule::AdamW { betas, eps } => {
                let decoupled = matches!(rule, Rule::AdamW { .. });
                let updates = *updates;
                let rule = Adam { learning_rate, weight_decay, decoupled, betas, eps, updates };
                if let [mean, square] = &mut moments[..] {
                    kernels::adam(level, pool, rule, factor, values, gradient, mean, square);
                }
            }
        }
    }
    parameters.has_gradients = false;
    if let Some(decay) = average {
        parameters.average(level, pool, decay);
    }
    Ok(norm)
}
