//! A training at rest.

use engraft_tensor::{StateDict, Tensor, TensorData};

use crate::EngineError;

/// Everything by which a trainer goes on to the same bits: what [`Trainer::save`](crate::Trainer::save) gives and
/// [`Trainer::restore`](crate::Trainer::restore) takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// How many updates were made.
    pub updates: u64,
    /// Parameters and buffers.
    pub state: StateDict,
    /// The averages of what changes, if there was an update that averaged; nothing otherwise.
    pub average: StateDict,
    /// What the rule remembers of each parameter: `exp_avg.fc.weight` and the like, see [`Rule::moments`](crate::Rule::moments).
    pub moments: StateDict,
}

const UPDATES: &str = "updates";
const STATE: &str = "state";
const AVERAGE: &str = "average";
const MOMENTS: &str = "moments";

impl Snapshot {
    /// As one state dict, which a safetensors file can hold: the names of the parts stand before those of the tensors, as in
    /// `state.fc.weight` and `moments.exp_avg.fc.weight`.
    pub fn into_state_dict(self) -> StateDict {
        let parts = [(STATE, self.state), (AVERAGE, self.average), (MOMENTS, self.moments)];
        let named = |(part, dict): (&'static str, StateDict)| dict.map_names(|name| format!("{part}.{name}"));
        let mut all: StateDict = parts.into_iter().flat_map(named).collect();
        all.insert(UPDATES, Tensor::counter(self.updates.cast_signed()));
        all
    }

    /// The snapshot that [`into_state_dict`](Self::into_state_dict) made a state dict of, whatever the order of its tensors.
    ///
    /// # Errors
    /// When the number of updates is missing, or a tensor belongs to no part.
    pub fn from_state_dict(dict: StateDict) -> Result<Self, EngineError> {
        let mut snapshot = Self {
            updates: 0,
            state: StateDict::new(),
            average: StateDict::new(),
            moments: StateDict::new(),
        };
        let mut updates = None;
        for (name, tensor) in dict {
            let (part, name_within) = name.split_once('.').unwrap_or((&name, ""));
            match (part, &tensor.data) {
                (STATE, _) => snapshot.state.insert(name_within, tensor),
                (AVERAGE, _) => snapshot.average.insert(name_within, tensor),
                (MOMENTS, _) => snapshot.moments.insert(name_within, tensor),
                (UPDATES, TensorData::I64(values)) if name == UPDATES && values.len() == 1 => {
                    updates = Some(values[0].cast_unsigned());
                    None
                }
                _ => {
                    let problem = format!("it holds a tensor `{name}`, which belongs to no part of one");
                    return Err(EngineError::Snapshot(problem));
                }
            };
        }
        snapshot.updates = updates
            .ok_or_else(|| EngineError::Snapshot("it does not say how many updates were made".into()))?;
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let dict =
            |name: &str, value: f32| StateDict::from_iter([(name.into(), Tensor::f32([1], vec![value]))]);
        Snapshot {
            updates: 7,
            state: dict("updates", 1.0),
            average: dict("fc.weight", 2.0),
            moments: dict("exp_avg.fc.weight", 3.0),
        }
    }

    #[test]
    fn a_snapshot_goes_through_a_state_dict() {
        let dict = snapshot().into_state_dict();
        let mut names: Vec<&str> = dict.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["average.fc.weight", "moments.exp_avg.fc.weight", "state.updates", "updates"]);
        assert_eq!(Snapshot::from_state_dict(dict), Ok(snapshot()));
    }

    #[test]
    fn another_state_dict_is_refused() {
        let mut without = snapshot().into_state_dict();
        without.remove("updates");
        let mut more = snapshot().into_state_dict();
        more.insert("fc.weight", Tensor::f32([1], vec![0.0]));
        for (dict, words) in [(without, "how many updates"), (more, "`fc.weight`")] {
            let refused = Snapshot::from_state_dict(dict).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
