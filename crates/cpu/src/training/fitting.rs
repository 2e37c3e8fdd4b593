//! How a batch is kept within the memory that a training may take.

use std::collections::HashMap;
use std::ops::Range;

use engraft_engine::{EngineError, MemoryPlan};

use super::CpuTrainer;
use super::plan::{Setting, TrainingPlan, plan};
use super::recompute::MOST_SEGMENTS;

/// Shapes of input of which plans are kept: a batch and its remainder.
const PLANS: usize = 2;

impl CpuTrainer {
    /// How a batch is run so that the training stays within its memory: in parts of half as many images, a quarter, and so on, if examples
    /// can be computed apart; if that is not enough, by computing segments of the forward pass twice, as few as suffice.
    ///
    /// # Errors
    /// When nothing is enough.
    pub(super) fn fit(&mut self, input: &[usize]) -> Result<MemoryPlan, EngineError> {
        if let Some(known) = self.fits.get(input) {
            return Ok(*known);
        }
        let limit = self.engine.memory;
        let batch = input.first().copied().unwrap_or(1);
        let mut fit = MemoryPlan { bytes: 0, limit, batch, images: batch, segments: 1 };
        let mut needed = u64::MAX;
        let mut plan = self.plan(input)?;
        loop {
            fit.bytes = self.bytes_with(&plan);
            needed = needed.min(fit.bytes);
            if limit.is_none_or(|limit| fit.bytes <= limit) {
                self.fits.insert(input.to_vec(), fit);
                return Ok(fit);
            }
            if self.separable && fit.images > 1 {
                fit.images = fit.images.div_ceil(2);
                plan = self.plan(&[&[fit.images], &input[1..]].concat())?;
            } else if fit.segments < MOST_SEGMENTS {
                fit.segments *= 2;
                plan = plan.recomputed(fit.segments);
            } else {
                return Err(EngineError::Memory { batch, needed, limit: limit.unwrap_or_default() });
            }
        }
    }

    fn plan(&mut self, input: &[usize]) -> Result<TrainingPlan, EngineError> {
        let nodes = self.graph.shapes(input)?;
        let Self { graph, parameters, live, layers, .. } = self;
        plan(&Setting { graph, parameters, live }, layers, &nodes)
    }

    /// Bytes that the training takes while it runs a plan.
    fn bytes_with(&self, plan: &TrainingPlan) -> u64 {
        let buffers = size_of::<f32>() * plan.memory.values();
        (self.parameters.bytes() + self.layers.planned_bytes(&self.graph) + buffers) as u64
    }

    /// Makes the plans for parts of a batch of images of this shape, as far as there are none.
    pub(super) fn prepare(
        &mut self,
        image: &[usize],
        parts: &[Range<usize>],
        segments: usize,
    ) -> Result<(), EngineError> {
        let mut shapes: Vec<Vec<usize>> = parts.iter().map(|part| [&[part.len()], image].concat()).collect();
        shapes.dedup();
        let missing = shapes.iter().filter(|shape| !self.plans.contains_key(*shape)).count();
        if missing > 0 && self.plans.len() + missing > PLANS {
            self.plans = HashMap::new();
            self.slots = Vec::new();
        }
        for shape in shapes {
            if !self.plans.contains_key(&shape) {
                let plan = self.plan(&shape)?.recomputed(segments);
                self.plans.insert(shape, plan);
            }
        }
        Ok(())
    }

    /// Makes the slots as large as the plan for a shape needs them.
    pub(super) fn allocate(&mut self, shape: &[usize]) {
        let plan = &self.plans[shape];
        let sizes = &plan.memory.slots;
        let of_others = |(slot, memory): (usize, &Vec<f32>)| {
            memory.len().saturating_sub(sizes.get(slot).copied().unwrap_or(0)) * size_of::<f32>()
        };
        let more: usize = self.slots.iter().enumerate().map(of_others).sum();
        if self.engine.memory.is_some_and(|limit| self.bytes_with(plan) + more as u64 > limit) {
            // What another shape needs besides would be too much.
            self.slots = Vec::new();
        }
        self.slots.resize(self.slots.len().max(sizes.len()), Vec::new());
        for (slot, size) in self.slots.iter_mut().zip(sizes) {
            if slot.len() < *size {
                // The old one goes first.
                *slot = Vec::new();
                *slot = vec![0.0; *size];
            }
        }
    }
}
