//! The tensors of a network in training: values, gradients, what the rule remembers, averages.

use std::collections::{BTreeMap, HashMap, HashSet};

use engraft_engine::{EngineError, Snapshot, Training, take_floats};
use engraft_graph::{Graph, Node, Op, TensorKind, TensorSpec};
use engraft_kernels::{self as kernels, Level, Pool};
use engraft_tensor::{StateDict, Tensor, TensorData};

/// The number of a tensor: its place in the state dict.
pub(crate) type TensorId = usize;

/// All tensors of a network, and of those that train what belongs to them.
pub(crate) struct Parameters {
    /// Names and shapes, in the order of the graph.
    specs: Vec<TensorSpec>,
    ids: HashMap<String, TensorId>,
    /// Of the tensors of floats; empty for those of integers.
    pub(crate) values: Vec<Vec<f32>>,
    /// Counters of batch norms, and constants.
    integers: HashMap<TensorId, Tensor>,
    /// In the order of the graph.
    pub(crate) trained: Vec<Trained>,
    /// Whether there was a batch since the last update.
    pub(crate) has_gradients: bool,
    /// How often an update changed them.
    pub(crate) updates: u64,
    /// The running statistics that change.
    statistics: Vec<TensorId>,
    /// Averages of what changes, trained tensors before statistics; empty until an update averages.
    averages: Vec<Vec<f32>>,
    /// Of each thing that the rule remembers its name.
    moments: &'static [&'static str],
}

/// A tensor that trains.
pub(crate) struct Trained {
    pub(crate) id: TensorId,
    /// Of what shares a rate.
    pub(crate) group: usize,
    /// Added up since the last update; of no meaning if there was no batch.
    pub(crate) gradient: Vec<f32>,
    /// See [`engraft_engine::Rule::moments`].
    pub(crate) moments: Vec<Vec<f32>>,
}

impl Parameters {
    /// # Errors
    /// When a tensor is missing or has another shape, or nothing that leads to an output would change.
    pub(crate) fn new(graph: &Graph, state: StateDict, training: &Training<'_>) -> Result<Self, EngineError> {
        let specs = graph.state();
        let integers = take_integers(&specs, &state);
        let mut floats = take_floats(graph, state)?;
        let values: Vec<Vec<f32>> =
            specs.iter().map(|spec| floats.remove(&spec.name).unwrap_or_default()).collect();
        let used = names_in_use(graph);
        let moments = training.rule.moments();
        let mut trained = Vec::new();
        for (id, TensorSpec { name, kind, .. }) in specs.iter().enumerate() {
            let is_in_use = *kind == TensorKind::Parameter && used.contains(name);
            if let Some(group) = (training.group)(name).filter(|_| is_in_use) {
                let zeros = vec![0.0; values[id].len()];
                let moments = moments.iter().map(|_| zeros.clone()).collect();
                trained.push(Trained { id, group, gradient: zeros, moments });
            }
        }
        if trained.is_empty() {
            return Err(EngineError::NothingTrains);
        }
        let ids: HashMap<String, TensorId> =
            specs.iter().enumerate().map(|(id, spec)| (spec.name.clone(), id)).collect();
        let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::BatchNorm2d(_)));
        let live: HashSet<&str> =
            norms.map(|node| &node.module[..]).filter(|m| (training.live_norms)(m)).collect();
        let of_live = |spec: &TensorSpec| {
            let (module, name) = spec.name.rsplit_once('.').unwrap_or(("", &spec.name));
            live.contains(module) && matches!(name, "running_mean" | "running_var")
        };
        let statistics = (0..specs.len()).filter(|id| of_live(&specs[*id])).collect();
        Ok(Self {
            specs,
            ids,
            values,
            integers,
            trained,
            has_gradients: false,
            updates: 0,
            statistics,
            averages: Vec::new(),
            moments,
        })
    }

    /// The tensor of a node by its name within the node's module. Every tensor of a graph's nodes is in its state dict.
    pub(crate) fn id(&self, node: &Node, name: &str) -> TensorId {
        let full = match &node.module[..] {
            "" => name.to_string(),
            module => format!("{module}.{name}"),
        };
        self.ids[&full]
    }

    /// The values of a node's tensor.
    pub(crate) fn of(&self, node: &Node, name: &str) -> &[f32] {
        &self.values[self.id(node, name)]
    }

    /// Its place among those that train.
    pub(crate) fn place_of_trained(&self, id: TensorId) -> Option<usize> {
        self.trained.binary_search_by_key(&id, |trained| trained.id).ok()
    }

    /// Full name.
    pub(crate) fn name(&self, id: TensorId) -> &str {
        &self.specs[id].name
    }

    /// Counts a batch that a batch norm has seen.
    pub(crate) fn count_batch(&mut self, counter: TensorId) {
        if let Some(Tensor { data: TensorData::I64(values), .. }) = self.integers.get_mut(&counter) {
            values.iter_mut().for_each(|count| *count += 1);
        }
    }

    /// What has an average: parameters and running statistics that change.
    fn averaged(&self) -> impl Iterator<Item = TensorId> {
        self.trained.iter().map(|trained| trained.id).chain(self.statistics.iter().copied())
    }

    /// Moves the averages of everything that changes towards what it is now.
    pub(crate) fn average(&mut self, level: Level, pool: &Pool, decay: f64) {
        if self.averages.is_empty() {
            self.averages = self.averaged().map(|id| self.values[id].clone()).collect();
            return;
        }
        let ids: Vec<TensorId> = self.averaged().collect();
        for (average, id) in self.averages.iter_mut().zip(ids) {
            kernels::average(level, pool, decay, &self.values[id], average);
        }
    }

    /// Bytes of all values, gradients, averages and what the rule remembers.
    pub(crate) fn bytes(&self) -> usize {
        let of = |values: &[f32]| size_of_val(values);
        let trained =
            self.trained.iter().flat_map(|trained| trained.moments.iter().chain([&trained.gradient]));
        self.values.iter().chain(&self.averages).chain(trained).map(|values| of(values)).sum()
    }

    /// All tensors as they are now; averages in place of what has one, if `averaged`.
    pub(crate) fn state(&self, averaged: bool) -> StateDict {
        let mut averages = HashMap::new();
        if averaged {
            averages.extend(self.averaged().zip(&self.averages));
        }
        let tensor = |id: TensorId| match self.integers.get(&id) {
            Some(integers) => integers.clone(),
            None => self.tensor(id, averages.get(&id).copied().unwrap_or(&self.values[id])),
        };
        (0..self.specs.len()).map(|id| (self.specs[id].name.clone(), tensor(id))).collect()
    }

    fn tensor(&self, id: TensorId, values: &[f32]) -> Tensor {
        Tensor::f32(self.specs[id].shape.clone(), values.to_vec())
    }

    /// Everything apart from gradients.
    pub(crate) fn save(&self) -> Snapshot {
        let averages = self.averaged().zip(&self.averages);
        let average = averages.map(|(id, values)| (self.specs[id].name.clone(), self.tensor(id, values)));
        let moments = self.moments.iter().enumerate().flat_map(|(number, moment)| {
            self.trained.iter().map(move |Trained { id, moments, .. }| {
                (format!("{moment}.{}", self.name(*id)), self.tensor(*id, &moments[number]))
            })
        });
        Snapshot {
            updates: self.updates,
            state: self.state(false),
            average: average.collect(),
            moments: moments.collect(),
        }
    }

    /// Goes back to a snapshot, and forgets gradients.
    ///
    /// # Errors
    /// When the snapshot is of another network, or of a training by another rule or of other parameters.
    pub(crate) fn restore(&mut self, graph: &Graph, snapshot: Snapshot) -> Result<(), EngineError> {
        let Snapshot { updates, state, average, moments } = snapshot;
        if let Some(name) = state.names().find(|name| !self.ids.contains_key(*name)) {
            return Err(EngineError::Snapshot(format!(
                "its state holds `{name}`, which is not in this network"
            )));
        }
        let integers = take_integers(&self.specs, &state);
        let mut floats = take_floats(graph, state)?;
        let averaged: Vec<TensorId> = if average.is_empty() { Vec::new() } else { self.averaged().collect() };
        let wanted = averaged.iter().map(|id| (self.name(*id).to_string(), *id));
        let averages = self.take_part("average", average, wanted)?;
        let this = &*self;
        let wanted = this.moments.iter().flat_map(|moment| {
            this.trained
                .iter()
                .map(move |trained| (format!("{moment}.{}", this.name(trained.id)), trained.id))
        });
        let mut moments = self.take_part("memory of the optimiser", moments, wanted)?.into_iter();
        // Nothing fails from here on.
        self.updates = updates;
        self.integers = integers;
        for (values, spec) in self.values.iter_mut().zip(&self.specs) {
            *values = floats.remove(&spec.name).unwrap_or_default();
        }
        self.averages = averages;
        for number in 0..self.moments.len() {
            for (trained, moment) in self.trained.iter_mut().zip(&mut moments) {
                trained.moments[number] = moment;
            }
        }
        self.has_gradients = false;
        Ok(())
    }

    /// All of `part` of a snapshot, which holds for each wanted name a tensor of the shape of another tensor.
    fn take_part(
        &self,
        part: &str,
        given: StateDict,
        wanted: impl Iterator<Item = (String, TensorId)>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut given: BTreeMap<String, Tensor> = given.into_iter().collect();
        let mut tensors = Vec::new();
        for (name, like) in wanted {
            let shape = &self.specs[like].shape;
            let tensor = given.remove(&name).filter(|tensor| tensor.shape == *shape);
            let Some(TensorData::F32(values)) = tensor.map(|tensor| tensor.data) else {
                return Err(EngineError::Snapshot(format!("its {part} lacks `{name}` of shape {shape:?}")));
            };
            tensors.push(values);
        }
        match given.into_keys().next() {
            Some(name) => Err(EngineError::Snapshot(format!(
                "its {part} holds `{name}`, which is not in this training"
            ))),
            None => Ok(tensors),
        }
    }
}

/// The integers among some tensors; those that are missing are zero.
fn take_integers(specs: &[TensorSpec], state: &StateDict) -> HashMap<TensorId, Tensor> {
    let integers = |(id, spec): (TensorId, &TensorSpec)| {
        let given = state.get(&spec.name).filter(|tensor| matches!(tensor.data, TensorData::I64(_)));
        (id, given.cloned().unwrap_or_else(|| Tensor::counter(0)))
    };
    specs.iter().enumerate().filter(|(_, spec)| !spec.kind.is_float()).map(integers).collect()
}

/// The names of the tensors on which an output depends, those of auxiliary heads included.
fn names_in_use(graph: &Graph) -> HashSet<String> {
    let outputs = [&[graph.output()], graph.aux()].concat();
    outputs.into_iter().flat_map(|output| graph.until(output).state()).map(|spec| spec.name).collect()
}
