//! Which buffers share memory: those that are never needed at the same time.

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
    assign_slots(&lives, &sizes)
}

/// Gives each buffer a slot, the smallest that is free and large enough; if none is, the largest free one grows.
pub(crate) fn assign_slots(lives: &[Option<Lifetime>], sizes: &[usize]) -> Memory {
    let mut memory = Memory { slot_of: vec![0; lives.len()], slots: Vec::new() };
    let mut busy_until: Vec<usize> = Vec::new();
    let mut by_begin: Vec<(usize, Lifetime)> =
        lives.iter().enumerate().filter_map(|(buffer, life)| Some((buffer, (*life)?))).collect();
    by_begin.sort_by_key(|(_, life)| life.first);
    for (buffer, life) in by_begin {
        let size = sizes[buffer];
        let free = (0..memory.slots.len()).filter(|slot| busy_until[*slot] < life.first);
        let fit = |slot: &usize| match memory.slots[*slot] {
            has if has >= size => (0, has - size),
            has => (1, size - has),
        };
        let slot = free.min_by_key(fit).unwrap_or_else(|| {
            memory.slots.push(0);
            busy_until.push(0);
            memory.slots.len() - 1
        });
        memory.slots[slot] = memory.slots[slot].max(size);
        busy_until[slot] = life.last;
        memory.slot_of[buffer] = slot;
    }
    memory
}
