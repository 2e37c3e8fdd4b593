//! Memory for time: steps of the forward pass that run again in the backward pass, so that what they give need not be kept in between.
//!
//! The forward pass is cut into segments (Chen et al. 2016, arXiv 1604.06174). What a later segment reads is kept; the rest of what the
//! backward pass needs of a segment is computed again, by the same steps on the same values, right before it is read. So the gradients
//! have the same bits.

use super::plan::Planned;
use super::step::Step;
use crate::memory::Lifetime;
use crate::view::Place;

/// The most segments that a pass is cut into: with more of them, what is kept between them outweighs what they hold.
pub(crate) const MOST_SEGMENTS: usize = 32;

/// Where the buffers of a plan are written and read, by step.
struct Uses {
    writes: Vec<Option<usize>>,
    reads: Vec<Vec<usize>>,
}

impl Uses {
    fn new(steps: &[Planned]) -> Uses {
        let buffer = |place| match place {
            Place::Buffer(buffer) => Some(buffer),
            Place::Constant(_) => None,
        };
        let writes = |step: &Step| step.writes().and_then(|extent| buffer(extent.at.place));
        let reads = |step: &Step| step.reads().iter().filter_map(|extent| buffer(extent.at.place)).collect();
        Uses {
            writes: steps.iter().map(|planned| writes(&planned.step)).collect(),
            reads: steps.iter().map(|planned| reads(&planned.step)).collect(),
        }
    }
}

/// The numbers of all steps in the order in which they run, if the first `forward` of them, the forward pass, are cut into so many segments.
/// All but the last segment have steps that run twice.
pub(crate) fn order(steps: &[Planned], forward: usize, buffers: &[usize], segments: usize) -> Vec<usize> {
    let uses = Uses::new(steps);
    let cuts = cuts(&uses, forward, buffers, segments);
    let segment_of = |step: usize| cuts.partition_point(|cut| *cut <= step);
    let last = cuts.len();
    // The segment of a buffer that holds nothing between the passes.
    let mut segment: Vec<Option<usize>> = vec![None; buffers.len()];
    let mut is_kept = vec![false; buffers.len()];
    for (number, Planned { step, .. }) in steps.iter().enumerate().take(forward) {
        let own = segment_of(number);
        if let Some(buffer) = uses.writes[number] {
            // Statistics are small, and norms remember them only once.
            is_kept[buffer] |= own == last
                || matches!(step, Step::Statistics { .. })
                || segment[buffer].is_some_and(|segment| segment != own);
            segment[buffer] = Some(own);
        }
        for buffer in &uses.reads[number] {
            is_kept[*buffer] |= segment[*buffer] != Some(own);
        }
    }
    for (segment, is_kept) in segment.iter_mut().zip(is_kept) {
        *segment = segment.filter(|_| !is_kept);
    }
    // What the backward pass reads of a segment, and the first step that does.
    let mut is_needed = vec![false; buffers.len()];
    let mut first_reader = vec![None; last];
    for number in forward..steps.len() {
        for buffer in &uses.reads[number] {
            if let Some(segment) = segment[*buffer] {
                is_needed[*buffer] = true;
                first_reader[segment].get_or_insert(number);
            }
        }
    }
    let mut again = vec![Vec::new(); last];
    for number in (0..forward).rev() {
        let Some(buffer) = uses.writes[number].filter(|buffer| is_needed[*buffer]) else { continue };
        let Some(own) = segment[buffer] else { continue };
        again[own].push(number);
        uses.reads[number]
            .iter()
            .filter(|read| segment[**read] == Some(own))
            .for_each(|read| is_needed[*read] = true);
    }
    let mut order: Vec<usize> = (0..forward).collect();
    for number in forward..steps.len() {
        for (steps, first) in again.iter().zip(&first_reader) {
            if *first == Some(number) {
                order.extend(steps.iter().rev());
            }
        }
        order.push(number);
    }
    order
}

/// The steps before which the forward pass is cut: about as much of what the backward pass reads lies between two of them, and as little as
/// possible passes them.
fn cuts(uses: &Uses, forward: usize, buffers: &[usize], segments: usize) -> Vec<usize> {
    let mut first_write = vec![None; buffers.len()];
    let mut last_use = vec![0; buffers.len()];
    let mut is_read_back = vec![false; buffers.len()];
    for (number, (write, reads)) in uses.writes.iter().zip(&uses.reads).enumerate() {
        for buffer in reads.iter().chain(write) {
            match number < forward {
                true => last_use[*buffer] = number,
                false => is_read_back[*buffer] = true,
            }
        }
        if let Some(buffer) = write.filter(|_| number < forward) {
            first_write[buffer].get_or_insert(number);
        }
    }
    // Before each step: what passes, and what there is to be kept before it.
    let (mut passing, mut before) = (vec![0_usize; forward + 1], vec![0_usize; forward + 1]);
    for (buffer, size) in buffers.iter().enumerate() {
        let Some(first) = first_write[buffer] else { continue };
        passing[first + 1..=last_use[buffer]].iter_mut().for_each(|values| *values += size);
        if is_read_back[buffer] {
            before[first + 1..].iter_mut().for_each(|values| *values += size);
        }
    }
    let share = (before[forward] / segments).max(1);
    let mut cuts: Vec<usize> = Vec::new();
    for cut in 1..segments {
        let distance = |step: &usize| before[*step].abs_diff(cut * share);
        let from = cuts.last().map_or(1, |last| last + 1);
        let near = (from..forward).filter(|step| distance(step) <= share / 2);
        let best = near.min_by_key(|step| (passing[*step], distance(step)));
        cuts.extend(best.or_else(|| (from..forward).min_by_key(distance)));
    }
    cuts
}

/// When each buffer holds something, in steps of an order; what the network gives is `kept` to the end.
pub(crate) fn lives(
    steps: &[Planned],
    forward: usize,
    order: &[usize],
    buffers: usize,
    kept: Place,
) -> Vec<Vec<Lifetime>> {
    let uses = Uses::new(steps);
    let mut lives: Vec<Vec<Lifetime>> = vec![Vec::new(); buffers];
    for (time, step) in order.iter().enumerate() {
        let runs_again = *step < forward && time >= forward;
        if let Some(buffer) = uses.writes[*step]
            && lives[buffer].last().is_none_or(|life| runs_again && life.last < forward)
        {
            lives[buffer].push(Lifetime { first: time, last: time });
        }
        for buffer in uses.reads[*step].iter().chain(&uses.writes[*step]) {
            match lives[*buffer].last_mut() {
                Some(life) => life.last = time,
                None => lives[*buffer].push(Lifetime { first: time, last: time }),
            }
        }
    }
    if let Place::Buffer(buffer) = kept
        && let Some(life) = lives[buffer].last_mut()
    {
        life.last = order.len();
    }
    lives
}
