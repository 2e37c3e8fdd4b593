//! Which buffers share memory: those that are never needed at the same time.

use std::cmp::Reverse;

use crate::group::Segment;
use crate::lower::Lowered;
use crate::view::Place;

/// The memory of a plan.
pub(crate) struct Memory {
    /// The slot of each buffer.
    pub(crate) slot_of: Vec<usize>,
    /// Values in each slot.
    pub(crate) slots: Vec<usize>,
}

/// From the step that writes a buffer first to the one that reads it last.
#[derive(Clone, Copy)]
pub(crate) struct Lifetime {
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lifetime {
    /// Steps between the two; none if they overlap.
    fn gap(&self, other: &Lifetime) -> Option<usize> {
        if self.first > other.last {
            Some(self.first - other.last)
        } else {
            other.first.checked_sub(self.last + 1)
        }
    }
}

impl Memory {
    /// Values in all slots.
    pub(crate) fn values(&self) -> usize {
        self.slots.iter().sum()
    }
}

/// The memory of a plan that takes the images of a batch in groups.
///
/// A `crossing` buffer keeps the values of a batch, of which groups of images are written one after the other: it lives as long as
/// the segments that use it. Others have room for the images of a group.
pub(crate) fn assign(lowered: &Lowered, segments: &[Segment], crossing: &[bool], batch: usize) -> Memory {
    let count = lowered.buffers.len();
    let mut lives: Vec<Option<Lifetime>> = vec![None; count];
    let mut sizes: Vec<usize> = lowered.buffers.iter().map(|values| values * batch).collect();
    for segment in segments {
        for number in segment.steps.clone() {
            for extent in lowered.steps[number].call.extents() {
                let Place::Buffer(buffer) = extent.at.place else { continue };
                let (first, last) = match crossing[buffer] {
                    true => (segment.steps.start, segment.steps.end - 1),
                    false => (number, number),
                };
                let life = lives[buffer].get_or_insert(Lifetime { first, last });
                *life = Lifetime { first: life.first.min(first), last: life.last.max(last) };
                if !crossing[buffer] {
                    sizes[buffer] = lowered.buffers[buffer] * segment.images;
                }
            }
        }
    }
    if let Place::Buffer(buffer) = lowered.output.at.place
        && let Some(life) = &mut lives[buffer]
    {
        life.last = lowered.steps.len();
    }
    let lives: Vec<Vec<Lifetime>> = lives.into_iter().map(|life| life.into_iter().collect()).collect();
    assign_slots(&lives, &sizes)
}

/// Gives each buffer a slot, the largest buffers first: of the slots that are free in all its lives, one that is needed soonest before or after
/// them; if none is, a new one. A buffer that is written anew after a while has several lives, and no use for its slot between them.
pub(crate) fn assign_slots(lives: &[Vec<Lifetime>], sizes: &[usize]) -> Memory {
    let mut memory = Memory { slot_of: vec![0; lives.len()], slots: Vec::new() };
    let mut busy: Vec<Vec<Lifetime>> = Vec::new();
    let mut by_size: Vec<usize> = (0..lives.len()).filter(|buffer| !lives[*buffer].is_empty()).collect();
    by_size.sort_by_key(|buffer| (Reverse(sizes[*buffer]), lives[*buffer][0].first));
    for buffer in by_size {
        // None where the slot is not free.
        let gap = |busy: &Vec<Lifetime>| {
            let pairs = busy.iter().flat_map(|one| lives[buffer].iter().map(|other| one.gap(other)));
            pairs.min().flatten()
        };
        let free = busy.iter().enumerate().filter_map(|(slot, busy)| Some((gap(busy)?, slot)));
        let slot = free.min().map_or(memory.slots.len(), |(_, slot)| slot);
        if slot == memory.slots.len() {
            memory.slots.push(sizes[buffer]);
            busy.push(Vec::new());
        }
        busy[slot].extend(&lives[buffer]);
        memory.slot_of[buffer] = slot;
    }
    memory
}
