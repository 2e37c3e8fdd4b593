//! A compiled network: operations with packed weights, and for each shape of input the steps and their memory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use engraft_engine::EngineError;
use engraft_graph::{Dim, Graph, Op, Shape};
use engraft_kernels::{Level, Pool};
use engraft_tensor::Tensor;

use crate::execute::{Execution, execute};
use crate::fuse::{Operation, fuse};
use crate::general::{Operand, copy};
use crate::group::{Segment, crossing, expand, segments};
use crate::layer::{Layer, Layers, pack};
use crate::lower::{Lowered, Step, lower};
use crate::memory::{Memory, assign};
use crate::profile::{Profile, describe};
use crate::view::{Place, View};

/// Shapes of input of which the steps are kept: a batch and its remainder.
const SCHEDULES: usize = 4;

/// Images of a batch that are in memory together.
const IMAGES: usize = 16;

/// Passes of which a profile gives the least times.
const PROFILED_PASSES: usize = 10;

/// A network that is ready to run.
pub(crate) struct Plan {
    level: Level,
    graph: Graph,
    operations: Vec<Operation>,
    layers: Layers,
    /// By the shape of the input.
    schedules: HashMap<Vec<usize>, Schedule>,
    /// The memory of all schedules.
    slots: Vec<Vec<f32>>,
    separable: bool,
}

/// The steps for inputs of one shape.
struct Schedule {
    lowered: Lowered,
    /// As they run, for groups of images.
    steps: Vec<Step>,
    memory: Memory,
}

impl Plan {
    /// Compiles a network; `shapes` are those of its nodes for the first input.
    pub(crate) fn new(
        level: Level,
        graph: &Graph,
        shapes: &[Shape],
        tensors: HashMap<String, Vec<f32>>,
    ) -> Plan {
        let operations = fuse(graph, shapes);
        let layers = pack(level, graph, shapes, &operations, tensors);
        let separable = is_separable(graph, shapes);
        Plan {
            level,
            graph: graph.clone(),
            operations,
            layers,
            schedules: HashMap::new(),
            slots: Vec::new(),
            separable,
        }
    }

    /// The output for an input.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    pub(crate) fn run(&mut self, pool: &Pool, input: &Tensor) -> Result<Tensor, EngineError> {
        let values = input.as_f32().map_or_else(|| as_floats(input), |values| values.into());
        let Some((&batch, image)) = input.shape.split_first().filter(|_| self.separable) else {
            let (shape, output) = self.run_at_once(pool, &input.shape, &values, |_, _| {})?;
            return Ok(Tensor::f32(shape, output));
        };
        let at_once = batch.min(IMAGES);
        let image_values: usize = image.iter().product();
        let mut output = Vec::new();
        let mut shape = Vec::new();
        for images in values.chunks(at_once * image_values) {
            let part = [&[images.len() / image_values], image].concat();
            let (part_shape, values) = self.run_at_once(pool, &part, images, |_, _| {})?;
            shape = part_shape;
            output.extend(values);
        }
        shape[0] = batch;
        Ok(Tensor::f32(shape, output))
    }

    /// The steps for inputs of one shape, made if they are not there; if there are many, the others are forgotten.
    fn schedule(&mut self, shape: &[usize]) -> Result<(), EngineError> {
        if !self.schedules.contains_key(shape) {
            let shapes = self.graph.shapes(shape)?;
            let lowered = lower(&self.graph, &shapes, &self.operations);
            let batch = shape.first().copied().filter(|_| self.separable).unwrap_or(1).max(1);
            let segments = match self.separable {
                true => segments(&lowered, batch),
                false => vec![Segment { steps: 0..lowered.steps.len(), images: 1 }],
            };
            let crossing = crossing(&lowered, &segments);
            let memory = assign(&lowered, &segments, &crossing, batch);
            let steps = match self.separable {
                true => expand(&lowered, &segments, &crossing, batch),
                false => Vec::new(),
            };
            if self.schedules.len() == SCHEDULES {
                self.schedules.clear();
            }
            self.schedules.insert(shape.to_vec(), Schedule { lowered, steps, memory });
        }
        for (slot, size) in self.schedules[shape].memory.slots.iter().enumerate() {
            if self.slots.len() <= slot {
                self.slots.push(Vec::new());
            }
            if self.slots[slot].len() < *size {
                self.slots[slot] = vec![0.0; *size];
            }
        }
        Ok(())
    }

    /// Runs the steps; `timed` is told how long each took.
    fn run_at_once(
        &mut self,
        pool: &Pool,
        shape: &[usize],
        input: &[f32],
        mut timed: impl FnMut(usize, Duration),
    ) -> Result<(Shape, Vec<f32>), EngineError> {
        self.schedule(shape)?;
        let schedule = &self.schedules[shape];
        let mut execution = Execution {
            level: self.level,
            pool,
            nodes: self.graph.nodes(),
            operations: &self.operations,
            layers: &self.layers,
            slot_of: &schedule.memory.slot_of,
            slots: &mut self.slots,
        };
        let steps = if self.separable { &schedule.steps } else { &schedule.lowered.steps };
        for step in steps {
            let start = Instant::now();
            execute(&mut execution, step, input);
            timed(step.number, start.elapsed());
        }
        let from = &schedule.lowered.output;
        let order: Vec<usize> = (0..from.shape.len()).collect();
        let to = View::dense(Place::Buffer(0), &from.shape, &order);
        let mut output = vec![0.0; to.len()];
        copy(pool, Operand { values: execution.values(from), view: from }, &mut output, &to);
        Ok((from.shape.clone(), output))
    }

    /// The steps for inputs of one shape, without times.
    ///
    /// # Errors
    /// When the shape does not fit the network.
    pub(crate) fn describe(&mut self, shape: &[usize]) -> Result<Profile, EngineError> {
        self.schedule(shape)?;
        let costs = self.graph.costs(shape)?;
        let multiply_adds: Vec<u64> = costs.iter().map(|cost| cost.multiply_adds).collect();
        let schedule = &self.schedules[shape];
        let step = |step| describe(self.graph.nodes(), &self.operations, &self.layers, step, &multiply_adds);
        Ok(Profile {
            steps: schedule.lowered.steps.iter().map(step).collect(),
            weight_bytes: self.weight_bytes(),
            buffer_bytes: 4 * schedule.memory.slots.iter().sum::<usize>(),
            input: shape.to_vec(),
        })
    }

    /// The steps with the least time that each took in several passes.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    pub(crate) fn profile(&mut self, pool: &Pool, input: &Tensor) -> Result<Profile, EngineError> {
        let mut shape = input.shape.clone();
        let values = input.as_f32().map_or_else(|| as_floats(input), |values| values.into());
        if self.separable {
            shape[0] = shape[0].min(IMAGES);
        }
        let mut profile = self.describe(&shape)?;
        let values = &values[..shape.iter().product()];
        for pass in 0..PROFILED_PASSES {
            let mut seconds = vec![0.0; profile.steps.len()];
            self.run_at_once(pool, &shape, values, |step, time| seconds[step] += time.as_secs_f64())?;
            for (step, seconds) in profile.steps.iter_mut().zip(seconds) {
                step.seconds = if pass == 0 { seconds } else { step.seconds.min(seconds) };
            }
        }
        Ok(profile)
    }

    fn weight_bytes(&self) -> usize {
        let constants = self.layers.constants.values().map(|values| size_of_val(&values[..]));
        self.layers.layers.iter().map(Layer::bytes).chain(constants).sum()
    }

    /// Bytes of weights and buffers.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.weight_bytes() + self.slots.iter().map(|slot| size_of_val(&slot[..])).sum::<usize>()
    }
}

fn as_floats(tensor: &Tensor) -> std::borrow::Cow<'_, [f32]> {
    match &tensor.data {
        engraft_tensor::TensorData::F32(values) => values.into(),
        engraft_tensor::TensorData::I64(values) => values.iter().map(|value| *value as f32).collect(),
    }
}

/// Whether no operation mixes the examples of a batch, so that parts of it can run one after the other.
fn is_separable(graph: &Graph, shapes: &[Shape]) -> bool {
    let Some(batch) = graph.nodes().iter().position(|node| node.op == Op::Input).map(|input| &shapes[input])
    else {
        return false;
    };
    let Some(batch) = batch.first() else { return false };
    graph.nodes().iter().zip(shapes).all(|(node, shape)| {
        let keeps = match &node.op {
            Op::Parameter { .. } => return true,
            Op::Permute { axes } => axes.first() == Some(&0),
            Op::Flatten { start } => *start > 0,
            Op::Reshape { shape } => shape.first() == Some(&Dim::Keep(0)),
            Op::Mean { axes } | Op::PadToMultiple { axes, .. } | Op::Roll { axes, .. } => !axes.contains(&0),
            Op::Concat { axis } | Op::Softmax { axis } => *axis > 0,
            Op::Chunk { axis, .. } | Op::Select { axis, .. } => *axis > 0,
            Op::MatMul => shape.len() > 2,
            _ => true,
        };
        keeps && shape.first() == Some(batch)
    })
}
