//! Training on the CPU: a plan of both passes for inputs of one shape, gradients that are added up, and updates.

mod backward;
mod execute;
mod fitting;
mod forward;
mod layers;
mod parameters;
mod plan;
mod position;
mod recompute;
mod record;
mod step;
mod update;

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use engraft_engine::{
    Accumulated, EngineError, MemoryPlan, Network, Rate, Rule, Snapshot, Targets, Trainer, Training,
};
use engraft_graph::{Graph, Op, Shape};
use engraft_tensor::{StateDict, Tensor};

use crate::engine::{CpuEngine, CpuNetwork};
use crate::plan::as_floats;
use crate::profile::{Profile, StepProfile};
use crate::translate::is_separable;
use execute::Run;
use layers::Layers;
use parameters::Parameters;
use plan::{Setting, TrainingPlan, plan};

/// Batches of which a profile gives the least times.
const PROFILED_BATCHES: usize = 5;

/// A network in training on the CPU.
pub struct CpuTrainer {
    engine: CpuEngine,
    graph: Graph,
    parameters: Parameters,
    rule: Rule,
    /// By node: whether it is a batch norm that normalises by the statistics of the batch.
    live: Vec<bool>,
    /// Whether the examples of a batch can be computed one after the other.
    separable: bool,
    layers: Layers,
    /// How batches fit into the memory, by the shape of the input.
    fits: HashMap<Vec<usize>, MemoryPlan>,
    /// By the shape of what goes through the network at a time.
    plans: HashMap<Vec<usize>, TrainingPlan>,
    /// The memory of all plans.
    slots: Vec<Vec<f32>>,
    /// For evaluation, as the state is, and of the averages; made when it is asked for.
    evaluated: [Option<CpuNetwork>; 2],
}

impl CpuTrainer {
    pub(crate) fn new(
        engine: CpuEngine,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Self, EngineError> {
        training.rule.check()?;
        let parameters = Parameters::new(graph, state, training)?;
        let nodes = graph.nodes().iter();
        let live =
            nodes.map(|node| matches!(node.op, Op::BatchNorm2d(_)) && (training.live_norms)(&node.module));
        let live: Vec<bool> = live.collect();
        let mut layers = Layers::default();
        // What cannot be trained is told now, if the network takes two of its own images.
        if let Ok(shapes) = graph.shapes(&[&[2], graph.input()].concat()) {
            plan(&Setting { graph, parameters: &parameters, live: &live }, &mut layers, &shapes)?;
        }
        Ok(Self {
            engine,
            graph: graph.clone(),
            parameters,
            rule: training.rule,
            separable: !live.contains(&true) && is_separable(graph),
            live,
            layers,
            fits: HashMap::new(),
            plans: HashMap::new(),
            slots: Vec::new(),
            evaluated: [None, None],
        })
    }

    /// Fails if a live batch norm would see one value a channel.
    fn check_norms(&self, shapes: &[Shape]) -> Result<(), EngineError> {
        let mut nodes = self.graph.nodes().iter().zip(shapes).zip(&self.live);
        let single = nodes.find(|((_, shape), live)| match shape[..] {
            [batch, _, height, width] => **live && batch * height * width == 1,
            _ => false,
        });
        match single {
            Some(((node, _), _)) => Err(EngineError::SingleValue { module: node.module.clone() }),
            None => Ok(()),
        }
    }

    /// Runs a batch several times; returns the steps of both passes with the least time that each took. What the batches add to gradients
    /// and running statistics stays.
    ///
    /// # Errors
    /// Those of [`Trainer::accumulate`].
    pub fn profile(&mut self, input: &Tensor, targets: &Targets) -> Result<Profile, EngineError> {
        let mut seconds: Vec<f64> = Vec::new();
        for draw in 0..PROFILED_BATCHES as u64 {
            let mut times = Vec::new();
            self.run(input, targets, 1.0, draw, &mut |time| times.push(time.as_secs_f64()))?;
            seconds.resize(times.len(), f64::INFINITY);
            seconds.iter_mut().zip(times).for_each(|(least, time)| *least = least.min(time));
        }
        let MemoryPlan { images, .. } = self.fit(&input.shape)?;
        let shape = [&[images], &input.shape[1..]].concat();
        let plan = &self.plans[&shape];
        let weights = |layer| self.layers.weights(layer, &self.graph);
        // Where a batch goes through in parts, the first of them.
        let steps = plan.order.iter().zip(seconds).enumerate().map(|(time, (number, seconds))| {
            let planned = &plan.steps[*number];
            let values = planned
                .step
                .reads()
                .iter()
                .chain(&planned.step.writes())
                .map(|extent| extent.values)
                .sum::<usize>();
            let pass = match (time < plan.forward, *number < plan.forward) {
                (true, _) => "",
                (false, true) => "< again: ",
                (false, false) => "< ",
            };
            StepProfile {
                module: self.graph.nodes()[planned.node].module.clone(),
                kernel: format!("{pass}{}", planned.step.name()),
                output: planned.step.writes().map(|extent| vec![extent.values]).unwrap_or_default(),
                bytes: size_of::<f32>() * values,
                multiply_adds: planned.step.multiply_adds(&weights) as u64,
                seconds,
            }
        });
        Ok(Profile {
            steps: steps.collect(),
            weight_bytes: self.parameters.bytes() + self.layers.bytes(),
            buffer_bytes: size_of::<f32>() * plan.memory.values(),
            input: shape,
        })
    }

    /// Bytes of tensors, gradients, what the rule remembers, packed weights, and the buffers that batches have needed so far.
    pub fn memory_bytes(&self) -> usize {
        let slots: usize = self.slots.iter().map(|slot| size_of_val(&slot[..])).sum();
        self.parameters.bytes() + self.layers.bytes() + slots
    }

    /// A batch forward and backward; `timed` is told how long each step took.
    fn run(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        scale: f32,
        draw: u64,
        timed: &mut dyn FnMut(Duration),
    ) -> Result<Accumulated, EngineError> {
        let shapes = self.graph.shapes(&input.shape)?;
        let outputs = [&[self.graph.output()], self.graph.aux()].concat();
        let coefficients: Result<Vec<_>, _> =
            outputs.iter().map(|output| targets.coefficients(&shapes[output.0])).collect();
        let coefficients = coefficients?;
        self.check_norms(&shapes)?;
        let fit = self.fit(&input.shape)?;
        let batch = input.shape[0];
        let parts: Vec<Range<usize>> =
            (0..batch).step_by(fit.images).map(|first| first..batch.min(first + fit.images)).collect();
        self.prepare(&input.shape[1..], &parts, fit.segments)?;
        let values = as_floats(input);
        let mut loss = 0.0;
        let mut logits = Vec::new();
        for part in parts {
            let of_part = |values: &[f32]| {
                let of_example = values.len() / batch;
                part.start * of_example..part.end * of_example
            };
            let shape = [&[part.len()], &input.shape[1..]].concat();
            self.allocate(&shape);
            let plan = &self.plans[&shape];
            if !self.parameters.has_gradients {
                // What the plan does not write is zero.
                for (place, trained) in self.parameters.trained.iter_mut().enumerate() {
                    if !plan.written.contains(&place) {
                        trained.gradient.fill(0.0);
                    }
                }
            }
            let coefficients: Vec<&[f32]> = coefficients.iter().map(|all| &all[of_part(all)]).collect();
            let mut run = Run {
                level: self.engine.level,
                pool: &self.engine.pool,
                graph: &self.graph,
                parameters: &mut self.parameters,
                layers: &mut self.layers,
                slots: &mut self.slots,
                plan,
                input: &values[of_part(&values)],
                coefficients: &coefficients,
                examples: part.clone(),
                scale,
                draw,
                loss: 0.0,
            };
            for step in &plan.order {
                let start = Instant::now();
                run.step(&plan.steps[*step].step);
                timed(start.elapsed());
            }
            loss += run.loss;
            let of_part = run.logits();
            logits.extend_from_slice(as_floats(&of_part).as_ref());
            self.parameters.has_gradients = true;
        }
        if self.live.contains(&true) || self.engine.memory.is_some() {
            self.evaluated = [None, None];
        }
        let outputs = Tensor::f32(shapes[self.graph.output().0].clone(), logits);
        Ok(Accumulated { loss: loss as f32, outputs })
    }
}

impl Trainer for CpuTrainer {
    fn accumulate(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        scale: f32,
        draw: u64,
    ) -> Result<Accumulated, EngineError> {
        self.run(input, targets, scale, draw, &mut |_| {})
    }

    fn memory(&mut self, input: &[usize]) -> Result<Option<MemoryPlan>, EngineError> {
        self.fit(input).map(Some)
    }

    fn gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        if !self.parameters.has_gradients {
            return;
        }
        for place in 0..self.parameters.trained.len() {
            let mut gradient = std::mem::take(&mut self.parameters.trained[place].gradient);
            visit(self.parameters.name(self.parameters.trained[place].id), &mut gradient);
            self.parameters.trained[place].gradient = gradient;
        }
    }

    fn update(
        &mut self,
        rates: &[Rate],
        clip: Option<f64>,
        average: Option<f64>,
    ) -> Result<f64, EngineError> {
        let CpuEngine { level, pool, .. } = &self.engine;
        let bytes = self.parameters.bytes();
        let norm = update::update(*level, pool, self.rule, &mut self.parameters, rates, clip, average)?;
        if self.parameters.bytes() != bytes {
            // There are averages now.
            self.fits.clear();
        }
        self.layers.outdated(false);
        self.evaluated = [None, None];
        Ok(norm)
    }

    fn evaluate(&mut self, input: &Tensor, averaged: bool) -> Result<Tensor, EngineError> {
        if self.engine.memory.is_some() {
            // Evaluation and training take turns, so that they need not have memory at the same time.
            self.slots = Vec::new();
        }
        let network = &mut self.evaluated[usize::from(averaged)];
        let network = match network {
            Some(network) => network,
            None => network.insert(self.engine.compile(&self.graph, self.parameters.state(averaged))?),
        };
        network.forward(input)
    }

    fn state(&self, averaged: bool) -> StateDict {
        self.parameters.state(averaged)
    }

    fn save(&self) -> Snapshot {
        self.parameters.save()
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), EngineError> {
        self.parameters.restore(&self.graph, snapshot)?;
        self.layers.outdated(true);
        self.evaluated = [None, None];
        Ok(())
    }
}
