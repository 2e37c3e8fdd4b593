//! What training takes of the memory, before it begins.

use engraft_engine::{Engine, EngineError, MemoryPlan, Rule, Training};
use engraft_graph::{Graft, Trained};
use engraft_tensor::StateDict;

use crate::TrainError;
use crate::frozen::parts;

/// The largest batch that is chosen for its user.
pub const LARGEST_BATCH: usize = 64;

/// The smallest batch that norms by the statistics of the batch can be trained on.
const SMALLEST_BATCH: usize = 2;

/// How batches of what trains are run: of `batch` images or, without it, of the largest power of two that fits into the memory as it is, at most
/// [`LARGEST_BATCH`]. The plan is `None` if the engine does not plan its memory.
///
/// # Errors
/// When the engine cannot train the network, or no such batch can be run within the memory that the training may take.
pub fn plan_memory(
    engine: &dyn Engine,
    graft: &Graft,
    trained: &Trained,
    live_norms: bool,
    state: &StateDict,
    batch: Option<usize>,
) -> Result<(usize, Option<MemoryPlan>), TrainError> {
    let trainable = |name: &str| trained.contains(name);
    let (_, graph) = parts(&graft.graph, trainable)?;
    let training = Training {
        group: &|name| trainable(name).then_some(0),
        live_norms: &|module| live_norms && trainable(&format!("{module}.weight")),
        rule: Rule::ADAM,
    };
    let names = graph.state().into_iter().map(|tensor| tensor.name);
    let state = names.filter_map(|name| state.get(&name).cloned().map(|tensor| (name, tensor))).collect();
    let mut trainer = engine.trainer(&graph, state, &training)?;
    let mut plan = |batch: usize| trainer.memory(&[&[batch], graph.input()].concat());
    let mut size = batch.unwrap_or(LARGEST_BATCH);
    loop {
        let planned = plan(size);
        let fits = match &planned {
            Ok(planned) => planned.is_none_or(|plan| plan.is_plain()),
            Err(error) => !matches!(error, EngineError::Memory { .. }),
        };
        if fits || batch.is_some() || size <= SMALLEST_BATCH {
            return Ok((size, planned?));
        }
        size /= 2;
    }
}
