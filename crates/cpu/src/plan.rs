//! A compiled network: operations with packed weights, and for each size of input the calls and their memory.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use engraft_engine::EngineError;
use engraft_graph::{Graph, Shape};
use engraft_kernels::{Level, Pool};
use engraft_tensor::Tensor;

use crate::execute::{Execution, execute};
use crate::group::{Segment, crossing, runs, segments};
use crate::lower::{Lowered, lower};
use crate::memory::{Memory, assign};
use crate::pack::{Packed, pack};
use crate::profile::{Profile, StepProfile};
use crate::program::{Extent, Program, Value};

/// Shapes of input of which the steps are kept: a batch and its remainder.
const SCHEDULES: usize = 4;

/// Images of a batch that are in memory together.
const IMAGES: usize = 16;

/// The batch for which values are placed where images can be computed apart: the distance from one image to the next is that between
/// these two.
const TWO: usize = 2;

/// Passes of which a profile gives the least times.
const PROFILED_PASSES: usize = 10;

/// A network that is ready to run.
pub(crate) struct Plan {
    level: Level,
    graph: Graph,
    operations: Vec<Packed>,
    /// Parameters that are operands, by node.
    parameters: Vec<Vec<f32>>,
    extents: Vec<Extent>,
    output: Value,
    /// Whether the images of a batch can be computed apart.
    separable: bool,
    /// By the shape of the input.
    schedules: HashMap<Vec<usize>, Schedule>,
    /// The memory of all schedules.
    slots: Vec<Vec<f32>>,
}

/// The steps for inputs of one shape.
struct Schedule {
    lowered: Lowered,
    segments: Vec<Segment>,
    crossing: Vec<bool>,
    memory: Memory,
    /// Images that go through the steps: one if the batch cannot be taken apart.
    images: usize,
}

impl Plan {
    /// Packs the weights of a program, which is a graph's.
    ///
    /// # Errors
    /// When a tensor is missing.
    pub(crate) fn new(
        level: Level,
        graph: &Graph,
        program: Program,
        tensors: HashMap<String, Vec<f32>>,
    ) -> Result<Plan, EngineError> {
        let (operations, parameters) = pack(level, graph.nodes(), &program, tensors)?;
        Ok(Plan {
            level,
            graph: graph.clone(),
            operations,
            parameters,
            extents: program.extents,
            output: program.output,
            separable: program.separable,
            schedules: HashMap::new(),
            slots: Vec::new(),
        })
    }

    /// The output for an input.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    pub(crate) fn run(&mut self, pool: &Pool, input: &Tensor) -> Result<Tensor, EngineError> {
        self.graph.shapes(&input.shape)?;
        let values = as_floats(input);
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
            let nodes = self.graph.shapes(shape)?;
            let batch = shape.first().copied().filter(|_| self.separable);
            let lowered = match batch {
                Some(_) => self.lower(&self.graph.shapes(&[&[TWO], &shape[1..]].concat())?, TWO)?,
                None => self.lower(&nodes, 1)?,
            };
            let images = batch.unwrap_or(1);
            let segments = match batch {
                Some(batch) => segments(&lowered, batch),
                None => vec![Segment { steps: 0..lowered.steps.len(), images: 1 }],
            };
            let crossing = crossing(&lowered, &segments);
            let memory = assign(&lowered, &segments, &crossing, images);
            if self.schedules.len() == SCHEDULES {
                self.schedules.clear();
            }
            self.schedules.insert(shape.to_vec(), Schedule { lowered, segments, crossing, memory, images });
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

    fn lower(&self, nodes: &[Shape], images: usize) -> Result<Lowered, EngineError> {
        let shapes: Vec<Shape> = self.extents.iter().map(|extent| extent.shape(nodes)).collect();
        lower(&self.graph, &self.operations, self.output, &shapes, images)
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
            parameters: &self.parameters,
            slot_of: &schedule.memory.slot_of,
            crossing: &schedule.crossing,
            slots: &mut self.slots,
        };
        for (step, images) in schedule.runs() {
            let start = Instant::now();
            execute(&mut execution, &schedule.lowered.steps[step].call, images, input);
            timed(step, start.elapsed());
        }
        Ok(execution.output(&schedule.lowered.output, schedule.images))
    }

    /// The steps for inputs of one shape, without times.
    ///
    /// # Errors
    /// When the shape does not fit the network.
    pub(crate) fn describe(&mut self, shape: &[usize]) -> Result<Profile, EngineError> {
        self.schedule(shape)?;
        let (schedule, nodes) = (&self.schedules[shape], self.graph.shapes(shape)?);
        let steps = schedule.lowered.steps.iter().map(|step| {
            let operation = &self.operations[step.operation];
            let output = self.extents[operation.output].shape(&nodes);
            let node = &self.graph.nodes()[operation.node];
            StepProfile::new(&step.call, operation, node, output, schedule.images)
        });
        Ok(Profile {
            steps: steps.collect(),
            weight_bytes: self.weight_bytes(),
            buffer_bytes: size_of::<f32>() * schedule.memory.slots.iter().sum::<usize>(),
            input: shape.to_vec(),
        })
    }

    /// The steps with the least time that each took in several passes.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    pub(crate) fn profile(&mut self, pool: &Pool, input: &Tensor) -> Result<Profile, EngineError> {
        let mut shape = input.shape.clone();
        self.graph.shapes(&shape)?;
        let values = as_floats(input);
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
        let parameters = self.parameters.iter().map(|values| size_of_val(&values[..]));
        self.operations.iter().map(|operation| operation.kernel.weight_bytes()).chain(parameters).sum()
    }

    /// Bytes of weights and buffers.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.weight_bytes() + self.slots.iter().map(|slot| size_of_val(&slot[..])).sum::<usize>()
    }
}

impl Schedule {
    /// The steps as they run, each with some of the images.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        runs(&self.segments, self.images)
    }
}

pub(crate) fn as_floats(tensor: &Tensor) -> std::borrow::Cow<'_, [f32]> {
    match &tensor.data {
        engraft_tensor::TensorData::F32(values) => values.into(),
        engraft_tensor::TensorData::I64(values) => values.iter().map(|value| *value as f32).collect(),
    }
}
